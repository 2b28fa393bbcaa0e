"""Weights from a store into a folder: every file hashed, a hostile store refused, a killed download continued."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from poorwill.errors import (
    Cancelled,
    Corrupt,
    HostUnfit,
    NotFound,
    PoorwillError,
    Refused,
    StoreUnavailable,
    Unsupported,
    UsageError,
    WorkspaceError,
)
from poorwill.media import weights_manifest
from poorwill.media.stop import Stop
from poorwill.media.weights import ABANDONED_S, local_folder, publish
from poorwill.media.weights_download import PIECE_BYTES
from poorwill.store.local import LocalStore
from tests.support.doubles.faulty_store import Fault, FaultyStore
from tests.support.hooked_store import hooked
from tests.support.workspaces import noise

PREFIX = "models/tiny"
BIG = 2 * PIECE_BYTES + 12_345
FILES = {
    "model_index.json": b'{"_class_name": "LTXImageToVideoPipeline"}',
    "transformer/config.json": b"{}",
    "transformer/weights.safetensors": noise(BIG, 1),
    "vae/weights.safetensors": noise(50_000, 2),
    "vae/empty.txt": b"",
}
PIECES = 1 + 1 + 3 + 1  # nothing is fetched for an empty file
TOTAL = sum(map(len, FILES.values()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "weights", FILES)


@pytest.fixture
def store(local_store: LocalStore, folder: Path) -> LocalStore:
    """With the weights published."""
    publish(folder, local_store, PREFIX)
    return local_store


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def folders(cache: Path) -> list[str]:
    return sorted(entry.name for entry in cache.iterdir() if entry.is_dir()) if cache.exists() else []


class Bytes:
    """Collects what `on_bytes` is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.told.append((done, total))


def test_what_was_published_comes_back(store: LocalStore, tmp_path: Path) -> None:
    """Each byte once, in bounded pieces, told as they come; the second time the folder is used as it is."""
    counted, told = FaultyStore(store), Bytes()
    found = local_folder(counted, PREFIX, tmp_path / "cache", on_bytes=told)
    assert content(found) == FILES and counted.calls["get_range"] == PIECES
    assert [done for done, _ in told.told] == sorted(done for done, _ in told.told)
    assert told.told[-1] == (TOTAL, TOTAL)
    again = FaultyStore(store)
    assert local_folder(again, PREFIX, tmp_path / "cache") == found
    assert dict(again.calls) == {"get": 1}
    assert folders(tmp_path / "cache") == [found.name]


def test_weights_at_the_root_of_a_store(local_store: LocalStore, folder: Path, tmp_path: Path) -> None:
    """An empty prefix is one too, and slashes around one mean nothing."""
    assert publish(folder, local_store, "") == publish(folder, local_store, "/other/")
    assert content(local_folder(local_store, "", tmp_path / "a")) == FILES
    assert content(local_folder(local_store, "other", tmp_path / "b")) == FILES


def test_publishing_follows_links_and_leaves_dot_files_out(local_store: LocalStore, tmp_path: Path) -> None:
    """A snapshot of the hub is links to blobs, with a cache of its own beside them."""
    blob = written(tmp_path / "blobs", {"b": b"weights"}) / "b"
    folder = written(tmp_path / "snapshot", {".cache/huggingface/x": b"no", ".gitattributes": b"no", "a.json": b"{}"})
    (folder / "model.safetensors").symlink_to(blob)
    publish(folder, local_store, PREFIX)
    found = local_folder(local_store, PREFIX, tmp_path / "cache")
    assert content(found) == {"a.json": b"{}", "model.safetensors": b"weights"}
    assert not (found / "model.safetensors").is_symlink()


def test_the_manifest_is_last(local_store: LocalStore, folder: Path, tmp_path: Path) -> None:
    """Publishing that fails at any file leaves nothing that a reader would take for weights; repeating it mends it."""
    for call in range(1, len(FILES) + 1):
        failing = FaultyStore(local_store, [Fault("put_file", call, StoreUnavailable("down"))])
        with pytest.raises(StoreUnavailable):
            publish(folder, failing, PREFIX)
        with pytest.raises(NotFound, match="publish the weights there"):
            local_folder(local_store, PREFIX, tmp_path / "cache")
    publish(folder, local_store, PREFIX)
    assert content(local_folder(local_store, PREFIX, tmp_path / "cache")) == FILES


def test_published_weights_do_not_change(store: LocalStore, folder: Path) -> None:
    """Others under the same prefix are refused before anything is written; the same again writes nothing."""
    counted = FaultyStore(store)
    publish(folder, counted, PREFIX)
    (folder / "vae/weights.safetensors").write_bytes(noise(50_000, 3))
    with pytest.raises(Refused, match="another prefix"):
        publish(folder, counted, PREFIX)
    assert not counted.calls["put"] and not counted.calls["put_file"]


def test_files_that_change_meanwhile_are_not_published(local_store: LocalStore, folder: Path) -> None:
    """Their hashes are wrong by then: without a manifest no reader sees them."""

    def change(key: str, number: int) -> None:
        (folder / "vae/empty.txt").write_bytes(b"no longer")

    changing = hooked(local_store, before={"put_file": change})
    with pytest.raises(WorkspaceError, match="changed while"):
        publish(folder, changing, PREFIX)
    with pytest.raises(NotFound):
        local_store.get(f"{PREFIX}/weights.json")


@pytest.mark.parametrize("files", [{}, {".hidden": b"x"}, {"back\\slash": b"x"}, {"weights.json": b"{}"}])
def test_folders_that_cannot_be_published(local_store: LocalStore, tmp_path: Path, files: dict[str, bytes]) -> None:
    """An empty folder, or a name that a manifest cannot have."""
    (tmp_path / "w").mkdir()
    with pytest.raises(UsageError):
        publish(written(tmp_path / "w", files), local_store, PREFIX)
    with pytest.raises(UsageError):
        publish(tmp_path / "missing", local_store, PREFIX)


CONFIG, LARGE = "transformer/config.json", "transformer/weights.safetensors"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("get_range", 1, key_part=CONFIG, flip_bit=3), "has the BLAKE3"),
        (Fault("get_range", 1, key_part=CONFIG, truncate_to=1), "got 1 bytes from 0, expected 2"),
        (Fault("get_range", 2, key_part=LARGE, flip_bit=77), "has the BLAKE3"),
        (Fault("get_range", 2, key_part=LARGE, truncate_to=100), r"got 100 bytes from \d+, expected \d+"),
    ],
)
def test_changed_bytes_are_corrupt(store: LocalStore, tmp_path: Path, fault: Fault, said: str) -> None:
    """No folder appears; the next call, of a store that is well again, fetches what was not whole."""
    wrong = FaultyStore(store, [fault])
    with pytest.raises(Corrupt, match=f"{fault.key_part}.* {said}"):
        local_folder(wrong, PREFIX, tmp_path / "cache")
    assert all(".partial-" in name for name in folders(tmp_path / "cache"))
    found = local_folder(store, PREFIX, tmp_path / "cache")
    assert content(found) == FILES and folders(tmp_path / "cache") == [found.name]


def test_transient_errors_pass_and_whole_files_are_kept(store: LocalStore, tmp_path: Path) -> None:
    """Whoever calls retries; the 17 MB that had come before do not come again."""
    failing = FaultyStore(store, [Fault("get_range", 0, StoreUnavailable("slow down"), key_part="vae/weights")])
    with pytest.raises(StoreUnavailable):
        local_folder(failing, PREFIX, tmp_path / "cache")
    counted, told = FaultyStore(store), Bytes()
    assert content(local_folder(counted, PREFIX, tmp_path / "cache", on_bytes=told)) == FILES
    assert counted.calls["get_range"] == 1 and told.told[-1] == (50_000, 50_000)


def entry(path: str, **other: Any) -> dict[str, Any]:
    return {"path": path, "size": 1, "blake3": "0" * 64, **other}


@pytest.mark.parametrize(
    ("document", "error"),
    [
        (b"not json", Corrupt),
        (b"[" * 200_000, Corrupt),
        (b"\xff\xfe", Corrupt),
        ([], Corrupt),
        ({"format": "something-else/1", "files": [entry("a")]}, Corrupt),
        ({"format": "poorwill-weights/2", "files": [entry("a")]}, Unsupported),
        ({"format": 7, "files": [entry("a")]}, Corrupt),
        ("files", Corrupt),
        *(
            ([entry(path)], Corrupt)
            for path in (
                "../escaped",
                "/escaped",
                "a/../../escaped",
                "a//b",
                ".",
                "",
                "a/./b",
                "..\\escaped",
                "a\0b",
                "a\nb",
                "\ud800",
                "weights.json",
                "x" * 900,
                ".uploads/x",
            )
        ),
        ([entry("a"), entry("a")], Corrupt),
        ([entry("a"), entry("a/b")], Corrupt),
        ([entry("a/b/c"), entry("a/b")], Corrupt),
        ([entry("a", size=-1)], Corrupt),
        ([entry("a", size=1 << 50)], Corrupt),
        ([entry("a", size=True)], Corrupt),
        ([entry("a", size=1.0)], Corrupt),
        ([entry("a", blake3="0" * 63)], Corrupt),
        ([entry("a", blake3="G" * 64)], Corrupt),
        ([entry("a", mode=0o4777)], Corrupt),
        ([{"path": "a"}], Corrupt),
        (["a"], Corrupt),
        ([entry(str(number)) for number in range(weights_manifest.FILES_MAX + 1)], Corrupt),
    ],
    ids=lambda value: str(value)[:40].encode("ascii", "replace").decode() if not isinstance(value, type) else None,
)
def test_a_hostile_manifest_is_refused(
    local_store: LocalStore, tmp_path: Path, document: Any, error: type[PoorwillError]
) -> None:
    """Before any file is fetched, and nothing is written, in the cache or beside it."""
    if isinstance(document, list) and document:
        document = {"format": "poorwill-weights/1", "files": document}
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    local_store.put(f"{PREFIX}/weights.json", data)
    counted, before = FaultyStore(local_store), sorted(tmp_path.rglob("*"))
    with pytest.raises(error):
        local_folder(counted, PREFIX, tmp_path / "cache")
    assert not counted.calls["get_range"] and sorted(tmp_path.rglob("*")) == before


def test_a_manifest_has_a_bound(local_store: LocalStore, tmp_path: Path) -> None:
    """A store cannot make a reader take memory for what no manifest needs."""
    local_store.put(f"{PREFIX}/weights.json", b" " * (weights_manifest.BYTES_MAX + 1))
    with pytest.raises(Corrupt, match="expected at most"):
        local_folder(local_store, PREFIX, tmp_path / "cache")


def test_a_file_that_is_not_there(store: LocalStore, tmp_path: Path) -> None:
    """A file that was deleted: NotFound, which is not retried."""
    store.delete(f"{PREFIX}/vae/weights.safetensors")
    with pytest.raises(NotFound, match="vae/weights"):
        local_folder(store, PREFIX, tmp_path / "cache")


def test_a_disk_that_is_too_small(store: LocalStore, tmp_path: Path) -> None:
    """Before a byte is fetched; what is there already counts."""
    counted = FaultyStore(store)
    with pytest.raises(HostUnfit, match=str(TOTAL)):
        local_folder(counted, PREFIX, tmp_path / "cache", free_bytes=lambda folder: TOTAL - 1)
    assert not counted.calls["get_range"]
    failing = FaultyStore(store, [Fault("get_range", 0, StoreUnavailable("down"), key_part="vae/weights")])
    with pytest.raises(StoreUnavailable):
        local_folder(failing, PREFIX, tmp_path / "cache")
    assert content(local_folder(store, PREFIX, tmp_path / "cache", free_bytes=lambda folder: 50_000)) == FILES


def test_a_cache_that_cannot_be_written_is_an_error(store: LocalStore, tmp_path: Path) -> None:
    """As an error of this machine, with the path."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostUnfit, match="file/cache"):
        local_folder(store, PREFIX, tmp_path / "file" / "cache")


def test_a_damaged_folder_heals(store: LocalStore, tmp_path: Path) -> None:
    """Only the file that is not whole is fetched again; a link in its place is not followed."""
    found = local_folder(store, PREFIX, tmp_path / "cache")
    outside = written(tmp_path / "outside", {"w": FILES["vae/weights.safetensors"]}) / "w"
    (found / "vae/weights.safetensors").unlink()
    (found / "vae/weights.safetensors").symlink_to(outside)
    (found / "vae/more.bin").write_bytes(b"pickle")
    counted = FaultyStore(store)
    assert content(local_folder(counted, PREFIX, tmp_path / "cache")) == FILES
    assert counted.calls["get_range"] == 1 and not (found / "vae/weights.safetensors").is_symlink()
    assert folders(tmp_path / "cache") == [found.name]


def test_a_request_to_stop_is_heard_between_pieces(store: LocalStore, tmp_path: Path) -> None:
    """With its reason; what has come is continued later."""
    stop = Stop()
    stopping = hooked(store, after={"get_range": lambda key, number: stop.request("no more") if number == 2 else None})
    with pytest.raises(Cancelled, match="no more"):
        local_folder(stopping, PREFIX, tmp_path / "cache", stop=stop)
    assert content(local_folder(store, PREFIX, tmp_path / "cache", stop=Stop())) == FILES


def test_waiting_for_another_process_can_be_stopped(store: LocalStore, tmp_path: Path) -> None:
    """The process that holds the lock may take an hour."""
    found, stop = local_folder(store, PREFIX, tmp_path / "cache"), Stop()
    (found / "model_index.json").unlink()
    with open(tmp_path / "cache" / f"{found.name}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        timer = threading.Timer(0.3, stop.request, ["no more"])
        timer.start()
        with pytest.raises(Cancelled, match="no more"):
            local_folder(store, PREFIX, tmp_path / "cache", stop=stop)
        timer.join()


SCRIPT = """
import os, signal, sys
from poorwill.media.weights import local_folder
from poorwill.store.local import LocalStore
from tests.support.hooked_store import hooked

store, cache, dies_at = LocalStore(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def after(key, number):
    if number == dies_at:
        os.kill(os.getpid(), signal.SIGKILL)
print("ready", flush=True)
sys.stdin.readline()
told = [0]
dying = hooked(store, after={"get_range": after})
found = local_folder(dying, "models/tiny", cache, on_bytes=lambda done, total: told.append(done))
print(found, told[-1], flush=True)
"""


def started(store: LocalStore, cache: Path, dies_at: int = 0) -> subprocess.Popen[str]:
    """A process that is about to call `local_folder`, when it gets a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, store.url.removeprefix("file://"), str(cache), str(dies_at)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_processes_at_once_end_with_one_good_folder(store: LocalStore, tmp_path: Path) -> None:
    """One of the three downloads; the others wait, and use what it made."""
    cache = tmp_path / "cache"
    processes = [started(store, cache) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].split() for process in processes]
    assert len({path for path, _ in said}) == 1 and content(Path(said[0][0])) == FILES
    assert sorted(int(fetched) for _, fetched in said) == [0, 0, TOTAL]
    assert folders(cache) == [Path(said[0][0]).name]


@pytest.mark.parametrize("dies_at", [1, 3, PIECES])
def test_a_killed_download_is_continued(store: LocalStore, tmp_path: Path, dies_at: int) -> None:
    """Its lock ends with it, its partial folder becomes the next one's, and nothing of it is left."""
    cache = tmp_path / "cache"
    killed = started(store, cache, dies_at)
    killed.communicate("go\n", timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert [name.partition(".partial-")[2] for name in folders(cache)] == [str(killed.pid)]
    found = local_folder(store, PREFIX, cache)
    assert content(found) == FILES and folders(cache) == [found.name]


def test_abandoned_downloads_are_removed(store: LocalStore, tmp_path: Path) -> None:
    """After a week, unless somebody holds its lock; a younger one may still be continued."""
    cache = tmp_path / "cache"
    old, held, young = (cache / f"{digit * 64}.partial-1" for digit in "abc")
    for left in (old, held, young):
        written(left, {"x": b"x"})
    for left in (old, held):
        os.utime(left, (left.stat().st_mtime - ABANDONED_S - 60,) * 2)
    with open(cache / f"{'b' * 64}.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = local_folder(store, PREFIX, cache)
    assert folders(cache) == sorted([found.name, held.name, young.name])


def test_memory_is_bounded(store: LocalStore, tmp_path: Path) -> None:
    """No piece is larger than its bound, and no more are under way than there are threads."""
    lengths: list[int] = []
    under_way = threading.BoundedSemaphore(8)

    class Measured(FaultyStore):
        def get_range(self, key: str, start: int, length: int) -> bytes:
            lengths.append(length)
            with _taken(under_way):
                return super().get_range(key, start, length)

    local_folder(Measured(store), PREFIX, tmp_path / "cache")
    assert sum(lengths) == TOTAL and max(lengths) == PIECE_BYTES


class _taken:
    """Fails instead of waiting."""

    def __init__(self, semaphore: threading.BoundedSemaphore) -> None:
        self._semaphore = semaphore

    def __enter__(self) -> None:
        assert self._semaphore.acquire(blocking=False)

    def __exit__(self, *error: object) -> None:
        self._semaphore.release()
