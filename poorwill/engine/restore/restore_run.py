"""A snapshot becoming a workspace again."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import numpy as np

from poorwill.engine import last_wake, state
from poorwill.engine.journal import NAME, Journal
from poorwill.engine.meter import Meter
from poorwill.engine.pool import Bench, Job
from poorwill.engine.protocol.answers import PartRestored, Restored, RestoreOpened
from poorwill.engine.protocol.context import Context
from poorwill.engine.restore import survey
from poorwill.engine.restore.chunk_cache import open_cache
from poorwill.engine.restore.ended import Ended, forget
from poorwill.engine.restore.local_chunks import LocalChunks
from poorwill.engine.restore.selection import Placement, selected, selection_of
from poorwill.engine.restore.tree import Tree
from poorwill.engine.restore.tree_in_place import TreeInPlace
from poorwill.engine.transfer.decoding import chunk_buffer, decode, decode_checked
from poorwill.engine.transfer.fetch import Reader, Source
from poorwill.engine.transfer.part_reading import check_against_index, listed, read_index, runs_of, stored_chunks
from poorwill.errors import Cancelled, Corrupt, Refused, WorkspaceError
from poorwill.snapshot import limits
from poorwill.snapshot.columns import Array
from poorwill.snapshot.globs import Globs
from poorwill.snapshot.order import RestoreOrder
from poorwill.snapshot.tables import Kind, Manifest

FILE_OVERHEAD_BYTES = 4096
SEGMENTS_AT_ONCE = 4096


def _nothing() -> None:
    """What is called where nothing has to happen."""


class RestoreRun:
    """One restore. `part` may be called for many parts at once, and again after a failure.

    A chunk is taken from the workspace if it stands there already, else from the cache, else it is fetched. Into an
    empty workspace nothing is looked for.
    """

    def __init__(
        self,
        manifest: Manifest,
        manifest_hash: str,
        order: RestoreOrder,
        *,
        reader: Reader,
        meter: Meter,
        context: Context | None = None,
        statvfs: Callable[[bytes], os.statvfs_result] = os.statvfs,
        enter: Callable[[], None] = _nothing,
        check: Callable[[], None] = _nothing,
    ) -> None:
        """Check everything that can be checked before a byte is written, then create the directories.

        enter: called once the workspace exists, before anything in it is looked at. check: called before each change
        of it. Both may raise.
        Refused if the workspace holds anything and neither `overwrite` nor the journal of this same restore says it
        may. WorkspaceError if the data does not fit on the disk. What `context` raises while files are looked at.
        """
        self.root, self.manifest, self.manifest_hash = os.fsencode(order.workspace), manifest, manifest_hash
        self._reader, self._meter, self._statvfs = reader, meter, statvfs
        self._cache = open_cache(order)
        self._sums = Meter()
        self._lock, self._running, self._closing = threading.Lock(), 0, False
        self._bench = Bench()
        self.wanted = selected(manifest, Globs(order.include))
        self._placement = Placement(manifest, self.wanted)
        self.data_bytes = int(self._placement.segment.length.sum(dtype=np.int64))
        self._selection = selection_of(order)
        self._journal = Journal(self.root, manifest_hash, self._selection, bool(self.wanted.all()))
        self._restored: Restored | None = None
        self._make_directory()
        enter()
        done = self._journal.resume(len(manifest.chunks))
        self.resumed = done is not None
        self._done = np.zeros(len(manifest.chunks), bool) if done is None else done
        occupied = self._make_room(order.overwrite)
        self._local: LocalChunks | None = None
        self._in_place: TreeInPlace | None = None
        if occupied:
            self._in_place = TreeInPlace(
                self.root, manifest, self.wanted, order.privileged,
                on_renewal=self._forget, context=context, check=check,
            )  # fmt: skip
            self._local = LocalChunks(self._in_place, manifest.chunks, self._placement)
        self.tree = self._in_place or Tree(self.root, manifest, self.wanted, order.privileged, check)
        try:
            forget(self.root)
            self._warnings = last_wake.begun(self.root, manifest, bool(self.wanted.all()))
            self._journal.start()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close files and directories once no part is being restored any more; the journal stays. Idempotent."""
        with self._lock:
            self._closing = True
            if self._running == 0:
                self.tree.close()
                self._journal.close()

    def _check_open(self) -> None:
        if self._closing:
            raise Cancelled("the restore was given up")

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        # A descriptor that is closed under a codec thread could already be that of another file.
        with self._lock:
            self._check_open()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
            if self._closing:
                self.close()

    def _count(self, **amounts: int) -> None:
        self._meter.add(**amounts)
        self._sums.add(**amounts)

    def _make_directory(self) -> None:
        try:
            os.makedirs(self.root, exist_ok=True)
        except OSError as error:
            raise WorkspaceError(f"{os.fsdecode(self.root)}: {error.strerror}: nothing was restored") from None

    def _make_room(self, overwrite: bool) -> bool:
        """Whether the workspace holds anything; raises if it may not or has no room."""
        where = os.fsdecode(self.root)
        try:
            passed_over = NAME if self._journal.hollow else b""
            occupied = any(entry.name != passed_over for entry in os.scandir(self.root))
            space = self._statvfs(self.root)
        except OSError as error:
            raise WorkspaceError(f"{where}: {error.strerror}: nothing was restored") from None
        if occupied and not self.resumed and not overwrite:
            if Journal.left_in(self.root):
                what, how = "another restore was interrupted there", "run that one again, give an empty directory, or"
            else:
                what, how = "it is not empty", "give an empty directory, or"
            raise Refused(f"{where}: {what}: nothing was restored; {how} allow overwriting", occupied=what)
        need = self._placement.bytes_of(~self._done) + FILE_OVERHEAD_BYTES * int(self.wanted.sum())
        free = space.f_bavail * space.f_frsize
        if need > free and not (overwrite and occupied):
            raise WorkspaceError(
                f"{where}: the snapshot needs {need} bytes, {free} are free: nothing was restored",
                needed=need,
                free=free,
            )
        return occupied

    def _prepare(self) -> None:
        entries, tree = self.manifest.entries, self.tree
        tree.make_directories(self._bench)
        if self._in_place is not None:
            self._take_stock(self._in_place)
        for row in np.flatnonzero(self.wanted & (entries.kind == Kind.FILE) & (entries.segments > 1)).tolist():
            tree.make_large(self._bench, row)

    def _take_stock(self, tree: TreeInPlace) -> None:
        """Find what stands there; what is surely unchanged counts as done, and what is surely gone does not."""
        entries, placement = self.manifest.entries, self._placement
        known = state.apply_woken(self.root, self.manifest_hash, self.manifest)
        known = known and survey.since_boot(self.manifest.scanned_at_ns)
        tree.look(self._bench, (entries.inode, entries.ctime_ns) if known else None)
        found = tree.found
        # Files of one segment have their times since they were written, larger ones only when the restore ends.
        whole = found.regular & ~found.shared & (found.size == entries.size.astype(np.int64))
        self._undo(placement.holding(~whole | (entries.segments == 1) & ~found.timed))
        unchanged = placement.needed & ~placement.holding(~found.unchanged) & ~self._done
        self._done |= unchanged
        self._count(kept_bytes=placement.bytes_of(unchanged))

    def _forget(self, row: int) -> None:
        self._undo(self._placement.holding(np.arange(len(self.wanted)) == row))

    def _undo(self, chunks: Array) -> None:
        lost = np.flatnonzero(chunks & self._done)
        if len(lost):
            self._journal.undone(lost)
            self._done[lost] = False

    @property
    def left(self) -> Array:
        """The chunks (bool) that are not known to be in place: what is fetched at most."""
        return self._placement.needed & ~self._done

    def opened(self) -> RestoreOpened:
        """What is to be done, at most."""
        chunks, left = self.manifest.chunks, self.left
        return RestoreOpened(
            listed(self.manifest, np.unique(chunks.part[left]).tolist()),
            self.data_bytes,
            int(chunks.stored[left].sum(dtype=np.int64)),
            self.resumed,
        )

    def part(self, part_row: int, open_source: Callable[[], Source], context: Context) -> PartRestored:
        """Find or download, check, decode and write everything the snapshot needs of one part. The source is opened,
        and closed, only if something must be fetched."""
        with self._one_more():
            rows = np.flatnonzero((self.manifest.chunks.part == part_row) & self.left)
            fetched = self._not_here(part_row, rows, context)
            if len(fetched):
                with closing(open_source()) as source:
                    self._fetch(part_row, fetched, source, context)
        stored = int(self.manifest.chunks.stored[fetched].sum(dtype=np.int64))
        return PartRestored(part_row, len(rows), stored)

    def _not_here(self, part_row: int, rows: Array, context: Context) -> Array:
        """Restore what stands in the workspace or lies in the cache; returns the chunks that do not."""
        if self._local is None and self._cache is None:
            return rows
        missing: list[int] = []
        key = self.manifest.parts.key(part_row)

        def work(bench: Bench, row: int) -> None:
            self._check_open()
            if not self._find(bench, row, key):
                missing.append(row)

        self._reader.pool.run(Job(part_row, work, context), rows.tolist())
        return np.array(sorted(missing), np.int64)

    def _find(self, bench: Bench, row: int, key: str) -> bool:
        found = self._local.find(bench, row) if self._local is not None else None
        if found is not None:
            self._scatter(bench, row, *found)
        elif self._cache is not None:
            chunks = self.manifest.chunks
            stored = chunk_buffer(bench, "cached", int(chunks.stored[row]))
            if not self._cache.read(chunks.stored_hash[row].tobytes(), stored):
                return False
            self._scatter(bench, row, decode_checked(bench, chunks, row, stored, key))
            self._count(cached_bytes=len(stored))
        else:
            return False
        self._note_done(row)
        return True

    def _fetch(self, part_row: int, rows: Array, source: Source, context: Context) -> None:
        chunks, key = self.manifest.chunks, self.manifest.parts.key(part_row)
        index = read_index(source, int(self.manifest.parts.size[part_row]), key)
        check_against_index(self.manifest, rows, index, key)

        runs = runs_of(chunks.offset[rows], chunks.stored[rows], rows)
        self._reader.run(part_row, source, runs, partial(self._write_run, key), context)

    def _write_run(self, key: str, bench: Bench, data: memoryview, rows: list[int]) -> None:
        chunks = self.manifest.chunks
        for row, stored in stored_chunks(data, rows, chunks.stored):
            self._check_open()
            self._scatter(bench, row, decode(bench, chunks, row, stored, key))
            self._note_done(row)
            self._sums.add(fetched_bytes=len(stored))
            if self._cache is not None:
                self._cache.add(chunks.stored_hash[row].tobytes(), stored)

    def _note_done(self, row: int) -> None:
        self._done[row] = True
        self._journal.done(row)

    def _scatter(self, bench: Bench, chunk: int, raw: memoryview, sources: frozenset[int] = frozenset()) -> None:
        """Write a chunk's bytes where they belong. `sources`: the segments they were just read from."""
        first, stop = int(self._placement.first[chunk]), int(self._placement.first[chunk + 1])
        segments, tree, in_place = self._placement.segment, self.tree, self._in_place
        for begin in range(first, stop, SEGMENTS_AT_ONCE):
            cut = slice(begin, min(begin + SEGMENTS_AT_ONCE, stop))
            rows = self._placement.row[cut]
            columns = (
                rows.tolist(),
                segments.chunk_offset[cut].tolist(),
                segments.length[cut].tolist(),
                segments.file_offset[cut].tolist(),
                (self.manifest.entries.segments[rows] == 1).tolist(),
            )
            written = seen = 0
            for place, (row, at, length, file_offset, single) in enumerate(zip(*columns, strict=True), begin):
                write = tree.write_whole if single else tree.write_range
                if in_place is not None and not single and place in sources:
                    write = in_place.keep_range
                written += write(bench, row, raw[at : at + length], file_offset)
                seen += length
            self._count(written_bytes=written, kept_bytes=seen - written)

    def finish(self) -> Restored:
        """Links, attributes and directory times; then a count of everything. Corrupt if a chunk is missing.

        Once it has ended, the same answer again.
        """
        if self._restored is not None:
            return self._restored
        missing = int(self.left.sum())
        if missing:
            raise Corrupt(f"{missing} chunks were not restored: run the parts again")
        tree = self.tree
        tree.settle_files(self._bench)
        tree.make_links(self._bench)
        tree.note_set_id()
        tree.look_again(self._bench)
        tree.settle_directories()
        result = self._result()
        # The journal goes last: who finds it gone finds that this restore has ended.
        ended = Ended.of(self.root, self.manifest_hash, self._selection, int(self.manifest.entries.mtime_ns[0]), result)
        ended.save(self.root)
        last_wake.ended(self.root, self.manifest, bool(self.wanted.all()))
        self._journal.end()
        tree.settle_root_times()
        self.close()
        if self.wanted.all():
            state.save_woken(self.root, self.manifest_hash, tree.inode, tree.ctime_ns)
        ended._replace(settled=True).save(self.root)
        self._restored = result
        return result

    def _result(self) -> Restored:
        tree, sums = self.tree, self._sums.read()
        counts = {kind.name.lower(): int((self.wanted & (self.manifest.entries.kind == kind)).sum()) for kind in Kind}
        warnings = self._warnings + ([self._cache.warning] if self._cache is not None and self._cache.warning else [])
        if self._journal.owes:
            warnings.append(
                f"{os.fsdecode(self.root)}: a restore that was interrupted there before is still not whole, so no "
                "snapshot is taken of it: run that one again, or restore a whole snapshot with --overwrite"
            )
        return Restored(
            restored=counts,
            raw_bytes=self.data_bytes,
            kept_bytes=sums["kept_bytes"],
            cached_bytes=sums["cached_bytes"],
            fetched_bytes=sums["fetched_bytes"],
            left_out=tuple(tree.left_out[: limits.LEFT_OUT_MAX]),
            left_out_count=len(tree.left_out),
            warnings=tuple(warnings),
        )
