"""The double of CuPy and nvCOMP against the real packages, which are here without a GPU: no name that they lack, no
option that nvCOMP does not document."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from collections.abc import Iterator

import pytest

from poorwill.codecs.gpu import ans, planes
from poorwill.codecs.gpu.lanes import Lane
from poorwill.codecs.gpu.libraries import NVCOMP_MAJOR, Libraries, load, usable_devices
from poorwill.codecs.toolset import Toolset, gpus_of_this_machine
from poorwill.errors import Unsupported
from tests.support.doubles import fake_cuda
from tests.support.doubles.fake_cuda import CODEC_OPTIONS, ITEM_BYTES, FakeCuda


@pytest.fixture(scope="module")
def real() -> Libraries:
    return load()


def names(double: object, prefix: str = "") -> Iterator[str]:
    """Everything that a namespace of the double has, dotted."""
    assert isinstance(double, types.SimpleNamespace)
    for name, value in vars(double).items():
        yield prefix + name
        if isinstance(value, types.SimpleNamespace):
            yield from names(value, f"{prefix}{name}.")


def named(library: object, dotted: str) -> object:
    for name in dotted.split("."):
        library = getattr(library, name)
    return library


def test_every_name_of_the_double_is_real(real: Libraries) -> None:
    """Modules, functions, classes, and what of the classes is used."""
    double = FakeCuda().libraries()
    for library, of in ((real.cupy, double.cupy), (real.nvcomp, double.nvcomp)):
        assert all(named(library, dotted) is not None for dotted in names(of))
    assert issubclass(real.cupy.cuda.memory.OutOfMemoryError, Exception)
    assert {"synchronize", "__enter__", "__exit__"} <= set(dir(real.cupy.cuda.Stream))
    assert "use" in dir(real.cupy.cuda.Device) and "ptr" in dir(real.cupy.cuda.MemoryPointer)
    used = {"encode", "decode", "get_max_comp_buffer_size"}
    assert used <= set(dir(real.nvcomp.Codec)) and "buffer_sizes" in dir(real.nvcomp.BatchArray)
    for kind in (fake_cuda.BitstreamKind, fake_cuda.ChecksumPolicy):
        theirs = getattr(real.nvcomp, kind.__name__).__members__
        assert set(kind.__members__) <= set(theirs)
    assert real.nvcomp.__version__.split(".")[0] == str(NVCOMP_MAJOR)


def test_every_option_is_documented(real: Libraries) -> None:
    """nvCOMP takes any keyword: a misspelt one might go unnoticed."""
    page = str(real.nvcomp.Codec.__init__.__doc__)
    documented = set(re.findall(r"^\s*(\w+):", page, re.MULTILINE))
    assert documented >= CODEC_OPTIONS
    assert all(f"``{kind}``" in page for kind in ITEM_BYTES)
    assert "out" in str(real.nvcomp.Codec.encode.__doc__) and "out" in str(real.nvcomp.Codec.decode.__doc__)
    assert "offsets: list[int], sizes: list[int], cuda_stream" in str(real.nvcomp.as_arrays.__doc__)


def test_the_options_of_nvcomp_codecs() -> None:
    """Sizes within what nvCOMP's header allows, and no option that skips a check."""
    asked = list[dict[str, object]]()

    class Noted(Lane):
        def codec(self, **options: object) -> object:
            asked.append(options)
            return super().codec(**options)

    lane = Noted(FakeCuda().libraries(), 0)
    for kind in ("|u1", "<f2", "<f4"):
        ans.ans(lane, kind)
    ans.decoder(lane)
    planes.zstd(lane)
    assert all(options.keys() <= CODEC_OPTIONS and "skip_validate" not in options for options in asked)
    assert all(4096 <= int(str(options.get("uncomp_chunk_size", 4096))) <= 1 << 24 for options in asked)


def test_a_machine_without_a_gpu(real: Libraries) -> None:
    """The real libraries on such a machine say so, and the CPU codes; without a driver they are not even loaded. On one
    with a GPU it is found."""
    toolset = Toolset(gpus_of_this_machine)
    try:
        assert usable_devices(real)
    except Unsupported as error:
        assert "CUDA finds" in error.message
        made = toolset.decision("auto", False)
        assert made.by == "cpu" and made.reason.startswith(("CUDA finds", "NVIDIA's driver"))
        with pytest.raises(Unsupported, match=f"{re.escape(made.reason)}$"):
            toolset.codec(4)
    finally:
        toolset.close()


def test_another_major_version(monkeypatch: pytest.MonkeyPatch, real: Libraries) -> None:
    """nvCOMP 7 would write what 6 does not read: it is not used under this codec's name."""
    monkeypatch.setattr(real.nvcomp, "__version__", "7.0.0")
    with pytest.raises(Unsupported, match=r"nvCOMP 7\.0\.0 is installed.*'nvcomp-ans/6' needs 6"):
        load()


def test_cupy_and_nvcomp_are_imported_when_needed() -> None:
    """CuPy takes a second to import, and most engines never need it."""
    code = (
        "import sys, poorwill.engine.operations; print(sorted(m for m in sys.modules if 'cupy' in m or 'nvcomp' in m))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "[]"
