"""One connection of a Link: how it begins, with the keeper's marker and both HELLOs, and its state."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from poorwill.errors import Corrupt, EngineLost, HostUnfit, Unsupported
from poorwill.remote.base import Stream
from poorwill.remote.link import frames
from poorwill.remote.link.frames import Decoder, Frame, Hello, Kind

_READ_BYTES = 64 << 10


class Connection:
    """A stream after its HELLOs; the keeper has `received` so many of our bytes. The Link's lock guards the rest."""

    def __init__(self, stream: Stream, received: int, decoder: Decoder, early: list[Frame], now_s: float) -> None:
        self.stream, self.received = stream, received
        self._decoder, self._early = decoder, early
        self.heard_s = self.ping_s = now_s
        self.close_sent = False
        self.broken: str | None = None
        """Why it is not used any more."""

    def read(self, timeout_s: float) -> list[Frame] | None:
        """The next frames; None at the end. TimeoutError, OSError, or Corrupt if the bytes are not frames."""
        if self._early:
            early, self._early = self._early, []
            return early
        data = self.stream.read(_READ_BYTES, max(0.0, timeout_s))
        return self._decoder.feed(data) if data else None


def greet(
    stream: Stream, hello: Hello, timeout_s: float, describe: str, clock: Callable[[], float] = time.monotonic
) -> Connection:
    """Skip what the machine prints first, and exchange HELLOs.

    NoEngine if the keeper says so, EngineLost if the connection ends or nothing is answered, HostUnfit if the machine's
    shell prints too much, Unsupported for another version, Corrupt if the answer cannot be understood.
    """
    ends_s = clock() + timeout_s

    def read() -> bytes:
        try:
            return stream.read(_READ_BYTES, max(0.0, ends_s - clock()))
        except TimeoutError:
            raise EngineLost(f"{describe} did not answer within {timeout_s:g} s") from None

    rest = _after_marker(read, describe)
    with suppress(OSError):
        # A keeper that says NO hangs up; its answer can be read all the same.
        stream.write(hello.encode(), max(0.0, ends_s - clock()))
    decoder = Decoder()
    found = decoder.feed(rest)
    while not found:
        data = read()
        if not data:
            raise EngineLost(f"{describe}: the connection ended before its keeper said anything")
        found = decoder.feed(data)
    answer = _hello(found[0], hello, describe)
    return Connection(stream, answer.received, decoder, found[1:], clock())


def _after_marker(read: Callable[[], bytes], describe: str) -> bytes:
    seen = b"\n"
    while frames.MARKER not in seen:
        if len(seen) > frames.NOISE_BYTES_MAX + len(frames.MARKER):
            raise HostUnfit(
                f"{describe} prints more than {frames.NOISE_BYTES_MAX} bytes before it runs a command: "
                "make its shell's start-up files silent where no terminal is"
            )
        data = read()
        if not data:
            shown = seen[-200:].decode("utf-8", "replace").strip()
            raise EngineLost(f"{describe}: the connection ended before a keeper ran" + (f": {shown}" if shown else ""))
        seen += data
    return seen.partition(frames.MARKER)[2]


def _hello(frame: Frame, asked: Hello, describe: str) -> Hello:
    if frame.kind is Kind.NO:
        raise frame.no()
    if frame.kind is not Kind.HELLO:
        raise Corrupt(f"keeper protocol: {describe} answered with {frame.kind.name} instead of HELLO")
    answer = frame.hello()
    if answer.version != asked.version:
        raise Unsupported(f"the keeper on {describe} speaks version {answer.version}, this poorwill {asked.version}")
    if answer.epoch != asked.epoch:
        raise Corrupt(f"keeper protocol: {describe} answered to connection {answer.epoch}, this is {asked.epoch}")
    return answer
