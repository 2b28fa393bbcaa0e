"""The engine on a workspace of bf16 weights: the program as people run it, with the GPU and without one, in turns."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench import machine, workspace
from bench.arena import Arena, Made, say
from bench.gpu.report import GpuReport, Row
from bench.measure import Command, CommandFailed, Spread, Usage, alternate
from bench.peers.tools import Poorwill, Site
from bench.tree import tree_bytes, tree_digest
from poorwill.codecs.gpu.nvcomp import NvcompAns
from poorwill.control.records import catalog
from poorwill.store.local import LocalStore

CHECKOUT = Path(__file__).parents[2]
FILE_BYTES = 1 << 30
PIECE_VALUES = 2_500_000
COPIES = 2.8
"""Of the workspace, in the scratch folder: itself, what it is coded to, and what is restored; with some room left."""
LEAST_BYTES = 1_000_000_000
"""A smaller workspace than that is over before the GPU is open."""
GPU, CPU = "GPU", "CPU"


def make(root: Path, size: int) -> None:
    """About `size` bytes of bf16 weights in files of at most 1 GiB. The same bytes for the same size."""
    root.mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, at in enumerate(range(0, size, FILE_BYTES)):
            values = min(FILE_BYTES, size - at) // 2
            pieces = range(0, values, PIECE_VALUES)
            seeds = range(number * 10_000, number * 10_000 + len(pieces))
            counts = [min(PIECE_VALUES, values - first) for first in pieces]
            with open(root / f"weights-{number:03d}.bin", "wb") as out:
                for piece in pool.map(workspace.bf16_weights, seeds, counts):
                    out.write(piece)


def fitting(scratch: Path, size: int, report: GpuReport) -> int:
    """`size`, or as much as the scratch folder holds, and the memory if it is that. RuntimeError below LEAST_BYTES."""
    seen = os.statvfs(scratch)
    free = seen.f_bavail * seen.f_frsize
    if machine.filesystem(scratch) == "tmpfs":
        free = min(free, machine.memory_bytes("MemAvailable"))
    else:
        report.note(f"the workspace is on {machine.filesystem(scratch)} and not on a tmpfs: a disk sets the pace")
    most = int(free / COPIES)
    if most < min(size, LEAST_BYTES):
        raise RuntimeError(
            f"the scratch folder has room for {free / 1e9:.2f} GB, too little: name another by --scratch"
        )
    if most < size:
        report.note(f"the workspace is {most / 1e9:.1f} GB instead of {size / 1e9:.1f}: there is no more room for it")
    return min(size, most)


class OnThisMachine(Poorwill):
    """`poorwill snapshot` and `restore` of this checkout, which need not be installed."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.name = by

    def pack(self, workspace: Path, site: Site) -> Command:
        return self._here(super().pack(workspace, site), ["--codec", "ans" if self.name == GPU else "auto"])

    def unpack(self, target: Path, site: Site) -> Command:
        return self._here(super().unpack(target, site), [])

    def _here(self, command: Command, more: list[str]) -> Command:
        path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
        environment = {**(command.env or {}), "PYTHONPATH": path}
        kept = ("LD_LIBRARY_PATH", "CUDA_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
        if self.name == GPU:
            environment |= {name: os.environ[name] for name in kept if name in os.environ}
        else:
            # Without nvidia-smi the engine takes the machine for one without a GPU, and does not load its libraries.
            environment |= {"PATH": os.devnull, "CUDA_VISIBLE_DEVICES": ""}
        start = [sys.executable, "-c", "import sys; from poorwill.cli.main import main; sys.exit(main())"]
        return Command([*start, *command.argv[1:], *more], env=environment)

    def check(self, site: Site) -> None:
        """CommandFailed unless the last snapshot was coded by what this is to measure."""
        metadata = catalog.find(LocalStore(site.repository), str(self._last))
        coding, on_gpu = metadata.coding, NvcompAns.name in metadata.codecs
        if on_gpu != (self.name == GPU) or (coding is not None and coding.fell_back):
            why = (coding and (coding.warning or coding.reason)) or "the snapshot does not say why"
            raise CommandFailed(f"its codecs are {', '.join(metadata.codecs)}: {why[:300]}")


def measure(arena: Arena, report: GpuReport, size: int, runs: int) -> None:
    """Snapshot and restore by the two in turns; every byte is compared after the first restore of each."""
    say(f"making a workspace of {size / 1e9:.1f} GB")
    path = arena.scratch / "weights"
    make(path, size)
    made = Made("bf16 weights", path, tree_bytes(path), tree_digest(path))
    contestants = {name: OnThisMachine(name) for name in (GPU, CPU)}
    packs: dict[str, list[Usage]] = {name: [] for name in contestants}
    backs: dict[str, list[Usage]] = {name: [] for name in contestants}
    stored: dict[str, int] = {}

    def once(name: str, number: int) -> None:
        contestant, site = contestants[name], arena.site(name)
        try:
            contestant.prepare(site)
            pack = arena.measured(contestant.pack(made.path, site))
            contestant.packed(pack.stdout)
            contestant.check(site)
            stored[name] = tree_bytes(site.repository)
            back = arena.unpacked(contestant, site, made, compare=number == 0, memory=False)
        finally:
            site.clear()
        packs[name].append(pack)
        backs[name].append(back)
        say(f"engine {number + 1}: {name}: {pack.wall_s:.2f} s there, {back.wall_s:.2f} s back")

    turns: dict[str, Callable[[int], None]] = {name: partial(once, name) for name in contestants}
    failed = alternate(turns, runs)
    report.failures.update({f"engine, {name}": why for name, why in failed.items()})
    for step, usages in (("snapshot", packs), ("restore", backs)):
        for name in contestants:
            if usages[name]:
                report.add("engine", _row(step, name, made.raw_bytes, usages[name], stored[name]))
    shutil.rmtree(path)


def _row(step: str, name: str, raw_bytes: int, usages: list[Usage], stored: int) -> Row:
    wall, cpu = Spread.of([u.wall_s for u in usages]), Spread.of([u.cpu_s for u in usages])
    return {
        "step": step, "by": name, "raw_gb": raw_bytes / 1e9, "wall_s": _spread(wall), "cpu_s": _spread(cpu),
        "speed_gb_s": raw_bytes / wall.median / 1e9, "ratio": stored / raw_bytes,
    }  # fmt: skip


def _spread(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "low": spread.low, "high": spread.high}
