"""What is a likely successor of a snapshot, and what is kept because nothing that came later is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.snapshot import shrinkage
from poorwill.snapshot.shrinkage import AFTERWARDS, ELSEWHERE, SHRANK, Extent

FULL = Extent("full", "/w", 50, 1000)
extents = st.builds(
    Extent,
    snapshot_id=st.just(""),
    directory=st.sampled_from(["/w", "/v"]),
    files=st.integers(0, 6),
    data_bytes=st.integers(0, 6),
    meant=st.sampled_from([False, False, False, True]),
)
histories = st.lists(extents, min_size=1, max_size=12).map(
    lambda found: [extent._replace(snapshot_id=str(number)) for number, extent in enumerate(found)]
)


@pytest.mark.parametrize(
    ("files", "data_bytes", "says"),
    [
        (50, 1000, []),
        (25, 500, []),
        (500, 10_000, []),
        (24, 1000, ["of 50 files in snapshot full 24 are left"]),
        (50, 499, ["of 1000 bytes in snapshot full 499 are left"]),
        (0, 0, ["of 50 files in snapshot full 0 are left", "of 1000 bytes in snapshot full 0 are left"]),
    ],
)
def test_more_than_half_is_what_counts(files: int, data_bytes: int, says: list[str]) -> None:
    """Half is enough, of files and of bytes; what is missing is said."""
    now = Extent("now", "/w", files, data_bytes)
    assert shrinkage.lost(now, FULL) == says and shrinkage.is_successor(now, FULL) == (not says)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("/workspace", ""), ("/workspace/", "i-2")),
        (("//a/./b", ""), ("/a/c/../b/", "")),
        (("/srv/local-1/workspace", "local-1"), ("/srv/local-2/workspace", "local-2")),
        (("/local-1/local-1/w", "local-1"), ("/w", "")),
    ],
)
def test_the_same_directory(one: tuple[str, str], other: tuple[str, str]) -> None:
    """However it is spelled; on a machine that is a directory of its host, whichever that is by now."""
    assert shrinkage.directory_of(*one) == shrinkage.directory_of(*other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("/a", ""), ("/b", "")),
        (("/a", ""), ("/A", "")),
        (("/x/i-1", "i-1"), ("/y/i-1", "i-1")),
        (("/a/b", ""), ("/b", "a")),
    ],
)
def test_another_directory(one: tuple[str, str], other: tuple[str, str]) -> None:
    """A last name that is the instance's is a directory of that name."""
    assert shrinkage.directory_of(*one) != shrinkage.directory_of(*other)


def kept(*extents: tuple[str, int] | tuple[str, int, bool]) -> dict[str, str]:
    """Of snapshots 0, 1, .. in that order, each a directory, how much it holds, and whether it was meant."""
    return shrinkage.kept_for_a_fall(
        [Extent(str(number), each[0], each[1], each[1], each[2:] == (True,)) for number, each in enumerate(extents)]
    )


def test_the_last_before_a_fall_is_kept() -> None:
    """And the first behind it, the evidence; also when what falls is nothing, or all came back."""
    assert kept(("/w", 9), ("/w", 9), ("/w", 0)) == {"1": SHRANK, "2": AFTERWARDS}
    assert kept(("/w", 9), ("/w", 4), ("/w", 4), ("/w", 0)) == {"0": SHRANK, "1": AFTERWARDS}
    assert kept(("/w", 9), ("/w", 4), ("/w", 9), ("/w", 9)) == {"0": SHRANK, "1": AFTERWARDS}
    assert kept(("/w", 9), ("/w", 5), ("/w", 3)) == {}
    assert kept(("/w", 0), ("/w", 0)) == {}


def test_the_last_of_another_directory_is_kept() -> None:
    """One for each directory, not one for each time that they alternate."""
    assert kept(("/w", 9), ("/w", 9), ("/v", 9)) == {"1": ELSEWHERE}
    assert kept(("/w", 9), ("/v", 9), ("/w", 9), ("/v", 9), ("/w", 9)) == {"3": ELSEWHERE}
    assert kept(("/w", 9), ("/v", 0)) == {"0": ELSEWHERE}


def test_it_is_kept_until_somebody_says_so() -> None:
    """A snapshot that was meant to be smaller releases all before it; what falls after that is a new matter."""
    assert kept(("/w", 9), ("/w", 0, True)) == {}
    assert kept(("/v", 9), ("/w", 9), ("/w", 1), ("/w", 1, True), ("/w", 1)) == {}
    assert kept(("/w", 9), ("/w", 4, True), ("/w", 1)) == {"1": SHRANK, "2": AFTERWARDS}


@given(histories)
def test_something_as_large_is_always_kept(history: list[Extent]) -> None:
    """For each snapshot that nobody called meant: it, or a later one of its directory that is a chain of likely
    successors of it, is kept, if the newest and what is kept for a fall are all that is."""
    found = {**shrinkage.kept_for_a_fall(history), history[-1].snapshot_id: "newest"}
    for at, extent in enumerate(history):
        if extent.is_nothing or any(later.meant for later in history[at:]):
            continue
        chain = extent
        reached = [extent]
        for later in history[at + 1 :]:
            if later.directory == chain.directory and shrinkage.is_successor(later, chain):
                chain = later
                reached.append(later)
        of_directory = [each for each in history[:at] if each.directory == extent.directory]
        if not of_directory:  # the first one: nothing that it could itself have fallen from
            assert any(each.snapshot_id in found for each in reached)


@given(histories, st.randoms(use_true_random=False))
def test_what_is_kept_stays_kept_when_others_go(history: list[Extent], random: object) -> None:
    """Retention may remove anything else: the same is kept for the same reason afterwards."""
    found = shrinkage.kept_for_a_fall(history)
    needed = {*found, history[-1].snapshot_id}
    others = [each for each in history if each.snapshot_id not in needed and not each.meant]
    gone = {each.snapshot_id for each in others if random.random() < 0.5}  # type: ignore[attr-defined]
    again = shrinkage.kept_for_a_fall([each for each in history if each.snapshot_id not in gone])
    assert found.keys() <= again.keys()
