"""Durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.errors import UsageError
from poorwill.snapshot import durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("48h", 172_800), ("30m", 1800), ("2d", 172_800), ("1d12h", 129_600), ("1w", 604_800), ("0s", 0), (" 5m ", 300)],
)
def test_what_people_write(text: str, seconds: int) -> None:
    """Examples of the documentation."""
    assert durations.seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "2", "h", "2 h", "-1h", "1.5h", "2h1d", "1h1h", "2H", "2h!", "11y", "999999999w", "१h", "9" * 99 + "s"]
)
def test_anything_else_is_refused(text: str) -> None:
    """With an example of what is right; never a number that was guessed."""
    with pytest.raises(UsageError, match=r"for example|ten years"):
        durations.seconds_of(text)


@given(st.integers(0, durations.SECONDS_MAX))
def test_what_is_written_is_read_back(seconds: int) -> None:
    """as_text and seconds_of are inverse, for every length."""
    assert durations.seconds_of(durations.as_text(seconds)) == seconds


@given(st.text(alphabet="0123456789wdhms .-", max_size=20))
def test_reading_ends_in_a_bounded_number_or_an_error(text: str) -> None:
    """Whatever is typed: a length within the bound, or a UsageError."""
    try:
        assert 0 <= durations.seconds_of(text) <= durations.SECONDS_MAX
    except UsageError:
        pass


def test_rough_lengths() -> None:
    """Two units are enough for a table."""
    assert durations.rough(3 * 86_400 + 4 * 3600 + 720) == "3d4h"
    assert durations.rough(-5) == "0s" and durations.rough(59.9) == "59s"
