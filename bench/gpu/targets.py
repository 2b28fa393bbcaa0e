"""What a device of the H200's class must reach, and whether a report says that it does."""

from __future__ import annotations

from collections.abc import Iterator

from bench.gpu.report import GpuReport, median
from bench.page import Finding

COMPRESS_GB_S, DECOMPRESS_GB_S, AIM_TIMES = 41.0, 107.0, 3
COPY_SHARE_MIN = 0.8
RATIO_MAX = 0.668
CPU_SHARE_MAX = 0.6
NOT_MEASURED = "not measured"


def findings(report: GpuReport) -> list[Finding]:
    """Every target, measured or not."""
    found = [
        *_on_the_device(report), *_host(report), *_portable(report), *_engine(report, "snapshot"),
        *_engine(report, "restore"),
    ]  # fmt: skip
    return found


def _on_the_device(report: GpuReport) -> Iterator[Finding]:
    rows = report.rows("resident", taken=True)
    for step, least in (("compress", COMPRESS_GB_S), ("decompress", DECOMPRESS_GB_S)):
        what, target = (
            f"{step} on the device, as the codec does",
            f"above {least:.0f} GB/s, aim {AIM_TIMES * least:.0f}",
        )
        found = median(rows[0], f"{step}_gb_s") if rows else None
        if found is None:
            yield Finding("device", what, target, NOT_MEASURED, None)
            continue
        best = max(median(row, f"{step}_gb_s") or 0.0 for row in (*report.rows("resident"), *report.rows("sweep")))
        aim = "aim reached" if found >= AIM_TIMES * least else "aim NOT reached"
        value = f"{found:.1f} GB/s in batches of {rows[0]['batch_mib']} MiB, {aim}; the best of all options {best:.1f}"
        yield Finding("device", what, target, value, found > least)
    what, target = "coded / raw, bf16", f"at most {RATIO_MAX}"
    if not rows:
        yield Finding("ratio", what, target, NOT_MEASURED, None)
        return
    yield Finding("ratio", what, target, f"{rows[0]['ratio']:.4f}", rows[0]["ratio"] <= RATIO_MAX)


def _host(report: GpuReport) -> Iterator[Finding]:
    for step, direction in (("compress", "to the device"), ("decompress", "to the host")):
        what = f"{step} from host to host, beside pinned copies {direction}"
        copy = next((median(row, "copy_gb_s") for row in report.rows("copies", direction=direction)), None)
        rows = report.rows("host")
        target = f"at least {COPY_SHARE_MIN:.0%}"
        if not copy or not rows:
            yield Finding("host", what, target, NOT_MEASURED, None)
            continue
        best = max(rows, key=lambda row: median(row, f"{step}_gb_s") or 0.0)
        speed = median(best, f"{step}_gb_s") or 0.0
        value = f"{speed / copy:.0%} ({speed:.1f} / {copy:.1f} GB/s; {best['way']})"
        yield Finding("host", what, target, value, speed >= COPY_SHARE_MIN * copy)


def _portable(report: GpuReport) -> Iterator[Finding]:
    what, target = "portable: planes by the GPU beside all cores", "told"
    by = {row["by"]: median(row, "compress_gb_s") for row in report.rows("portable")}
    ours, theirs = by.get("GPU"), by.get("CPU")
    if not ours or not theirs:
        yield Finding("portable", what, target, NOT_MEASURED, None)
        return
    yield Finding("portable", what, target, f"{ours / theirs:.2f} times ({ours:.1f} / {theirs:.1f} GB/s)", True)


def _engine(report: GpuReport, step: str) -> Iterator[Finding]:
    rows = [next(iter(report.rows("engine", step=step, by=by)), None) for by in ("GPU", "CPU")]
    for name, title, target, most in (
        ("wall_s", "wall", "faster", 1.0), ("cpu_s", "core-seconds", f"at most {CPU_SHARE_MAX:.0%}", CPU_SHARE_MAX),
    ):  # fmt: skip
        what = f"{step}: {title} beside the CPU's codec"
        if rows[0] is None or rows[1] is None:
            yield Finding("engine", what, target, NOT_MEASURED, None)
            continue
        ours, theirs = (median(row, name) or 0.0 for row in rows if row is not None)
        share = ours / theirs if theirs else 0.0
        met = share < most if most == 1.0 else share <= most
        value = f"{share:.0%} ({ours:.2f} s / {theirs:.2f} s) for {rows[0]['raw_gb']:.1f} GB"
        yield Finding("engine", what, target, value, met)
