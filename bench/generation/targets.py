"""What generation must reach, and whether a report says that it does."""

from __future__ import annotations

from collections.abc import Iterator

from bench.generation.figures import Growth, Inference
from bench.measure import Spread
from bench.page import Finding
from bench.report import Report

OWN_S_MAX = 1.0
PROCESS_TIMES_MIN = 8
INFERENCE_TIMES_MAX = 1.03
GROWTH_MAX = 0.05
FIRST_JOB = 2
"""Growth is counted from here: in its first job, a process allocates what it keeps."""


def findings(report: Report) -> Iterator[Finding]:
    """Every target of generation, measured or not."""
    yield from _warm(report)
    yield _inference(report)
    yield from _durable(report)
    yield _restarts(report)
    yield _growth(report)


def _warm(report: Report) -> Iterator[Finding]:
    what = "next job of a loaded model: from its creation to inference, without polling"
    target = f"at most {OWN_S_MAX:.1f} s"
    beside, beside_target = "the same beside Prefect's process worker", f"at least {PROCESS_TIMES_MIN} times less"
    starts = report.generation.warm
    if starts is None:
        yield Finding("warm", what, target, report.why_not("poorwill"), None)
        yield Finding("warm", beside, beside_target, report.why_not("poorwill"), None)
        return
    own = Spread.of([start.own_s for start in starts.resident])
    polling = Spread.of([start.polling_s for start in starts.resident])
    value = f"{_shown(own)}, {own.runs} jobs; polling {_shown(polling)}"
    yield Finding("warm", what, target, value, own.median <= OWN_S_MAX)
    theirs = Spread.of([start.own_s for start in starts.process])
    times = theirs.median / own.median
    value = f"{times:.1f} times ({theirs.median:.2f} s, {theirs.runs} jobs / {own.median:.2f} s)"
    yield Finding("warm", beside, beside_target, value, times >= PROCESS_TIMES_MIN)


def _inference(report: Report) -> Finding:
    what, target = "inference in the flow beside a bare loop", f"at most {INFERENCE_TIMES_MAX} times"
    figures = report.generation.inference
    if figures is None:
        return Finding("inference", what, target, report.why_not("poorwill"), None)
    times = inference_times(figures)
    flow, bare = Spread.of(figures.flow_s), Spread.of(figures.bare_s)
    value = f"{times:.3f} ({_shown(flow)} / {_shown(bare)}), {flow.runs} pairs"
    return Finding("inference", what, target, value, times <= INFERENCE_TIMES_MAX)


def inference_times(figures: Inference) -> float:
    """Median beside median."""
    return Spread.of(figures.flow_s).median / Spread.of(figures.bare_s).median


def _durable(report: Report) -> Iterator[Finding]:
    what = "queued jobs, worker killed twice, server once: completed, each with one whole video"
    stuck = "of these, still pending or running minutes after the last kill"
    figures = report.generation.durable
    if figures is None:
        yield Finding("durable", what, "all", report.why_not("poorwill"), None)
        yield Finding("durable", stuck, "0", report.why_not("poorwill"), None)
        return
    value = f"{figures.whole} in {figures.wall_s:.0f} s, {figures.slots} slots; {figures.begun_anew} begun anew"
    others = {state: count for state, count in figures.ended.items() if state != "COMPLETED"}
    value += "".join(f"; {count} {state}" for state, count in sorted(others.items()))
    met = figures.whole == figures.jobs == figures.ended.get("COMPLETED", 0)
    yield Finding("durable", what, f"{figures.jobs} of {figures.jobs}", value, met)
    value = f"{figures.stuck}, {figures.looked_after_s:.0f} s after it"
    yield Finding("durable", stuck, "0", value, figures.stuck == 0)


def _restarts(report: Report) -> Finding:
    what = "runs asked for over HTTP, server killed meanwhile and again among them: one whole video each, none twice"
    figures = report.generation.restarts
    if figures is None:
        return Finding("restarts", what, "all", report.why_not("poorwill"), None)
    value = f"{figures.whole} in {figures.wall_s:.0f} s; {figures.begun_anew} begun anew; {figures.stuck} stuck"
    met = figures.whole == figures.jobs and not figures.begun_anew and not figures.stuck
    return Finding("restarts", what, f"{figures.jobs} of {figures.jobs}", value, met)


def _growth(report: Report) -> Finding:
    what, target = "memory of a resident process over its jobs", f"grows less than {GROWTH_MAX:.0%}"
    figures = report.generation.growth
    if figures is None:
        return Finding("growth", what, target, report.why_not("poorwill"), None)
    share = growth(figures)
    first, last = figures.rss_bytes[FIRST_JOB - 1], figures.rss_bytes[-1]
    jobs = len(figures.rss_bytes)
    value = f"{share:+.1%} from job {FIRST_JOB} to {jobs} ({first / 1e6:.0f} MB, {last / 1e6:.0f} MB)"
    return Finding("growth", what, target, value, share < GROWTH_MAX)


def growth(figures: Growth) -> float:
    """As a share of the memory after job FIRST_JOB."""
    return figures.rss_bytes[-1] / figures.rss_bytes[FIRST_JOB - 1] - 1


def _shown(spread: Spread) -> str:
    if spread.runs == 1:
        return f"{spread.median:.2f} s"
    return f"{spread.median:.2f} s ({spread.low:.2f} - {spread.high:.2f})"
