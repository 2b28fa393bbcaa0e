"""The engine's side of the protocol: requests in, events out, each request on a thread of its own."""

from __future__ import annotations

import base64
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar

from poorwill.engine.meter import Meter
from poorwill.engine.protocol import lines
from poorwill.engine.protocol.asking import Question, Request, answer_to
from poorwill.engine.protocol.context import Context
from poorwill.engine.protocol.lines import Call, Cancel, Event, Message, Reply
from poorwill.engine.protocol.requests import read_request
from poorwill.errors import DeadlineExceeded, EngineFailed, PoorwillError, UsageError, from_wire
from poorwill.snapshot import fields

ASK_TIMEOUT_S = 600.0
"""Longer than the control side takes to mend a connection."""
log = logging.getLogger(__name__)
A = TypeVar("A")

Operation = Callable[[Request[Any], Context], Any]


class Server:
    """Runs until its input ends. operation_of(request) gives what answers such a request."""

    def __init__(
        self, requests: IO[bytes], events: IO[bytes], operation_of: Callable[[Request[Any]], Operation], meter: Meter
    ) -> None:
        self._requests, self._events = requests, events
        self._operation_of, self._meter = operation_of, meter
        self._write_lock = threading.Lock()
        self._lock = threading.Lock()
        self._running: dict[int, Context] = {}
        self._replies: dict[int, queue.SimpleQueue[Reply]] = {}
        self._asked = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Serve until end of input: the control side is gone then, and whatever still runs is cancelled. Corrupt for a
        line that is not one of the protocol's."""
        threading.Thread(target=self._tick, name="heartbeat", daemon=True).start()
        try:
            while (message := lines.read(self._requests)) is not None:
                op = message.get("op")
                if op == "answer":
                    self._take_reply(fields.read(Reply, message, "an answer"))
                elif op == "cancel":
                    self._cancel(fields.read(Cancel, message, "a cancellation"))
                else:
                    self._begin(message)
        finally:
            self._ended.set()
            with self._lock:
                for context in self._running.values():
                    context.cancel()

    def _take_reply(self, reply: Reply) -> None:
        with self._lock:
            waiting = self._replies.pop(reply.ask, None)
        if waiting is not None:
            waiting.put(reply)

    def _cancel(self, cancel: Cancel) -> None:
        with self._lock:
            context = self._running.get(cancel.target)
        if context is not None:
            context.cancel()

    def _begin(self, message: Message) -> None:
        try:
            call = fields.read(Call, message, "request", UsageError)
        except UsageError as error:
            number = message.get("id")
            if type(number) is int:
                self._emit(Event("error", number, error=error.to_wire()))
            return

        def ask(question: Question[A]) -> A:
            return self._ask(call, context, question)

        def send_page(page: bytes) -> None:
            self._emit(call.event("page", data=base64.b64encode(page).decode()))

        context = Context(call.op, call.deadline_s, ask, send_page)
        with self._lock:
            if len(self._running) >= lines.REQUESTS_MAX:
                self._emit(call.event("error", error=EngineFailed("too many requests at once").to_wire()))
                return
            self._running[call.id] = context
        threading.Thread(
            target=self._work, args=(call, message, context), name=f"request-{call.id}", daemon=True
        ).start()

    def _work(self, call: Call, message: Message, context: Context) -> None:
        try:
            request = read_request(call.op, message)
            answer = self._operation_of(request)(request, context)
            result = answer if isinstance(answer, dict) else fields.write(answer)
            self._emit(call.event("result", result=result, counters=self._meter.read()))
        except PoorwillError as error:
            self._emit(call.event("error", error=error.to_wire()))
        except Exception as error:
            log.exception("request %s failed", call.op)
            failed = EngineFailed(f"{call.op}: {type(error).__name__}: {error}")
            self._emit(call.event("error", error=failed.to_wire()))
        finally:
            with self._lock:
                self._running.pop(call.id, None)

    def _ask(self, call: Call, context: Context, question: Question[A]) -> A:
        replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        with self._lock:
            self._asked += 1
            number = self._asked
            self._replies[number] = replies
        self._emit(call.event("ask", ask=number, question=question.name, facts=fields.write(question)))
        reply = _wait(replies, context, question.name)
        if reply.error is not None:
            raise from_wire(dict(reply.error))
        return fields.read(answer_to(type(question)), reply.facts, f"the answer to '{question.name}'")

    def _tick(self) -> None:
        last: dict[str, int] = {}
        silent = 0.0
        while not self._ended.wait(lines.HEARTBEAT_S):
            counters = self._meter.read()
            silent += lines.HEARTBEAT_S
            if counters != last or silent >= 5.0:
                self._emit(Event("progress", counters=counters))
                last, silent = counters, 0.0

    def _emit(self, event: Event) -> None:
        line = lines.encode(fields.write(event))
        with self._write_lock:
            try:
                self._events.write(line)
                self._events.flush()
            except (OSError, ValueError):
                # Nobody listens any more: without the control side nothing may go on.
                os._exit(1)


def _wait(replies: queue.SimpleQueue[Reply], context: Context, question: str) -> Reply:
    ends_s = time.monotonic() + ASK_TIMEOUT_S
    while time.monotonic() < ends_s:
        try:
            return replies.get(timeout=0.5)
        except queue.Empty:
            context.check()
    raise DeadlineExceeded(f"the control side did not answer '{question}' within {ASK_TIMEOUT_S:.0f} s")


def own_streams() -> tuple[IO[bytes], IO[bytes]]:
    """stdin and stdout for the protocol alone: anything printed goes to stderr from here on."""
    requests, events = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return requests, events
