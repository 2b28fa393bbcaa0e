"""python -m bench.gpu: what a GPU does for Poorwill, on the device, beside its link, and in the engine.

Needs the packages of the extra `gpu` or `gpu-cu13`, and a device that nvCOMP can use: without it says why, and exits
with 3.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import signal
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from bench import machine
from bench.arena import Arena, say
from bench.gpu import engine as gpu_engine
from bench.gpu import host as gpu_host
from bench.gpu import profile as gpu_profile
from bench.gpu import resident as gpu_resident
from bench.gpu.device import QUICK, EventTimer, NewTimer, Sizes, describe, slug
from bench.gpu.report import GpuReport
from bench.gpu.targets import findings
from bench.report import Report
from bench.tree import tree_digest
from poorwill.codecs.gpu.gpu import Gpu
from poorwill.codecs.gpu.gpu_pool import Gpus
from poorwill.codecs.gpu.lanes import Lane
from poorwill.codecs.gpu.libraries import Libraries, load, usable_devices
from poorwill.errors import Unsupported

SECTIONS = ("device", "kinds", "host", "engine", "profile")
RESULTS = Path(__file__).parents[1] / "results"
NO_DEVICE = 3
MODULE = "python -m bench.gpu"


def _arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=MODULE, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to try it; written only to a DIR that is named"
    )
    parser.add_argument("--only", action="append", choices=SECTIONS, metavar="SECTION",
                        help="one of " + ", ".join(SECTIONS) + "; written only to a DIR that is named")  # fmt: skip
    parser.add_argument("--device", type=int, help="the number of the GPU (default: the first that can code)")
    parser.add_argument("--workspace-gb", type=float, help="of the engine's workspace (default 16; 1 with --quick)")
    parser.add_argument("--scratch", type=Path, default=Path("/dev/shm"), help="a tmpfs (default /dev/shm)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where the tables go (default bench/results)")
    found = parser.parse_args(given)
    if not found.scratch.is_dir():
        parser.error(f"--scratch {found.scratch} is not a folder; name one on a tmpfs")
    return found


def measure(
    libraries: Libraries, device: int, new_timer: NewTimer, report: GpuReport, sizes: Sizes, scratch: Path,
    sections: set[str], *, quick: bool,
) -> None:  # fmt: skip
    """Fill `report`. Whatever fails is in its failures; the rest is measured all the same."""
    lane = Lane(libraries, device)
    if "device" in sections:
        report.attempt("device", lambda: gpu_resident.bf16(lane, new_timer, report, sizes, quick=quick))
    if "kinds" in sections:
        report.attempt("kinds", lambda: gpu_resident.kinds(lane, new_timer, report, sizes))
    lane.free()
    if "host" in sections:
        report.attempt("host", lambda: _host(lane, new_timer, report, sizes))
    lane.free()
    if "engine" in sections:
        report.attempt("engine", lambda: _engine(report, sizes, scratch))
    if "profile" in sections:
        report.attempt("profile", lambda: _profile(libraries, device, new_timer, report, sizes, scratch))
    report.findings = findings(report)


def _host(lane: Lane, new_timer: NewTimer, report: GpuReport, sizes: Sizes) -> None:
    libraries, device = Libraries(lane.cupy, lane.nvcomp), lane.device
    buffers = gpu_host.Buffers.new(libraries, report, sizes)
    report.attempt("pinned copies", lambda: gpu_host.copies(lane, new_timer, report, buffers, sizes.runs))
    gpu_host.in_batches(libraries, device, report, buffers, sizes)
    gpus = Gpus(libraries, [Gpu(libraries, device)])
    try:
        gpu_host.by_threads(gpus, report, buffers, sizes)
        gpu_host.portable(gpus, report, buffers, sizes)
    finally:
        gpus.close()


def _engine(report: GpuReport, sizes: Sizes, scratch: Path) -> None:
    size = gpu_engine.fitting(scratch, sizes.workspace_bytes, report)
    timings = Report(report.date, "", sizes.engine_runs, report.machine, {})
    gpu_engine.measure(Arena(scratch, timings, small=size < 8e9), report, size, sizes.engine_runs)


def _profile(
    libraries: Libraries, device: int, new_timer: NewTimer, report: GpuReport, sizes: Sizes, scratch: Path
) -> None:
    size = gpu_engine.fitting(scratch, sizes.profile_bytes, report)
    workspace, place = scratch / "profiled", scratch / "profile"
    gpu_engine.make(workspace, size)
    place.mkdir()
    try:
        gpu_profile.measure(libraries, device, new_timer, report, workspace, place)
        if tree_digest(place / "restored") != tree_digest(workspace):
            raise RuntimeError("the engine gave back something else than it was given")
    finally:
        shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(workspace, ignore_errors=True)


def _sizes(given: argparse.Namespace) -> Sizes:
    sizes = QUICK if given.quick else Sizes()
    if given.workspace_gb:
        sizes = replace(sizes, workspace_bytes=int(given.workspace_gb * 1e9))
    return sizes


def new_report(libraries: Libraries, device: int, command: str, sizes: Sizes, scratch: Path, quick: bool) -> GpuReport:
    kind = f"medians of {sizes.runs} runs on the device, of {sizes.engine_runs} of the engine (lowest - highest)"
    seen = machine.describe(scratch)
    return GpuReport(
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        command=command,
        kind=f"{kind}; SMALL SIZES, which say nothing of the targets" if quick else kind,
        device=describe(libraries, device),
        machine={**seen, "memory_gib": int(seen["memory_bytes"]) >> 30},
    )


def _on_terminate(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    given = _arguments(arguments)
    try:
        libraries = load()
        able = usable_devices(libraries)
        device = able[0] if given.device is None else given.device
        if device not in able:
            raise Unsupported(f"GPU {device} is not one of those that can code: {', '.join(map(str, able))}")
    except Unsupported as error:
        say(f"bench.gpu: NO GPU WAS MEASURED: {error.message}")
        say("bench.gpu: it needs a GPU, its driver, and the extra `gpu` or `gpu-cu13`; see bench/README.md")
        return NO_DEVICE
    sizes, sections = _sizes(given), set(given.only or SECTIONS)
    report = new_report(libraries, device, " ".join([MODULE, *arguments]), sizes, given.scratch, given.quick)
    signal.signal(signal.SIGTERM, _on_terminate)
    scratch = Path(tempfile.mkdtemp(prefix="poorwill-bench-", dir=given.scratch))
    try:
        measure(libraries, device, EventTimer, report, sizes, scratch, sections, quick=given.quick)
    except KeyboardInterrupt:
        say("bench.gpu: interrupted")
        return 130
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(report.as_markdown())
    if given.results is None and (given.quick or given.only):
        say("not written to the results: only a full run is, unless --results names a folder")
    else:
        write = partial(report.write, given.results or RESULTS)
        for path in write(f"{report.date}-gpu-{slug(report.device['name'])}"):
            say(f"written: {path.name}")
    return 1 if report.failures else 0
