"""One channel to an engine, over connections that may be cut: a Link dials its keeper again and goes on."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from itertools import chain

from poorwill.errors import Corrupt, EngineLost, HostUnfit, PermanentError, TransientError, masked, one_line
from poorwill.remote import channel_files
from poorwill.remote.base import Stream
from poorwill.remote.link import frames
from poorwill.remote.link.connection import Connection, greet
from poorwill.remote.link.frames import Frame, Hello, Kind, No, NoEngine
from poorwill.remote.link.replay import WINDOW_BYTES, Conversation
from poorwill.retry import Backoff

log = logging.getLogger(__name__)

PATIENCE_S = 120.0
"""How long a connection is dialed again. Less than a keeper keeps an engine without one."""
DEAD_AFTER_S = 20.0
START_ATTEMPTS = 3
START_TURNS = 8
START_S = 90.0
GREETING_S = 60.0
"""How long a keeper may take to start and to say HELLO; it may have to end an older engine first."""
GREETING_AGAIN_S = 20.0
FAREWELL_S = 2.0
BACKOFF = Backoff(first_s=0.2, max_s=5.0, jitter=False)
STEADY_S = 10.0
"""A connection that lasted so long is dialed again at once when it is cut; others after a pause that grows."""
_WAIT_S = 60.0

Dial = Callable[[bool], Stream]
# A stream raises OSError; a library below it may raise EOFError, or one of our transient errors.
_CUTS = (OSError, EOFError, TransientError)


class Link:
    """A Channel to the engine that a keeper runs on a machine.

    `dial(first)` opens a connection to that keeper: with `--start` when `first`, and always by the same name, which no
    other Link uses. It is called with either as long as it is not known whether the engine was started. It has timeouts
    of its own: an attempt that is under way when patience ends is waited for.

    A connection that breaks, ends, or brings nothing for `dead_after_s` is replaced, for at most `patience_s`; both
    streams go on where they were. If that fails, or the keeper says that the engine is gone, `events` ends and
    `last_words` says why. After a PermanentError (another host key, a malformed frame) reading and writing raise it.
    The constructor raises EngineLost if the engine does not start, and any PermanentError of `dial`.
    """

    def __init__(
        self,
        dial: Dial,
        *,
        patience_s: float = PATIENCE_S,
        dead_after_s: float = DEAD_AFTER_S,
        ping_s: float = 5.0,
        describe: str = "the machine",
        window_bytes: int = WINDOW_BYTES,
        backoff: Backoff = BACKOFF,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dial, self._describe, self._clock = dial, describe, clock
        self._patience_s, self._dead_after_s, self._ping_s = patience_s, dead_after_s, ping_s
        self._backoff = backoff
        self._pauses = chain([0.0], self._backoff.seconds())
        self.reconnects = 0
        # Guards all below, and the state of connections; notified whenever any of it changes.
        self._changed = threading.Condition()
        self._conversation = Conversation(window_bytes)
        self._epoch = 0
        self._connection: Connection | None = None
        self._close_by_s: float | None = None
        self._grace_s = 0.0
        self._ended = False
        self._error: PermanentError | None = None
        self._words = ""
        self.requests = channel_files.writing(self._write, self._finish)
        self.events = channel_files.reading(self._read)
        connection = self._start()
        self._thread = threading.Thread(target=self._run, args=(connection,), name="link", daemon=True)
        self._thread.start()

    def last_words(self) -> str:
        """The end of the engine's stderr, if it is known; the last line says why the channel ended."""
        with self._changed:
            return self._words

    def close(self, timeout_s: float = 10.0) -> None:
        """End the engine; its keeper kills it after most of `timeout_s`. Idempotent.

        If the machine cannot be reached in that time, the keeper ends the engine when its own patience is over.
        """
        with self._changed:
            if self._close_by_s is None:
                self._close_by_s, self._grace_s = self._clock() + timeout_s, 0.7 * timeout_s
            self._changed.notify_all()
        self._thread.join(timeout_s)
        self._end("the channel was closed")
        connection = self._connection
        if connection is not None:
            self._give_up(connection, "the channel was closed")

    def _read(self, into: memoryview) -> int:
        with self._changed:
            inbox = self._conversation.inbox
            while not inbox and not self._ended:
                self._changed.wait(_WAIT_S)
            if not inbox and self._error is not None:
                raise self._error
            data = inbox.peek(len(into))
            into[: len(data)] = data
            due_s = inbox.ack_due_s()
            inbox.skip(len(data), self._clock())
            if inbox.ack_due_s() != due_s:
                self._changed.notify_all()
            return len(data)

    def _write(self, data: memoryview) -> int:
        ends_s = self._clock() + self._patience_s
        with self._changed:
            outbox = self._conversation.outbox
            while outbox.room <= 0 and not self._ended:
                if self._clock() >= ends_s:
                    self._end(f"the engine took nothing for {self._patience_s:g} s")
                self._changed.wait(min(_WAIT_S, max(0.0, ends_s - self._clock())))
            if self._ended:
                last = self._words.rpartition("\n")[2]
                raise self._error or EngineLost(f"the channel to {self._describe} has ended: {last}")
            count = min(outbox.room, len(data))
            outbox.append(data[:count])
            self._changed.notify_all()
            return count

    def _finish(self) -> None:
        with self._changed:
            self._conversation.outbox.finished = True
            self._changed.notify_all()

    def _start(self) -> Connection:
        """The first connection. An attempt that broke may have started the engine: then the next one looks for it."""
        first, failures, pauses, ends_s = True, 0, self._backoff.seconds(), self._clock() + START_S
        for _ in range(START_TURNS):
            try:
                return self._connect(first, min(GREETING_S, max(0.0, ends_s - self._clock())))
            except NoEngine as answer:
                if answer.code == No.GONE and not first:
                    first = True
                elif answer.code == No.EXISTS and first and failures:
                    first = False
                else:
                    kind = HostUnfit if answer.code == No.UNFIT else EngineLost
                    raise kind(f"{self._describe}: {answer.reason}") from None
            except _CUTS as error:
                failures += 1
                if failures == START_ATTEMPTS or self._clock() >= ends_s:
                    lost = error if isinstance(error, TransientError) else None
                    raise lost or EngineLost(f"{self._describe}: {_why(error)}") from None
                # If dialing itself failed, nothing was started.
                first = first and self._epoch == 0
                time.sleep(next(pauses))
        raise EngineLost(f"{self._describe}: its keeper cannot say whether it runs an engine")

    def _connect(self, first: bool, timeout_s: float) -> Connection:
        stream = self._dial(first)
        try:
            with self._changed:
                self._epoch += 1
                hello = Hello(frames.VERSION, self._epoch, self._conversation.inbox.received)
            connection = greet(stream, hello, timeout_s, self._describe, self._clock)
            with self._changed:
                self._conversation.resume(connection.received)
                self._connection = connection
        except BaseException:
            stream.close()
            raise
        threading.Thread(target=self._send, args=(connection,), name="link-writer", daemon=True).start()
        return connection

    def _run(self, connection: Connection) -> None:
        """Receive, over one connection after the other, until the end."""
        following: Connection | None = connection
        try:
            while following is not None:
                connection = following
                began_s = self._clock()
                why = self._receive(connection)
                self._give_up(connection, why)
                if self._clock() >= began_s + STEADY_S:
                    self._pauses = chain([0.0], self._backoff.seconds())
                following = self._mend(why)
        except PermanentError as error:
            self._end(error.message, error)
        except Exception as error:
            log.exception("the link to %s failed", self._describe)
            self._end(f"{type(error).__name__} in the link")
        finally:
            self._give_up(connection, "the channel has ended")

    def _receive(self, connection: Connection) -> str:
        """Take frames until the connection has to be replaced; returns why."""
        until_s = math.inf
        while True:
            if self._ended:
                # The keeper only has to hear CLOSE yet.
                until_s = min(until_s, self._clock() + FAREWELL_S)
            try:
                found = connection.read(min(connection.heard_s + self._dead_after_s, until_s) - self._clock())
            except TimeoutError:
                return connection.broken or f"nothing arrived for {self._dead_after_s:g} s"
            except _CUTS as error:
                return connection.broken or _why(error)
            if found is None or self._clock() > until_s:
                return connection.broken or "it ended"
            connection.heard_s = self._clock()
            with self._changed:
                for frame in found:
                    self._take(frame)
                self._changed.notify_all()

    def _take(self, frame: Frame) -> None:
        if frame.kind is Kind.ENDED:
            self._end(_farewell(*frame.ended()))
        elif not self._conversation.take(frame):
            raise Corrupt(f"keeper protocol: a frame {frame.kind.name} from {self._describe}")

    def _send(self, connection: Connection) -> None:
        """The thread that writes to one connection; it ends with the connection."""
        try:
            while piece := self._next_piece(connection):
                connection.stream.write(piece, self._dead_after_s)
        except _CUTS as error:
            self._give_up(connection, _why(error))
        except Exception as error:
            log.exception("writing to %s failed", self._describe)
            self._give_up(connection, _why(error))

    def _next_piece(self, connection: Connection) -> bytes:
        """Wait for something to write; b"" when nothing more is to be written to this connection."""
        with self._changed:
            while connection.broken is None:
                now_s = self._clock()
                if not connection.close_sent and (self._ended or self._close_by_s is not None):
                    connection.close_sent = True
                    return frames.close(self._grace_s)
                if self._ended:
                    break
                if now_s >= connection.ping_s:
                    connection.ping_s = now_s + self._ping_s
                    self._conversation.ping()
                if piece := self._conversation.piece(now_s):
                    return piece
                due_s = self._conversation.due_s()
                wake_s = connection.ping_s if due_s is None else min(due_s, connection.ping_s)
                self._changed.wait(max(0.0, wake_s - now_s))
        return b""

    def _give_up(self, connection: Connection, why: str) -> None:
        """Close a connection: its writer takes nothing more from the conversation, and its reader wakes."""
        with self._changed:
            if connection.broken is None:
                connection.broken = why
            self._changed.notify_all()
        connection.stream.close()

    def _mend(self, why: str) -> Connection | None:
        """Another connection, or None at the end."""
        cut_s, last = self._clock(), "not tried"
        if not self._ended:
            log.warning("%s was cut off (%s); dialing it again", self._describe, one_line(masked(why)))
        while self._left_s(cut_s) > 0:
            with self._changed:
                self._changed.wait_for(lambda: self._ended, min(next(self._pauses), max(0.0, self._left_s(cut_s))))
            if (left_s := self._left_s(cut_s)) <= 0:
                break
            try:
                connection = self._connect(False, min(left_s, GREETING_AGAIN_S))
            except NoEngine as answer:
                self._end(f"its keeper does not have it any more: {answer.reason}")
                return None
            except _CUTS as error:
                last = _why(error)
            else:
                self.reconnects += 1
                log.info("%s is connected again after %.1f s", self._describe, self._clock() - cut_s)
                return connection
        self._end(f"the connection was cut ({why}) and not mended within {self._clock() - cut_s:.1f} s: {last}")
        return None

    def _left_s(self, cut_s: float) -> float:
        """For how long a connection that was cut at `cut_s` may still be dialed again."""
        with self._changed:
            ends_s = cut_s + self._patience_s
            if self._close_by_s is not None:
                ends_s = min(ends_s, self._close_by_s)
            return 0.0 if self._ended else ends_s - self._clock()

    def _end(self, words: str, error: PermanentError | None = None) -> None:
        """End the channel, unless it has ended: the first reason counts."""
        with self._changed:
            if self._ended:
                return
            self._ended, self._error, self._words = True, error, masked(words)
            self._changed.notify_all()


def _farewell(status: int, stderr: str) -> str:
    """The engine's last lines, and one that sums them up with its exit status, which is negative for a signal."""
    lines = stderr.splitlines()
    try:
        summary = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    except ValueError:
        summary = f"killed by signal {-status}"
    return "\n".join([*lines, f"{summary}: {lines[-1]}" if lines else summary])


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
