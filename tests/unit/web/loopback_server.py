"""A web server on the loopback that answers as a test says, byte for byte, well or badly."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Mapping

from poorwill.web.addresses import AllowRule

Answer = bytes | Callable[[socket.socket, threading.Event], None]  # the Event is set when the server stops


def http(body: bytes = b"", status: int = 200, **headers: str) -> bytes:
    """A whole answer; `content_type="x"` is the header Content-Type."""
    lines = {"content_length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} As-The-Test-Says\r\n{head}\r\n".encode() + body


def redirect(location: str, status: int = 302, **headers: str) -> bytes:
    return http(status=status, location=location, **headers)


def slowly(*pieces: bytes) -> Answer:
    """A piece each 20 ms, for 5 s."""

    def answer(connection: socket.socket, stopping: threading.Event) -> None:
        for n in range(250):
            connection.sendall(pieces[min(n, len(pieces) - 1)])
            if stopping.wait(0.02):
                return

    return answer


class LoopbackServer:
    """`answers` by path, without its query; another path is a 404. Connections are counted, requests kept as they came.
    `greeting` is what it says to everyone who connects, unasked.

    Every connection has its own thread and one request. An answer that is a function may write what and when
    it likes; it ends when its Event is set.
    """

    def __init__(self, answers: Mapping[str, Answer], tls: ssl.SSLContext | None = None, greeting: bytes = b"") -> None:
        self.answers = dict(answers)
        self._greeting = greeting
        self.connections = 0
        self.requests: list[str] = []
        self._stopping = threading.Event()
        server = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                server.connections += 1
                with contextlib.suppress(OSError), contextlib.ExitStack() as open_now:
                    connection = self.request
                    if tls is not None:
                        connection = open_now.enter_context(tls.wrap_socket(connection, server_side=True))
                    server._answer(connection)

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self._listener = Listener(("127.0.0.1", 0), Connection)
        self.port = self._listener.server_address[1]
        self.rule = AllowRule.parse(f"127.0.0.1:{self.port}")
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True)

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def _answer(self, connection: socket.socket) -> None:
        connection.sendall(self._greeting)
        request = b""
        while b"\r\n\r\n" not in request:
            piece = connection.recv(65536)
            if not piece:
                return
            request += piece
        self.requests.append(request.decode("latin-1"))
        path = self.requests[-1].split(" ")[1].partition("?")[0]
        answer = self.answers.get(path, http(status=404))
        if isinstance(answer, bytes):
            connection.sendall(answer)
        else:
            answer(connection, self._stopping)

    def __enter__(self) -> LoopbackServer:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()
