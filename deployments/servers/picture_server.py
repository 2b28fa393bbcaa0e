"""A picture on loopback, for the demo, the tests and the benchmark: what a user's image URL points to elsewhere."""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image, ImageDraw

SIDE = 256


def dusk(side: int = SIDE) -> bytes:
    """A PNG of a moon over hills at dusk; the same each time."""
    picture = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(picture)
    for row in range(side):
        share = row / side
        draw.line([(0, row), (side, row)], fill=(int(24 + 160 * share), int(20 + 70 * share), int(70 + 40 * share)))
    draw.ellipse([side * 0.62, side * 0.14, side * 0.8, side * 0.32], fill=(250, 240, 210))
    draw.ellipse([-side * 0.4, side * 0.62, side * 0.75, side * 1.5], fill=(28, 34, 44))
    draw.ellipse([side * 0.4, side * 0.7, side * 1.5, side * 1.6], fill=(18, 22, 32))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


class _Handler(BaseHTTPRequestHandler):
    timeout = 10
    picture = dusk()

    def do_GET(self) -> None:
        if self.path != "/dusk.png":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(self.picture)))
        self.end_headers()
        self.wfile.write(self.picture)

    def log_message(self, *arguments: object) -> None:
        """The terminal belongs to whoever started this."""


class PictureServer:
    """`with PictureServer() as server:` serves `dusk` at `server.url`, and 404 everywhere else.

    `address` is what an allow rule names: nothing on loopback is fetched without one.
    """

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="pictures", daemon=True)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.address}/dusk.png"

    def __enter__(self) -> PictureServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
