"""Stored chunks kept on the machine: looked up before anything is fetched, checked, and optional."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from blake3 import blake3

from deployments.demo.tree_listing import differences, list_tree
from poorwill.engine.restore.chunk_cache import UNFINISHED_S_MAX, ChunkCache
from poorwill.errors import Refused, UsageError
from poorwill.store.local import LocalStore
from tests.support.program import poorwill
from tests.support.runs import Restored, Taken, restore, take
from tests.support.workspaces import CHUNK_BYTES, aged, noise, safetensors

SHARED_S = 30.0


@dataclass
class Kept:
    """A snapshot of a few chunks, and what it must restore to."""

    folder: Path
    store: LocalStore
    taken: Taken

    def restore(self, back: Path, cache: Path, **fields: object) -> Restored:
        again = restore(self.store, self.taken.id, back, cache=str(cache), **fields)
        assert differences(list_tree(self.folder / "w"), list_tree(back)) == []
        return again


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Two chunks of noise, weights, text: stored as they are and coded."""
    folder = tmp_path_factory.mktemp("cache").resolve()
    workspace = folder / "w"
    workspace.mkdir()
    (workspace / "noise.bin").write_bytes(noise(CHUNK_BYTES + (1 << 20), 1))
    (workspace / "weights.safetensors").write_bytes(safetensors("BF16", 2_200_000, 2))
    for number in range(20):
        (workspace / f"{number}.txt").write_text(f"{number}\n" * 100)
    workspace.chmod(0o755)
    store = LocalStore(folder / "store")
    return Kept(folder, store, take(store, aged(workspace)))


def files(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if not path.is_dir())


def test_the_second_restore_fetches_nothing(kept: Kept, tmp_path: Path) -> None:
    """It needs no part of the store at all. Files lie where the page on the protocol says, and are their owner's."""
    cache, parts = tmp_path / "deep" / "cache", kept.folder / "store" / "parts"
    first = kept.restore(tmp_path / "a", cache)
    stored = kept.taken.totals["stored_bytes"]
    assert (first.result["fetched_bytes"], first.result["cached_bytes"]) == (stored, 0)
    for path in files(cache):
        digest = blake3(path.read_bytes()).hexdigest()
        assert path.relative_to(cache) == Path(digest[0], digest[1], digest)
        assert path.stat().st_mode & 0o777 == 0o600
    assert sum(path.stat().st_size for path in files(cache)) == stored and cache.stat().st_mode & 0o777 == 0o700
    parts.rename(kept.folder / "away")
    try:
        second = kept.restore(tmp_path / "b", cache)
    finally:
        (kept.folder / "away").rename(parts)
    assert (second.result["fetched_bytes"], second.result["cached_bytes"]) == (0, stored)
    assert second.counters["cached_bytes"] == stored and second.counters["fetched_bytes"] < 1 << 20  # the manifest


def test_damaged_chunks_are_fetched_again(kept: Kept, tmp_path: Path) -> None:
    """A flipped bit, a file cut short, an empty one: fetched again and put right, never an error. A symlink is not
    followed, and a directory under a chunk's name stays."""
    cache = tmp_path / "cache"
    kept.restore(tmp_path / "a", cache)
    good = {path: path.read_bytes() for path in files(cache)}
    paths = iter(good)
    flipped, short, emptied, link = (next(paths) for _ in range(4))
    flipped.write_bytes(bytes([good[flipped][0] ^ 1]) + good[flipped][1:])
    short.write_bytes(good[short][:-1])
    emptied.write_bytes(b"")
    (tmp_path / "elsewhere").write_bytes(good[link])
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere")
    again = kept.restore(tmp_path / "b", cache)
    assert again.result["fetched_bytes"] == sum(len(good[path]) for path in (flipped, short, emptied, link))
    assert again.result["warnings"] == []
    assert {path: path.read_bytes() for path in files(cache)} == good
    flipped.unlink()
    flipped.mkdir()
    assert kept.restore(tmp_path / "c", cache).result["fetched_bytes"] > 0


def test_two_restores_share_it(kept: Kept, tmp_path: Path) -> None:
    """At the same time: both end equal, and the cache holds each chunk once and nothing unfinished."""
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(kept.restore, tmp_path / name, cache) for name in ("a", "b")]
        results = [future.result(SHARED_S).result for future in both]
    stored = kept.taken.totals["stored_bytes"]
    assert all(result["fetched_bytes"] + result["cached_bytes"] == stored for result in results)
    assert sum(path.stat().st_size for path in files(cache)) == stored
    assert all(path.name == blake3(path.read_bytes()).hexdigest() for path in files(cache))


def test_only_what_differs_is_looked_up(kept: Kept, tmp_path: Path) -> None:
    """Over a tree that stands, the cache gives what the tree does not."""
    cache, back = tmp_path / "cache", tmp_path / "back"
    kept.restore(back, cache)
    (back / "noise.bin").unlink()
    again = kept.restore(back, cache, overwrite=True)
    assert again.result["fetched_bytes"] == 0
    assert 0 < again.result["cached_bytes"] < kept.taken.totals["stored_bytes"]


def test_a_cache_that_cannot_be_written(kept: Kept, tmp_path: Path) -> None:
    """Costs one warning and nothing else."""
    (tmp_path / "file").touch()
    again = kept.restore(tmp_path / "back", tmp_path / "file" / "cache")
    (warning,) = again.result["warnings"]
    assert "Not a directory: nothing more is added to it" in warning
    assert again.result["fetched_bytes"] == kept.taken.totals["stored_bytes"]


def test_places_where_the_cache_is_refused(kept: Kept, tmp_path: Path) -> None:
    """In the workspace, around it, in it by way of a symlink, or relative: nothing is restored."""
    back = tmp_path / "back"
    (tmp_path / "alias").symlink_to(back)
    for cache in (back, back / "cache", tmp_path, tmp_path / "alias" / "cache"):
        with pytest.raises(Refused, match="one lies in the other"):
            kept.restore(back, cache)
    with pytest.raises(UsageError, match="not an absolute path"):
        kept.restore(back, Path("cache"))
    assert not back.exists()


def test_the_command_line(kept: Kept, tmp_path: Path) -> None:
    """`--cache` is relative to where the command runs; totals say what came from where, for programs and people."""
    command = ("restore", kept.taken.id, tmp_path / "back", "--store", kept.store.url, "--overwrite")
    stored = kept.taken.totals["stored_bytes"]
    first = poorwill(*command, "--json", "--cache", tmp_path / "cache")
    assert first.done["totals"]["fetched_bytes"] == stored and first.done["totals"]["kept_bytes"] == 0
    again = poorwill(*command, "--cache", tmp_path / "back" / "x" / ".." / ".." / "cache")
    assert again.code == 0 and f"({first.done['raw_bytes'] / 1e6:.2f} MB stood there): " in again.out


# The cache alone


def chunk(number: int, size: int = 1000) -> tuple[bytes, memoryview]:
    data = noise(size, number)
    return blake3(data).digest(), memoryview(data)


def holds(cache: ChunkCache, number: int, size: int = 1000) -> bool:
    digest, data = chunk(number, size)
    into = memoryview(bytearray(size))
    return cache.read(digest, into) and into == data


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def test_the_bound_holds_at_every_moment(tmp_path: Path) -> None:
    """However many chunks are added; what is larger than the bound is not kept."""
    cache = ChunkCache(str(tmp_path), 10_500)
    for number in range(30):
        cache.add(*chunk(number))
        assert holds(cache, number) and total(tmp_path) <= 10_500
    cache.add(*chunk(1000, 10_501))
    assert not holds(cache, 1000, 10_501) and total(tmp_path) >= 8_000 and cache.warning == ""
    none = ChunkCache(str(tmp_path / "none"), 0)
    none.add(*chunk(1))
    assert files(tmp_path / "none") == []


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    """Reading a chunk counts as using it."""
    cache = ChunkCache(str(tmp_path), 10_000)
    for number in range(10):
        cache.add(*chunk(number))
        os.utime(tmp_path / _place(number), ns=(number, number))
    assert holds(cache, 0)
    cache.add(*chunk(10))
    assert [number for number in range(11) if (tmp_path / _place(number)).exists()] == [0, *range(3, 11)]


def _place(number: int) -> Path:
    name = chunk(number)[0].hex()
    return Path(name[0], name[1], name)


def test_chunks_of_other_machines_count(tmp_path: Path) -> None:
    """Not at once, but before a machine has added a sixteenth of the bound itself."""
    ours, theirs = (ChunkCache(str(tmp_path), 40_000) for _ in range(2))
    ours.add(*chunk(0))
    for number in range(1, 36):
        theirs.add(*chunk(number))
    for number in range(100, 120):
        ours.add(*chunk(number))
        assert total(tmp_path) <= 40_000 * (1 + 1 / 16)
    assert total(tmp_path) <= 40_000


def test_unfinished_files_of_a_killed_restore(tmp_path: Path) -> None:
    """Is removed once it is old, and never taken for a chunk."""
    (tmp_path / "3" / "f").mkdir(parents=True)
    for name in ("new-old", "new-young"):
        (tmp_path / "3" / "f" / name).write_bytes(bytes(500))
    now = time.time()
    os.utime(tmp_path / "3" / "f" / "new-old", (now - UNFINISHED_S_MAX, now - UNFINISHED_S_MAX))
    cache = ChunkCache(str(tmp_path), 10_000, clock=lambda: now + 1)
    cache.add(*chunk(1))
    assert sorted(path.name for path in files(tmp_path)) == sorted([chunk(1)[0].hex(), "new-young"])


def test_a_failing_disk_logs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the disk fails nothing more is added; what is there can still be read."""
    cache = ChunkCache(str(tmp_path), 10_000)
    cache.add(*chunk(1))
    # A file where each folder belongs: nothing can be written, not even by root.
    for digit in "0123456789abcdef":
        if not (tmp_path / digit).exists():
            (tmp_path / digit).touch()
    for number in range(2, 40):
        cache.add(*chunk(number))
    assert "nothing more is added" in cache.warning and len(caplog.records) == 1
    for digit in "0123456789abcdef":
        if (tmp_path / digit).is_file():
            (tmp_path / digit).unlink()
    cache.add(*chunk(40))
    assert not holds(cache, 40)
    assert holds(cache, 1)
