"""The benchmark of GPUs runs from end to end on the double of CuPy and nvCOMP, so that no slip of it waits for the
first device. Its figures are thrown away: nothing here writes a result, and `main` measures none but real libraries."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import poorwill
from bench.gpu import command
from bench.gpu import profile as gpu_profile
from bench.gpu.device import QUICK, EventTimer, Sizes, Timer, cuda_version, slug, timed
from bench.gpu.report import GpuReport, gb_s, median, shown
from bench.gpu.targets import findings
from bench.measure import Spread
from poorwill.codecs.gpu.lanes import Lane
from poorwill.codecs.gpu.libraries import load
from tests.support.doubles.fake_cuda import FakeCuda

POORWILL = Path(poorwill.__file__).parent
TINY = Sizes(
    batch_bytes=1 << 20, item_bytes=1 << 18, total_bytes=2 << 20, runs=1, workspace_bytes=3_000_000,
    profile_bytes=20_000_000, engine_runs=1,
)  # fmt: skip


class ClockTimer:
    """The double works at once, when it is called."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        return max(end - begin, 1e-9)


def new_timer(lane: Lane) -> Timer:
    return ClockTimer(lane)


@pytest.fixture
def report(tmp_path: Path) -> GpuReport:
    return command.new_report(FakeCuda().libraries(), 0, "test", TINY, tmp_path, True)


def measured(report: GpuReport, tmp_path: Path, *sections: str, cuda: FakeCuda | None = None) -> GpuReport:
    libraries = (cuda or FakeCuda()).libraries()
    command.measure(libraries, 0, new_timer, report, TINY, tmp_path, set(sections), quick=True)
    return report


def test_on_the_device(report: GpuReport, tmp_path: Path) -> None:
    """Own types, planes, options, kinds of data: each is measured and gives back what it was given."""
    measured(report, tmp_path, "device", "kinds")
    assert report.failures == {}
    assert [row["taken"] for row in report.rows("resident")] == [True, False]
    assert {row["kind"] for row in report.rows("kinds")} == set(command.gpu_resident.KINDS)
    assert {"own |u1", "own |f1"} <= {row["form"] for row in report.rows("kinds", kind="fp8 e4m3")}
    for kind in command.gpu_resident.KINDS:
        assert len(report.rows("kinds", kind=kind, taken=True)) == 1, kind
    for row in report.rows("resident"):
        assert 0.6 < row["ratio"] < 0.75
        assert {"compress_gb_s", "decompress_gb_s", "compress_checked_gb_s", "decompress_configured_gb_s"} <= row.keys()
    assert len(report.rows("sweep")) >= 6


def test_from_host_to_host(report: GpuReport, tmp_path: Path) -> None:
    """Copies, lanes with large batches, many threads, and planes by both; what came back was compared."""
    measured(report, tmp_path, "host")
    assert report.failures == {}
    assert [row["direction"] for row in report.rows("copies")] == ["to the device", "to the host", "both at once, each"]
    assert [row["way"] for row in report.rows("host")] == [
        "1 lane, batches of 1 MiB", "3 lanes, batches of 1 MiB",
        *(f"{count} threads, as the engine's" for count in (8, 16, 32, 64)),
    ]  # fmt: skip
    assert [row["by"] for row in report.rows("portable")] == ["GPU", "CPU"]


def test_where_the_time_goes(report: GpuReport, tmp_path: Path) -> None:
    """A snapshot and a restore by the real engine with measured lanes: the stages of both ways add up to the whole."""
    measured(report, tmp_path, "profile")
    assert report.failures == {}
    stages = {step: {row["stage"] for row in report.rows("lanes", step=step)} for step in ("snapshot", "restore")}
    assert stages["snapshot"] >= {"copy in", "code", "check", "copy out", "wait for work"}
    assert stages["restore"] >= {"copy in", "code", "copy out"} and "check" not in stages["restore"]
    for step in stages:
        assert sum(row["share"] for row in report.rows("lanes", step=step)) == pytest.approx(2, abs=0.05)
    assert list(tmp_path.glob("profile*")) == []


def test_the_engine_without_a_gpu(report: GpuReport, tmp_path: Path) -> None:
    """A snapshot that the GPU was to code and did not is a failure and no figure; the CPU is measured all the same."""
    measured(report, tmp_path, "engine")
    assert [(row["step"], row["by"]) for row in report.rows("engine")] == [("snapshot", "CPU"), ("restore", "CPU")]
    assert list(report.failures) == ["engine, GPU"]
    assert "its codecs are" in report.failures["engine, GPU"]
    assert {f.met for f in report.findings if f.row == "engine"} == {None}


def test_a_device_with_little_memory(report: GpuReport, tmp_path: Path) -> None:
    """Batches shrink, and the report says so."""
    sizes = replace(TINY, batch_bytes=64 << 20)
    libraries = FakeCuda(memory_bytes=50 << 20).libraries()
    command.measure(libraries, 0, new_timer, report, sizes, tmp_path, {"device"}, quick=True)
    assert report.failures == {}
    assert report.notes == ["batches on the device are 4 MiB: its free memory allows no more"]


def test_a_device_that_fails(report: GpuReport, tmp_path: Path) -> None:
    """What cannot be measured is a failure with its reason, the report stays whole, and no target counts as met."""

    def trouble(call: str) -> None:
        if call == "encode":
            raise RuntimeError("an illegal memory access was encountered")

    measured(report, tmp_path, "device", "host", cuda=FakeCuda(trouble=trouble))
    assert report.rows("resident") == [] and "illegal memory access" in report.as_markdown()
    assert not any(finding.met for finding in report.findings)


def with_figures(report: GpuReport, speed: float, seconds: float) -> GpuReport:
    """A report of made-up figures, to look at verdicts."""
    one = gb_s(round(speed * 1e9), Spread.of([1.0]))

    def seconds_of(value: float) -> dict[str, float]:
        return dict.fromkeys(("median", "low", "high"), value)

    report.sections = {
        "resident": [{"taken": True, "batch_mib": 1024, "compress_gb_s": one, "decompress_gb_s": one, "ratio": 0.668}],
        "copies": [{"direction": d, "copy_gb_s": gb_s(50_000_000_000, Spread.of([1.0]))}
                   for d in ("to the device", "to the host")],
        "host": [{"way": "w", "compress_gb_s": one, "decompress_gb_s": one}],
        "portable": [{"by": by, "compress_gb_s": one} for by in ("GPU", "CPU")],
        "engine": [{"step": step, "by": by, "raw_gb": 16.0, "wall_s": seconds_of(s), "cpu_s": seconds_of(s)}
                   for step in ("snapshot", "restore") for by, s in (("GPU", seconds), ("CPU", 10.0))],
    }  # fmt: skip
    report.findings = findings(report)
    return report


@pytest.mark.parametrize(("speed", "seconds", "met"), [(108.0, 6.0, True), (39.0, 10.1, False)])
def test_verdicts_follow_the_figures(report: GpuReport, speed: float, seconds: float, met: bool) -> None:
    """All targets on both sides of their limits; 80% of the copies' 50 GB/s are 40."""
    found = with_figures(report, speed, seconds).findings
    assert {f.met for f in found if f.row not in ("ratio", "portable")} == {met}
    assert [f.met for f in found if f.row == "ratio"] == [True]


def test_a_report(report: GpuReport, tmp_path: Path) -> None:
    """Device, driver, libraries, command and targets are in both files, and the JSON has raw figures."""
    report = with_figures(report, 108.0, 6.0)
    paths = report.write(tmp_path / "results", "one")
    assert [path.name for path in paths] == ["one.md", "one.json"]
    page = paths[0].read_text()
    for part in ("Fake 0", "cuda runtime: 12.9", "`test`", "SMALL SIZES", "driver: ", "nvcomp: 6.0.0", "| yes"):
        assert part in page
    kept = json.loads(paths[1].read_text())
    assert kept["sections"]["engine"][0]["wall_s"]["median"] == 6.0
    assert kept["device"]["name"] == "Fake 0"


def test_nothing_is_measured_without_a_device(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It says so on stderr, with the reason, exits with 3 and writes nothing. Where there is a device, none has 99."""
    assert command.main(["--device", "99", "--results", str(tmp_path / "results")]) == command.NO_DEVICE == 3
    said = capsys.readouterr().err
    assert "NO GPU WAS MEASURED: " in said and "`gpu-cu13`" in said
    assert not (tmp_path / "results").exists()


def test_time_is_taken_of_the_step_alone() -> None:
    """The first run and the preparation do not count; events are read in milliseconds, once the second has come."""

    class Event:
        waited = False

        def record(self, stream: object) -> None:
            assert stream == "stream"

        def synchronize(self) -> None:
            self.waited = True

    elapsed_ms = iter((9000.0, 1000.0, 3000.0))

    def get_elapsed_time(begin: Event, end: Event) -> float:
        assert end.waited and not begin.waited
        return next(elapsed_ms)

    cuda = SimpleNamespace(Event=Event, get_elapsed_time=get_elapsed_time)
    lane: Any = SimpleNamespace(cupy=SimpleNamespace(cuda=cuda), stream="stream")
    done: list[int] = []
    assert timed(EventTimer(lane), 2, lambda: len(done), done.append) == Spread(2.0, 1.0, 3.0, 2)
    assert done == [0, 1, 2]


def test_what_is_measured_with_is_real() -> None:
    """What the benchmark asks of CuPy and nvCOMP beyond the codecs is there, by these names and arguments."""
    real = load()
    assert {"Event", "get_elapsed_time"} <= set(dir(real.cupy.cuda))
    assert {"driverGetVersion", "runtimeGetVersion", "memGetInfo"} <= set(dir(real.cupy.cuda.runtime))
    configured = str(real.nvcomp.Codec.compression_config.__doc__) + str(real.nvcomp.Codec.decompression_config.__doc__)
    assert "uncompressed_sizes: list[int]" in configured and "compression_config: nvidia" in configured
    assert "decompression_config: nvidia" in str(real.nvcomp.Codec.decode.__doc__)
    options = str(real.nvcomp.Codec.__init__.__doc__)
    assert all(f"{name}:" in options for name in ("max_sub_chunk_count", "histogram_reduction_log2", "states_per_lane"))


def test_words_for_figures() -> None:
    assert cuda_version(12090) == "12.9" and cuda_version(13010) == "13.1"
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3" and slug("") == "device"
    assert shown({"median": 41.5, "low": 40.0, "high": 44.0}) == "41.50 (40.00 - 44.00)"
    assert (shown(0.66512), shown(None), shown(True), shown(3)) == ("0.6651", "", "yes", "3")
    assert (median({"a": {"median": 2.0}}, "a"), median({"a": 3}, "a"), median({}, "a")) == (2.0, 3.0, None)
    assert QUICK.batch_bytes < Sizes().batch_bytes == 1 << 30


def test_a_thread_is_in_the_innermost_stage_that_is_known() -> None:
    """Frames of other code are passed over; what is known nowhere is 'other'."""
    assert {stage for stage in gpu_profile.STAGES if not list(POORWILL.rglob(stage))} == set(), "no such file"
    assert gpu_profile.stage_of(None) == "other"
    assert gpu_profile.stage_of(sys._getframe()) == "other"
    code = compile("def work(look): return look()\n", "/x/poorwill/engine/pack/source_reader.py", "exec")
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    assert namespace["work"](lambda: gpu_profile.stage_of(sys._getframe())) == "read"
