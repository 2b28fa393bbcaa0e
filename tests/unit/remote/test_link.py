"""A Link and its frames: whatever is cut, both streams arrive complete, in order and once."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import IO, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from poorwill.control.snapshot.session import EngineSession
from poorwill.errors import Corrupt, EngineLost, HostRefused, HostUnfit, PoorwillError, Unsupported
from poorwill.remote.link import frames
from poorwill.remote.link.connection import greet
from poorwill.remote.link.frames import Decoder, Frame, Hello, Kind, No
from poorwill.remote.link.link import START_ATTEMPTS, Link
from poorwill.remote.link.replay import Conversation
from poorwill.retry import Backoff
from tests.support.streams import SocketStream

WINDOW_BYTES = 300
SOON_S = 10.0


class _End:
    """One end of a conversation, with what was put in and what came out."""

    def __init__(self) -> None:
        self.conversation = Conversation(WINDOW_BYTES)
        self.decoder = Decoder()
        self.wire = bytearray()
        self.wrote = b""
        self.took = b""

    def write(self, count: int) -> None:
        count = min(count, self.conversation.outbox.room)
        data = bytes((len(self.wrote) + i) % 251 for i in range(count))
        self.conversation.outbox.append(data)
        self.wrote += data

    def take(self, count: int, now_s: float) -> None:
        inbox = self.conversation.inbox
        data = inbox.peek(count)
        inbox.skip(len(data), now_s)
        self.took += data


class Cuts(RuleBasedStateMachine):
    """Two ends, a wire each way that loses all bytes in flight at any moment, and a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = (_End(), _End())
        self.now_s = 0.0

    @initialize()
    def connect(self) -> None:
        self.cut()

    @rule(side=st.integers(0, 1), count=st.integers(1, 200))
    def write(self, side: int, count: int) -> None:
        self.ends[side].write(count)

    @rule(side=st.integers(0, 1), count=st.integers(1, 200))
    def take(self, side: int, count: int) -> None:
        self.ends[side].take(count, self.now_s)

    @rule(side=st.integers(0, 1))
    def send(self, side: int) -> None:
        self.ends[side].wire += self.ends[side].conversation.piece(self.now_s)

    @rule(side=st.integers(0, 1), count=st.integers(1, 400))
    def deliver(self, side: int, count: int) -> None:
        sender, receiver = self.ends[side], self.ends[1 - side]
        for frame in receiver.decoder.feed(bytes(sender.wire[:count])):
            assert receiver.conversation.take(frame)
        del sender.wire[:count]

    @rule(side=st.integers(0, 1))
    def ping(self, side: int) -> None:
        self.ends[side].conversation.ping()

    @rule()
    def wait(self) -> None:
        self.now_s += 0.6

    @rule()
    def cut(self) -> None:
        received = [end.conversation.inbox.received for end in self.ends]
        for end, other in zip(self.ends, reversed(received), strict=True):
            end.conversation.resume(other)
            end.decoder = Decoder()
            end.wire.clear()

    @invariant()
    def nothing_is_changed_and_memory_is_bounded(self) -> None:
        for end, other in (self.ends, self.ends[::-1]):
            assert other.wrote.startswith(end.took)
            assert end.conversation.outbox.room >= 0 and len(end.conversation.inbox) <= WINDOW_BYTES

    def teardown(self) -> None:
        """Everything arrives, with its end, once nothing is cut any more."""
        for end in self.ends:
            end.conversation.outbox.finished = True
        for _ in range(50):
            self.now_s += 1.1
            for side in (0, 1):
                self.send(side)
                self.deliver(side, 1 << 20)
                self.take(side, 1 << 20)
        for end, other in (self.ends, self.ends[::-1]):
            assert end.took == other.wrote and end.conversation.inbox.finished
            assert end.conversation.outbox.base == len(end.wrote)  # nothing is kept for ever


def test_a_lost_acknowledgement_is_repeated() -> None:
    """On the next connection: otherwise a sender with a full window would wait for ever."""
    sender, receiver = Conversation(10), Conversation(10)
    sender.outbox.append(b"0123456789")
    (frame,) = Decoder().feed(sender.piece(0.0))
    assert receiver.take(frame) and sender.outbox.room == 0
    receiver.inbox.skip(10, 0.0)
    assert Decoder().feed(receiver.piece(2.0)) == [Frame(Kind.ACK, (10).to_bytes(8, "big"))]  # lost on its way
    sender.resume(receiver.inbox.received)
    receiver.resume(0)
    (frame,) = Decoder().feed(receiver.piece(2.0))
    assert sender.take(frame) and sender.outbox.room == 10


TestCuts = Cuts.TestCase
TestCuts.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@given(st.binary(max_size=200), st.integers(1, 50))
@settings(deadline=None)
def test_any_bytes_are_frames_or_corrupt(noise: bytes, size: int) -> None:
    """However they arrive, bytes decode to the same frames; a length out of bounds is refused at once."""
    good = frames.data(0, b"x" * size) + frames.at(Kind.ACK, 7) + frames.encode(Kind.PING)
    whole, one_by_one = Decoder(), Decoder()
    expected = whole.feed(good)
    found = [frame for at in range(len(good)) for frame in one_by_one.feed(good[at : at + 1])]
    assert found == expected and [f.kind for f in found] == [Kind.DATA, Kind.ACK, Kind.PING]
    try:
        for frame in whole.feed(noise):
            Conversation(WINDOW_BYTES).take(frame)
    except Corrupt:
        pass
    with pytest.raises(Corrupt, match="of 100000 bytes, expected 9 to"):
        one_by_one.feed(bytes([Kind.DATA]) + (100_000).to_bytes(4, "big"))


class Keeper:
    """Plays a keeper: each connection that is dialed is handled by the next of `scripts`, on a thread of its own."""

    def __init__(self, *scripts: Callable[[Talk], None] | PoorwillError | OSError) -> None:
        self._scripts = list(scripts)
        self.dialed: list[bool] = []
        self.streams: list[SocketStream] = []
        self.failed: queue.Queue[BaseException] = queue.Queue()

    def dial(self, first: bool) -> SocketStream:
        self.dialed.append(first)
        script = self._scripts.pop(0) if self._scripts else OSError("nobody is there")
        if isinstance(script, Exception):
            raise script
        writing, theirs = socket.socketpair()
        reading, ours = socket.socketpair()
        self.streams.append(SocketStream(writing, reading))
        threading.Thread(target=self._play, args=(script, Talk(theirs, ours)), daemon=True).start()
        return self.streams[-1]

    def _play(self, script: Callable[[Talk], None], talk: Talk) -> None:
        try:
            script(talk)
        except OSError:
            pass  # the Link hung up
        finally:
            talk.close()

    def link(self, **options: Any) -> Link:
        return Link(
            self.dial,
            **{"patience_s": 5.0, "dead_after_s": 5.0, "describe": "box", "backoff": Backoff(0.02, 5.0), **options},
        )


class Talk:
    """The keeper's end of one connection."""

    def __init__(self, reading: socket.socket, writing: socket.socket) -> None:
        self._reading, self._writing = reading, writing
        self._decoder, self._found = Decoder(), list[Frame]()
        reading.settimeout(SOON_S)

    def say(self, data: bytes) -> None:
        self._writing.sendall(data)

    def welcome(self, received: int = 0, noise: bytes = b"") -> Hello:
        self.say(noise + frames.MARKER)
        hello = self.next(Kind.HELLO).hello()
        self.say(Hello(frames.VERSION, hello.epoch, received).encode())
        return hello

    def next(self, kind: Kind) -> Frame:
        """The next frame of that kind; others before it are dropped, and PINGs answered."""
        while True:
            while not self._found:
                data = self._reading.recv(1 << 16)
                if not data:
                    raise OSError("the Link hung up")
                self._found = self._decoder.feed(data)
            frame = self._found.pop(0)
            if frame.kind is Kind.PING:
                self.say(frames.encode(Kind.PONG))
            if frame.kind is kind:
                return frame

    def stay(self) -> None:
        """Answer PINGs until the Link hangs up."""
        self.next(Kind.BUSY)

    def close(self) -> None:
        self._reading.close()
        self._writing.close()


def read_all(file: IO[bytes]) -> bytes:
    """What comes until the end."""
    return b"".join(iter(lambda: file.read1(1 << 16), b""))  # type: ignore[attr-defined]


def send(link: Link, data: bytes) -> None:
    link.requests.write(data)
    link.requests.flush()


def test_noise_before_the_marker() -> None:
    """A banner is skipped, also one that comes in pieces or holds half a marker; after 64 KiB the machine is unfit."""

    def banner(talk: Talk) -> None:
        talk.say(b"Welcome!\n" + frames.MARKER[:7])
        talk.welcome(noise=b"\nno newline at the end")
        talk.say(frames.data(0, b"event\n") + frames.ended(0, ""))

    link = Keeper(banner).link()
    assert read_all(link.events) == b"event\n" and link.last_words() == "exit status 0"
    link.close()
    flood = Keeper(lambda talk: talk.say(b"spam " * (frames.NOISE_BYTES_MAX // 4)))
    with pytest.raises(HostUnfit, match="box prints more than 65536 bytes before it runs a command"):
        flood.link()
    assert flood.dialed == [True]


def test_a_machine_without_a_keeper() -> None:
    """A command that ends at once is tried a few times, then the error shows what was printed instead."""
    keeper = Keeper(*[lambda talk: talk.say(b"python: not found\n")] * 9)
    with pytest.raises(EngineLost, match="box: the connection ended before a keeper ran: python: not found"):
        keeper.link()
    assert len(keeper.dialed) == START_ATTEMPTS
    keeper = Keeper()
    with pytest.raises(EngineLost, match="box: nobody is there"):
        keeper.link()
    assert keeper.dialed == [True] * START_ATTEMPTS  # nothing can have been started
    for error in (HostRefused("another key"), HostUnfit("no Python")):
        keeper = Keeper(error)
        with pytest.raises(type(error)):
            keeper.link()
        assert keeper.dialed == [True]


def test_each_refusal_of_a_keeper_has_its_error() -> None:
    """At once; so has a keeper of another version."""
    for code, error in (
        (No.UNFIT, HostUnfit),
        (No.OCCUPIED, EngineLost),
        (No.EXISTS, EngineLost),
        (No.GONE, EngineLost),
    ):
        keeper = Keeper(lambda talk, code=code: talk.say(frames.MARKER + frames.no(code, "because")))
        with pytest.raises(error, match="box: because"):
            keeper.link()
        assert keeper.dialed == [True]

    def newer(talk: Talk) -> None:
        talk.say(frames.MARKER)
        talk.say(Hello(9, talk.next(Kind.HELLO).hello().epoch, 0).encode())
        talk.stay()

    with pytest.raises(Unsupported, match="the keeper on box speaks version 9, this poorwill 1"):
        Keeper(newer).link()


def test_a_lost_answer_to_start_never_starts_two_engines() -> None:
    """The engine is looked for, and started only if it is not there."""

    def cut(talk: Talk) -> None:
        talk.say(frames.MARKER)

    def refuse(code: No) -> Callable[[Talk], None]:
        return lambda talk: talk.say(frames.MARKER + frames.no(code, "because"))

    def go(talk: Talk) -> None:
        talk.welcome()
        talk.say(frames.ended(0, ""))

    for scripts, dialed in (
        ((cut, go), [True, False]),
        ((cut, refuse(No.GONE), go), [True, False, True]),
        ((cut, refuse(No.GONE), refuse(No.EXISTS), go), [True, False, True, False]),
    ):
        keeper = Keeper(*scripts)
        link = keeper.link()
        assert read_all(link.events) == b"" and keeper.dialed == dialed
        link.close()


HOSTILE = {
    "no frame": b"\xff" * 100,
    "a length out of bounds": bytes([Kind.PONG, 255, 255, 255, 255]),
    "bytes of another offset": frames.data(5, b"x"),
    "an acknowledgement of what was never sent": frames.at(Kind.ACK, 1 << 40),
    "more than the window": b"".join(frames.data(i * 100, b"x" * 100) for i in range(10)),
    "an end elsewhere": frames.at(Kind.END, 3),
    "bytes after the end": frames.at(Kind.END, 0) + frames.data(0, b"x"),
    "a frame of the other side": frames.close(1.0),
    "a second HELLO": Hello(frames.VERSION, 1, 0).encode(),
}


@pytest.mark.parametrize("sent", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_frames(sent: bytes) -> None:
    """They end the link: reading and writing raise Corrupt, and nothing is dialed again."""

    def play(talk: Talk) -> None:
        talk.welcome()
        talk.next(Kind.DATA)
        talk.say(sent)
        talk.stay()

    keeper = Keeper(play)
    link = keeper.link(window_bytes=WINDOW_BYTES)
    send(link, b"go on")
    with pytest.raises(Corrupt, match="keeper protocol"):
        read_all(link.events)
    with pytest.raises(Corrupt, match="keeper protocol"):
        send(link, b"x")
    link.close()
    assert keeper.dialed == [True] and "keeper protocol" in link.last_words()


def test_hostile_hellos() -> None:
    """An answer to another connection, an offset that was never sent, and another frame are Corrupt."""

    def answer(sent: bytes) -> Keeper:
        return Keeper(lambda talk: (talk.say(frames.MARKER + sent), talk.stay())[0])

    for sent in (Hello(1, 7, 0).encode(), Hello(1, 1, 5).encode(), frames.encode(Kind.PONG), b"\xff" * 9):
        with pytest.raises(Corrupt, match="keeper protocol"):
            answer(sent).link()


def test_both_streams_go_on_after_cuts(caplog: pytest.LogCaptureFixture) -> None:
    """Each side sends again only what the other one lacks; the log has one warning per cut, one line per reconnect."""
    caplog.set_level("INFO", "poorwill.remote.link.link")
    heard: queue.Queue[Any] = queue.Queue()

    def begin(talk: Talk) -> None:
        talk.welcome()
        heard.put(talk.next(Kind.DATA).data())
        talk.say(frames.data(0, b"one\ntw"))
        heard.put(talk.next(Kind.DATA).data())

    def go_on(talk: Talk) -> None:
        heard.put(talk.welcome(received=3).received)
        heard.put(talk.next(Kind.DATA).data())
        talk.say(frames.data(6, b"o\n") + frames.ended(-9, "a line\nthe last one"))
        talk.next(Kind.CLOSE)

    keeper = Keeper(begin, go_on)
    link = keeper.link()
    send(link, b"abc")
    assert heard.get(timeout=SOON_S) == (0, b"abc") and link.events.readline() == b"one\n"
    send(link, b"defg")
    assert heard.get(timeout=SOON_S) == (3, b"defg")
    assert heard.get(timeout=SOON_S) == 6 and heard.get(timeout=SOON_S) == (3, b"defg")
    assert read_all(link.events) == b"two\n"
    assert link.last_words() == "a line\nthe last one\nkilled by SIGKILL: the last one"
    assert (link.reconnects, link._conversation.outbox.resent_bytes, keeper.dialed) == (1, 4, [True, False])
    with pytest.raises(EngineLost, match="has ended: killed by SIGKILL: the last one"):
        send(link, b"more")
    link.close()
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]
    assert "box was cut off (" in caplog.text and "box is connected again after" in caplog.text


def test_a_silent_connection_is_replaced() -> None:
    """A connection without an answer to pings is replaced, and gets no more bytes."""

    def silent(talk: Talk) -> None:
        talk.welcome()
        talk.next(Kind.PING)
        talk.next(Kind.PING)
        keeper.streams[-1].freeze()
        talk.stay()

    def loud(talk: Talk) -> None:
        talk.welcome()
        for at in range(0, 100, 5):
            talk.next(Kind.DATA)
            talk.say(frames.data(at, b"here\n"))
        talk.stay()

    keeper = Keeper(silent, loud)
    link = keeper.link(dead_after_s=0.7, ping_s=0.02)
    for _ in range(20):
        send(link, b"where?")
        assert link.events.readline() == b"here\n"
    assert link.reconnects == 1
    assert keeper.dialed == [True, False]
    link.close(0.2)


def test_another_host_key_or_a_missing_engine_ends_a_link_at_once() -> None:
    """Without waiting for patience to be over."""

    def cut(talk: Talk) -> None:
        talk.welcome()

    refused = Keeper(cut, HostRefused("box has another host key"))
    link = refused.link(patience_s=600)
    with pytest.raises(HostRefused, match="another host key"):
        read_all(link.events)
    assert refused.dialed == [True, False]

    gone = Keeper(cut, lambda talk: talk.say(frames.MARKER + frames.no(No.GONE, "nothing runs here any more")))
    link = gone.link(patience_s=600)
    session = EngineSession(_Host(link))
    with pytest.raises(EngineLost, match=r"box has ended: .*nothing runs here any more"):
        session.hello("/")
    session.close()
    assert gone.dialed == [True, False]


class _Host:
    silence_s_max = 60.0

    def __init__(self, link: Link) -> None:
        self._link = link

    def describe(self) -> str:
        return "box"

    def start(self) -> Link:
        return self._link


def test_a_machine_that_stays_away_ends_the_link_when_patience_is_over() -> None:
    """It is dialed with growing pauses; the last words say why the link ended, without the query of a URL."""

    def cut(talk: Talk) -> None:
        talk.welcome()

    keeper = Keeper(cut, *[OSError("no route to http://box/x?token=secret")] * 99)
    link = keeper.link(patience_s=0.5)
    send(link, b"kept meanwhile")
    assert read_all(link.events) == b""
    words = link.last_words()
    assert words.startswith("the connection was cut (") and "not mended within 0.5 s: no route to" in words
    assert "secret" not in words and 2 <= len(keeper.dialed) <= 8
    with pytest.raises(EngineLost, match="the channel to box has ended: the connection was cut"):
        send(link, b"x")


def test_a_full_buffer_blocks_the_writer() -> None:
    """Until the other side reads; after `patience_s` without that, the link ends."""
    go_on = threading.Event()
    taken: queue.Queue[bytes] = queue.Queue()

    def take_slowly(talk: Talk) -> None:
        talk.welcome()
        first = talk.next(Kind.DATA).data()[1]
        assert go_on.wait(SOON_S)
        talk.say(frames.at(Kind.ACK, len(first)))
        taken.put(first + talk.next(Kind.DATA).data()[1])
        talk.stay()

    link = Keeper(take_slowly).link(window_bytes=WINDOW_BYTES, patience_s=0.6)
    data = b"y" * (WINDOW_BYTES + 50)
    writer = threading.Thread(target=send, args=(link, data), daemon=True)
    writer.start()
    assert taken.empty() and writer.is_alive()
    go_on.set()
    writer.join(SOON_S)
    assert not writer.is_alive() and taken.get(timeout=SOON_S) == data
    with pytest.raises(EngineLost, match=r"the engine took nothing for 0\.6 s"):
        send(link, data)


def test_closing_is_bounded() -> None:
    """Also while a machine is dialed that does not answer. Idempotent; nothing is dialed afterwards."""
    dialing, release = threading.Event(), threading.Event()
    dialers: list[threading.Thread] = []

    def cut(talk: Talk) -> None:
        talk.welcome()

    keeper = Keeper(cut)

    def dial(first: bool) -> SocketStream:
        if not first:
            dialers.append(threading.current_thread())
            dialing.set()
            release.wait(SOON_S)
        return keeper.dial(first)

    link = Link(dial, patience_s=600)
    assert dialing.wait(SOON_S)
    began_s = time.monotonic()
    link.close(0.2)
    link.close(0.2)
    assert time.monotonic() - began_s < 5.0 and read_all(link.events) == b""
    release.set()
    dialers[0].join(SOON_S)
    assert not dialers[0].is_alive() and keeper.dialed == [True, False]


def test_a_keeper_that_does_not_answer_close() -> None:
    """CLOSE has a grace below the caller's timeout; then the link ends by itself."""
    heard: queue.Queue[float] = queue.Queue()

    def deaf(talk: Talk) -> None:
        talk.welcome()
        heard.put(talk.next(Kind.CLOSE).grace_s())
        talk.stay()

    link = Keeper(deaf).link()
    link.close(0.5)
    assert heard.get(timeout=SOON_S) == pytest.approx(0.35)
    assert read_all(link.events) == b"" and link.last_words() == "the channel was closed"


def test_greeting_has_a_timeout() -> None:
    """EngineLost, if a machine accepts the connection and sends nothing."""
    writing, _theirs = socket.socketpair()
    reading, _ours = socket.socketpair()
    with pytest.raises(EngineLost, match=r"box did not answer within 0\.05 s"):
        greet(SocketStream(writing, reading), Hello(1, 1, 0), 0.05, "box")
