"""A connection to a keeper's daemon: never blocks, cut into frames."""

from __future__ import annotations

import socket

from poorwill.remote.link.frames import Decoder, Frame

QUIET_S = 30.0
"""A client that has not even pinged for so long does not count when another keeper asks; a guest is dropped then."""


class KeeperPeer:
    """A guest until it says HELLO, which makes it the client; or a sweeper, which waits for the keeper to end."""

    def __init__(self, peer: socket.socket, now_s: float) -> None:
        peer.setblocking(False)
        self._peer, self._decoder = peer, Decoder()
        self.fileno = peer.fileno()
        self.until_s = now_s + QUIET_S
        self.unsent = bytearray()
        self.closed = False
        self.sweeper = False
        self.farewell_sent = False
        """Whether the engine's end was reported to it."""

    @property
    def gone(self) -> bool:
        """Whether nothing more is to be sent to it."""
        return self.closed or (self.farewell_sent and not self.unsent)

    def send(self, data: bytes) -> None:
        """As much as goes now; the rest is `unsent`."""
        self.unsent += data
        try:
            del self.unsent[: self._peer.send(self.unsent)]
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def receive(self) -> list[Frame]:
        """The frames that have arrived. Corrupt. Sets `closed` at the end of the connection."""
        try:
            data = self._peer.recv(256 << 10)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.close()
        return self._decoder.feed(data)

    def close(self) -> None:
        self.closed = True
        self._peer.close()
