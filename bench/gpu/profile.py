"""Where the time of a snapshot and a restore goes: the real engine in this process, with lanes that take their time
and codec threads that are looked at now and then."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from bench.gpu.device import NewTimer
from bench.gpu.report import GpuReport
from poorwill.codecs.gpu import gpu
from poorwill.codecs.gpu.gpu import Gpu
from poorwill.codecs.gpu.gpu_pool import Gpus
from poorwill.codecs.gpu.lanes import Array, Coded, Lane
from poorwill.codecs.gpu.libraries import Libraries
from poorwill.codecs.toolset import Toolset
from poorwill.engine.operations import Operations
from poorwill.engine.protocol import answers, requests
from poorwill.engine.protocol.asking import Question, Request
from poorwill.engine.protocol.context import Context
from poorwill.engine.protocol.questions import Read, Upload, UploadGrant
from poorwill.snapshot import ids
from poorwill.snapshot.choices import Codec
from poorwill.snapshot.metadata import ManifestReference
from poorwill.snapshot.order import PackSettings, RestoreOrder
from poorwill.store.base import Grant

A = TypeVar("A")
LOOK_EVERY_S = 0.01
PARTS_AT_ONCE = 32
STAGES = {
    "gpu/queue.py": "wait for the GPU",
    "pack/source_reader.py": "read",
    "transfer/fetch.py": "read",
    "transfer/part_reading.py": "read",
    "transfer/sink.py": "write",
    "restore/tree.py": "write",
    "restore/restore_run.py": "write",
    "engine/journal.py": "write",
    "pack/packer.py": "hash",
    "transfer/decoding.py": "hash",
    "codecs/chooser.py": "choose a codec",
    "codecs/planes.py": "code on the CPU",
    "codecs/zstd.py": "code on the CPU",
    "codecs/zstd_ffi.py": "code on the CPU",
    "codecs/openzl.py": "code on the CPU",
    "gpu/nvcomp_form.py": "pin and prepare",
    "gpu/gpu_pool.py": "pin and prepare",
    "gpu/decision.py": "pin and prepare",
    "engine/pool.py": "idle",
}
"""What a thread does whose innermost frame of these is in this file. Hashes are C code called from two of them."""


class Ledger:
    """Seconds by stage, of all lanes together. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self.seconds[stage] += seconds


class MeasuredLane(Lane):
    """A lane that notes how long its copies and its coding took on the device, and its batches as a whole."""

    def __init__(self, libraries: Libraries, device: int, new_timer: NewTimer, ledger: Ledger) -> None:
        super().__init__(libraries, device)
        self._timer, self._ledger = new_timer(self), ledger
        self._marks: list[tuple[str, Any, Any]] = []
        self._began_s = 0.0

    def __enter__(self) -> Lane:
        self._began_s = time.perf_counter()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        stages = [(stage, self._timer.seconds(begin, end)) for stage, begin, end in self._marks]
        self._marks.clear()
        super().__exit__(*error)
        whole = time.perf_counter() - self._began_s
        for stage, seconds in stages:
            self._ledger.add(stage, seconds)
        self._ledger.add("split, join, start", max(0.0, whole - sum(seconds for _, seconds in stages)))

    @contextmanager
    def _noted(self, stage: str) -> Iterator[None]:
        begin = self._timer.mark()
        yield
        self._marks.append((stage, begin, self._timer.mark()))

    def copy_in(self, target: Array, source: memoryview) -> None:
        with self._noted("copy in"):
            super().copy_in(target, source)

    def copy_out(self, target: memoryview, source: Array) -> None:
        with self._noted("copy out"):
            super().copy_out(target, source)

    def compress(self, codec: Any, area: Array, kind: str, places: list[tuple[int, int]]) -> Coded:
        with self._noted("code"):
            return super().compress(codec, area, kind, places)

    def decompress(self, codec: Any, coded: Any, outs: list[Array]) -> None:
        coded_before = any(stage == "code" for stage, _, _ in self._marks)
        with self._noted("check" if coded_before else "code"):
            super().decompress(codec, coded, outs)

    def differ(self, pairs: list[tuple[Array, Array]]) -> bool:
        with self._noted("check"):
            return super().differ(pairs)


class Watcher:
    """Looks at all codec threads now and then, and counts what each of them is in."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.looks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            frames = sys._current_frames()
            self.looks += 1
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in frames.items():
                if names.get(ident, "").startswith("codec-"):
                    self.seen[stage_of(frame)] += 1


def stage_of(frame: FrameType | None) -> str:
    """By the innermost frame that is known."""
    while frame is not None:
        stage = STAGES.get("/".join(Path(frame.f_code.co_filename).parts[-2:]))
        if stage is not None:
            return stage
        frame = frame.f_back
    return "other"


class InProcess:
    """An engine in this process and a folder that it writes its parts to: what the control side does, in short."""

    def __init__(self, toolset: Toolset, folder: Path) -> None:
        self._operations, self._folder = Operations(toolset), folder
        folder.mkdir(parents=True)

    def close(self) -> None:
        self._operations.close()

    def _ask(self, question: Question[Any]) -> Any:
        if isinstance(question, Upload):
            path = self._folder / f"{question.part:02d}"
            path.touch()
            return UploadGrant(path=str(path))
        assert isinstance(question, Read)
        return Grant(path=str(self._folder / question.key.rpartition("/")[2]))

    def _do(self, request: Request[A], on_page: Callable[[bytes], None] = lambda page: None) -> A:
        return self._operations.of(request)(request, Context(request.op, ask=self._ask, send_page=on_page))

    def _all(self, requests: Iterable[Request[Any]]) -> None:
        with ThreadPoolExecutor(PARTS_AT_ONCE) as threads:
            for _ in threads.map(self._do, requests):
                pass

    def snapshot(self, workspace: Path, codec: Codec) -> answers.CodingTold | None:
        """Take one; what the engine says of who coded it."""
        settings = PackSettings("bench", ids.new_snapshot_id(), str(workspace), codec=codec)
        planned = self._do(requests.Scan(settings, None, ()))
        while planned.parts:
            self._all(map(requests.Pack, planned.parts))
            planned = self._do(requests.Settle())
        pages: list[bytes] = []
        written = self._do(requests.Manifest(), pages.append)
        (self._folder / "manifest").write_bytes(b"".join(pages))
        self._manifest = ManifestReference("manifest", written.bytes, written.blake3)
        return written.coding

    def restore(self, target: Path) -> None:
        opened = self._do(requests.OpenRestore(self._manifest, RestoreOrder(str(target))))
        self._all(requests.Restore(part.row) for part in opened.parts)
        self._do(requests.FinishRestore())


def measure(
    libraries: Libraries, device: int, new_timer: NewTimer, report: GpuReport, workspace: Path, scratch: Path
) -> None:
    """Both ways through one engine that uses one GPU, a little slower for being looked at."""
    ledger = Ledger()

    def new_lane(libraries: Libraries, device: int) -> Lane:
        return MeasuredLane(libraries, device, new_timer, ledger)

    coder = Gpu(libraries, device, new_lane=new_lane)
    gpus = Gpus(libraries, [coder])
    # The engine's own process sets both.
    interval_s, known = sys.getswitchinterval(), os.environ.get("POORWILL_STATE_DIR")
    sys.setswitchinterval(0.0005)
    os.environ["POORWILL_STATE_DIR"] = str(scratch / "state")
    engine = InProcess(Toolset(lambda: gpus, len(os.sched_getaffinity(0))), scratch / "parts")
    try:
        with _stage_rows("snapshot", report, ledger):
            coding = engine.snapshot(workspace, "ans")
        with _stage_rows("restore", report, ledger):
            engine.restore(scratch / "restored")
        if coding is None or coding.by != "gpu" or gpus.fell_back:
            raise RuntimeError(f"not all was coded by the GPU: {gpus.warning or coding}")
    finally:
        engine.close()
        sys.setswitchinterval(interval_s)
        if known is None:
            del os.environ["POORWILL_STATE_DIR"]
        else:
            os.environ["POORWILL_STATE_DIR"] = known


@contextmanager
def _stage_rows(step: str, report: GpuReport, ledger: Ledger) -> Iterator[None]:
    """Rows of what the block did."""
    ledger.seconds.clear()
    began_s = time.perf_counter()
    with Watcher() as watcher:
        yield
    wall_s = time.perf_counter() - began_s
    lanes = wall_s * gpu.LANES
    busy = dict(ledger.seconds)
    report.add("lanes", {"step": step, "stage": f"wall, of {gpu.LANES} lanes", "lane_s": lanes, "share": 1.0})
    for stage, seconds in {**busy, "wait for work": max(0.0, lanes - sum(busy.values()))}.items():
        report.add("lanes", {"step": step, "stage": stage, "lane_s": seconds, "share": seconds / lanes})
    total = sum(watcher.seen.values())
    for stage, count in watcher.seen.most_common():
        seconds = wall_s * count / watcher.looks
        report.add("threads", {"step": step, "stage": stage, "thread_s": seconds, "share": count / total})
