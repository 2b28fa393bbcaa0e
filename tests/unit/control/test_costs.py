"""What sleeping saves, by the arithmetic of the documentation."""

from __future__ import annotations

import math

import pytest

from poorwill.control.machine.costs import Cost, shown, summed


def test_a_day_asleep_against_one_awake() -> None:
    """$2.50 an hour against 200 GB at $0.023 a GB-month: $60 a day against $4.60 a month."""
    cost = Cost(2.5, 200 * 10**9, 0.023)
    assert cost.per_day_awake == 60.0 and cost.per_month_stored == pytest.approx(4.6)
    assert cost.to_result()["saved_per_day"] == pytest.approx(60 - 4.6 / 30.4, abs=1e-4)
    assert "asleep it saves $59.85 a day" in cost.sentence(asleep=True)
    assert "it would save $59.85" in cost.sentence(asleep=False)


def test_a_machine_without_a_price() -> None:
    """Its sentence names no amount that is saved."""
    said = Cost(0.0, 10**9, 0.0).sentence(asleep=True)
    assert "saves no money" in said and "0.00 a day" not in said


def test_a_bucket_that_costs_more() -> None:
    """The saving is below 0, and shown."""
    assert Cost(0.001, 10**12, 1.0).saved_per_day < 0


def test_an_unknown_price_is_not_zero() -> None:
    """A sum leaves it out, and a table says that it is unknown."""
    assert summed([1.5, math.nan, 2.0]) == 3.5
    assert (shown(math.nan, 2), shown(1.23456, 2)) == ("unknown", 1.23)
