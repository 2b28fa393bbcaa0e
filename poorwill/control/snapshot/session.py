"""A conversation with one engine: many requests at a time over one channel."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from poorwill.engine import protocol
from poorwill.engine.protocol import Message
from poorwill.errors import (
    Corrupt,
    DeadlineExceeded,
    EngineFailed,
    EngineLost,
    PoorwillError,
    Unsupported,
    from_wire,
)
from poorwill.remote.base import Host

log = logging.getLogger(__name__)

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]
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
        self.facts: dict[str, Any] = {}
        self._lock = threading.Lock()
        # Apart from the other lock: an engine that does not read must not stop us from noticing that.
        self._write_lock = threading.Lock()
        self._next = 0
        self._waiting: dict[int, tuple[queue.Queue[Message], Answer | None]] = {}
        self._heard_s = time.monotonic()
        self._lost: PoorwillError | None = None
        self._answers = ThreadPoolExecutor(8, thread_name_prefix="answer")
        threading.Thread(target=self._listen, name="engine-events", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._lost is None

    def hello(self, workspace: str) -> dict[str, Any]:
        """The machine's facts. Unsupported if the engine speaks another version of the protocol."""
        self.facts = self.request("hello", deadline_s=HELLO_TIMEOUT_S, workspace=workspace)
        if self.facts.get("protocol") != protocol.VERSION:
            raise Unsupported(
                f"the engine on {self._where} speaks protocol {self.facts.get('protocol')!r}, "
                f"this poorwill speaks {protocol.VERSION}: install the same version on both"
            )
        return self.facts

    def command(self, command: str, workspace: str, timeout_s: float) -> str:
        """Run a shell command in the workspace. Returns the end of its output. Not retried: it may have had effects.

        DeadlineExceeded when it was killed because its time was up, EngineFailed if its status is not 0.
        """
        done = self.request("command", deadline_s=timeout_s, command=command, workspace=workspace)
        said = str(done.get("output", ""))
        if done.get("status") != 0:
            last = said.splitlines()[-1][:300] if said else "it said nothing"
            raise EngineFailed(f"the command ended with status {done.get('status')}: {last}")
        return said

    def request(
        self,
        op: str,
        *,
        deadline_s: float = STEP_DEADLINE_S,
        attempt: int = 1,
        answer: Answer | None = None,
        on_event: Callable[[Message], None] | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Send one request and wait for its result; raises the error the engine answered with.

        answer(question, facts) replies to what the engine asks meanwhile, on a thread of ours. When the
        deadline passes the request is cancelled (DeadlineExceeded).
        """
        events: queue.Queue[Message] = queue.Queue(self._events_max)
        with self._lock:
            if self._lost is not None:
                raise self._lost
            self._next += 1
            number = self._next
            self._waiting[number] = (events, answer)
        try:
            self._send({"op": op, "id": number, "attempt": attempt, "deadline_s": deadline_s, **fields})
            return self._wait(op, number, events, deadline_s, on_event)
        except BaseException:
            self._cancel(number)
            raise
        finally:
            with self._lock:
                self._waiting.pop(number, None)

    def _wait(
        self,
        op: str,
        number: int,
        events: queue.Queue[Message],
        deadline_s: float,
        on_event: Callable[[Message], None] | None,
    ) -> dict[str, Any]:
        ends = time.monotonic() + deadline_s + GRACE_S
        while True:
            try:
                event = events.get(timeout=0.5)
            except queue.Empty:
                self._check_silence()
                if time.monotonic() > ends:
                    raise DeadlineExceeded(f"'{op}' on {self._where} did not end within {deadline_s:.0f} s") from None
                continue
            kind = event.get("event")
            if kind == "result":
                result = event.get("result")
                return dict(result) if isinstance(result, dict) else {}
            if kind in ("error", "lost"):
                error = _error_of(event)
                if isinstance(error, EngineLost):
                    self._lose(error)  # it gave itself up, as when its GPU hangs: another one has to be started
                raise error
            if on_event is not None:
                on_event(event)

    def _check_silence(self) -> None:
        if self._lost is not None:
            raise self._lost
        if time.monotonic() - self._heard_s > self._silence_s_max:
            self._lose(EngineLost(f"the engine on {self._where} has said nothing for {self._silence_s_max:g} s"))

    def _cancel(self, number: int) -> None:
        try:
            self._send({"op": "cancel", "target": number})
        except PoorwillError:
            return  # a lost engine runs nothing

    def _send(self, message: Message) -> None:
        line = protocol.encode(message)
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
                events.put_nowait({"event": "lost", "error": self._lost.to_wire()})
            except queue.Full:
                pass  # who has that much to read sees that we are lost when it is read
        return self._lost

    def _listen(self) -> None:
        error: PoorwillError
        try:
            while (event := protocol.read(self._channel.events)) is not None:
                self._heard_s = time.monotonic()
                self._take(event)
            words = self._channel.last_words().splitlines()
            error = EngineLost(f"the engine on {self._where} has ended" + (f": {words[-1]}" if words else ""))
        except PoorwillError as caught:
            error = caught
        except (OSError, ValueError):
            error = EngineLost(f"the channel to the engine on {self._where} broke")
        self._lose(error)

    def _take(self, event: Message) -> None:
        counters = event.get("counters")
        if isinstance(counters, dict):
            self.counters = {str(k): v for k, v in counters.items() if isinstance(v, int)}
            self.on_progress(self.counters)
        number = event.get("id", -1)
        if not isinstance(number, int):
            raise Corrupt(f"engine protocol: an event of request {str(number)[:40]!r}")
        with self._lock:
            events, answer = self._waiting.get(number, (None, None))
        if events is None:
            return  # progress, or an event of a request we no longer wait for
        if event.get("event") == "ask":
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

    def _reply(self, event: Message, answer: Answer | None) -> None:
        reply: Message = {"op": "answer", "ask": event.get("ask")}
        try:
            if answer is None:
                raise EngineFailed(f"the engine asked '{event.get('question')}', which nobody answers here")
            reply["facts"] = answer(str(event.get("question")), dict(event.get("facts") or {}))
        except PoorwillError as error:
            reply["error"] = error.to_wire()
        except Exception as error:
            log.exception("answering the engine failed")
            reply["error"] = EngineFailed(f"{event.get('question')}: {type(error).__name__}").to_wire()
        try:
            self._send(reply)
        except PoorwillError:
            return  # the engine is lost; whoever waits for it hears of that

    def close(self) -> None:
        """End the engine. Idempotent."""
        self._lose(EngineLost(f"the session with the engine on {self._where} was closed"))
        self._answers.shutdown(wait=False, cancel_futures=True)
        self._channel.close()


def _error_of(event: Message) -> PoorwillError:
    wire = event.get("error")
    try:
        return from_wire(wire if isinstance(wire, dict) else {})
    except TypeError:  # facts that are no facts
        return EngineFailed(str(wire)[:200])
