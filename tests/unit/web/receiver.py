"""A receiver of messages: a real HTTP server on the loopback that keeps what it is sent and answers as a test says."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Message:
    """A request as it came; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


class MessageReceiver:
    """`statuses` are answered one after another, the last one from then on; with each go `headers`."""

    def __init__(self, *statuses: int, headers: Iterable[tuple[str, str]] = ()) -> None:
        self.messages: list[Message] = []
        self._arrived = threading.Condition()
        answers = itertools.chain(statuses or (200,), itertools.repeat((statuses or (200,))[-1]))
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told = {name.lower(): value for name, value in self.headers.items()}
                with receiver._arrived:  # before the answer, with which the sender goes on
                    receiver.messages.append(Message(self.path, told, body))
                    receiver._arrived.notify_all()
                self.send_response(next(answers))
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def url(self, path: str = "/hook?token=told-to-nobody") -> str:
        return f"http://{self.address}{path}"

    def wait(self, count: int = 1, patience_s: float = PATIENCE_S) -> list[Message]:
        """The messages, once there are so many; AssertionError if there are not in time."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.messages) >= count, patience_s), f"{len(self.messages)} came"
            return list(self.messages)

    def __enter__(self) -> MessageReceiver:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """From now on nobody listens. Idempotent."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
