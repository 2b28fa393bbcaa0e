"""What a snapshot needs beyond a CPU: nothing unknown gets past, and a machine has all of it or is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from poorwill.codecs import registry
from poorwill.control.snapshot import needs
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.machine.nvidia_smi import gpus_and_driver
from poorwill.engine.protocol.answers import MachineFacts
from poorwill.engine.protocol.lines import VERSION
from poorwill.errors import Corrupt, HostUnfit, Unsupported
from poorwill.providers.base import Wish
from poorwill.remote.install import bundle, wheels
from poorwill.remote.install.ship import Shipment
from poorwill.remote.install.wheels import Target
from poorwill.snapshot import fields
from poorwill.snapshot.metadata import CodecTotals, Metadata
from poorwill.store.local import LocalStore
from tests.support.documents import METADATA
from tests.support.engines import ScriptedHost, ThreadHost, answering, line
from tests.support.needy_snapshots import H100, nvidia_smi, reseal
from tests.support.runs import restore, take

NVCOMP_6 = "nvcomp>=6,<7"
FACTS: dict[str, Any] = {
    "host": "box", "gpu": [H100], "gpu_driver": "570.124.06", "nvcomp": "6.0.0.12", "gpu_usable": True,
}  # fmt: skip


def saying(*said: str, codecs: tuple[str, ...] = ()) -> Metadata:
    return replace(METADATA, needs=said, codecs={name: CodecTotals(1, 1, 1) for name in codecs})


def unsupported(*said: str) -> str:
    with pytest.raises(Unsupported) as caught:
        needs.of(saying(*said))
    assert METADATA.snapshot_id in caught.value.message and len(caught.value.message) < 400
    return caught.value.message


def test_what_codecs_need_can_be_brought_to_a_machine() -> None:
    """Every need of a codec id is known here, under the very words that are written into metadata."""
    written = {need for number in registry.ID_BY_NAME.values() if (need := registry.needs(number)) is not None}
    assert written == set(needs.KNOWN) == {NVCOMP_6}
    assert all(need.text == text for text, need in needs.KNOWN.items())


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("need", needs.KNOWN.values(), ids=str)
def test_what_is_shipped_is_what_is_needed(need: needs.Need, machine: str) -> None:
    """The need's packages pin that very major version of the library, for CUDA 12 throughout, and are those that an
    installation takes to a machine with a GPU."""
    lines = bundle.requirements(need.requirements)
    assert set(lines) <= set(Shipment().gpu_requirements)
    for python in ((3, minor) for minor in range(10, 15)):
        pins = map(Requirement, wheels.without_hashes(wheels.resolved(lines, Target(python, machine, 36))))
        versions = {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}
        wanted = SpecifierSet(need.text.removeprefix(need.library))
        assert versions[f"nvidia-{need.library}-cu12"] in wanted
        assert versions[f"nvidia-{need.library}-cu12"] == versions[f"nvidia-lib{need.library}-cu12"]
        # CuPy compiles with NVRTC, and its kernels for half precision include headers of the runtime.
        assert {versions[f"nvidia-cuda-{part}-cu12"].split(".")[0] for part in ("nvrtc", "runtime")} == {"12"}


def test_known_needs_pass_before_a_machine_is_there() -> None:
    """None, one, the same twice, and one that only the list of codecs tells of."""
    for metadata in (saying(), saying(codecs=("raw", "planes"))):
        assert needs.of(metadata) == ()
    for metadata in (saying(NVCOMP_6), saying(NVCOMP_6, NVCOMP_6), saying(codecs=("zstd", "nvcomp-ans/6"))):
        assert [need.text for need in needs.of(metadata)] == [NVCOMP_6]


def test_another_major_version_says_what_to_do() -> None:
    """A later one wants a newer poorwill or a conversion, an earlier one the conversion alone."""
    convert = f"convert it with the poorwill that wrote it (0): poorwill convert {METADATA.snapshot_id} --portable"
    later, earlier = unsupported("nvcomp>=9,<10"), unsupported("nvcomp>=5,<6")
    assert "needs nvcomp>=9,<10" in later and "nvCOMP 6" in later and later.endswith(convert)
    assert "use a newer poorwill, or convert" in later
    assert earlier.endswith(convert) and "newer" not in earlier


@pytest.mark.parametrize(
    "said",
    ["", "nvcomp", "nvcomp>=6", "nvcomp>=6,<9", "nvcomp>=06,<07", "nvcomp >= 6, < 7", "NVCOMP>=6,<7", "nvcomp>=6,<7\n",
     "nvcomp>=99999,<100000", "nvcomp>=６,<７", "other>=6,<7", "x" * 10_000_000, "nvcomp>=6,<7; \x1b[31m"],
)  # fmt: skip
def test_other_words_are_not_guessed_at(said: str) -> None:
    """Anything that is not written exactly so is refused in a short line."""
    message = unsupported(said)
    assert "does not know: use a newer poorwill" in message and message.isprintable()


@given(
    st.lists(st.text(max_size=20) | st.from_regex(r"(nvcomp|zz)>=[0-9]{1,5},<[0-9]{1,5}", fullmatch=True), max_size=20)
)
def test_any_needs_are_known_or_refused(said: list[str]) -> None:
    """Whatever a store says: all of it is known to the letter, or nothing is rented."""
    try:
        found = [need.text for need in needs.of(saying(*said))]
    except Unsupported:
        assert len(said) > needs.NEEDS_MAX or set(said) - set(needs.KNOWN)
    else:
        assert set(found) == set(said) and len(found) == len(set(found))


def test_the_wish_carries_what_is_needed() -> None:
    """A GPU where none was asked for; what was asked for stays, as does a wish for a snapshot without needs."""
    wanted = needs.of(saying(NVCOMP_6))
    assert needs.wished((), Wish(disk_gb=9)) == Wish(disk_gb=9)
    assert needs.wished(wanted, Wish()) == Wish(gpu_count=1, cuda_min=12.0, compute_capability_min=7.0)
    asked = needs.wished(wanted, Wish(gpu="H100 SXM", spot=True, cuda_min=13.0))
    assert asked == Wish(gpu="H100 SXM", spot=True, cuda_min=13.0, compute_capability_min=7.0)
    assert needs.wished(wanted, Wish(gpu_count=8)).gpu_count == 8


@pytest.mark.parametrize(
    "facts", [{}, {"nvcomp": "6.1"}, {"nvcomp": "6"}, {"gpu_driver": "525.60.13"}, {"gpu": [H100] * 8}]
)
def test_a_machine_that_has_it(facts: dict[str, Any]) -> None:
    """Any driver from the first one on, and any version within the major one."""
    needs.check_machine(saying(NVCOMP_6), MachineFacts(**{**FACTS, **facts}))


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"gpu": []}, "box has no NVIDIA GPU"),
        ({"gpu_driver": "525.60.9"}, "box has the NVIDIA driver 525.60.9"),
        ({"gpu_driver": "470.256.02"}, "box has the NVIDIA driver 470.256.02"),
        ({"gpu_driver": ""}, "does not tell the version of its NVIDIA driver"),
        ({"gpu_driver": "9" * 9999}, "does not tell the version of its NVIDIA driver"),
        ({"nvcomp": ""}, "has an engine without nvCOMP 6"),
        ({"nvcomp": "5.2.0.13"}, "has version 5.2.0.13 of that library"),
        ({"nvcomp": "60.0"}, "has version 60.0 of that library"),
        ({"gpu_usable": False}, f"box has {H100}, and nvCOMP 6 does not work there"),
        ({"gpu_usable": False, "gpu_unusable": "no kernel image"}, "does not work there (no kernel image)"),
        ({"gpu_usable": False, "gpu_unusable": "why " * 9999}, "does not work there (why why"),
        ({"gpu": [7 * "long " * 9999], "gpu_usable": False}, "does not work there"),
    ],
)
def test_a_machine_that_lacks_something(facts: dict[str, Any], found: str) -> None:
    """What was expected, what was found and what to do, in one bounded line."""
    with pytest.raises(HostUnfit) as caught:
        needs.check_machine(saying(NVCOMP_6), MachineFacts(**{**FACTS, **facts}))
    said = caught.value.message
    assert found in said and "compute capability 7.0 or higher and its driver 525.60.13 or newer" in said
    assert "another machine" in said and f"'poorwill convert {METADATA.snapshot_id} --portable'" in said
    assert len(said) < 1000
    needs.check_machine(saying(), MachineFacts(**{**FACTS, **facts}))


@pytest.mark.parametrize(
    "facts",
    [{"gpu": "H100"}, {"gpu_driver": 570}, {"nvcomp": None}, {"gpu_usable": "yes"}, {"gpu_unusable": "why " * 9999},
     {"gpu": ["long " * 9999]}, {"gpu": [H100] * 99}],
)  # fmt: skip
def test_facts_of_another_type_or_size(facts: dict[str, Any]) -> None:
    """They are refused as they arrive, naming the field."""
    lines = [line(id=1, event="result", result={**FACTS, **facts, "protocol": VERSION})]
    session = EngineSession(ScriptedHost(answering(lines)))
    try:
        with pytest.raises(Corrupt, match=f"the answer to 'hello' .*field '{next(iter(facts))}"):
            session.hello("/")
    finally:
        session.close()


@given(
    st.dictionaries(
        st.sampled_from(sorted(FACTS)), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())
    )
)
def test_whatever_an_engine_tells(facts: dict[str, Any]) -> None:
    """One that tells less, or something else, has less; and an older engine does not know these words at all."""
    try:
        needs.check_machine(saying(NVCOMP_6), fields.read(MachineFacts, facts, "hello"))
    except HostUnfit as error:
        assert METADATA.snapshot_id in error.message
    except Corrupt as error:
        assert error.message.startswith("hello: field '")
    else:
        assert facts["gpu"] and facts["gpu_usable"] is True and facts["nvcomp"].startswith("6")


def test_a_restore_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real engine of a machine without a GPU, and on one whose GPU nvCOMP does not work on: nothing is made."""
    store, back = LocalStore(tmp_path / "store"), tmp_path / "back"
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "notes").write_text("notes\n")
    taken = take(store, tmp_path / "workspace", codec="raw")
    reseal(store, taken.id, [NVCOMP_6])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for gpus, found in ((0, "no NVIDIA GPU"), (1, "nvCOMP 6")):
        monkeypatch.setenv("PATH", nvidia_smi(tmp_path / "bin", gpus))
        assert gpus_and_driver() == (([H100], "570.124.06") if gpus else ([], ""))
        with pytest.raises(HostUnfit, match=found):
            restore(store, taken.id, back)
        assert not back.exists()
    restore(store, taken.id, back, facts=FACTS)
    assert (back / "notes").read_text() == "notes\n"


def test_a_reader_that_knows_less_refuses_too(tmp_path: Path) -> None:
    """An unknown need ends a restore before the engine is asked for anything."""
    store = LocalStore(tmp_path / "store")
    (tmp_path / "workspace").mkdir()
    taken = take(store, tmp_path / "workspace", codec="raw")
    reseal(store, taken.id, ["nvcomp>=9,<10"])
    asked: list[Any] = []
    host = ThreadHost(before={"hello": asked.append, "open_restore": asked.append})
    with pytest.raises(Unsupported, match="use a newer poorwill"):
        restore(store, taken.id, tmp_path / "back", host=host)
    assert asked == []
