"""Which links are told to lead out of a workspace: by their targets, and none is followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poorwill.snapshot.surroundings import LINKS_MAX, LinksOut, Mount, Root, Surroundings
from poorwill.store.local import LocalStore
from tests.support.runs import take


def led(store: LocalStore, workspace: Path) -> LinksOut:
    found = take(store, workspace).metadata.surroundings
    assert found is not None
    return found.links_out


@pytest.mark.parametrize(
    ("target", "out"),
    [
        ("b", False), ("../a/../a/b", False), ("..", False), ("gone", False), ("{root}/a/b", False), ("{root}", False),
        ("{link}/a/b", False), ("../..", True), ("../../w-other", True), ("/etc/hostname", True), ("/", True),
        ("a/../../../x", True),
    ],
)  # fmt: skip
def test_one_link(local_store: LocalStore, tmp_path: Path, target: str, out: bool) -> None:
    """Into the workspace by its path or by that of a link to it, with dots, or dangling; and out of it."""
    (tmp_path / "w" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("w")
    target = target.format(root=tmp_path / "w", link=tmp_path / "link")
    (tmp_path / "w" / "a" / "l").symlink_to(target)
    assert led(local_store, tmp_path / "link") == (LinksOut(1, (f"a/l -> {target}",)) if out else LinksOut(0, ()))


def test_many_links_are_counted_and_some_are_shown(local_store: LocalStore, tmp_path: Path) -> None:
    """Also one whose name is no text."""
    (tmp_path / "w").mkdir()
    os.symlink(b"/\xff\x1b[2J", os.fsencode(tmp_path / "w") + b"/0\n")
    for number in range(LINKS_MAX + 5):
        (tmp_path / "w" / f"l{number:02}").symlink_to("/etc")
    found = led(local_store, tmp_path / "w")
    assert found.total == LINKS_MAX + 6 and len(found.shown) == LINKS_MAX
    (line,) = Surroundings(Root(1, 1, ()), found).not_kept()
    assert "0\\x0a -> /\\udcff\\x1b[2J, l00 -> /etc" in line and line.endswith(" and 6 more")


def test_what_is_told_of_mounts() -> None:
    """Those inside are kept in another way, those outside are not."""
    told = Surroundings(Root(1, 1, (Mount("data", 2, "/", "xfs"),)), LinksOut(0, ()), None, ("/mnt/big (ext4)",))
    assert told.not_kept() == [
        "mounted inside the workspace; kept, and restored as files of one directory: data (xfs)",
        "mounted outside of the workspace, and not kept: /mnt/big (ext4)",
    ]
    assert Surroundings(Root(1, 1, ())).not_kept() == []
