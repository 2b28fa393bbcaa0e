"""A conversation with one engine: many requests at a time over one channel."""

from __future__ import annotations

import base64
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from poorwill.engine.meter import COUNTERS
from poorwill.engine.protocol import lines
from poorwill.engine.protocol.answers import MachineFacts
from poorwill.engine.protocol.asking import Question, Request, answer_to
from poorwill.engine.protocol.lines import Call, Cancel, Event, Message, Reply
from poorwill.engine.protocol.questions import read_question
from poorwill.engine.protocol.requests import Command, Hello
from poorwill.errors import Corrupt, DeadlineExceeded, EngineFailed, EngineLost, PoorwillError, Unsupported, from_wire
from poorwill.remote.base import Host
from poorwill.snapshot import fields

log = logging.getLogger(__name__)

A = TypeVar("A")
Answer = Callable[[Question[Any]], Any]
"""Answers a question of the engine with a record of the class that belongs to it. PoorwillError."""
HELLO_TIMEOUT_S = 60.0
STEP_DEADLINE_S = 6 * 3600.0
GRACE_S = 15.0
"""How much longer than the engine's own deadline we wait for it to say so."""
EVENTS_MAX = 64
PATIENCE_S = 30.0


class EngineSession:
    """Starts an engine on `host` and talks to it. Thread-safe. Closed by `close`, or lost for good (EngineLost)."""

    def __init__(
        self,
        host: Host,
        on_progress: Callable[[dict[str, int]], None] = lambda counters: None,
        *,
        silence_s_max: float | None = None,
        events_max: int = EVENTS_MAX,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._silence_s_max = silence_s_max if silence_s_max is not None else host.silence_s_max
        self._events_max, self._patience_s = events_max, patience_s
        self._channel = host.start()
        self._where = host.describe()
        self.on_progress = on_progress
        self.counters: dict[str, int] = {}
        self.facts: MachineFacts | None = None
        self._lock = threading.Lock()
        # Apart from the other lock: an engine that does not read must not stop us from noticing that.
        self._write_lock = threading.Lock()
        self._next = 0
        self._waiting: dict[int, tuple[queue.Queue[Event | PoorwillError], Answer | None]] = {}
        self._heard_s = time.monotonic()
        self._lost: PoorwillError | None = None
        self._answers = ThreadPoolExecutor(8, thread_name_prefix="answer")
        threading.Thread(target=self._listen, name="engine-events", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._lost is None

    def hello(self, workspace: str) -> MachineFacts:
        """The machine's facts. Unsupported if the engine speaks another version of the protocol."""
        facts = self.request(Hello(workspace), deadline_s=HELLO_TIMEOUT_S)
        if facts.protocol != lines.VERSION:
            raise Unsupported(
                f"the engine on {self._where} speaks protocol {facts.protocol}, "
                f"this poorwill speaks {lines.VERSION}: install the same version on both"
            )
        self.facts = facts
        return facts

    def command(self, command: str, workspace: str, timeout_s: float) -> str:
        """Run a shell command in the workspace. Returns the end of its output. Not retried: it may have had effects.

        DeadlineExceeded when it was killed because its time was up, EngineFailed if its status is not 0.
        """
        done = self.request(Command(command, workspace), deadline_s=timeout_s)
        if done.status != 0:
            last = done.output.splitlines()[-1][:300] if done.output else "it said nothing"
            raise EngineFailed(f"the command ended with status {done.status}: {last}")
        return done.output

    def request(
        self,
        request: Request[A],
        *,
        deadline_s: float = STEP_DEADLINE_S,
        attempt: int = 1,
        answer: Answer | None = None,
        on_page: Callable[[bytes], None] | None = None,
    ) -> A:
        """Send one request and wait for its answer, whose fields are checked; raises the error the engine answers with.

        answer(question) replies to what the engine asks meanwhile, on a thread of ours. on_page is given the pieces
        of a manifest. When the deadline passes the request is cancelled (DeadlineExceeded).
        """
        events: queue.Queue[Event | PoorwillError] = queue.Queue(self._events_max)
        with self._lock:
            if self._lost is not None:
                raise self._lost
            self._next += 1
            number = self._next
            self._waiting[number] = (events, answer)
        try:
            self._send({**fields.write(Call(request.op, number, attempt, deadline_s)), **fields.write(request)})
            result = self._wait(request.op, events, deadline_s, on_page)
            return fields.read(answer_to(type(request)), result, f"the answer to '{request.op}' from {self._where}")
        except BaseException:
            self._cancel(number)
            raise
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    def _wait(
        self,
        op: str,
        events: queue.Queue[Event | PoorwillError],
        deadline_s: float,
        on_page: Callable[[bytes], None] | None,
    ) -> Mapping[str, Any] | None:
        ends = time.monotonic() + deadline_s + GRACE_S
        while True:
            try:
                event = events.get(timeout=0.5)
            except queue.Empty:
                self._check_silence()
                if time.monotonic() > ends:
                    raise DeadlineExceeded(f"'{op}' on {self._where} did not end within {deadline_s:.0f} s") from None
                continue
            if isinstance(event, PoorwillError):
                raise event
            if event.event == "result":
                return event.result
            if event.event == "error":
                error = from_wire(dict(event.error or {}))
                if isinstance(error, EngineLost):
                    self._lose(error)  # it gave itself up, as when its GPU hangs: another one has to be started
                raise error
            if event.event == "page" and on_page is not None:
                on_page(_page(event))

    def _check_silence(self) -> None:
        if self._lost is not None:
            raise self._lost
        if time.monotonic() - self._heard_s > self._silence_s_max:
            self._lose(EngineLost(f"the engine on {self._where} has said nothing for {self._silence_s_max:g} s"))

    def _cancel(self, number: int) -> None:
        try:
            self._send({"op": "cancel", **fields.write(Cancel(number))})
        except PoorwillError:
            return  # a lost engine runs nothing

    def _send(self, message: Message) -> None:
        line = lines.encode(message)
        if not self._write_lock.acquire(timeout=self._silence_s_max):
            raise self._lose(EngineLost(f"the engine on {self._where} reads nothing any more"))
        try:
            self._channel.requests.write(line)
            self._channel.requests.flush()
        except (OSError, ValueError):
            raise self._lose(EngineLost(f"the engine on {self._where} has ended")) from None
        finally:
            self._write_lock.release()

    def _lose(self, error: PoorwillError) -> PoorwillError:
        with self._lock:
            if self._lost is None:
                self._lost = error
            waiting = list(self._waiting.values())
        for events, _ in waiting:
            try:
                events.put_nowait(self._lost)
            except queue.Full:
                pass  # it finds the session lost once it has read all that
        return self._lost

    def _listen(self) -> None:
        error: PoorwillError
        try:
            while (message := lines.read(self._channel.events)) is not None:
                self._heard_s = time.monotonic()
                self._take(fields.read(Event, message, f"an event of the engine on {self._where}"))
            words = self._channel.last_words().splitlines()
            error = EngineLost(f"the engine on {self._where} has ended" + (f": {words[-1]}" if words else ""))
        except PoorwillError as caught:
            error = caught
        except (OSError, ValueError):
            error = EngineLost(f"the channel to the engine on {self._where} broke")
        self._lose(error)

    def _take(self, event: Event) -> None:
        if event.counters is not None:
            self.counters = {name: event.counters.get(name, 0) for name in COUNTERS}
            self.on_progress(self.counters)
        if event.event == "progress":
            return
        if event.id is None:
            raise Corrupt(f"the engine on {self._where} sent '{event.event}', and not of which request")
        with self._lock:
            events, answer = self._waiting.get(event.id, (None, None))
        if events is None:
            return  # of a request we no longer wait for
        if event.event == "ask":
            try:
                self._answers.submit(self._reply, event, answer)
            except RuntimeError:
                pass  # the session was closed meanwhile: nobody answers any more
            return
        try:
            # Not reading on slows the engine down; a request that takes none of its events ends that patience.
            events.put(event, timeout=self._patience_s)
        except queue.Full:
            raise Corrupt(f"the engine on {self._where} floods us with events") from None

    def _reply(self, event: Event, answer: Answer | None) -> None:
        reply = Reply(event.ask or 0)
        try:
            if answer is None:
                raise EngineFailed(f"the engine asked '{event.question}', and this request answers no questions")
            reply = reply._replace(facts=fields.write(answer(read_question(event.question or "", event.facts))))
        except PoorwillError as error:
            reply = reply._replace(error=error.to_wire())
        except Exception as error:
            log.exception("answering the engine failed")
            reply = reply._replace(error=EngineFailed(f"{event.question}: {type(error).__name__}").to_wire())
        try:
            self._send({"op": "answer", **fields.write(reply)})
        except PoorwillError:
            return  # the engine is lost: every request that waits raises that

    def close(self) -> None:
        """End the engine. Idempotent."""
        self._lose(EngineLost(f"the session with the engine on {self._where} was closed"))
        self._answers.shutdown(wait=False, cancel_futures=True)
        self._channel.close()


def _page(event: Event) -> bytes:
    try:
        return base64.b64decode(event.data or "", validate=True)
    except ValueError:
        raise Corrupt("the engine's manifest did not arrive as base64") from None
