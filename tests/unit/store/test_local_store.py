"""What LocalStore promises beyond the suite: its root, atomic puts, and links that it does not follow."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from poorwill.errors import NotFound, StoreRefused
from poorwill.file_lock import FileLock
from poorwill.store.directory_tree import ABANDONED_S, DirectoryTree
from poorwill.store.local import LocalStore


def test_a_missing_root_is_empty_and_made_by_the_first_write(tmp_path: Path) -> None:
    """Reading a store that is not there yet leaves no trace; writing makes it."""
    store = LocalStore(tmp_path / "new")
    assert list(store.list("")) == [] and list(store.list_uploads("")) == []
    with pytest.raises(NotFound):
        store.get("a")
    store.delete("a")
    assert not (tmp_path / "new").exists()
    store.put("a", b"x")
    assert (tmp_path / "new" / "a").read_bytes() == b"x"


def test_an_unusable_root_is_refused(tmp_path: Path) -> None:
    """A file, a missing parent, and a parent that vanished later are refused in one line that names them."""
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "no" / "such", tmp_path / "file" / "below"):
        with pytest.raises(StoreRefused, match=str(tmp_path)) as caught:
            LocalStore(root)
        assert "\n" not in str(caught.value)
    (tmp_path / "parent").mkdir()
    store = LocalStore(tmp_path / "parent" / "root")
    (tmp_path / "parent").rmdir()
    with pytest.raises(StoreRefused, match="parent"):
        store.put("a", b"x")
    assert not (tmp_path / "parent").exists()


def test_an_error_of_the_disk_is_one_line(tmp_path: Path) -> None:
    """It names the store, the key and the reason."""
    (tmp_path / "root").mkdir()
    store = LocalStore(tmp_path / "root")
    os.mkfifo(tmp_path / "root" / "fifo")
    os.symlink("fifo", tmp_path / "root" / "link")
    with pytest.raises(NotFound, match="fifo"):
        store.get("fifo")
    with pytest.raises(StoreRefused, match=r"root: cannot read link: .*check") as caught:
        store.get("link")
    assert "\n" not in str(caught.value)


def test_symbolic_links_in_the_store_are_not_followed(tmp_path: Path) -> None:
    """A link planted in the store is neither read, written through, nor listed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    (root / "parts").symlink_to(outside)
    (root / "one").symlink_to(outside / "secret")
    store = LocalStore(root)
    for call in (
        lambda: store.get("parts/secret"),
        lambda: store.put("parts/new", b"x"),
        lambda: store.delete("parts/secret"),
        lambda: store.grant_read("parts/secret", expires_s=1),
        lambda: list(store.list("parts/")),
        lambda: store.get("one"),
    ):
        with pytest.raises(StoreRefused):
            call()
    assert list(store.list("")) == []
    store.put("one", b"replaced")
    assert (outside / "secret").read_text() == "secret"
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    """A user may keep the store elsewhere; only what is inside is not followed."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    LocalStore(tmp_path / "link").put("a/b", b"x")
    assert (tmp_path / "real/a/b").read_bytes() == b"x"


def test_put_new_has_one_winner(tmp_path: Path) -> None:
    """Many threads and stores put the same new key at once: exactly one gets True."""
    stores = [LocalStore(tmp_path) for _ in range(8)]
    barrier = threading.Barrier(8)
    for number in range(20):

        def race(index: int, key: str = f"slot/{number}") -> bool:
            barrier.wait(timeout=30)
            return stores[index].put_new(key, bytes([index]))

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(race, range(8)))
        assert won.count(True) == 1
        assert stores[0].get(f"slot/{number}") == bytes([won.index(True)])


def test_only_objects_are_left(tmp_path: Path) -> None:
    """After puts, a lost put_new, a completed and an aborted upload only objects are left."""
    store = LocalStore(tmp_path)
    store.put("a/b", b"1")
    assert store.put_new("a/b", b"2") is False
    upload_id = store.create_upload("deep/er/key")
    store.complete_upload("deep/er/key", upload_id, [], 0)
    store.abort_upload("gone/key", store.create_upload("gone/key"))
    store.delete("a/b")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / "deep/er/key"]
    assert not (tmp_path / "a").exists()
    assert list((tmp_path / ".uploads/multipart").iterdir()) == []


def test_leftovers_of_killed_puts_without_locks(tmp_path: Path) -> None:
    """Where there are none, temporary files that are a day old are removed; a younger one may be in use."""

    def no_locks(path: str, *, create: bool) -> FileLock | None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    puts = tmp_path / "puts"
    puts.mkdir()
    (puts / "old").write_bytes(b"half")
    (puts / "young").write_bytes(b"half")
    then = os.stat(puts / "young").st_mtime - ABANDONED_S - 60
    os.utime(puts / "old", (then, then))
    DirectoryTree(tmp_path).sweep(str(puts), no_locks)
    assert [path.name for path in puts.iterdir()] == ["young"]


def test_files_that_are_not_objects_are_not_listed(tmp_path: Path) -> None:
    """Names that cannot be keys, and files under .uploads, are left out."""
    store = LocalStore(tmp_path)
    store.put("good", b"x")
    store.create_upload("good/upload")
    (tmp_path / "line\nbreak").write_text("")
    with open(os.fsencode(tmp_path) + b"/\xff\xfe", "wb"):
        pass
    assert [info.key for info in store.list("")] == ["good"]


def test_a_key_cannot_be_a_folder_of_another(tmp_path: Path) -> None:
    """A filesystem cannot hold both: the error says so, and the object stays."""
    store = LocalStore(tmp_path)
    store.put("a/b", b"x")
    for key in ("a", "a/b/c"):
        with pytest.raises(StoreRefused, match="folder"):
            store.put(key, b"y")
    assert [info.key for info in store.list("")] == ["a/b"]
