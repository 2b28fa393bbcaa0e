"""Speed and size of every codec on every kind of data.

    python -m bench.codecs [KIND ...]

GB of raw bytes a second: of CPU time with one thread, of wall time with two. Codecs take turns, and the best
turn counts.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.chunks import KINDS, chunk
from poorwill.codecs.base import Codec
from poorwill.codecs.chooser import estimate
from poorwill.codecs.openzl import OpenZL
from poorwill.codecs.planes import Planes
from poorwill.codecs.zstd import Zstd

CHUNK_BYTES = 4 << 20
THREADS = 2
TURNS = 3
CODECS = ("planes", "openzl", "zstd")


@dataclass(slots=True)
class Bench:
    """One thread's codec and buffers."""

    codec: Codec
    raw: memoryview
    out: memoryview
    back: memoryview
    size: int = 0

    def encode(self) -> None:
        self.size = self.codec.encode(self.raw, self.out) or 0

    def decode(self) -> None:
        self.codec.decode(self.out[: self.size], self.back)


def new_codec(name: str, raw: memoryview) -> Codec:
    """A codec set as the chooser would set it for `raw`."""
    layout = estimate(raw).layout
    if name == "planes":
        planes = Planes()
        planes.layout = layout
        return planes
    if name == "openzl":
        openzl = OpenZL()
        openzl.layout = layout
        return openzl
    return Zstd()


def new_bench(name: str, raw: memoryview) -> Bench:
    # Filled, so that no page is touched for the first time while the clock runs.
    out, back = (memoryview(bytearray(b"\xee" * len(raw))) for _ in range(2))
    return Bench(new_codec(name, raw), raw, out, back)


def seconds_of_one(step: Callable[[], object]) -> float:
    start = time.thread_time()
    step()
    return time.thread_time() - start


def seconds_of_many(steps: list[Callable[[], None]]) -> float:
    threads = [threading.Thread(target=step) for step in steps]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def turn(benches: list[Bench]) -> list[float]:
    """Seconds a chunk: encode and decode by one thread, encode and decode by all of them."""
    first = benches[0]
    seconds = [seconds_of_one(first.encode)]
    for bench in benches[1:]:
        bench.size = 0
    together = seconds_of_many([bench.encode for bench in benches])
    if not all(bench.size for bench in benches):
        return []
    seconds.append(seconds_of_one(first.decode))
    if first.back != first.raw:
        raise SystemExit(f"{first.codec.name} does not give back what it was given")
    return [*seconds, together / len(benches), seconds_of_many([b.decode for b in benches]) / len(benches)]


def measure(kind: str) -> list[str]:
    """A line of the table for each codec."""
    raw = chunk(kind, CHUNK_BYTES)
    benches = {name: [new_bench(name, raw) for _ in range(THREADS)] for name in CODECS}
    turns = [{name: turn(each) for name, each in benches.items()} for _ in range(TURNS)]
    lines = []
    for name in CODECS:
        seconds = [each[name] for each in turns]
        if not all(seconds):
            lines.append(f"{kind:14} {name:8}    -")
            continue
        speeds = "".join(f"{CHUNK_BYTES / min(column) / 1e9:9.2f}" for column in zip(*seconds, strict=True))
        lines.append(f"{kind:14} {name:8} {benches[name][0].size / CHUNK_BYTES:7.4f} {speeds}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.codecs", description="Speed and size of every codec.")
    parser.add_argument("kinds", metavar="KIND", nargs="*", help=f"of: {', '.join(KINDS)}; all of them if none")
    kinds = parser.parse_args().kinds or list(KINDS)
    if unknown := set(kinds) - KINDS.keys():
        parser.error(f"no such kind of data: {', '.join(sorted(unknown))}")
    raw = chunk("bf16", CHUNK_BYTES)
    sampling = statistics.median(seconds_of_one(lambda: estimate(raw)) for _ in range(9))
    print(
        f"GB/s of raw bytes, chunks of {CHUNK_BYTES >> 20} MiB; choosing a layout takes {sampling * 1e3:.2f} ms a chunk"
    )
    print(f"{'':24} {'coded':>6}    1 thread (CPU)    {THREADS} threads (wall)")
    print(f"{'kind':14} {'codec':8} {'/ raw':>7} {'encode':>9}{'decode':>9}{'encode':>9}{'decode':>9}")
    for kind in kinds:
        print("\n".join(measure(kind)), flush=True)


if __name__ == "__main__":
    main()
