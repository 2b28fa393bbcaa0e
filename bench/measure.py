"""What one command costs: wall time, CPU time and the memory of its whole process tree.

Memory is the sum of the PSS of all processes (Linux, /proc/<pid>/smaps_rollup): a page that n processes
share counts 1/n in each, so once in the sum; file cache that nobody has mapped is not counted.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

SAMPLE_S = 0.02
SAMPLER_SHARE_MAX = 0.1
TIMEOUT_S = 900.0
STDOUT_BYTES_MAX = 64 << 20
LAST_WORDS_BYTES = 500


class CommandFailed(Exception):
    """A measured command ended with an error or ran past its limit; the message has its last words."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. `cwd` is where; `env` is the whole environment, or None for this process's own."""

    argv: Sequence[str]
    cwd: Path | None = None
    env: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """One run. `cpu_s` is user + system of the command and every descendant that was waited for.

    `memory_peak_bytes` is None when it was not sampled: sampling costs time, so timed runs go without.
    """

    wall_s: float
    cpu_s: float
    memory_peak_bytes: int | None
    stdout: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Spread:
    """Several runs of one thing: median, smallest and largest, in the unit of what was measured."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises statistics.StatisticsError if `values` is empty."""
        return cls(statistics.median(values), min(values), max(values), len(values))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except OSError:
        pass  # it ended meanwhile
    return found


def process_tree(roots: set[int]) -> set[int]:
    """`roots` and all their living descendants."""
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in seen and os.path.exists(f"/proc/{pid}"):
            seen.add(pid)
            waiting += _children(pid)
    return seen


def pss_bytes(pid: int) -> int:
    """The proportional set size of one process; 0 once it has ended."""
    return _rollup_bytes(pid, b"Pss:")


def rss_bytes(pid: int) -> int:
    """The resident set size of one process, shared pages in full; 0 once it has ended."""
    return _rollup_bytes(pid, b"Rss:")


def _rollup_bytes(pid: int, name: bytes) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) << 10
    except OSError:
        pass  # it ended meanwhile
    return 0


class MemoryMeter:
    """Samples the memory of a process tree in a thread; use as a context manager, then read `peak_bytes`.

    Samples every `sample_s`, or less often where a sample itself is slow, so that the sampler never takes
    more than a tenth of one core.
    """

    def __init__(self, pid: int, sample_s: float = SAMPLE_S) -> None:
        self.peak_bytes = 0
        self.samples = 0
        self._pids = {pid}
        self._sample_s = sample_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-meter", daemon=True)

    def __enter__(self) -> MemoryMeter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)

    def _watch(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            begin = time.thread_time()
            # Seen processes stay roots: a child whose parent has ended is still part of the command.
            self._pids = process_tree(self._pids)
            self.peak_bytes = max(self.peak_bytes, sum(map(pss_bytes, self._pids)))
            self.samples += 1
            pause_s = max(self._sample_s, (time.thread_time() - begin) / SAMPLER_SHARE_MAX)


def _last_words(*streams: IO[bytes]) -> str:
    """The last line of the first stream that has one, so of stderr where something was said there."""
    for stream in streams:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - LAST_WORDS_BYTES))
        lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return "it said nothing"


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # nothing was left behind


def _wait(pid: int, timeout_s: float) -> tuple[int, float] | None:
    """Exit status and CPU seconds of our child, or None when the time is up (the child was then killed)."""
    late = threading.Event()

    def end() -> None:
        late.set()
        _end_group(pid)

    timer = threading.Timer(timeout_s, end)
    timer.start()
    try:
        _, status, used = os.wait4(pid, 0)
    finally:
        timer.cancel()
    if late.is_set():
        return None
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def run(command: Command, *, memory: bool = False, timeout_s: float = TIMEOUT_S) -> Usage:
    """Run a command to its end and say what it cost. CommandFailed unless it exits with 0.

    The command gets its own process group, which is killed when this returns or is interrupted.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begin = time.perf_counter()
        child = subprocess.Popen(
            list(command.argv),
            cwd=command.cwd,
            env=command.env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        meter = MemoryMeter(child.pid) if memory else None
        try:
            if meter is None:
                ended = _wait(child.pid, timeout_s)
            else:
                with meter:
                    ended = _wait(child.pid, timeout_s)
            wall_s = time.perf_counter() - begin
        finally:
            _end_group(child.pid)
        child.returncode = 0 if ended is None else ended[0]  # reaped by wait4, so Popen must not wait again
        name = os.path.basename(command.argv[0])
        if ended is None:
            raise CommandFailed(f"{name} was stopped after {timeout_s:.0f} s: {_last_words(err, out)}")
        if ended[0] != 0:
            raise CommandFailed(f"{name} exited with {ended[0]}: {_last_words(err, out)}")
        out.seek(0)
        return Usage(
            wall_s=wall_s,
            cpu_s=ended[1],
            memory_peak_bytes=None if meter is None else meter.peak_bytes,
            stdout=out.read(STDOUT_BYTES_MAX).decode(errors="replace"),
        )


def settled() -> None:
    """Let earlier writes reach their disk, so that they are not paid for by the next command."""
    os.sync()


def alternate(contestants: dict[str, Callable[[int], None]], runs: int) -> dict[str, str]:
    """Call each contestant once per round, `runs` rounds: A B C A B C, so that drift hits all equally.

    A contestant that raises CommandFailed is left out of the rounds that follow; the answer says why, by
    name.
    """
    failed: dict[str, str] = {}
    for number in range(runs):
        for name, once in contestants.items():
            if name in failed:
                continue
            try:
                once(number)
            except CommandFailed as error:
                failed[name] = str(error)
    return failed
