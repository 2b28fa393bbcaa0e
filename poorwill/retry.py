"""Trying again: one schedule of pauses, and one loop, for whatever may fail for a while; and looking again.

Pauses double. By chance each is shortened by up to half, so that clients that failed together do not all come back
together.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from poorwill.errors import TransientError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backoff:
    """The first pause, the longest one, and how many attempts there are. `jitter` shortens each pause by up to half."""

    first_s: float
    max_s: float = math.inf
    attempts_max: float = math.inf
    jitter: bool = True

    def pauses(
        self,
        total_s: float = math.inf,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> Pauses:
        """The pauses of one call, which begins now: none ends later than `total_s` from now, by the seconds of `clock`.
        `uniform` gives a number from 0 to 1."""
        return Pauses(self, clock() + total_s, clock, uniform)

    def seconds(self) -> Iterator[float]:
        """The pauses alone, for a loop with bounds of its own."""
        return iter(self.pauses().next_s, None)


class Pauses:
    """The pauses between the attempts of one call, for a loop of one's own; `retry` is the usual loop. `attempts` is
    how many there were so far, with the one after the last pause."""

    def __init__(
        self, backoff: Backoff, ends_s: float, clock: Callable[[], float], uniform: Callable[[], float]
    ) -> None:
        self._backoff, self._ends_s, self._clock, self._uniform = backoff, ends_s, clock, uniform
        self._ceiling_s = min(backoff.first_s, backoff.max_s)
        self.attempts = 1

    def next_s(self, least_s: float = 0.0) -> float | None:
        """The pause before the next attempt, at least `least_s`; None if the attempt that failed was the last one, or
        if the pause would end after the call's time."""
        share = 0.5 + self._uniform() / 2 if self._backoff.jitter else 1.0
        pause_s = max(self._ceiling_s * share, least_s)
        if self.attempts >= self._backoff.attempts_max or self._clock() + pause_s > self._ends_s:
            return None
        self.attempts += 1
        self._ceiling_s = min(2 * self._ceiling_s, self._backoff.max_s)
        return pause_s


def retry(
    attempt: Callable[[], T],
    pauses: Pauses,
    *,
    when: Callable[[TransientError], bool] = lambda error: True,
    least_s: Callable[[TransientError], float] = lambda error: 0.0,
    on_pause: Callable[[TransientError, float], None] = lambda error, pause_s: None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """What `attempt()` returns, called again after a TransientError as long as there are `pauses`.

    Raises the last error. Every other error passes at once, and so does one of which `when` says no. `least_s` is how
    long a server asked to wait; `on_pause` is told the error and the pause that follows. An attempt that is under way
    is never interrupted.
    """
    while True:
        try:
            return attempt()
        except TransientError as error:
            pause_s = pauses.next_s(least_s(error)) if when(error) else None
            if pause_s is None:
                raise
            on_pause(error, pause_s)
        sleep(pause_s)


def polls(
    interval_s: float,
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[float]:
    """The seconds that are left, each time to look at something that takes a while: now, every `interval_s`, and once
    when `timeout_s` is over."""
    ends_s = clock() + timeout_s
    while (left_s := ends_s - clock()) > 0:
        yield left_s
        sleep(max(0.0, min(interval_s, ends_s - clock())))
    yield 0.0


def retry_after_s(header: str, now_s: float) -> float:
    """The seconds from `now_s` (POSIX) that a header Retry-After asks for, as a number or a date (RFC 9110, 10.2.3),
    below 0 for a date that has passed; 0 for anything else."""
    if header.isdecimal() and header.isascii():
        return float(header)
    from email.utils import parsedate_to_datetime  # some ms, which every start of the program would pay

    try:
        return float(parsedate_to_datetime(header).timestamp()) - now_s
    except (ValueError, TypeError, OverflowError, OSError):
        return 0.0


def is_transient_status(status: int) -> bool:
    """Whether a server that answers with this HTTP status may answer otherwise later."""
    return status in (408, 425, 429) or (status >= 500 and status != 501)
