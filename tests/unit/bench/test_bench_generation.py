"""The verdicts on generation follow from its figures, and a row without figures has none."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from bench.__main__ import GENERATION_ROWS, ROWS
from bench.generation import targets as generation_targets
from bench.generation.figures import Durable, Generation, Growth, Inference, Start, Starts
from bench.page import Finding
from bench.report import Report
from bench.targets import findings


def report(**figures: object) -> Report:
    made = Report("2026-01-01", "made up", 1, {}, {"poorwill": "1"})
    made.generation = Generation(**figures)  # type: ignore[arg-type]
    return made


def found(row: str, **figures: object) -> list[Finding]:
    return findings(report(**figures), [], [], {row}, ROWS)


def durable(**other: object) -> Durable:
    figures: dict[str, object] = {
        "jobs": 50, "slots": 2, "ended": {"COMPLETED": 50}, "whole": 50, "begun_anew": 4, "stuck": 0,
        "looked_after_s": 31.4, "wall_s": 130.4,
    }  # fmt: skip
    return Durable(**(figures | other))  # type: ignore[arg-type]


def test_every_row_of_generation_has_its_figures_and_its_targets() -> None:
    """Rows are named as the figures are; what was not measured is said to be so, whatever the reason."""
    assert set(GENERATION_ROWS) == {field.name for field in fields(Generation)}
    said = list(generation_targets.findings(report()))
    assert {finding.row for finding in said} == set(GENERATION_ROWS)
    assert all(finding.met is None and finding.value == "not measured" for finding in said)
    failed = report()
    failed.failures["warm, poorwill"] = "the worker did not start"
    assert {finding.value for finding in generation_targets.findings(failed)} == {"poorwill: failed, see below"}


def test_polling_does_not_count_towards_a_warm_start() -> None:
    """Medians of began - polling: 0.9 s here, although each run waited for more than a second in all."""
    resident = tuple(Start(began_s, polling_s) for began_s, polling_s in ((1.1, 0.6), (1.8, 0.9), (3.0, 0.2)))
    first, beside = found("warm", warm=Starts(resident, (Start(12.0, 1.0), Start(9.0, 0.0))))
    assert first.met is True and first.value == "0.90 s (0.50 - 2.80), 3 jobs; polling 0.60 s (0.20 - 0.90)"
    assert beside.met is True and beside.value.startswith("11.1 times (10.00 s, 2 jobs / 0.90 s)")


@pytest.mark.parametrize(("own_s", "process_s", "met"), [(1.0, 8.0, [True, True]), (1.01, 8.0, [False, False])])
def test_a_warm_start_is_held_to_a_second_and_an_eighth(own_s: float, process_s: float, met: list[bool]) -> None:
    """At the limits it is met, a hundredth beyond it is not."""
    starts = Starts((Start(own_s + 0.5, 0.5),), (Start(process_s, 0.0),))
    assert [finding.met for finding in found("warm", warm=starts)] == met


@pytest.mark.parametrize(("flow_s", "met"), [(4.12, True), (4.13, False)])
def test_inference_in_the_flow_may_take_three_hundredths_more(flow_s: float, met: bool) -> None:
    """Median beside median: one slow pair changes nothing."""
    (only,) = found("inference", inference=Inference((flow_s, flow_s, 40.0), (4.0, 4.0, 1.0)))
    assert only.met is met


@pytest.mark.parametrize(
    ("other", "met"),
    [
        ({}, [True, True]),
        ({"whole": 49}, [False, True]),
        ({"whole": 49, "ended": {"COMPLETED": 49, "RUNNING": 1}, "stuck": 1}, [False, False]),
        ({"whole": 49, "ended": {"COMPLETED": 49, "CRASHED": 1}}, [False, True]),
    ],
    ids=["all", "a video is missing", "a run hangs", "a run was lost"],
)
def test_a_queue_has_survived_only_if_all_of_it_has(other: dict[str, object], met: list[bool]) -> None:
    """Every run completed, and each with a whole video; and none was held for minutes."""
    assert [finding.met for finding in found("durable", durable=durable(**other))] == met


@pytest.mark.parametrize(
    ("other", "met"), [({"begun_anew": 0}, True), ({"begun_anew": 1}, False), ({"begun_anew": 0, "whole": 49}, False)]
)
def test_a_server_that_is_killed_makes_nothing_twice(other: dict[str, object], met: bool) -> None:
    """Every run has its video at its first attempt: no worker was killed."""
    assert [finding.met for finding in found("restarts", restarts=durable(**other))] == [met]


def test_runs_that_did_not_complete_are_told_by_their_states() -> None:
    """Beside what was done and what was begun anew."""
    lost = durable(whole=48, ended={"COMPLETED": 48, "FAILED": 1, "CRASHED": 1})
    assert found("durable", durable=lost)[0].value == "48 in 130 s, 2 slots; 4 begun anew; 1 CRASHED; 1 FAILED"


@pytest.mark.parametrize(("last", "met"), [(104, True), (105, False), (90, True)])
def test_growth_is_counted_from_the_second_job(last: int, met: bool) -> None:
    """What the first job allocates is not growth; 5% more than after the second is too much."""
    (only,) = found("growth", growth=Growth((20, 100, 300, last)))
    assert only.met is met and "from job 2 to 4" in only.value


def test_the_report_keeps_the_raw_figures() -> None:
    """Every run of a row is in the JSON, not its median alone."""
    made = report(inference=Inference((4.0, 4.1), (3.9, 4.0)), growth=Growth((1, 2)))
    kept = json.loads(made.as_json())["generation"]
    assert kept["inference"] == {"flow_s": [4.0, 4.1], "bare_s": [3.9, 4.0]} and kept["growth"] == {"rss_bytes": [1, 2]}
    assert kept["warm"] is None
