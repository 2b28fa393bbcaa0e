"""The conversation with an engine: what is asked for happens, and what an engine does wrong ends it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from poorwill.control.snapshot.presigned_grants import PartGrants, ReadGrants
from poorwill.control.snapshot.session import Answer, EngineSession
from poorwill.control.snapshot.snapshot_run import SnapshotRun
from poorwill.engine.meter import COUNTERS
from poorwill.engine.protocol import lines
from poorwill.engine.protocol.answers import MachineFacts
from poorwill.engine.protocol.asking import Question, Request
from poorwill.engine.protocol.questions import Pieces, Read, Upload, UploadGrant, read_question
from poorwill.engine.protocol.requests import (  # fmt: skip
    Convert,
    Hello,
    Manifest,
    OpenVerify,
    Pack,
    Restore,
    Verify,
)
from poorwill.errors import (
    Cancelled,
    Corrupt,
    DeadlineExceeded,
    EngineFailed,
    EngineLost,
    PoorwillError,
    Refused,
    Unsupported,
    UsageError,
)
from poorwill.remote.base import Channel, Host
from poorwill.remote.local_host import LocalHost
from poorwill.snapshot import ids
from poorwill.snapshot.metadata import ManifestReference
from poorwill.store.base import Grant
from poorwill.store.local import LocalStore
from tests.support.engines import ScriptedHost, ThreadHost, WatchedHost, answering, line
from tests.support.runs import order
from tests.support.workspaces import make_large

SOON_S = 20.0
MANIFEST = {"key": "k", "bytes": 1, "blake3": "0"}


@dataclass(frozen=True, slots=True)
class Unknown(Request[dict[str, Any]]):
    op: str  # type: ignore[misc]


@pytest.fixture
def watched() -> Iterator[tuple[WatchedHost, EngineSession]]:
    host = WatchedHost()
    session = EngineSession(host)
    yield host, session
    session.close()


def talk(host: Host, answer: Answer | None = None) -> MachineFacts:
    """One request to an engine, with the session closed afterwards."""
    session = EngineSession(host)
    try:
        return session.request(Hello(), deadline_s=SOON_S, answer=answer)
    finally:
        session.close()


def test_facts_and_unknown_requests(watched: tuple[WatchedHost, EngineSession]) -> None:
    """hello tells about the machine; a request that does not exist, or comes too early, is an error and no end."""
    _, session = watched
    facts = session.hello("/")
    assert facts.protocol == lines.VERSION and facts.cores >= 1 and facts.disk_free_bytes > 0
    for op in ("no-such-op", "__init__", "op_hello", "handle"):
        with pytest.raises(UsageError, match="knows no request"):
            session.request(Unknown(op), deadline_s=SOON_S)
    early = ((Pack(0), "scan"), (Restore(0), "open_restore"), (Verify(0), "open_verify"), (Convert(0), "open_convert"))
    for request, first in early:
        with pytest.raises(UsageError, match=f"needs the request '{first}' first"):
            session.request(request, deadline_s=SOON_S)
    assert session.request(Hello(), deadline_s=SOON_S).engine


def test_another_protocol_version() -> None:
    """Both versions are named, and what to do."""
    session = EngineSession(ScriptedHost(answering([line(id=1, event="result", result={"protocol": 99})])))
    with pytest.raises(Unsupported, match="speaks protocol 99, this poorwill speaks 1: install the same version"):
        session.hello("/")
    session.close()


def test_an_engine_that_gives_itself_up() -> None:
    """As when its GPU hangs: whoever asked hears why, and nobody talks to it any more."""
    given_up = EngineLost("the GPU has not answered for 300 s").to_wire()
    session = EngineSession(ScriptedHost(answering([line(id=1, event="error", error=given_up)])))
    try:
        for _ in range(2):
            with pytest.raises(EngineLost, match="the GPU has not answered"):
                session.request(Pack(1), deadline_s=30)
            assert not session.alive
    finally:
        session.close()


def test_the_engine_ends_with_us_and_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment has none of what only the control side may know; it ends when we close."""
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "PREFECT_API_URL", "PREFECT_API_KEY", "VAST_API_KEY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_HARMLESS", "kept")
    host = WatchedHost()
    session = EngineSession(host)
    session.hello("/")
    environment = psutil.Process(host.channel.process.pid).environ()
    assert environment["LC_HARMLESS"] == "kept"
    assert [name for name in environment if name.startswith(("AWS_", "PREFECT_", "VAST_"))] == []
    session.close()
    session.close()
    assert host.channel.process.returncode == 0
    with pytest.raises(EngineLost, match="was closed"):
        session.hello("/")


def test_a_killed_engine_is_noticed_by_all_who_wait(watched: tuple[WatchedHost, EngineSession]) -> None:
    """EngineLost for every request at once, and for those that come later."""
    host, session = watched
    asked, never = threading.Semaphore(0), threading.Event()

    def answer(question: Question[Any]) -> Grant:
        asked.release()
        never.wait(SOON_S)
        return Grant(path="/")

    def wait(number: int) -> PoorwillError:
        try:
            manifest = ManifestReference(f"k{number}", 1, "0")
            session.request(OpenVerify(manifest), deadline_s=600.0, answer=answer)
        except PoorwillError as error:
            return error
        raise AssertionError("answered")

    with ThreadPoolExecutor(6) as threads:
        waiting = [threads.submit(wait, number) for number in range(6)]
        for _ in waiting:
            assert asked.acquire(timeout=SOON_S)
        host.kill()
        errors = [future.result(SOON_S) for future in waiting]
    never.set()
    assert {type(error) for error in errors} == {EngineLost}
    assert not session.alive
    with pytest.raises(EngineLost):
        session.hello("/")


def test_an_engine_that_does_not_start(tmp_path: Path) -> None:
    """A python that is not there, or has no poorwill: said in one line."""
    with pytest.raises(EngineLost, match="does not start: /no/such/python: No such file"):
        EngineSession(LocalHost(python="/no/such/python"))
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'No module named poorwill' >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(EngineLost, match="ended"):
        talk(LocalHost(python=str(broken)))


def engine_process() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "poorwill.engine"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def said(stream: IO[bytes], number: int, event: str) -> dict[str, Any]:
    """The next event of that kind of a request; the engine's heartbeat bounds the wait."""
    while True:
        found = lines.read(stream)
        assert found is not None, "the engine has ended"
        if (found.get("id"), found.get("event")) == (number, event):
            return found


def test_cancel_and_deadline_as_the_engine_keeps_them() -> None:
    """On the wire: a cancelled request says so, one beyond its deadline too; attempts are told apart; then it ends."""
    with engine_process() as process:
        requests, events = process.stdin, process.stdout
        assert requests is not None and events is not None

        def send(**message: Any) -> None:
            requests.write(lines.encode(message))
            requests.flush()

        send(op="open_verify", id=1, attempt=3, deadline_s=600, manifest=MANIFEST)
        ask = said(events, 1, "ask")
        assert (ask["question"], ask["facts"], ask["attempt"]) == ("read", {"key": "k"}, 3)
        send(op="cancel", target=1)
        error = said(events, 1, "error")
        assert (error["error"]["type"], error["attempt"]) == (Cancelled.__name__, 3)
        send(op="open_verify", id=2, deadline_s=0.2, manifest=MANIFEST)
        assert said(events, 2, "error")["error"]["type"] == DeadlineExceeded.__name__
        send(op="cancel", target=77)
        send(op="answer", ask=4711, facts={})
        send(op="hello", id=3)
        assert said(events, 3, "result")["result"]["protocol"] == lines.VERSION
        requests.close()
        assert process.wait(SOON_S) == 0


@pytest.mark.parametrize("garbage", [b"not json\n", b"[1]\n", b"\xff\xfe\n", b"[" * 100_000 + b"\n"])
def test_garbage_ends_the_engine(garbage: bytes) -> None:
    """An engine that is spoken to in another language ends; it does not guess."""
    with engine_process() as process:
        assert process.stdin is not None
        process.stdin.write(garbage)
        process.stdin.flush()
        assert process.wait(SOON_S) is not None


COLLIDING = {"type": "Corrupt", "message": "m", "facts": {"message": 1}}


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ([b"not json\n"], Corrupt, "not a JSON line"),
        ([b'"text"\n'], Corrupt, "not an object"),
        ([b"\xff\xfe\x00\n"], Corrupt, "not a JSON line"),
        ([b"[" * 200_000 + b"\n"], Corrupt, "not a JSON line"),
        ([b" " * (lines.LINE_BYTES_MAX + 10)], Corrupt, f"a line above {lines.LINE_BYTES_MAX} bytes"),
        ([line(id=None, event="result")], Corrupt, "sent 'result', and not of which request"),
        ([line(id=[1], event="result")], Corrupt, r"field 'id' is \[1\], expected an integer"),
        ([line(id=-1, event="result")], Corrupt, "field 'id' is -1, expected an integer"),
        ([line(id=1, event="results")], Corrupt, "field 'event' is 'results', expected one of result, error"),
        ([line(id=1)], Corrupt, "field 'event' is missing"),
        ([line(event="progress", counters="none")], Corrupt, "field 'counters' is 'none', expected an object"),
        ([line(event="progress", counters={"x": "y"})], Corrupt, "field 'counters.x' is 'y', expected an integer"),
        ([line(event="progress", counters={"x": -1})], Corrupt, "field 'counters.x' is -1, expected an integer"),
        ([line(id=1, event="result")], Corrupt, "the answer to 'hello' .*is None, expected an object"),
        ([line(id=1, event="result", result="text")], Corrupt, "field 'result' is 'text', expected an object"),
        ([line(id=1, event="result", result={"cores": -1})], Corrupt, "the answer to 'hello' .*field 'cores' is -1"),
        (
            [line(id=1, event="ask", ask=1, question="read", facts="x")],
            Corrupt,
            "field 'facts' is 'x', expected an object",
        ),
        ([line(id=1, event="error")], EngineFailed, "no message"),
        ([line(id=1, event="error", error="text")], Corrupt, "field 'error' is 'text', expected an object"),
        ([line(id=1, event="error", error=COLLIDING)], Corrupt, "m"),
        ([line(id=1, event="error", error={"type": "SystemExit", "message": "m"})], EngineFailed, "m"),
    ],
)
def test_a_lying_engine(lines: list[bytes], error: type[PoorwillError], message: str) -> None:
    """Whatever it writes, whoever waits gets an error of ours."""
    with pytest.raises(error, match=message):
        talk(ScriptedHost(answering(lines)))


def test_events_that_nobody_waits_for() -> None:
    """A result of a request that was not made is passed over, and so are fields that are not known."""
    said = [
        line(id=99, event="result", result={"a": 1}),
        line(event="progress", counters={"sent_bytes": 5, "unknown": 6}, unknown=1),
        line(id=1, event="result", result={"host": "box", "unknown": 2}),
    ]
    assert talk(ScriptedHost(answering(said))) == MachineFacts(host="box")


def test_counters() -> None:
    """All of them are there, whatever an engine says; those it leaves out are 0, and others are not kept."""
    shown: list[dict[str, int]] = []
    said = [line(event="progress", counters={"sent_bytes": 5, "unknown": 6}), line(id=1, event="result", result={})]
    session = EngineSession(ScriptedHost(answering(said)), shown.append)
    session.request(Hello(), deadline_s=SOON_S)
    session.close()
    assert shown == [{**dict.fromkeys(COUNTERS, 0), "sent_bytes": 5}] == [session.counters]


def test_the_end_inside_a_line() -> None:
    """The channel broke off: lost, not corrupt, so that it is tried again."""

    def play(requests: IO[bytes], events: IO[bytes]) -> None:
        requests.readline()
        events.write(b'{"id": 1, "event": "res')

    with pytest.raises(EngineLost, match="inside a line"):
        talk(ScriptedHost(play))


def test_a_flood_of_events() -> None:
    """Events that nobody takes are bounded: the engine is dropped."""
    blocked, flooded = threading.Event(), threading.Event()

    def block(page: bytes) -> None:
        blocked.set()
        flooded.wait(SOON_S)

    def play(requests: IO[bytes], events: IO[bytes]) -> None:
        requests.readline()
        events.write(line(id=1, event="page"))
        events.flush()
        blocked.wait(SOON_S)
        for _ in range(15):  # no more than the pipe holds, once nobody reads it
            events.write(line(id=1, event="page") * 100)
        events.flush()
        while requests.readline():
            pass

    session = EngineSession(ScriptedHost(play), events_max=1000, patience_s=0.1)
    failed: list[PoorwillError] = []

    def ask() -> None:
        try:
            session.request(Manifest(), deadline_s=SOON_S, on_page=block)
        except PoorwillError as error:
            failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    deadline = time.monotonic() + SOON_S
    while session.alive and time.monotonic() < deadline:
        time.sleep(0.01)
    flooded.set()
    asking.join(SOON_S)
    session.close()
    assert [type(error) for error in failed] == [Corrupt] and "floods us" in failed[0].message


def test_silence() -> None:
    """An engine that stays connected and says nothing is given up."""

    def play(requests: IO[bytes], events: IO[bytes]) -> None:
        while requests.readline():
            pass

    session = EngineSession(ScriptedHost(play), silence_s_max=0.2)
    with pytest.raises(EngineLost, match=r"said nothing for 0\.2 s"):
        session.hello("/")
    session.close()


def test_an_engine_that_does_not_read() -> None:
    """What does not fit into its pipe blocks neither the others nor the end."""
    over = threading.Event()

    def play(requests: IO[bytes], events: IO[bytes]) -> None:
        over.wait(SOON_S)

    session = EngineSession(ScriptedHost(play), silence_s_max=0.2)
    with ThreadPoolExecutor(2) as threads:
        large = threads.submit(session.hello, "x" * 200_000)
        with pytest.raises(EngineLost):
            session.hello("/")
        assert not over.is_set()
        over.set()
        with pytest.raises(EngineLost):
            large.result(SOON_S)
    session.close()


def test_a_stopped_engine_process_is_ended() -> None:
    """One that neither reads nor ends is ended by force when the session is closed."""
    host = WatchedHost()
    channel: Channel = host.start()
    psutil.Process(host.channel.process.pid).suspend()

    def fill() -> None:
        try:
            while True:
                channel.requests.write(b" " * 65536)
        except (OSError, ValueError):
            return

    filling = threading.Thread(target=fill, daemon=True)
    filling.start()
    channel.close(timeout_s=0.3)
    assert host.channel.process.returncode is not None
    filling.join(SOON_S)
    assert not filling.is_alive()


def test_questions_beyond_the_work(local_store: LocalStore) -> None:
    """An engine may read the objects it works on and write the planned parts; anything else is refused."""
    local_store.put("allowed", b"x")
    local_store.put("secret", b"x")
    reading = ReadGrants(local_store, {"allowed"})
    assert str(reading.answer(Read("allowed")).path).endswith("allowed")
    for question in (Read("secret"), Read("x" * 1_000_000), Upload(0), Pieces(0, (1,))):
        with pytest.raises(Refused, match="not part of its work") as caught:
            reading.answer(question)
        assert len(caught.value.message) < 300
    parts = PartGrants(local_store, "m1", ids.new_snapshot_id())
    parts.expect({3: 1000})
    for question in (Upload(4), Pieces(3, (1,)), Read("secret")):
        with pytest.raises(Refused, match="not part of its work"):
            parts.answer(question)
    granted = parts.answer(Upload(3))
    assert isinstance(granted, UploadGrant) and granted.path is not None


@pytest.mark.parametrize(
    ("name", "facts", "error", "message"),
    [
        ("write", {"key": "allowed"}, Refused, "the engine asked for 'write', which is not part of its work"),
        ("read", {}, Corrupt, "question 'read' of the engine: field 'key' is missing"),
        ("read", {"key": ["allowed"]}, Corrupt, "field 'key' is"),
        ("read", None, Corrupt, "expected an object"),
        ("upload", {}, Corrupt, "field 'part' is missing"),
        ("upload", {"part": -1}, Corrupt, "field 'part' is -1, expected an integer from 0 to 63"),
        ("pieces", {"part": 1, "numbers": [1] * 65}, Corrupt, "field 'numbers' is .*, expected at most 64"),
        ("pieces", {"part": 1, "numbers": ["1"]}, Corrupt, r"field 'numbers\[0\]' is '1', expected an integer"),
    ],
)
def test_questions_in_another_form(name: str, facts: object, error: type[PoorwillError], message: str) -> None:
    """They are refused before anybody answers, naming the field."""
    with pytest.raises(error, match=message):
        read_question(name, facts)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "field 'op' is missing"),
        ({"op": 7}, "field 'op' is 7, expected text"),
        ({"op": "hello", "attempt": "1"}, "field 'attempt' is '1', expected an integer"),
        ({"op": "hello", "deadline_s": "1"}, "field 'deadline_s' is '1', expected a finite number"),
        ({"op": "hello", "workspace": 1}, "request 'hello': field 'workspace' is 1, expected text"),
        ({"op": "pack"}, "request 'pack': field 'part' is missing"),
        ({"op": "pack", "part": 64}, "field 'part' is 64, expected an integer from 0 to 63"),
        ({"op": "open_verify", "manifest": {**MANIFEST, "bytes": -1}}, "field 'manifest.bytes' is -1"),
        ({"op": "scan", "settings": {}, "parent": None, "adopt": []}, "field 'settings.machine' is missing"),
    ],
)
def test_requests_in_another_form(request_: dict[str, Any], message: str) -> None:
    """The engine answers a UsageError that names the field, and goes on."""
    with engine_process() as process:
        requests, events = process.stdin, process.stdout
        assert requests is not None and events is not None
        requests.write(lines.encode({**request_, "id": 1}) + lines.encode({"op": "hello", "id": 2}))
        requests.flush()
        told = {}
        while len(told) < 2:
            event = lines.read(events)
            assert event is not None
            if "id" in event:
                told[event["id"]] = event
        assert told[1]["error"]["type"] == "UsageError" and re.search(message, told[1]["error"]["message"])
        assert told[2]["event"] == "result"
        requests.close()
        assert process.wait(SOON_S) == 0


def test_an_engine_that_asks_for_more_than_its_work(local_store: LocalStore) -> None:
    """Over a session: the refusal is what it hears, and the grant is never made."""
    heard: list[bytes] = []

    def play(requests: IO[bytes], events: IO[bytes]) -> None:
        requests.readline()
        events.write(line(id=1, event="ask", ask=1, question="read", facts={"key": "snapshots/other.json"}))
        events.write(line(id=1, event="ask", ask=2, question="read", facts={"key": ["nonsense"]}))
        events.flush()
        heard.extend([requests.readline(), requests.readline()])
        events.write(line(id=1, event="result", result={}))
        events.flush()

    talk(ScriptedHost(play), answer=ReadGrants(local_store, {"parts/x"}).answer)
    assert len(heard) == 2 and all(b'"error"' in answer and b"path" not in answer for answer in heard)


def test_a_pack_of_a_part_that_was_not_planned(local_store: LocalStore, tmp_path: Path) -> None:
    """A number that the plan does not have is an error, not a crash of the engine."""
    session = EngineSession(ThreadHost())
    run = SnapshotRun(local_store, session, order(make_large(tmp_path / "w", 1)))
    run.open()
    run.scan()
    with pytest.raises(PoorwillError):
        run.pack_part(63)
    assert session.alive
    session.close()
