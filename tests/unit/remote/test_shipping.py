"""What is sent to a machine, and how its answers are read. Real installations: tests/faults/test_installation.py."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import io
import json
import re
import shlex
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from poorwill.errors import EngineLost, HostUnfit, PoorwillError
from poorwill.remote.base import Finished
from poorwill.remote.install import bundle, wheels
from poorwill.remote.install.probe import MARK, Installed
from poorwill.remote.install.ship import Shipment, command
from poorwill.remote.install.wheels import Target
from tests.support.small_wheel import make_wheel, pinned

ROOT = Path(__file__).parents[3]
PYTHONS = [(3, minor) for minor in range(10, 15)]
ENGINE = bundle.requirements("requirements.txt")
GPU = bundle.requirements("requirements-gpu.txt")
OTHER_HASH = f"tiny==1.0 --hash=sha256:{'0' * 64}"
GOOD_PYTHON = {
    "path": "/usr/bin/python3", "version": [3, 11, 2], "missing": [], "libc": "glibc 2.36",
    "implementation": "CPython", "bits": 64, "machine": "x86_64", "gil": True,
}  # fmt: skip


class ScriptedShell:
    """A machine that answers each command with the next of these bytes."""

    def __init__(self, *answers: bytes, status: int = 0) -> None:
        self.answers = list(answers)
        self.status = status

    def describe(self) -> str:
        return "user@machine"

    def run(self, command: str, *, stdin: Iterable[bytes] = (), timeout_s: float) -> Finished:
        for _ in stdin:
            pass
        return Finished(self.status, self.answers.pop(0), b"")


def looks(*pythons: object, home: bool = True, installer: str = "apt-get") -> bytes:
    """What the first look at a machine without an engine writes."""
    lines = [*(["home yes"] if home else []), f"installer {installer}"]
    lines += [f"python {json.dumps(one)}" for one in pythons]
    return "".join(f"{MARK} {line}\n" for line in [*lines, "end yes"]).encode()


def unfit(shell: ScriptedShell, shipment: Shipment | None = None) -> str:
    with pytest.raises(HostUnfit) as caught:
        (shipment or Shipment()).ship(shell)
    return caught.value.message


def test_the_same_source_gives_the_same_archive() -> None:
    """It does not depend on times, owners or the order of a file system."""
    first = bundle.package()
    bundle.package.cache_clear()
    assert bundle.package() == first
    entries = zipfile.ZipFile(io.BytesIO(first)).infolist()
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}


def test_the_archive_holds_the_engine_and_nothing_of_the_control_side() -> None:
    """The engine and its data files are sent; the command line, the control side and caches are not."""
    names = zipfile.ZipFile(io.BytesIO(bundle.package())).namelist()
    assert {"poorwill/__init__.py", "poorwill/engine/__main__.py", "poorwill/remote/install/requirements.txt"} <= set(
        names
    )
    assert not [name for name in names if "__pycache__" in name or name.startswith(tuple(bundle.LEFT_OUT))]
    assert len(bundle.package()) < 1_000_000 and len(bundle.pip()) < 4_000_000


def test_the_engine_imports_nothing_of_the_control_side() -> None:
    """No import of the engine or the keeper leads to a room that is not sent, or to install/ship."""
    todo, seen = ["poorwill.engine.__main__", "poorwill.remote.link.keeper"], set[str]()
    while todo:
        module = todo.pop()
        path = ROOT / (module.replace(".", "/") + ".py")
        if module in seen or not path.is_file():
            continue
        seen.add(module)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                base = ".".join(module.split(".")[: -node.level]) if node.level else ""
                name = ".".join(part for part in (base, node.module) if part)
                todo += [name, *(f"{name}.{one.name}" for one in node.names)]
            elif isinstance(node, ast.Import):
                todo += [one.name for one in node.names]
    sent = {
        name.removesuffix(".py").replace("/", ".") for name in zipfile.ZipFile(io.BytesIO(bundle.package())).namelist()
    }
    assert len(seen) > 30
    assert seen <= sent
    assert "poorwill.remote.install.ship" not in seen


def test_the_digest_covers_package_and_requirements() -> None:
    """Other pins, or other or no packages for the GPU, give another digest."""
    plain = Shipment()
    assert plain.digest(gpu=False) == Shipment().digest(gpu=False)
    others = {
        plain.digest(gpu=True),
        Shipment(requirements=[*ENGINE, "other==1.0"]).digest(gpu=False),
        Shipment(gpu_requirements=["other==1.0"]).digest(gpu=True),
    }
    assert len(others | {plain.digest(gpu=False)}) == 4


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", PYTHONS)
def test_requirements_are_exact_and_complete(python: tuple[int, int], machine: str) -> None:
    """For every Python and processor: each package once, with one version and all its dependencies."""
    target = Target(python, machine, 36)
    pins = wheels.without_hashes(wheels.resolved(ENGINE, target))
    names = [canonicalize_name(Requirement(pin).name) for pin in pins]
    assert len(names) == len(set(names)) and all("==" in pin and ";" not in pin for pin in pins)
    environment = {**target.environment, "extra": ""}
    for name in names:
        for line in importlib.metadata.requires(name) or [] if name in installed_here() else []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate(environment):
                assert canonicalize_name(needed.name) in names, f"{name} needs {line}"
    assert ("openzl" in names) == (machine == "x86_64")


@functools.cache
def installed_here() -> set[str]:
    return {canonicalize_name(one.name) for one in importlib.metadata.distributions()}


def test_what_is_installed_on_machines_has_hashes() -> None:
    """Every pin names the hashes of its files: on a machine and here pip takes nothing else."""
    for line in (*ENGINE, *GPU):
        _, *hashes = line.split(" --hash=")
        assert hashes and all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in hashes), line[:80]


def test_requirements_fulfil_what_the_package_declares() -> None:
    """Every dependency of pyproject.toml but the command line's is pinned for the engine, within its bounds."""
    declared = (ROOT / "pyproject.toml").read_text().split("\ndependencies = [")[1].split("]")[0]
    for python in PYTHONS:
        resolved = wheels.resolved(ENGINE, Target(python, "x86_64", 36))
        pins = [Requirement(pin) for pin in wheels.without_hashes(resolved)]
        versions = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
        for line in (line.strip().strip(',"') for line in declared.strip().splitlines()):
            needed = Requirement(line)
            if needed.name != "rich":
                assert needed.specifier.contains(versions[needed.name]), (python, line)
    assert all("==" in line for line in GPU)


def test_wheels_are_chosen_for_the_machine(tmp_path: Path) -> None:
    """From a folder with wheels for many machines; packages without a wheel that fits are named."""
    for name in (
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "numpy-2.4.6-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.whl",
        "numpy-2.2.6-cp311-cp311-manylinux_2_17_x86_64.whl",
        "openzl-0.3.0-cp312-abi3-manylinux_2_28_x86_64.whl",
        "urllib3-2.8.0-py3-none-any.whl",
        "no-wheel.whl",
    ):
        (tmp_path / name).touch()
    pins = ["numpy==2.4.6", "urllib3==2.8.0"]
    chosen = [path.name for path in wheels.choose(tmp_path, pins, Target((3, 11), "x86_64", 36))]
    assert chosen == [
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "urllib3-2.8.0-py3-none-any.whl",
    ]
    assert wheels.choose(tmp_path, ["openzl==0.3.0"], Target((3, 13), "x86_64", 28))
    with pytest.raises(HostUnfit, match=r"manylinux_2_17_x86_64 of: numpy==2\.4\.6$"):
        wheels.choose(tmp_path, pins, Target((3, 11), "x86_64", 17))


def test_fetched_wheels_are_kept_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of wheels is fetched once and makes room for itself; a damaged set is not used, and when neither the
    machine nor this side reaches an index, the error says what both said."""
    make_wheel(tmp_path / "index", "tiny")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    cache, target = tmp_path / "cache", Target((3, 11), "x86_64", 36)
    for number in range(wheels.ENTRIES_MAX + 3):
        (cache / f"py310-old-{number}").mkdir(parents=True)
    (wheel,) = wheels.download(["tiny==1.0"], target, cache)
    assert wheel.is_file()
    assert len(list(cache.iterdir())) == wheels.ENTRIES_MAX
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert wheels.download(["tiny==1.0"], target, cache) == [wheel]

    wheel.unlink()
    failed = f'{MARK} answer {{"failed": "packages", "words": "connection refused"}}\n'.encode()
    message = unfit(ScriptedShell(looks(GOOD_PYTHON), failed), Shipment(requirements=["tiny==1.0"], cache_dir=cache))
    assert "neither from its own package index (connection refused) nor through this side (pip download" in message
    assert "tiny==1.0" in message


def test_wheels_with_another_hash_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that has other bytes under the same name and version is refused by pip here; with the hash it is not."""
    right, target = pinned(make_wheel(tmp_path / "index", "tiny")), Target((3, 11), "x86_64", 36)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    with pytest.raises(HostUnfit, match="DO NOT MATCH THE HASHES"):
        wheels.download([OTHER_HASH], target, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("py*"))
    (wheel,) = wheels.download([right], target, tmp_path / "cache")
    assert wheel.name == "tiny-1.0-py3-none-any.whl"


def test_pips_last_words_hold_no_credentials() -> None:
    """The password in the address of a private index is removed; the output is one bounded line."""
    words = wheels.last_words("x\n" * 999 + "ERROR: https://me:secret@host/simple/numpy?token=1 said 403\n")
    assert words == "ERROR: https://***@host/simple/numpy?token=1 said 403"
    assert "token" not in HostUnfit(words).message
    assert wheels.last_words(" \n") == "no output"


def test_the_command_of_an_engine() -> None:
    """Paths with spaces and quotes are quoted, and Python is isolated from the home directory."""
    home = "/home/it's me/.poorwill"
    installed = Installed(f"{home}/engine/1-a/venv/bin/python", home, "a", True)
    words = shlex.split(command(installed, "poorwill.remote.link.keeper", ["7", "--start"]))
    assert words == [
        "exec", "env", f"POORWILL_STATE_DIR={home}", "OPENBLAS_NUM_THREADS=1", installed.python,
        "-I", "-m", "poorwill.remote.link.keeper", "7", "--start",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (looks(), r"has no Python 3\.10 or newer; .* apt-get install -y python3"),
        (looks(installer="dnf"), "for example: dnf install"),
        (looks(installer="none"), "choose an image that has one"),
        (looks({**GOOD_PYTHON, "version": [3, 8, 10]}), r"found: Python 3\.8\.10 at /usr/bin/python3"),
        (looks({**GOOD_PYTHON, "missing": ["ssl", "venv"]}), r"Python 3\.11\.2 at \S+ lacks the modules ssl, venv"),
        (looks({**GOOD_PYTHON, "implementation": "PyPy"}), "not a usual CPython"),
        (looks({**GOOD_PYTHON, "gil": False}), "not a usual CPython"),
        (looks({**GOOD_PYTHON, "libc": None}), "musl"),
        (looks({**GOOD_PYTHON, "libc": "glibc 2.12"}), r"glibc 2\.12"),
        (looks({**GOOD_PYTHON, "machine": "riscv64"}), "riscv64"),
        (looks(GOOD_PYTHON, home=False), "HOME"),
    ],
)
def test_the_error_says_what_an_unfit_machine_lacks(answer: bytes, named: str) -> None:
    """The error names the machine, what was found, what is missing, and a command that would help."""
    message = unfit(ScriptedShell(answer))
    assert message.startswith("user@machine")
    assert re.search(named, message), message


def test_the_newest_whole_python_is_taken() -> None:
    """Of those for which there are wheels and which lack no module."""
    offered = [
        {**GOOD_PYTHON, "path": "/old", "version": [3, 10, 1]},
        {**GOOD_PYTHON, "path": "/good", "version": [3, 12, 1]},
        {**GOOD_PYTHON, "path": "/poor", "version": [3, 13, 1], "missing": ["ssl"]},
        {**GOOD_PYTHON, "path": "/future", "version": [3, 15, 0]},
    ]
    survey = Shipment().ready(ScriptedShell(looks(*offered)))
    assert not isinstance(survey, Installed)
    assert survey.python((3, 10), any_platform=False).path == "/good"


MALFORMED = [
    b"",
    b"x" * 10_000_000,
    f"{MARK} ".encode() * 1_000_000,
    looks()[:-10],
    looks(["no object"]),
    looks({**GOOD_PYTHON, "path": "relative"}),
    looks({**GOOD_PYTHON, "version": [3]}),
    f"{MARK} ready {{}}\n".encode(),
    f"{MARK} ready {'[' * 100_000}\n".encode(),
    f'{MARK} ready {{"python": "/a", "home": "/b", "digest": "of another engine"}}\n'.encode(),
    f'{MARK} ready {{"python": "/a\\n", "home": "/b", "digest": "{Shipment().digest(gpu=False)}"}}\n'.encode(),
]


@pytest.mark.parametrize("number", range(len(MALFORMED)))
def test_a_malformed_answer_is_one_short_error(number: int) -> None:
    """Whatever a machine answers: the error names that machine."""
    message = unfit(ScriptedShell(MALFORMED[number]))
    assert message.startswith("user@machine gave a malformed answer") and len(message) < 600


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(GOOD_PYTHON)), _json, _json)
def test_any_json_in_an_answer(field: str, value: object, answer: object) -> None:
    """A field of any type, in the first answer or the second, gives one of our errors or a checked path."""
    shell = ScriptedShell(
        looks({**GOOD_PYTHON, field: value}), f"{MARK} answer {json.dumps(answer)}\n".encode(), status=1
    )
    with pytest.raises(PoorwillError):
        Shipment(requirements=[]).ship(shell)


def test_an_interrupted_installation_is_a_transient_error() -> None:
    """EngineLost, not HostUnfit, if the machine gives no answer or received only a part."""
    for answer in (b"", f'{MARK} answer {{"failed": "transfer", "words": "ended"}}\n'.encode()):
        with pytest.raises(EngineLost, match="user@machine"):
            Shipment(requirements=[]).ship(ScriptedShell(looks(GOOD_PYTHON), answer, status=137))
