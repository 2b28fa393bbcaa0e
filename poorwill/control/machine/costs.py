"""What a machine costs awake, what its snapshot costs asleep, and the difference. US dollars."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan
from typing import Any

DAYS_PER_MONTH = 30.4


def summed(prices: Iterable[float]) -> float:
    """The sum of the known prices; an unknown one is NaN."""
    return sum(price for price in prices if not isnan(price))


def shown(price: float, digits: int) -> float | str:
    """A price for a table."""
    return "unknown" if isnan(price) else round(price, digits)


def per_month(stored_bytes: int, price_per_gb_month: float) -> float:
    """What it costs to store so many bytes. GB are 10^9 bytes."""
    return stored_bytes / 1e9 * price_per_gb_month


@dataclass(frozen=True, slots=True)
class Cost:
    """`stored_bytes` is what the snapshot uses in the store, including parts that it shares with earlier ones.

    GB are 10^9 bytes, as S3 bills them to within 7%. Requests and traffic are not counted.
    """

    price_per_hour: float  # of the machine
    stored_bytes: int
    price_per_gb_month: float  # of the store

    @property
    def per_day_awake(self) -> float:
        return self.price_per_hour * 24

    @property
    def stored_gb(self) -> float:
        return self.stored_bytes / 1e9

    @property
    def per_month_stored(self) -> float:
        return per_month(self.stored_bytes, self.price_per_gb_month)

    @property
    def saved_per_day(self) -> float:
        """By a day asleep instead of awake; below 0 if storing costs more than the machine."""
        return self.per_day_awake - self.per_month_stored / DAYS_PER_MONTH

    def to_result(self) -> dict[str, Any]:
        """For a flow's result, as JSON; rounded to a hundredth of a cent."""
        return {
            "price_per_hour": self.price_per_hour,
            "per_day_awake": round(self.per_day_awake, 4),
            "stored_gb": round(self.stored_gb, 3),
            "per_month_stored": round(self.per_month_stored, 4),
            "saved_per_day": round(self.saved_per_day, 4),
        }

    def sentence(self, asleep: bool) -> str:
        """For people. Without a price of the machine it does not name an amount."""
        stored = f"the snapshot takes {self.stored_gb:,.2f} GB, ${self.per_month_stored:,.2f} a month"
        if self.price_per_hour <= 0:
            return f"Cost: this machine has no price per hour, so sleeping saves no money; {stored}."
        awake = f"awake the machine costs ${self.price_per_hour:,.3f} an hour, ${self.per_day_awake:,.2f} a day"
        verb = "asleep it saves" if asleep else "asleep it would save"
        return f"Cost: {awake}; {stored}; {verb} ${self.saved_per_day:,.2f} a day."
