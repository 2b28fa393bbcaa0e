"""Snapshot ids, machine names and the keys made of them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.errors import UsageError
from poorwill.snapshot import ids, keys
from poorwill.store.object_key import key_fault

ID = "20260102T030405Z-0badcafe"
MACHINES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True).filter(ids.is_machine_name)


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1)), st.integers(-12, 12))
def test_new_ids_are_valid_and_sort_by_time(moment: datetime, zone_h: int) -> None:
    """In UTC whatever the clock's zone is; a second later sorts later."""
    now = moment.replace(tzinfo=timezone(timedelta(hours=zone_h)))
    first, second = ids.new_snapshot_id(now), ids.new_snapshot_id(now + timedelta(seconds=1))
    assert ids.checked_snapshot_id(first) == first and len(first) == 25
    assert first < second
    assert first.startswith(f"{now.astimezone(timezone.utc):%Y%m%dT%H%M%SZ}")


@pytest.mark.parametrize(
    "text",
    ["", ID[:-1], ID + "0", ID + "\n", ID.upper(), "\u0662" + ID[1:], "../" + ID, ID.replace("b", "g")],
)
def test_what_is_no_snapshot_id(text: str) -> None:
    """Also digits of other scripts, and a line break at the end."""
    assert not ids.is_snapshot_id(text)
    with pytest.raises(UsageError):
        ids.checked_snapshot_id(text)


@pytest.mark.parametrize("text", ["", ".", "..", "a..b", "-a", "_a", ".a", "a/b", "a b", "ä", "a\n", "x" * 64, "a\0"])
def test_what_is_no_machine_name(text: str) -> None:
    """Nothing that could leave its place in a key."""
    assert not ids.is_machine_name(text)
    with pytest.raises(UsageError):
        ids.checked_machine_name(text)


@given(st.text(max_size=80))
def test_every_host_gives_a_machine_name(host: str) -> None:
    """Also one with an odd name, or none."""
    assert ids.is_machine_name(ids.machine_name_from(host))


@given(MACHINES, st.integers(0, 63))
def test_keys_tell_whose_they_are(machine: str, number: int) -> None:
    """Every key is one that stores take, and leads back to machine and snapshot."""
    made = [f(machine, ID) for f in (keys.pending, keys.manifest, keys.metadata, keys.verified, keys.trash)] + [
        keys.part(machine, ID, number)
    ]
    assert all(keys.owner_of(key) == (machine, ID) and key_fault(key) is None for key in made)
    assert [keys.is_part(key) for key in made] == [False] * 5 + [True]
    assert made[-1].startswith(keys.parts_of(machine, ID))


@pytest.mark.parametrize(
    "key",
    ["", "parts", "parts/m", f"parts/../{ID}/00", f"parts/m/{ID[1:]}/00", "snapshots/README", f"snapshots//{ID}.json"],
)
def test_keys_of_nobody(key: str) -> None:
    """Somebody else's objects have no owner, and are no parts."""
    assert keys.owner_of(key) is None and not keys.is_part(key)


@pytest.mark.parametrize("number", ["0", "000", "64x", "\u0661\u0662", "-1", "00/x", ""])
def test_numbers_of_no_part(number: str) -> None:
    """A part's number is two ASCII digits."""
    assert not keys.is_part(f"parts/m/{ID}/{number}")
