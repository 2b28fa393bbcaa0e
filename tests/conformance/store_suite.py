"""What every object store must pass: one test for each promise of poorwill/store/base.py.

A test class derives from StoreSuite and gives it a fixture `store` with an empty store.
"""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poorwill.errors import Corrupt, NotFound, Refused, UploadLost, UsageError, WorkspaceError
from poorwill.retry import Backoff
from poorwill.store.base import Grant, ObjectInfo, Piece, Store
from poorwill.store.retrying import RetryingStore

HTTP = urllib3.PoolManager(timeout=urllib3.Timeout(connect=10, read=60), retries=False)
PIECE = bytes(range(256)) * (5 << 12)  # 5 MiB, the least that S3 takes for any piece but the last
LARGE = PIECE * 3 + b"and a tail"  # more than any store writes by one request
GRANT_LIFE_S_MAX = 7 * 24 * 3600
ODD_KEYS = (
    "odd/space and+plus",
    "odd/ä-日本-🐦",
    "odd/a&b=c?d#e",
    "odd/%41%2F",
    "odd/quote'\"`",
    "odd/.hidden",
    "odd/..more",
    "odd/back\\slash",
    "odd/colon:star*~tilde",
    "odd/trailing ",
    "odd/" + "n" * 240,
)
BAD_KEYS = (
    "",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "./a",
    "a\nb",
    "a\0b",
    "\ud800",
    "k" * 801,
    ".uploads/x",
)
_folders = itertools.count()

component = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/"),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", "..", ".uploads"))


def write_piece(grant: Grant, number: int, offset: int, data: bytes) -> Piece:
    """Use a grant as the machine that holds it would; `offset` is where the piece lies in the object."""
    if grant.path is not None:
        fd = os.open(grant.path, os.O_WRONLY)
        try:
            assert os.pwrite(fd, data, offset) == len(data)
        finally:
            os.close(fd)
        return Piece(number, "", len(data))
    answer = HTTP.request("PUT", str(grant.url), body=data)
    assert answer.status == 200, answer.data
    return Piece(number, answer.headers["ETag"], len(data))


def read_range(grant: Grant, start: int, length: int) -> bytes:
    if grant.path is not None:
        with open(grant.path, "rb") as file:
            file.seek(start)
            return file.read(length)
    answer = HTTP.request("GET", str(grant.url), headers={"Range": f"bytes={start}-{start + length - 1}"})
    assert answer.status in (200, 206), answer.data
    assert answer.headers["Content-Range"].startswith(f"bytes {start}-{start + length - 1}/")
    return answer.data


def upload(store: Store, key: str, contents: list[bytes], order: list[int]) -> tuple[str, list[Piece]]:
    """An upload of pieces, written in `order` (indices into `contents`), not yet completed."""
    upload_id = store.create_upload(key)
    pieces = []
    for index in order:
        grant = store.grant_piece(key, upload_id, index + 1, expires_s=300)
        offset = sum(len(content) for content in contents[:index])
        pieces.append(write_piece(grant, index + 1, offset, contents[index]))
    return upload_id, pieces


@contextmanager
def growing(path: Path) -> Iterator[None]:
    """A byte is added to the file again and again; the first one was, when this is entered."""
    first, done = threading.Event(), threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not done.is_set():
                file.write(b"+")
                first.set()

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        assert first.wait(60)
        yield
    finally:
        done.set()
        thread.join(60)


class StoreSuite:
    """Derive from this, name the class Test..., and define a fixture `store`."""

    def test_what_was_put_is_read_back(self, store: Store) -> None:
        """put, get, head, and put again over it."""
        store.put("a/b", b"first")
        assert store.get("a/b") == b"first"
        store.put("a/b", b"the second")
        assert store.get("a/b") == b"the second"
        info = store.head("a/b")
        assert (info.key, info.size) == ("a/b", 10)
        store.put("a/empty", b"")
        assert store.get("a/empty") == b""

    def test_times_come_from_the_store(self, store: Store) -> None:
        """modified_s is a POSIX time, the same in a listing as in a head."""
        store.put("a", b"x")
        # Listings give milliseconds, a HEAD whole seconds.
        assert abs(store.head("a").modified_s - next(iter(store.list(""))).modified_s) <= 1
        assert store.head("a").modified_s > 1_600_000_000

    def test_put_new_writes_once(self, store: Store) -> None:
        """The second put_new says False and changes nothing, but for the same bytes: an answer may have been lost."""
        assert store.put_new("once", b"mine") is True
        for other in (b"theirs", b"mi", b"mine, longer", b""):
            assert store.put_new("once", other) is False
        assert store.put_new("once", b"mine") is True
        assert store.get("once") == b"mine"
        assert list(store.list_uploads("")) == []

    def test_put_new_has_one_winner(self, store: Store) -> None:
        """Several that write a key for the first time at once: the object is one's, who alone is told so."""

        def write(content: bytes, key: str) -> bool:
            for _ in range(50):
                with suppress(UploadLost):  # another one ended it, and may have been ended itself
                    return store.put_new(key, content)
            return False

        for number in range(5):
            contents = [bytes([letter]) * 10 for letter in b"ABC"]
            with ThreadPoolExecutor(len(contents)) as pool:
                won = list(pool.map(write, contents, itertools.repeat(f"race/{number}")))
            assert won.count(True) == 1
            assert store.get(f"race/{number}") == contents[won.index(True)]
        assert list(store.list_uploads("")) == []

    def test_put_fenced_writes_and_replaces(self, store: Store) -> None:
        """Whether or not there was an object; nothing else is left."""
        for content in (b"first", b"the second", b""):
            store.put_fenced("f/k", content, lambda: None)
            assert store.get("f/k") == content
        assert [info.key for info in store.list("")] == ["f/k"]
        assert list(store.list_uploads("")) == []

    @pytest.mark.parametrize("new", [False, True])
    def test_a_check_that_raises_writes_nothing(self, store: Store, new: bool) -> None:
        """It is called once all but the object is there; its error is raised as it is."""
        seen = []

        def check() -> None:
            seen.append([key for key, _ in store.list_uploads("f/")])
            raise Refused("no more")

        store.put("f/before", b"old")
        key = "f/new" if new else "f/before"
        with pytest.raises(Refused, match="no more"):
            store.put_new(key, b"x", check) if new else store.put_fenced(key, b"x", check)
        assert seen == [[key]]
        assert [info.key for info in store.list("")] == ["f/before"] and store.get("f/before") == b"old"
        assert list(store.list_uploads("")) == []

    @pytest.mark.parametrize("new", [False, True])
    def test_what_was_ended_never_appears(self, store: Store, new: bool) -> None:
        """Whoever ends an upload that is all but complete has the last word, also once there is another object."""
        for there in (None, b"later"):
            calls = []

            def end(there: bytes | None = there, calls: list[bool] = calls) -> None:
                calls.append(True)
                if len(calls) > 1:
                    raise Refused("overtaken")  # a store that tries again is told so
                for key, upload_id in store.list_uploads("f/k"):
                    store.abort_upload(key, upload_id)
                if there is not None:
                    store.put("f/k", there)

            with pytest.raises((UploadLost, Refused)):
                if not (store.put_new("f/k", b"early", end) if new else store.put_fenced("f/k", b"early", end)):
                    raise Refused("overtaken")
            assert [store.get(info.key) for info in store.list("")] == ([] if there is None else [there])
            assert list(store.list_uploads("")) == []

    def test_put_new_beside_another(self, store: Store) -> None:
        """One that is overtaken when it has looked, and before it writes, changes nothing and is told so."""
        calls = []

        def overtake() -> None:
            calls.append(True)
            if len(calls) == 1:
                assert store.put_new("f/k", b"early") is True

        with suppress(UploadLost):
            assert store.put_new("f/k", b"late", overtake) is False
        assert store.get("f/k") == b"early"
        assert list(store.list_uploads("")) == []

    @pytest.mark.parametrize("content", [b"", b"small", LARGE], ids=["empty", "small", "large"])
    def test_a_file_is_read_back(self, store: Store, tmp_path: Path, content: bytes) -> None:
        """Of any size, over an older object or not, once or again; no upload is left."""
        path = tmp_path / "file"
        path.write_bytes(content)
        store.put("f/a", b"what was there before")
        for named in (path, str(path)):
            store.put_file("f/a", named)
            assert store.head("f/a").size == len(content)
            assert store.get("f/a", bytes_max=len(LARGE)) == content
        assert path.read_bytes() == content
        assert [info.key for info in store.list("")] == ["f/a"]
        assert list(store.list_uploads("")) == []

    @pytest.mark.parametrize("content", [b"not really a film", LARGE], ids=["small", "large"])
    def test_a_file_keeps_its_content_type(self, store: Store, tmp_path: Path, content: bytes) -> None:
        """The URL of a grant is served with it, so that a browser plays a video; also the default."""
        (tmp_path / "file").write_bytes(content)
        # No suffix that a server could guess from.
        store.put_file("typed", tmp_path / "file", content_type="video/mp4")
        store.put_file("plain", tmp_path / "file")
        for key, content_type in (("typed", "video/mp4"), ("plain", "application/octet-stream")):
            grant = store.grant_read(key, expires_s=300)
            assert read_range(grant, 0, 3) == content[:3]
            if grant.url is not None:
                assert HTTP.request("GET", grant.url).headers["Content-Type"] == content_type

    def test_a_file_that_grows_is_not_stored(self, store: Store, tmp_path: Path) -> None:
        """The error names it; the old object stays, and nothing of the new one is left."""
        path = tmp_path / "grows"
        path.write_bytes(LARGE)
        store.put("f/grown", b"old")
        with growing(path), pytest.raises(WorkspaceError, match=r"grows changed while it was stored") as caught:
            for _ in range(30):
                # One that is read between two of its changes is whole, and rightly stored.
                store.put_file("f/grown", path)
                store.put("f/grown", b"old")
        assert "\n" not in str(caught.value)
        assert store.get("f/grown") == b"old"
        assert [info.key for info in store.list("")] == ["f/grown"]
        assert list(store.list_uploads("")) == []

    def test_only_regular_files_are_stored(self, store: Store, tmp_path: Path) -> None:
        """One line names a missing file, a folder, or a FIFO; the old object stays."""
        store.put("f/kept", b"old")
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "fifo")
        for name in ("missing", "folder", "fifo", "folder/missing"):
            with pytest.raises(WorkspaceError, match=re.escape(str(tmp_path / name))) as caught:
                store.put_file("f/kept", tmp_path / name)
            assert "\n" not in str(caught.value)
        assert store.get("f/kept") == b"old"
        assert list(store.list_uploads("")) == []

    def test_get_has_a_bound(self, store: Store) -> None:
        """An object of bytes_max is returned; one byte more is Corrupt."""
        store.put("bound", b"x" * 1000)
        assert len(store.get("bound", bytes_max=1000)) == 1000
        with pytest.raises(Corrupt, match=r"bound.*999"):
            store.get("bound", bytes_max=999)

    def test_ranges(self, store: Store) -> None:
        """Exactly the bytes asked for, or Corrupt if the object ends before them; never fewer."""
        data = bytes(range(256)) * 16
        store.put("ranged", data)
        for start, length in ((0, 1), (0, 4096), (4095, 1), (1000, 77), (17, 0), (4096, 0)):
            assert store.get_range("ranged", start, length) == data[start : start + length]
        for start, length in ((0, 4097), (4095, 2), (4096, 1), (99999, 1), (4097, 0)):
            with pytest.raises(Corrupt, match="ranged"):
                store.get_range("ranged", start, length)
        for start, length in ((-1, 1), (0, -1)):
            with pytest.raises(UsageError):
                store.get_range("ranged", start, length)

    def test_a_missing_object_is_not_found(self, store: Store) -> None:
        """NotFound names the object, also below and above one that exists, and also for a folder."""
        store.put("there/object", b"x")
        for key in ("missing", "there", "there/object/below", "there/other"):
            for call in (
                store.get,
                store.head,
                lambda k: store.get_range(k, 0, 1),
                lambda k: store.get_range(k, 0, 0),
            ):
                with pytest.raises(NotFound, match=re.escape(key)):
                    call(key)

    def test_delete_is_idempotent(self, store: Store) -> None:
        """Deleting twice succeeds, a neighbour stays, and the key can be written again."""
        store.put("d/one", b"1")
        store.put("d/two", b"2")
        for _ in range(2):
            store.delete("d/one")
        store.delete("never/was")
        assert [info.key for info in store.list("")] == ["d/two"]
        store.delete("d/two")
        store.put("d/one", b"again")
        assert store.get("d/one") == b"again"

    def test_readers_see_all_or_nothing(self, store: Store) -> None:
        """While one key is put again and again, every reader gets one of the whole contents."""
        contents = {bytes([letter]) * (256 << 10) for letter in b"ABC"}
        store.put("hot", next(iter(contents)))
        done = threading.Event()

        def read() -> int:
            count = 0
            while not done.is_set() or not count:
                assert store.get("hot") in contents
                count += 1
            return count

        with ThreadPoolExecutor(3) as pool:
            readers = [pool.submit(read) for _ in range(3)]
            try:
                for content in list(contents) * 8:
                    store.put("hot", content)
            finally:
                done.set()
            assert all(reader.result(timeout=60) for reader in readers)

    def test_writers_in_folders_that_come_and_go(self, store: Store) -> None:
        """Putting and deleting in the same folder from many threads never fails, but for a while: rclone removes
        folders that it is about to write to."""
        again = RetryingStore(store, Backoff(first_s=0.01, max_s=0.5, attempts_max=20))

        def churn(number: int) -> None:
            for round_number in range(10):
                store.put(f"churn/deep/{number}", b"x")
                store.abort_upload("churn/up/load", store.create_upload("churn/up/load"))
                assert again.put_new(f"churn/new/{number}-{round_number}", b"y") is True
                store.delete(f"churn/deep/{number}")
                store.delete(f"churn/new/{number}-{round_number}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(churn, range(4)))
        assert list(store.list("churn/")) == []

    def test_list_is_in_key_order(self, store: Store) -> None:
        """Byte order of whole keys ('-' < '/' < '0'), filtered by any prefix, with sizes."""
        keys = ["l/A", "l/a-b", "l/a/x", "l/a/z/deep", "l/a0", "l/b", "l/é", "l/\U0001f426", "l/\uff00", "m"]
        for key in reversed(keys):
            store.put(key, key.encode())
        in_order = sorted(keys, key=lambda key: key.encode())
        assert [info.key for info in store.list("")] == in_order
        for prefix in ("l/", "l/a", "l/a/", "l/a-", "l/a/z", "m", "none", "l/none/", "l/b/"):
            assert [i.key for i in store.list(prefix)] == [k for k in in_order if k.startswith(prefix)]
        assert all(info.size == len(info.key.encode()) for info in store.list(""))

    def test_list_goes_beyond_a_page(self, store: Store) -> None:
        """More than 1,000 keys, the most that one S3 answer holds."""
        keys = [f"many/{number:05}" for number in range(1050)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b""), keys))
        assert [info.key for info in store.list("many/")] == keys
        assert isinstance(next(iter(store.list("many/"))), ObjectInfo)

    def test_upload_of_pieces_in_any_order(self, store: Store) -> None:
        """The object appears when completed, not before, and holds the pieces by number."""
        contents = [PIECE, PIECE[::-1], b"the end"]
        size = sum(map(len, contents))
        upload_id, pieces = upload(store, "parts/m/00", contents, [2, 0, 1])
        assert list(store.list("")) == []
        with pytest.raises(NotFound):
            store.head("parts/m/00")
        assert list(store.list_uploads("parts/")) == [("parts/m/00", upload_id)]
        store.complete_upload("parts/m/00", upload_id, pieces, size)
        assert store.get("parts/m/00") == b"".join(contents)
        assert [(i.key, i.size) for i in store.list("parts/")] == [("parts/m/00", size)]
        assert list(store.list_uploads("")) == []
        grant = store.grant_read("parts/m/00", expires_s=300)
        assert read_range(grant, len(PIECE) - 3, 6) == PIECE[-3:] + PIECE[::-1][:3]
        assert read_range(grant, size - 7, 7) == b"the end"

    def test_completing_again_succeeds(self, store: Store) -> None:
        """As an answer may be lost; another size is Corrupt."""
        upload_id, pieces = upload(store, "again", [b"12345"], [0])
        for _ in range(3):
            store.complete_upload("again", upload_id, pieces, 5)
        assert store.get("again") == b"12345"
        with pytest.raises(Corrupt, match=r"5.*expected 6|holds 5"):
            store.complete_upload("again", upload_id, [Piece(1, pieces[0].tag, 6)], 6)

    def test_completing_with_another_size_is_corrupt(self, store: Store) -> None:
        """And the object does not appear."""
        upload_id, pieces = upload(store, "short", [b"12345"], [0])
        with pytest.raises(Corrupt, match="short"):
            store.complete_upload("short", upload_id, pieces, 6)
        with pytest.raises(NotFound):
            store.head("short")
        store.complete_upload("short", upload_id, pieces, 5)
        assert store.get("short") == b"12345"

    def test_uploads_of_one_key_are_apart(self, store: Store) -> None:
        """Two unfinished uploads of a key do not touch each other, nor the object that is there."""
        store.put("same", b"old")
        first, first_pieces = upload(store, "same", [b"first!"], [0])
        second, _ = upload(store, "same", [b"second"], [0])
        assert sorted(store.list_uploads("same")) == sorted([("same", first), ("same", second)])
        assert store.get("same") == b"old"
        store.abort_upload("same", second)
        store.complete_upload("same", first, first_pieces, 6)
        assert store.get("same") == b"first!"

    def test_abort_is_idempotent(self, store: Store) -> None:
        """An aborted upload is gone: not listed, no pieces, cannot be completed; others stay."""
        upload_id, pieces = upload(store, "u/gone", [b"12345"], [0])
        other = store.create_upload("u/gone/not")
        for _ in range(2):
            store.abort_upload("u/gone", upload_id)
        assert list(store.list_uploads("u/")) == [("u/gone/not", other)]
        assert list(store.list("")) == []
        with pytest.raises(NotFound, match="u/gone"):
            store.list_pieces("u/gone", upload_id)
        with pytest.raises(NotFound, match="u/gone"):
            store.complete_upload("u/gone", upload_id, pieces, 5)
        store.abort_upload("u/gone/not", other)
        store.abort_upload("u/gone", "no-such-upload")

    def test_uploads_are_listed_by_prefix(self, store: Store) -> None:
        """Like list, by any beginning of the key."""
        found = {key: store.create_upload(key) for key in ("x/a", "x/ab", "x/b/c", "y")}
        for prefix in ("", "x/", "x/a", "x/b/", "y", "z", "x/a/"):
            assert dict(store.list_uploads(prefix)) == {k: v for k, v in found.items() if k.startswith(prefix)}
        for key, upload_id in found.items():
            store.abort_upload(key, upload_id)

    def test_pieces_are_listed(self, store: Store) -> None:
        """The result of list_pieces can complete the upload; local stores need no pieces."""
        upload_id, pieces = upload(store, "listed", [PIECE, b"tail"], [1, 0])
        told = store.list_pieces("listed", upload_id)
        if told:
            assert told == sorted(pieces, key=lambda piece: piece.number)
        store.complete_upload("listed", upload_id, told or pieces, len(PIECE) + 4)
        assert store.get("listed") == PIECE + b"tail"

    def test_odd_keys(self, store: Store) -> None:
        """Every way to reach an object works for every key."""
        for key in ODD_KEYS:
            store.put(key, key.encode())
            assert store.head(key).size == len(key.encode())
            assert store.get_range(key, 0, 3) == b"odd"
            assert read_range(store.grant_read(key, expires_s=60), 0, len(key.encode())) == key.encode()
        assert sorted(info.key for info in store.list("odd/")) == sorted(ODD_KEYS)
        key = "odd/up load+ü"
        upload_id, pieces = upload(store, key, [b"12345"], [0])
        assert list(store.list_uploads("odd/")) == [(key, upload_id)]
        store.complete_upload(key, upload_id, pieces, 5)
        assert store.get(key) == b"12345"
        for key in ODD_KEYS:
            store.delete(key)
        assert [info.key for info in store.list("odd/")] == ["odd/up load+ü"]

    @pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
    def test_bad_keys_are_refused(self, store: Store, key: str) -> None:
        """Before any request or write, by every method that takes a key."""
        for call in (
            lambda: store.put(key, b""),
            lambda: store.put_new(key, b""),
            lambda: store.put_fenced(key, b"", lambda: None),
            lambda: store.put_file(key, __file__),
            lambda: store.get(key),
            lambda: store.get_range(key, 0, 1),
            lambda: store.head(key),
            lambda: store.delete(key),
            lambda: store.create_upload(key),
            lambda: store.grant_read(key, expires_s=60),
            lambda: store.grant_piece(key, "0" * 32, 1, expires_s=60),
        ):
            with pytest.raises(UsageError):
                call()
        assert list(store.list("")) == []

    def test_bad_prefixes_and_numbers_are_refused(self, store: Store) -> None:
        """A listing cannot leave the store, and pieces are numbered from 1."""
        for prefix in ("/", "../", "a/../", "a//", "\0"):
            with pytest.raises(UsageError):
                list(store.list(prefix))
            with pytest.raises(UsageError):
                list(store.list_uploads(prefix))
        upload_id = store.create_upload("numbered")
        for number in (0, -1, store.pieces_max + 1):
            with pytest.raises(UsageError, match="piece number"):
                store.grant_piece("numbered", upload_id, number, expires_s=60)
        store.abort_upload("numbered", upload_id)

    def test_names_without_secrets(self, store: Store) -> None:
        """describe holds the url; a grant's url is not in its repr."""
        assert store.url in store.describe()
        store.put("g", b"x")
        grant = store.grant_read("g", expires_s=60)
        assert grant.url is None or "Signature" not in repr(grant)
        assert (grant.url is None) != (grant.path is None)

    def test_a_grant_lives_a_week_at_most(self, store: Store) -> None:
        """Seven days are granted and work; a second more, or none, is a UsageError where grants expire."""
        store.put("g", b"x")
        grant = store.grant_read("g", expires_s=GRANT_LIFE_S_MAX)
        assert read_range(grant, 0, 1) == b"x"
        if grant.url is not None:
            assert f"X-Amz-Expires={GRANT_LIFE_S_MAX}" in grant.url
            for expires_s in (GRANT_LIFE_S_MAX + 1, 0, -1):
                with pytest.raises(UsageError, match=str(GRANT_LIFE_S_MAX)):
                    store.grant_read("g", expires_s=expires_s)

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(names=st.lists(component, min_size=1, max_size=4), content=st.binary(max_size=3000))
    def test_any_key_and_content_come_back(self, store: Store, names: list[str], content: bytes) -> None:
        """put, list, head, get and delete agree for whatever key and bytes."""
        # Each example in a folder of its own: in some stores one key cannot be another's folder.
        folder = f"h{next(_folders)}/"
        key = folder + "/".join(names)
        store.put(key, content)
        assert store.get(key) == content
        assert [(i.key, i.size) for i in store.list(folder)] == [(key, len(content))]
        assert store.head(key).size == len(content)
        store.delete(key)
        assert list(store.list(folder)) == []
