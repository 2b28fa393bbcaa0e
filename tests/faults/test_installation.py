"""The engine is brought to a machine: real shells, Pythons, virtual environments and pip, in homes of their own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from poorwill.control.snapshot.session import EngineSession
from poorwill.errors import EngineLost, HostUnfit
from poorwill.remote.base import Finished
from poorwill.remote.install import wheels
from poorwill.remote.install.probe import Installed, look
from poorwill.remote.install.ship import PROOF, Shipment, command
from poorwill.remote.local_host import LocalChannel
from tests.support.local_shell import LocalShell, place
from tests.support.small_wheel import bare_python, make_wheel, pinned

TINY = ["poorwill-tiny==1.0"]
TOOLS = ("sh", "grep", "timeout", "env", "uname")


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python as poor as a machine may have it: no pip, no ensurepip, no distutils."""
    bare = bare_python(tmp_path_factory.mktemp("bare-python"))
    for module in ("pip", "ensurepip", "distutils", "setuptools"):
        assert subprocess.run([bare, "-I", "-c", f"import {module}"], capture_output=True).returncode == 1, module
    return bare


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """The PATH of the machine: a few tools, and no Python, GPU or package manager."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        source = next(path for path in (Path("/usr/bin", name), Path("/bin", name)) if path.exists())
        (folder / name).symlink_to(source)
    return folder


@pytest.fixture
def machine(tmp_path: Path, tools: Path) -> LocalShell:
    """A machine whose home needs quoting, and which has no way to a package index."""
    home = tmp_path / "it's a home"
    home.mkdir()
    return LocalShell(home, str(tools), PIP_CONFIG_FILE="/dev/null", PIP_INDEX_URL="http://127.0.0.1:9/")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    make_wheel(tmp_path / "index", "poorwill-tiny")
    return tmp_path / "index"


def small(python: Path, **fields: object) -> Shipment:
    """A shipment without the packages of the engine: its modules that need none must import."""
    given = {
        "requirements": [],
        "gpu_requirements": [],
        "proof": ["poorwill.errors"],
        "pythons": [str(python)],
        **fields,
    }
    return Shipment(**given)


def other(python: Path) -> Shipment:
    """The same with another digest."""
    return small(python, requirements=["poorwill-other==1.0; python_version < '3'"])


def engines(machine: LocalShell) -> list[str]:
    """All that lies beside the engines, hidden or not."""
    return sorted(path.name for path in (machine.home / ".poorwill" / "engine").iterdir())


def imports(machine: LocalShell, installed: Installed, module: str) -> bool:
    done = subprocess.run(
        [installed.python, "-I", "-c", f"import {module}"], env=machine.environment, capture_output=True
    )
    return done.returncode == 0


class EngineThere:
    """A host that starts the engine that was installed there."""

    silence_s_max = 20.0

    def __init__(self, machine: LocalShell, installed: Installed) -> None:
        self.machine, self.installed = machine, installed

    def describe(self) -> str:
        return "the machine"

    def start(self) -> LocalChannel:
        # A home may hold folders with names of modules: none of them may be imported.
        words = f"cd {os.fspath(self.machine.home)!r} && {command(self.installed, 'poorwill.engine')}"
        return LocalChannel(["sh", "-c", words], self.machine.environment)


@pytest.fixture
def engine_wheels(request: pytest.FixtureRequest, python: Path) -> Path:
    """The engine's real wheels for this Python, fetched once by pip and kept with pytest's cache."""
    cache = Path(request.config.cache.mkdir("poorwill-wheels"))
    survey = look(LocalShell(Path("/"), os.environ["PATH"]), "none", "none", [str(python)])
    target = survey.python((3, 10), any_platform=False).target
    try:
        found = wheels.download(wheels.resolved(Shipment().requirements, target), target, cache)
    except HostUnfit as error:
        pytest.fail(f"THE ENGINE'S WHEELS CANNOT BE FETCHED HERE, so nothing is proved about installing them: {error}")
    return found[0].parent


def test_the_engine_on_a_new_machine(machine: LocalShell, python: Path, engine_wheels: Path) -> None:
    """On a Python without pip, ensurepip and an index the real engine is installed, private to its user, and answers;
    the second contact is one command that takes less than two seconds and changes nothing."""
    steps: list[str] = []
    shipment = Shipment(wheels_dir=engine_wheels, pythons=[str(python)], gpu_requirements=[])
    installed = shipment.ship(machine, steps.append)
    assert not installed.reused
    assert [step.split()[0] for step in steps] == ["looking", "sending", "installing"]
    assert installed.home == str(machine.home / ".poorwill")
    assert engines(machine) == [shipment.name(gpu=False)]
    for folder in (
        machine.home / ".poorwill",
        machine.home / ".poorwill" / "engine",
        Path(installed.python).parents[2],
    ):
        assert folder.stat().st_mode & 0o777 == 0o700

    for shadow in ("poorwill", "numpy", "json"):
        (machine.home / shadow).mkdir()
        (machine.home / shadow / "__init__.py").write_text("raise SystemExit('shadowed')")
    session = EngineSession(EngineThere(machine, installed))
    try:
        assert session.hello(str(machine.home)).host == socket.gethostname()
    finally:
        session.close()
    assert imports(machine, installed, "poorwill.remote.link.keeper")
    assert not imports(machine, installed, "poorwill.control")

    machine.commands.clear()
    begun = time.monotonic()
    again = shipment.ship(machine)
    assert time.monotonic() - begun < 2.0
    assert again.reused and (again.python, again.home) == (installed.python, installed.home)
    assert len(machine.commands) == 1


def test_packages_for_a_gpu_come_from_the_machines_own_index(
    machine: LocalShell, python: Path, index: Path, tmp_path: Path, tools: Path
) -> None:
    """Packages for a GPU are installed where nvidia-smi lists one, also one that appears later. Pip on the
    machine takes them from the index that the machine names, whatever its image set to tie packages of its own."""
    (tmp_path / "ties.txt").write_text("poorwill-tiny==9.9\n")
    settings = f"no-index = true\nfind-links = {index}\nuser = true\nconstraint = {tmp_path / 'ties.txt'}\n"
    (tmp_path / "pip.conf").write_text(f"[global]\n{settings}")
    machine.environment |= {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_TARGET": str(tmp_path), "PIP_USER": "1"}
    shipment = small(python, gpu_requirements=TINY, gpu_free_bytes_min=0)

    place(tools, "nvidia-smi", "#!/bin/sh\necho 'No devices were found'\n")
    assert not imports(machine, shipment.ship(machine), "poorwill_tiny")
    place(tools, "nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\n")
    machine.commands.clear()
    assert imports(machine, shipment.ship(machine), "poorwill_tiny")
    assert len(machine.commands) == 2 and engines(machine) == [shipment.name(gpu=True)]
    place(tools, "nvidia-smi", "#!/bin/sh\nexit 9\n")
    assert shipment.ship(machine).reused


def test_without_an_index_the_packages_come_from_here(
    machine: LocalShell, python: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the machine reaches no index, this side fetches the wheels from its own and sends them."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    installed = small(python, requirements=TINY, cache_dir=tmp_path / "cache").ship(machine)
    assert imports(machine, installed, "poorwill_tiny")
    assert len(machine.commands) == 3 and engines(machine) == [Path(installed.python).parents[2].name]


def test_an_index_with_other_bytes_is_not_taken_from(
    machine: LocalShell, python: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's own index has another file under the name and version of a pin with a hash: pip refuses it there,
    and the wheel comes from here. When this side's index has it too, nothing is installed."""
    right = pinned(next(index.glob("*.whl")))
    make_wheel(tmp_path / "tampered", "poorwill-tiny", code="VERSION = 'tampered'\n")
    machine.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "tampered")}
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "tampered"))
    shipment = small(python, requirements=[right], cache_dir=tmp_path / "cache")
    with pytest.raises(HostUnfit, match=r"DO NOT MATCH THE HASHES.* nor through this side .*DO NOT MATCH THE HASHES"):
        shipment.ship(machine)
    assert engines(machine) == []

    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    installed = shipment.ship(machine)
    tiny = next(Path(installed.python).parents[1].glob("lib/*/site-packages/poorwill_tiny.py"))
    assert tiny.read_text() == 'VERSION = "1.0"\n'


def test_another_version_replaces_the_engine(machine: LocalShell, python: Path) -> None:
    """A new version takes the place of the old one, but one that runs stays until it has ended."""
    old = small(python).ship(machine)
    running = subprocess.Popen([old.python, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        new = other(python).ship(machine)
        assert len(engines(machine)) == 2 and "runs and stays" in new.log[0]
    finally:
        running.communicate(timeout=30)
    (Path(new.python).parents[2] / "ready").unlink()
    assert other(python).ship(machine).log == (f"{small(python).name(gpu=False)} removed",)
    assert engines(machine) == [other(python).name(gpu=False)]


def test_an_engine_that_was_damaged_is_made_again(machine: LocalShell, python: Path) -> None:
    """One whose Python is gone, or that has no marker, is not taken for an engine; the next contact makes it anew."""
    installed = small(python).ship(machine)
    for damaged in (Path(installed.python), Path(installed.python).parents[2] / "ready"):
        damaged.unlink()
        assert not small(python).ship(machine).reused
        assert small(python).ship(machine).reused
        assert len(engines(machine)) == 1


def test_killed_while_packages_are_installed(machine: LocalShell, python: Path) -> None:
    """The connection takes everything with it while pip waits for an index: no engine counts, and the next
    installation works and sweeps what was left."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        machine.environment["PIP_INDEX_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}/"

        def cut() -> None:
            connection, _ = silent.accept()
            machine.cut()
            connection.close()

        cutter = threading.Thread(target=cut)
        cutter.start()
        with pytest.raises(EngineLost):
            small(python, requirements=TINY).ship(machine)
        cutter.join()
    assert engines(machine) and all(name.startswith(".building-") for name in engines(machine))
    assert not small(python).ship(machine).reused
    assert engines(machine) == [small(python).name(gpu=False)]


class ShortShell(LocalShell):
    """A connection that delivers only the first pieces of an installation."""

    def run(self, command: str, *, stdin: Iterable[bytes] = (), timeout_s: float) -> Finished:
        pieces = [piece for _, piece in zip(range(3), stdin, strict=False)]
        return super().run(command, stdin=pieces, timeout_s=timeout_s)


def test_a_transfer_that_ends_early(machine: LocalShell, python: Path) -> None:
    """What arrived in part is removed at once, and the error says that trying again may help."""
    short = ShortShell(machine.home, machine.environment["PATH"])
    with pytest.raises(EngineLost, match=r"the transfer ended inside pip\.zip"):
        small(python).ship(short)
    assert engines(machine) == []


def test_two_installations_at_once(machine: LocalShell, python: Path) -> None:
    """Both end with the same engine, and nothing else is left, as neither sweeps what the other works on."""
    start = threading.Barrier(2)

    def ship() -> Installed:
        shell = LocalShell(machine.home, machine.environment["PATH"])
        return small(python).ship(shell, lambda step: start.wait(30) if step.startswith("sending") else None)

    with ThreadPoolExecutor(2) as pool:
        first, second = [future.result() for future in [pool.submit(ship), pool.submit(ship)]]
    assert first.python == second.python and imports(machine, first, "poorwill.errors")
    assert engines(machine) == [small(python).name(gpu=False)]


def test_gpu_packages_that_cannot_be_installed_are_a_warning(
    machine: LocalShell, python: Path, tmp_path: Path, tools: Path
) -> None:
    """The engine is installed and used again without them, and its log says why."""
    place(tools, "nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-1)'\n")
    (tmp_path / "empty").mkdir()
    shipment = small(python, gpu_requirements=TINY, wheels_dir=tmp_path / "empty")
    (line,) = shipment.ship(machine).log
    assert line.startswith("without GPU packages: ") and "poorwill-tiny==1.0" in line
    assert shipment.ship(machine).reused


def test_what_a_login_prints_does_not_matter(machine: LocalShell, python: Path, tools: Path) -> None:
    """Words before the answer are skipped; a flood of them is one clear error."""
    (tools / "sh").unlink()
    place(tools, "sh", '#!/bin/sh\necho "Welcome to @poorwill@ rent-a-GPU"\nexec /bin/sh "$@"\n')
    assert not small(python).ship(machine).reused
    place(tools, "sh", f"#!{sys.executable}\nprint('y' * 10_000_000)\n")
    with pytest.raises(HostUnfit, match="does its login print"):
        small(python).ship(machine)


def test_machines_that_cannot_have_an_engine(machine: LocalShell, python: Path, tools: Path) -> None:
    """No Python, an old one, no home, no disk, an engine that does not start: each is named, and nothing is left."""
    place(tools, "apt-get", "#!/bin/sh\n")
    with pytest.raises(HostUnfit, match=r"no Python 3\.10 or newer; install it there, for example: apt-get install"):
        small(python, pythons=["python3"]).ship(machine)
    about = {"path": "/usr/bin/python3", "version": [3, 8, 10], "missing": [], "libc": "glibc 2.31"}
    about |= {"implementation": "CPython", "bits": 64, "machine": "x86_64", "gil": True}
    place(tools, "python3", f"#!/bin/sh\necho '@poorwill@ python {json.dumps(about)}'\n")
    with pytest.raises(HostUnfit, match=r"found: Python 3\.8\.10 at /usr/bin/python3"):
        small(python, pythons=["python3"]).ship(machine)
    with pytest.raises(HostUnfit, match=r"GB are free at .*, 1000000000\.0 GB are needed"):
        small(python, free_bytes_min=10**18).ship(machine)
    with pytest.raises(HostUnfit, match=r"does not start there.*no_such_module"):
        small(python, proof=["no_such_module"]).ship(machine)
    assert engines(machine) == []
    for home in (Path("/nonexistent"), Path("/proc"), Path("")):
        with pytest.raises(HostUnfit, match=r"HOME|/proc/\.poorwill cannot be made"):
            small(python).ship(LocalShell(home, str(tools)))


def test_the_proof_covers_what_is_started() -> None:
    """An installation counts only when the engine and its keeper import on the machine."""
    assert {"poorwill.engine.operations", "poorwill.remote.link.keeper"} <= set(PROOF)
