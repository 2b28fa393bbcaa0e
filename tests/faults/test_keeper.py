"""A keeper, really run: the engine outlives every connection, never its keeper, and nothing is left of either."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from poorwill.control.snapshot.session import EngineSession
from poorwill.errors import EngineLost, HostUnfit
from poorwill.remote.link import frames
from poorwill.remote.link.connection import greet
from poorwill.remote.link.frames import Hello, No, NoEngine
from poorwill.remote.link.link import Link
from poorwill.remote.link.run_directory import RunDirectory, peer_process
from poorwill.retry import Backoff
from tests.support.streams import ProcessStream

SOON_S = 20.0
ECHO = ["cat"]
HANGING = """
import sys, time
from poorwill.remote.link import frames
from poorwill.remote.link.run_directory import RunDirectory

directory = RunDirectory(sys.argv[1])
claim, listener = directory.claim("hanging"), directory.listen("hanging")
print("ready", flush=True)
peer, _ = listener.accept()
peer.send(frames.encode(frames.Kind.SWEEP))
time.sleep(600)
"""


class Machine:
    """Where keepers run: a state directory, and every connection that was made to it."""

    silence_s_max = 60.0

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.streams: list[ProcessStream] = []
        self.links: list[Link] = []

    def connect(self, name: str, *, start: bool, command: list[str] = ECHO, patience_s: float = 20.0) -> ProcessStream:
        options = ["--start", "--patience-s", str(patience_s)] if start else []
        keeper = [sys.executable, "-m", "poorwill.remote.link.keeper", name, *options, "--", *command]
        environment = {**os.environ, "POORWILL_STATE_DIR": str(self.state_dir), "OPENBLAS_NUM_THREADS": "1"}
        self.streams.append(ProcessStream(keeper, environment))
        return self.streams[-1]

    def link(self, name: str, command: list[str] = ECHO, *, keep_s: float = 20.0, **options: Any) -> Link:
        def dial(first: bool) -> ProcessStream:
            return self.connect(name, start=first, command=command, patience_s=keep_s)

        self.links.append(Link(dial, **{"describe": "box", "backoff": Backoff(0.01, 5.0), **options}))
        return self.links[-1]

    def attach(self, name: str, epoch: int = 1, *, start: bool = False, **options: Any) -> ProcessStream:
        """A client of its own making, after both HELLOs."""
        stream = self.connect(name, start=start, **options)
        greet(stream, Hello(frames.VERSION, epoch, 0), SOON_S, "box")
        return stream

    def refusal(self, name: str, **options: Any) -> NoEngine:
        with pytest.raises(NoEngine) as caught:
            self.attach(name, **options)
        return caught.value

    def daemon(self, name: str) -> psutil.Process:
        """The process that listens on that keeper's socket."""
        peer = RunDirectory(str(self.run)).attach(name)
        with peer:
            return psutil.Process(peer_process(peer))

    @property
    def run(self) -> Path:
        return self.state_dir / "run"

    def left(self) -> list[str]:
        return os.listdir(self.run) if self.run.exists() else []


@pytest.fixture
def machine(state_dir: Path) -> Iterator[Machine]:
    """Afterwards its daemons are asked to end, and its run directory has to become empty."""
    machine = Machine(state_dir)
    yield machine
    for link in machine.links:
        link.close(2.0)
    for stream in machine.streams:
        stream.close()
    for name in [name for name in machine.left() if name.endswith(".sock")]:
        with suppress(NoEngine, psutil.NoSuchProcess):
            machine.daemon(name.removesuffix(".sock")).terminate()
    soon(lambda: not machine.left())


def soon(true: Callable[[], Any]) -> None:
    ends_s = time.monotonic() + SOON_S
    while not true():
        assert time.monotonic() < ends_s, "it has not happened"
        time.sleep(0.005)


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def engine_of(daemon: psutil.Process) -> psutil.Process:
    (engine,) = daemon.children()
    return engine


def session_of(machine: Machine, link: Link) -> EngineSession:
    class Host:
        silence_s_max = 60.0

        def describe(self) -> str:
            return "box"

        def start(self) -> Link:
            return link

    return EngineSession(Host())


def test_streams_are_whole_after_many_cuts(machine: Machine) -> None:
    """2 MB through an echo and back, while its connection is killed seven times: equal bytes, and one daemon."""
    link = machine.link("echo")
    data = os.urandom(2 << 20)
    daemon = machine.daemon("echo")
    took, piece = b"", 1 << 18
    for at in range(0, len(data), piece):
        link.requests.write(data[at : at + piece])
        link.requests.flush()
        took += link.events.read(piece // 2)
        if at:
            machine.streams[-1].cut()
        took += link.events.read(piece // 2)
    link.requests.close()
    assert took == data and link.events.read() == b"" and link.last_words() == "exit status 0"
    assert 1 <= link.reconnects <= 7 and link._conversation.outbox.resent_bytes < len(data)
    soon(lambda: gone(daemon))


def test_an_engine_session_over_cuts(machine: Machine) -> None:
    """Requests under way when the connection is killed, or falls silent, are answered as if nothing had been."""
    link = machine.link("engine", [], dead_after_s=0.5, ping_s=0.1)
    session = session_of(machine, link)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(session.hello, "/") for _ in range(4)]
        machine.streams[-1].cut()
        assert all(a.result().engine for a in asked)
        machine.streams[-1].freeze()
        asked = [pool.submit(session.hello, "/") for _ in range(4)]
        assert all(a.result().engine for a in asked)
    assert link.reconnects >= 2 and session.alive
    daemon = machine.daemon("engine")
    engine = engine_of(daemon)
    session.close()
    assert gone(engine) and machine.left() == []


def test_an_engine_that_is_killed(machine: Machine) -> None:
    """Its session ends at once, and says by what; so does one whose keeper is killed, and its engine with it."""
    session = session_of(machine, machine.link("one", []))
    session.hello("/")
    engine_of(machine.daemon("one")).kill()
    with pytest.raises(EngineLost, match="box has ended: killed by SIGKILL"):
        session.hello("/")
    session.close()
    soon(lambda: machine.left() == [])

    stubborn = [sys.executable, "-c", "import time; time.sleep(600)"]
    link = machine.link("two", stubborn)
    daemon = machine.daemon("two")
    engine = engine_of(daemon)
    daemon.kill()
    assert link.events.read() == b"" and "no engine 'two' runs here any more" in link.last_words()
    soon(lambda: gone(engine))


def test_last_words(machine: Machine) -> None:
    """All it wrote arrives first; then its status and the last 40 lines of stderr, also after a cut."""
    script = (
        "import sys; input(); print('out' * 9999)\nfor i in range(99): print('line', i, file=sys.stderr)\nsys.exit(7)"
    )
    link = machine.link("last", [sys.executable, "-c", script])
    machine.streams[-1].cut()
    link.requests.write(b"\n")
    link.requests.flush()
    assert link.events.read() == b"out" * 9999 + b"\n"
    words = link.last_words().splitlines()
    assert words[0] == "line 59" and words[-2:] == ["line 98", "exit status 7: line 98"]
    link = machine.link("none", ["/no/such/engine"])
    assert link.events.read() == b""
    assert link.last_words().startswith("/no/such/engine does not start") and "exit status 127" in link.last_words()


def test_an_engine_that_does_not_end(machine: Machine) -> None:
    """It is killed, with its children, within the time that close has; nothing is left when that returns."""
    child = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    link = machine.link("deaf", [sys.executable, "-c", child])
    sleeper = psutil.Process(int(link.events.readline()))
    daemon = machine.daemon("deaf")
    engine = engine_of(daemon)
    link.close(1.0)
    assert gone(engine) and machine.left() == []
    soon(lambda: gone(sleeper))


def test_nobody_comes_back(machine: Machine) -> None:
    """When patience is over the engine ends, and its keeper; who comes then is told at once."""
    stream = machine.attach("lonely", start=True, patience_s=0.3)
    daemon = machine.daemon("lonely")
    engine = engine_of(daemon)
    stream.cut()
    soon(lambda: gone(daemon))
    assert gone(engine) and machine.left() == []
    assert machine.refusal("lonely").code == No.GONE


def test_a_new_connection_takes_over(machine: Machine) -> None:
    """The old one ends, also when nobody reads from it; one that arrives late, with an older number, is refused."""
    flood = [sys.executable, "-c", "while True: print('x' * 9999)"]
    first = machine.attach("flood", 1, start=True, command=flood)
    second = machine.attach("flood", 3)
    assert first.process.wait(SOON_S) == 0
    with pytest.raises(EngineLost, match="ended before its keeper said anything"):
        machine.attach("flood", 2)
    assert second.process.poll() is None and second.read(1, SOON_S)
    engine_of(machine.daemon("flood")).kill()


def test_start_ends_who_has_no_client(machine: Machine) -> None:
    """An engine that a killed orchestrator left is gone before the new one is there; one that is in use stays."""
    used = machine.attach("used", start=True)
    left = machine.attach("left", start=True)
    daemon = machine.daemon("left")
    engine = engine_of(daemon)
    left.close()
    machine.attach("new", start=True)
    assert gone(engine) and gone(daemon)
    assert sorted(machine.left()) == ["new.lock", "new.sock", "used.lock", "used.sock"]
    assert used.process.poll() is None and machine.daemon("used").is_running()
    assert machine.refusal("used", start=True).code == No.EXISTS


def test_what_killed_keepers_left(machine: Machine) -> None:
    """Their files go when somebody starts, or asks for them."""
    names = ("one", "two")
    for name in names:
        machine.attach(name, start=True)
    for name in names:
        machine.daemon(name).kill()
    soon(lambda: all(stream.process.poll() is not None for stream in machine.streams))
    assert len(machine.left()) == 4
    assert machine.refusal("one").code == No.GONE
    assert sorted(machine.left()) == ["two.lock", "two.sock"]
    machine.attach("two", start=True)
    machine.attach("three", start=True)
    assert sorted(machine.left()) == ["three.lock", "three.sock", "two.lock", "two.sock"]


def test_an_older_keeper_that_hangs(machine: Machine) -> None:
    """One that does not even answer is named; one that says it ends, and does not, is killed."""
    machine.attach("mute", start=True)
    daemon = machine.daemon("mute")
    directory = RunDirectory(str(machine.run), answer_s=0.05, sweep_s=0.1)
    daemon.suspend()
    with pytest.raises(NoEngine, match=f"process {daemon.pid}, does not answer"):
        directory.sweep(keep="")
    daemon.kill()

    command = [sys.executable, "-c", HANGING, str(machine.run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stdout.readline() == b"ready\n"
            RunDirectory(str(machine.run), sweep_s=0.7).sweep(keep="")
            assert process.wait(SOON_S) == -signal.SIGKILL and machine.left() == []
        finally:
            process.kill()


def test_the_run_directory(machine: Machine) -> None:
    """Only its owner can enter, however long its path is; what cannot be used is said to make the machine unfit."""
    machine.state_dir = machine.state_dir / ("long" * 40)
    machine.run.mkdir(parents=True, mode=0o755)
    link = machine.link("long")
    assert stat.S_IMODE(machine.run.stat().st_mode) == 0o700
    link.requests.write(b"hello\n")
    link.requests.flush()
    machine.streams[-1].cut()
    assert link.events.readline() == b"hello\n"
    link.close()
    for name in ("../escape", "x" * 65, ""):
        with pytest.raises(HostUnfit, match="cannot name an engine"):
            machine.link(name)
    machine.state_dir = machine.state_dir / "file"
    machine.state_dir.write_text("")
    with pytest.raises(HostUnfit, match="file/run cannot be used: Not a directory"):
        machine.link("any")
