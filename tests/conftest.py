"""Real parts for all tests: an S3 server that checks signatures, stores on it, a Prefect server, and machines reached
over SSH; and how tests are shared out among several workers."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from deployments.servers.prefect_server import PrefectServer
from deployments.servers.s3_server import S3Server
from poorwill.store.local import LocalStore
from poorwill.store.s3.store import S3Store
from tests.support.engine_homes import EngineHome, ship_once
from tests.support.s3_connection import connect
from tests.support.ssh_machines import KeyPair, SshMachine
from tests.support.sshd_software import Software, choose, installer, preview

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts its background jobs with Ctrl-C ignored, and so would every program be that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

USED_SOFTWARE = pytest.StashKey[set[str]]()
_prefixes = (f"test-{number:04}" for number in itertools.count())


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Engines of a test remember nothing of another one's, and nothing in the home of whoever runs it."""
    monkeypatch.setenv("POORWILL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture(autouse=True, scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """CuPy makes the folder of its kernels as soon as it is imported: not in a home, either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUPY_CACHE_DIR", str(tmp_path_factory.mktemp("cupy")))
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for the whole session; a test that kills it starts its own."""
    with S3Server(tmp_path_factory.mktemp("s3") / "objects") as server:
        yield server


@pytest.fixture
def s3_store(s3_server: S3Server) -> Iterator[S3Store]:
    """A store under a prefix that no other test has."""
    store = connect(s3_server, next(_prefixes))
    yield store
    store.close()


@pytest.fixture
def local_store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "local-store")


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """Started once, with its web pages: it takes several seconds. Whoever kills it starts it again."""
    with PrefectServer(tmp_path_factory.mktemp("prefect"), ui=True, events_at_once=True) as server, server.settings():
        yield server


def pytest_report_header() -> str:
    return f"SSH servers of test machines: {preview(installer())}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The header is not shown by `pytest -q`."""
    for used in sorted(config.stash.get(USED_SOFTWARE, set())):
        terminalreporter.write_line(f"SSH servers of test machines: {used}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        from tests.support import workers

        workers.sort(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Called by pytest-xdist alone, which need not be there."""
    from tests.support.workers import ByFile

    return ByFile(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker of pytest-xdist used, told at its end."""
    node.config.stash.setdefault(USED_SOFTWARE, set()).update(getattr(node, "workeroutput", {}).get("sshd", []))


@pytest.fixture(scope="session")
def sshd_software(pytestconfig: pytest.Config) -> Software:
    """OpenSSH's sshd, installed by now where that is possible; else the embedded server."""
    software = choose(installer=installer())
    pytestconfig.stash[USED_SOFTWARE] = {str(software)}
    if hasattr(pytestconfig, "workeroutput"):
        pytestconfig.workeroutput["sshd"] = [str(software)]
    return software


@pytest.fixture(scope="session")
def ssh_keys() -> KeyPair:
    """What the machines of this session let in."""
    return KeyPair.generate()


@pytest.fixture
def rent(tmp_path: Path, sshd_software: Software, ssh_keys: KeyPair) -> Iterator[Callable[..., SshMachine]]:
    """Each call starts one more machine, with the options of SshMachine; all end with the test."""
    numbers = itertools.count()
    with ExitStack() as running:

        def start(**options: Any) -> SshMachine:
            given = {"authorized": [ssh_keys.public], **options}
            return running.enter_context(SshMachine(tmp_path / f"rented-{next(numbers)}", sshd_software, **given))

        yield start


@pytest.fixture
def ssh_machine(rent: Callable[..., SshMachine]) -> SshMachine:
    return rent()


@pytest.fixture(scope="session")
def engine_home(tmp_path_factory: pytest.TempPathFactory, sshd_software: Software, ssh_keys: KeyPair) -> EngineHome:
    """A home with the engine, shipped there over SSH: once, for it takes seconds."""
    return ship_once(tmp_path_factory.mktemp("engine-home"), sshd_software, ssh_keys)
