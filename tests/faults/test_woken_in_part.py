"""A workspace that was woken in part (`include`) keeps its machine, until all of a snapshot was woken there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from poorwill.control.machine.destruction import check_destroyable
from poorwill.errors import Refused
from poorwill.snapshot.surroundings import Surroundings
from poorwill.store.local import LocalStore
from tests.support.runs import MACHINE, Taken, restore, take, verify
from tests.support.workspaces import aged, noise

PART = ("src/**",)
INSISTING = r'allow_shrink=True \(in the API "allow_shrink": true, on the command line --allow-shrink\)'


@pytest.fixture
def full(local_store: LocalStore, tmp_path: Path) -> Taken:
    """Most of it is in `src`: a part may hold more than half of the whole."""
    workspace = tmp_path / "w"
    for number in range(9):
        path = workspace / ("src" if number else "notes") / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise(2000, number))
    return take(local_store, aged(workspace))


def gate(store: LocalStore, workspace: Path) -> None:
    made = take(store, workspace, machine="woken")
    verify(store, made.id)
    check_destroyable(store, "woken", made.id, "i-1")


def test_the_gate_stays_shut(local_store: LocalStore, full: Taken, tmp_path: Path) -> None:
    """However much the part holds. Insisting helps."""
    restore(local_store, full.id, tmp_path / "r", include=PART)
    with pytest.raises(Refused, match=rf"woken only in part \(include\) from snapshot {full.id}, .* bill.*{INSISTING}"):
        gate(local_store, tmp_path / "r")
    made = take(local_store, tmp_path / "r", machine="woken", allow_shrink=True)
    verify(local_store, made.id)
    check_destroyable(local_store, "woken", made.id, "i-1")


def test_until_a_whole_wake_followed(local_store: LocalStore, full: Taken, tmp_path: Path) -> None:
    """A second part, of another folder, is none; the whole is."""
    restore(local_store, full.id, tmp_path / "r", include=PART)
    restore(local_store, full.id, tmp_path / "r", include=("notes",), overwrite=True)
    with pytest.raises(Refused, match="woken only in part"):
        gate(local_store, tmp_path / "r")
    restore(local_store, full.id, tmp_path / "r", overwrite=True)
    gate(local_store, tmp_path / "r")


def test_a_pattern_that_names_everything_is_no_part(local_store: LocalStore, full: Taken, tmp_path: Path) -> None:
    """It is whole by what was restored, not by what was asked for."""
    restore(local_store, full.id, tmp_path / "r", include=("*",))
    gate(local_store, tmp_path / "r")


@pytest.mark.parametrize("move", [shutil.move, shutil.copytree], ids=["moved", "as it was, and copied"])
def test_the_mark_survives(
    local_store: LocalStore, full: Taken, tmp_path: Path, move: Callable[[Path, Path], object]
) -> None:
    """Another name of the directory, wakes elsewhere, and another directory of that name."""
    restore(local_store, full.id, tmp_path / "r", include=PART)
    move(tmp_path / "r", tmp_path / "other")
    for number in range(20):
        restore(local_store, full.id, tmp_path / f"elsewhere{number}")
    moved = not (tmp_path / "r").exists()
    with pytest.raises(Refused, match="woken only in part"):
        gate(local_store, tmp_path / ("other" if moved else "r"))


def test_another_directory_of_that_name_has_no_mark(local_store: LocalStore, full: Taken, tmp_path: Path) -> None:
    """Once the whole was woken there; the one that was moved away keeps its own."""
    restore(local_store, full.id, tmp_path / "r", include=PART)
    (tmp_path / "r").rename(tmp_path / "moved")
    restore(local_store, full.id, tmp_path / "r")
    gate(local_store, tmp_path / "r")


def test_where_it_cannot_be_noted_the_user_is_told(
    local_store: LocalStore, full: Taken, tmp_path: Path, state_dir: Path
) -> None:
    """The restore is done all the same."""
    shutil.rmtree(state_dir)
    state_dir.write_text("")  # a file where the directory would be
    result = restore(local_store, full.id, tmp_path / "r", include=PART).result
    assert any("holds only a part could not be noted" in warning for warning in result["warnings"])


def test_what_a_snapshot_says_of_the_wake_before_it(local_store: LocalStore, full: Taken, tmp_path: Path) -> None:
    """Machine, snapshot and whether it was all of it."""

    def woken(**fields: object) -> tuple[object, ...] | None:
        restore(local_store, full.id, tmp_path / "r", overwrite=True, **fields)
        found = take(local_store, tmp_path / "r", machine="woken").metadata.surroundings
        assert isinstance(found, Surroundings)
        return found.woken

    assert woken() == (MACHINE, full.id, False)
    assert woken(include=PART) == (MACHINE, full.id, True)
