"""The engine's side of the protocol: requests in, events out, each request on a thread of its own."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

from poorwill.engine import protocol
from poorwill.engine.context import Context
from poorwill.engine.meter import Meter
from poorwill.engine.protocol import Message
from poorwill.errors import DeadlineExceeded, EngineFailed, PoorwillError, from_wire

ASK_TIMEOUT_S = 600.0
"""Longer than the control side takes to mend a connection."""
log = logging.getLogger(__name__)

Handler = Callable[[Message, Context, Callable[[Message], None]], Message]


class Server:
    """Runs until its input ends. `handle(request, context, emit)` answers one request."""

    def __init__(self, requests: IO[bytes], events: IO[bytes], handle: Handler, meter: Meter) -> None:
        self._requests, self._events = requests, events
        self._handle, self._meter = handle, meter
        self._write_lock = threading.Lock()
        self._lock = threading.Lock()
        self._running: dict[int, Context] = {}
        self._answers: dict[int, _Answer] = {}
        self._asked = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Serve until end of input: the control side is gone then, and whatever still runs is cancelled."""
        threading.Thread(target=self._tick, name="heartbeat", daemon=True).start()
        try:
            while (message := protocol.read(self._requests)) is not None:
                self._take(message)
        finally:
            self._ended.set()
            with self._lock:
                for context in self._running.values():
                    context.cancel()

    def _take(self, message: Message) -> None:
        op, number = message.get("op"), message.get("id")
        if op == "answer":
            with self._lock:
                answer = self._answers.pop(int(message.get("ask", -1)), None)
            if answer is not None:
                answer.give(message)
        elif op == "cancel":
            with self._lock:
                context = self._running.get(int(message.get("target", -1)))
            if context is not None:
                context.cancel()
        elif isinstance(number, int):
            self._begin(number, message)

    def _begin(self, number: int, message: Message) -> None:
        attempt = int(message.get("attempt", 1))
        tag = {"id": number, "attempt": attempt}

        def ask(question: str, facts: dict[str, Any]) -> dict[str, Any]:
            return self._ask(tag, context, question, facts)

        context = Context(str(message.get("op")), float(message.get("deadline_s", 86400.0)), ask)
        with self._lock:
            if len(self._running) >= protocol.REQUESTS_MAX:
                self._emit({**tag, "event": "error", "error": EngineFailed("too many requests at once").to_wire()})
                return
            self._running[number] = context
        threading.Thread(target=self._work, args=(tag, message, context), name=f"request-{number}", daemon=True).start()

    def _work(self, tag: Message, message: Message, context: Context) -> None:
        try:
            result = self._handle(message, context, lambda event: self._emit({**tag, **event}))
            self._emit({**tag, "event": "result", "result": result, "counters": self._meter.read()})
        except PoorwillError as error:
            self._emit({**tag, "event": "error", "error": error.to_wire()})
        except Exception as error:
            log.exception("request %s failed", message.get("op"))
            what = EngineFailed(f"{message.get('op')}: {type(error).__name__}: {error}")
            self._emit({**tag, "event": "error", "error": what.to_wire()})
        finally:
            with self._lock:
                self._running.pop(int(tag["id"]), None)

    def _ask(self, tag: Message, context: Context, question: str, facts: dict[str, Any]) -> dict[str, Any]:
        answer = _Answer()
        with self._lock:
            self._asked += 1
            number = self._asked
            self._answers[number] = answer
        self._emit({**tag, "event": "ask", "ask": number, "question": question, "facts": facts})
        return answer.wait(context, question)

    def _tick(self) -> None:
        last: dict[str, int] = {}
        silent = 0.0
        while not self._ended.wait(protocol.HEARTBEAT_S):
            counters = self._meter.read()
            silent += protocol.HEARTBEAT_S
            if counters != last or silent >= 5.0:
                self._emit({"event": "progress", "counters": counters})
                last, silent = counters, 0.0

    def _emit(self, event: Message) -> None:
        line = protocol.encode(event)
        with self._write_lock:
            try:
                self._events.write(line)
                self._events.flush()
            except (OSError, ValueError):
                # Nobody listens any more: without the control side nothing may go on.
                os._exit(1)


class _Answer:
    """What the control side will say to one question."""

    def __init__(self) -> None:
        self._given = threading.Event()
        self._message: Message = {}

    def give(self, message: Message) -> None:
        self._message = message
        self._given.set()

    def wait(self, context: Context, question: str) -> dict[str, Any]:
        waited = 0.0
        while not self._given.wait(0.5):
            context.check()
            waited += 0.5
            if waited >= ASK_TIMEOUT_S:
                raise DeadlineExceeded(f"the control side did not answer '{question}' within {ASK_TIMEOUT_S:.0f} s")
        if "error" in self._message:
            raise from_wire(self._message["error"])
        return dict(self._message.get("facts") or {})


def own_streams() -> tuple[IO[bytes], IO[bytes]]:
    """stdin and stdout for the protocol alone: anything printed goes to stderr from here on."""
    requests, events = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, events
