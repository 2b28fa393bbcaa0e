"""A snapshot becoming a workspace again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from poorwill.engine import state
from poorwill.engine.context import Context
from poorwill.engine.decoding import decode
from poorwill.engine.fetch import Reader, Source
from poorwill.engine.journal import NAME, Journal
from poorwill.engine.meter import Meter
from poorwill.engine.part_reading import check_against_index, read_index, runs_of
from poorwill.engine.pool import Bench
from poorwill.engine.tree import Tree
from poorwill.errors import Cancelled, Corrupt, Refused, WorkspaceError
from poorwill.snapshot.columns import Array
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.tables import Kind, Manifest

FILE_OVERHEAD_BYTES = 4096
SEGMENTS_AT_ONCE = 4096


class Restoring:
    """One restore. `part` may be called for many parts at once, and again after a failure."""

    def __init__(
        self,
        root: bytes,
        manifest: Manifest,
        manifest_hash: str,
        *,
        include: list[str],
        overwrite: bool,
        privileged: bool,
        reader: Reader,
        meter: Meter,
        statvfs: Callable[[bytes], os.statvfs_result] = os.statvfs,
    ) -> None:
        """Check everything that can be checked before a byte is written, then create the directories.

        Refused if `root` holds anything and neither `overwrite` nor the journal of this same restore says it
        may. WorkspaceError if the data does not fit on the disk.
        """
        self.root, self.manifest, self.manifest_hash = root, manifest, manifest_hash
        self._reader, self._meter, self._statvfs = reader, meter, statvfs
        self._lock, self._running, self._closing = threading.Lock(), 0, False
        self._bench = Bench()
        self.wanted = _selected(manifest, Globs(include))
        _refuse_own_name(manifest)
        self._segments_of_chunks(manifest)
        selection = [*include, f"privileged={privileged}"]
        self._journal = Journal(root, manifest_hash, selection)
        done = self._journal.resume(len(manifest.chunks))
        self.resumed = done is not None
        self._done = np.zeros(len(manifest.chunks), bool) if done is None else done
        self._make_room(overwrite)
        self.tree = Tree(root, manifest, self.wanted, privileged)
        try:
            self._journal.start(self.resumed)
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close files and directories once no part is being restored any more. Idempotent.

        What was restored stays, and the journal with it.
        """
        with self._lock:
            self._closing = True
            if self._running == 0:
                self.tree.close()
                self._journal.close()

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        # A descriptor that is closed under a codec thread could already be that of another file.
        with self._lock:
            if self._closing:
                raise Cancelled("the restore was given up")
            self._running += 1
        try:
            yield
        finally:
            self._one_less()

    def _one_less(self) -> None:
        with self._lock:
            self._running -= 1
        if self._closing:
            self.close()

    def _segments_of_chunks(self, manifest: Manifest) -> None:
        # Segments sorted by chunk: a chunk's segments are then one slice.
        rows = manifest.segment_rows()
        live = np.flatnonzero(self.wanted[rows])
        order = live[np.lexsort((rows[live], manifest.segments.chunk[live]))]
        chunk = manifest.segments.chunk[order]
        self._first = np.searchsorted(chunk, np.arange(len(manifest.chunks) + 1))
        self._row = rows[order]
        self._segment = manifest.segments.take(order)
        self.needed = np.diff(self._first) > 0
        self.data_bytes = int(self._segment.length.sum(dtype=np.int64))

    def _make_room(self, overwrite: bool) -> None:
        where = os.fsdecode(self.root)
        try:
            os.makedirs(self.root, exist_ok=True)
            occupied = next(iter(os.scandir(self.root)), None) is not None
            space = self._statvfs(self.root)
        except OSError as error:
            raise WorkspaceError(f"{where}: {error.strerror}: nothing was restored") from None
        if occupied and not self.resumed and not overwrite:
            what = "another restore was interrupted there" if Journal.left_in(self.root) else "it is not empty"
            raise Refused(f"{where}: {what}: nothing was restored; give an empty directory, or allow overwriting")
        left = ~self._done[self._segment.chunk] if len(self._segment) else np.zeros(0, bool)
        need = int(self._segment.length[left].sum(dtype=np.int64)) + FILE_OVERHEAD_BYTES * int(self.wanted.sum())
        free = space.f_bavail * space.f_frsize
        if need > free and not (overwrite and occupied):
            raise WorkspaceError(
                f"{where}: the snapshot needs {need} bytes, {free} are free: nothing was restored",
                needed=need,
                free=free,
            )

    def _prepare(self) -> None:
        entries, tree = self.manifest.entries, self.tree
        tree.make_directories(self._bench)
        large = np.flatnonzero(self.wanted & (entries.kind == Kind.FILE) & (entries.segments > 1))
        begun = set(self._row[self._done[self._segment.chunk]].tolist()) if self.resumed else set()
        for row in large.tolist():
            if row not in begun:
                tree.make_large(self._bench, row)

    def part(self, number: int, part_row: int, source: Source, context: Context) -> dict[str, Any]:
        """Download, check, decode and write everything the snapshot needs of one part."""
        with self._one_more():
            return self._part(number, part_row, source, context)

    def _part(self, number: int, part_row: int, source: Source, context: Context) -> dict[str, Any]:
        chunks = self.manifest.chunks
        rows = np.flatnonzero((chunks.part == part_row) & self.needed & ~self._done)
        key = self.manifest.parts.key(part_row)
        if len(rows):
            index = read_index(source, int(self.manifest.parts.size[part_row]), key)
            check_against_index(self.manifest, rows, index, key)
            runs = runs_of(chunks.offset[rows], chunks.stored[rows], rows)

            def work(bench: Bench, data: memoryview, item: object) -> None:
                self._write_run(bench, data, item, key)

            self._reader.run(number, source, list(runs), work, context)
        return {"part": number, "chunks": len(rows), "stored_bytes": int(chunks.stored[rows].sum(dtype=np.int64))}

    def _write_run(self, bench: Bench, data: memoryview, item: object, key: str) -> None:
        assert isinstance(item, list)
        at = 0
        for row in item:
            length = int(self.manifest.chunks.stored[row])
            raw = decode(bench, self.manifest.chunks, row, data[at : at + length], key)
            at += length
            self._scatter(bench, row, raw)
            self._done[row] = True
            self._journal.done(row)

    def _scatter(self, bench: Bench, chunk: int, raw: memoryview) -> None:
        first, stop = int(self._first[chunk]), int(self._first[chunk + 1])
        segments, tree = self._segment, self.tree
        for begin in range(first, stop, SEGMENTS_AT_ONCE):
            cut = slice(begin, min(begin + SEGMENTS_AT_ONCE, stop))
            rows = self._row[cut]
            columns = (
                rows.tolist(),
                segments.chunk_offset[cut].tolist(),
                segments.length[cut].tolist(),
                segments.file_offset[cut].tolist(),
                (self.manifest.entries.segments[rows] == 1).tolist(),
            )
            written = 0
            for row, at, length, file_offset, single in zip(*columns, strict=True):
                write = tree.write_whole if single else tree.write_range
                write(bench, row, raw[at : at + length], file_offset)
                written += length
            self._meter.add(written_bytes=written)

    def finish(self) -> dict[str, Any]:
        """Links, attributes and directory times; then a count of everything. Corrupt if a chunk is missing."""
        missing = int((self.needed & ~self._done).sum())
        if missing:
            raise Corrupt(f"{missing} chunks were not restored: run the parts again")
        tree, entries = self.tree, self.manifest.entries
        tree.settle_files(self._bench)
        tree.make_links(self._bench)
        tree.note_set_id()
        tree.look_again(self._bench)
        # The journal goes when all else is done: a run that is cut off before must find it.
        tree.settle_directories(below_root=True)
        self._journal.end()
        tree.settle_directories(below_root=False)
        self.close()
        if self.wanted.all():
            state.save_woken(self.root, self.manifest_hash, tree.inode, tree.ctime_ns)
        counts = {kind.name.lower(): int((self.wanted & (entries.kind == kind)).sum()) for kind in Kind}
        return {
            "restored": counts,
            "raw_bytes": self.data_bytes,
            "left_out": [left.to_wire() for left in tree.left_out[:1000]],
            "left_out_count": len(tree.left_out),
        }


def _selected(manifest: Manifest, include: Globs) -> Array:
    """Which entries to restore (bool): those that match, all below them, and the directories above."""
    entries = manifest.entries
    if not include:
        return np.ones(len(entries), bool)
    wanted = np.zeros(len(entries), bool)
    parent = entries.parent.tolist()
    for row in range(1, len(entries)):
        wanted[row] = wanted[parent[row]] or include.match(entries.path(row))
    linked = entries.link[wanted & (entries.kind == Kind.HARDLINK)]
    wanted[linked] = True
    for row in range(len(entries) - 1, 0, -1):
        if wanted[row]:
            wanted[parent[row]] = True
    wanted[0] = True
    if not wanted[1:].any():
        raise Refused("no entry of the snapshot matches --include: nothing was restored")
    return wanted


def _refuse_own_name(manifest: Manifest) -> None:
    first, stop = manifest.entries.children()
    for row in range(int(first[0]), int(stop[0])):
        if manifest.entries.name[row] == NAME:
            raise Corrupt(f"the snapshot holds an entry {os.fsdecode(NAME)!r}, the restore's own journal")
