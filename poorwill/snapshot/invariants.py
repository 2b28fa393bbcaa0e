"""What every manifest must satisfy before a byte of it is acted on.

A manifest comes from a store, which is not trusted. Paths are spelled as (parent row, one name), so that
leaving the workspace or writing through a symlink cannot even be expressed once these checks pass.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from poorwill.errors import Corrupt
from poorwill.snapshot import ids, limits, xattrs
from poorwill.snapshot.columns import Array
from poorwill.snapshot.tables import Kind, Manifest


def check(manifest: Manifest, what: str) -> None:
    """Corrupt, naming the first rule that is broken and the row that breaks it."""
    _check_parts(manifest, what)
    _check_chunks(manifest, what)
    _check_tree(manifest, what)
    _check_names(manifest, what)
    _check_links(manifest, what)
    _check_xattrs(manifest, what)
    _check_segments(manifest, what)


def _refuse(bad: Array, what: str, rule: str, rows: Array | None = None) -> None:
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise Corrupt(f"{what}: {rule} (row {first if rows is None else int(rows[first])})")


def _check_parts(manifest: Manifest, what: str) -> None:
    if not ids.is_machine_name(manifest.machine) or not ids.is_snapshot_id(manifest.snapshot_id):
        raise Corrupt(f"{what}: names machine {manifest.machine!r} and snapshot {manifest.snapshot_id!r}")
    parts, keys = manifest.parts, set[str]()
    for row in range(len(parts)):
        machine = parts.machine[row].decode("ascii", "replace")
        snapshot_id = parts.snapshot_id[row].decode("ascii", "replace")
        if not ids.is_machine_name(machine) or not ids.is_snapshot_id(snapshot_id):
            raise Corrupt(f"{what}: part row {row} belongs to {machine!r}, {snapshot_id!r}")
        keys.add(parts.key(row))
    if len(keys) != len(parts):
        raise Corrupt(f"{what}: the same part is listed twice")
    _refuse(parts.number > limits.PART_NUMBER_MAX, what, f"a part number above {limits.PART_NUMBER_MAX}")
    _refuse(parts.size > limits.PART_BYTES_MAX, what, f"a part larger than {limits.PART_BYTES_MAX} bytes")


def _check_chunks(manifest: Manifest, what: str) -> None:
    chunks, parts = manifest.chunks, manifest.parts
    _refuse(chunks.part >= len(parts), what, "a chunk in a part that is not listed")
    _refuse((chunks.raw == 0) | (chunks.stored == 0), what, "an empty chunk")
    _refuse(chunks.raw > limits.CHUNK_RAW_BYTES_MAX, what, f"a chunk above {limits.CHUNK_RAW_BYTES_MAX} raw bytes")
    _refuse(chunks.stored > chunks.raw, what, "a chunk stored in more bytes than it has raw")
    _refuse((chunks.codec == 0) & (chunks.stored != chunks.raw), what, "a raw chunk with another stored size")
    if not len(chunks):
        return
    _refuse(chunks.offset > limits.PART_BYTES_MAX, what, "a chunk beyond the largest part")
    end = chunks.offset + chunks.stored
    _refuse(end > parts.size[chunks.part], what, "a chunk that reaches beyond its part")
    order = np.lexsort((chunks.offset, chunks.part))
    same = chunks.part[order][1:] == chunks.part[order][:-1]
    _refuse(same & (chunks.offset[order][1:] < end[order][:-1]), what, "chunks that overlap in their part")


def _check_tree(manifest: Manifest, what: str) -> None:
    entries = manifest.entries
    if not len(entries) or entries.kind[0] != Kind.DIRECTORY or entries.parent[0] != 0 or entries.name[0]:
        raise Corrupt(f"{what}: row 0 is not the workspace's own directory")
    rows = np.arange(len(entries))
    parent = entries.parent.astype(np.int64)
    _refuse((parent >= rows) & (rows > 0), what, "an entry before its directory")
    _refuse(np.diff(parent, prepend=0) < 0, what, "entries out of order")
    _refuse(entries.kind[parent] != Kind.DIRECTORY, what, "an entry below something that is not a directory")
    _refuse(entries.kind > max(Kind), what, "an entry of unknown kind")
    _refuse(entries.mode > 0o7777, what, "a mode beyond permission bits")
    _refuse(entries.size > limits.FILE_BYTES_MAX, what, f"a file above {limits.FILE_BYTES_MAX} bytes")
    is_file = entries.kind == Kind.FILE
    _refuse(~is_file & ((entries.size != 0) | (entries.segments != 0)), what, "content in something that is not a file")
    above = parent
    for _ in range(limits.DEPTH_MAX):
        if not above.any():
            return
        above = parent[above]
    raise Corrupt(f"{what}: directories nested deeper than {limits.DEPTH_MAX}")


def _check_names(manifest: Manifest, what: str) -> None:
    entries = manifest.entries
    lengths = entries.name.lengths()
    _refuse((lengths[1:] == 0) | (lengths[1:] > limits.NAME_BYTES_MAX), what, "an empty or overlong name")
    if b"/" in entries.name.data or b"\0" in entries.name.data:
        raise Corrupt(f"{what}: a name with '/' or NUL in it")
    for row in np.flatnonzero(lengths <= 2).tolist():
        if entries.name[row] in (b".", b".."):
            raise Corrupt(f"{what}: an entry named {entries.name[row]!r} (row {row})")
    siblings = (np.diff(entries.parent.astype(np.int64), prepend=-1) == 0).tolist()
    siblings[1:2] = [False]  # row 0 counts as its own parent, so row 1 only looks like its sibling
    for row, (before, name) in enumerate(pairwise(entries.name), 1):
        if siblings[row] and name <= before:
            raise Corrupt(f"{what}: names repeated or out of order in one directory (row {row})")


def _check_links(manifest: Manifest, what: str) -> None:
    entries, targets = manifest.entries, manifest.targets.target
    link = entries.link.astype(np.int64)
    hard = np.flatnonzero(entries.kind == Kind.HARDLINK)
    _refuse(link[hard] >= len(entries), what, "a hardlink to nothing", hard)
    _refuse(entries.kind[link[hard]] != Kind.FILE, what, "a hardlink to something that is not a file", hard)
    soft = np.flatnonzero(entries.kind == Kind.SYMLINK)
    _refuse(link[soft] >= len(targets), what, "a symlink without a target", soft)
    lengths = targets.lengths()
    _refuse((lengths == 0) | (lengths > limits.TARGET_BYTES_MAX), what, "an empty or overlong symlink target")
    if b"\0" in targets.data:
        raise Corrupt(f"{what}: a symlink target with NUL in it")


def _check_xattrs(manifest: Manifest, what: str) -> None:
    sets = manifest.xattr_sets.attributes
    _refuse(manifest.entries.xattrs > len(sets), what, "an entry with an xattr set that is not listed")
    _refuse(sets.lengths() > limits.XATTR_SET_BYTES_MAX, what, "an xattr set above 1 MiB")
    for attributes in sets:
        xattrs.decoded(attributes)


def _check_segments(manifest: Manifest, what: str) -> None:
    entries, segments, chunks = manifest.entries, manifest.segments, manifest.chunks
    if int(entries.segments.sum(dtype=np.uint64)) != len(segments):
        raise Corrupt(f"{what}: {len(segments)} segments, but the entries count another number")
    if not len(segments):
        return
    _refuse(segments.chunk >= len(chunks), what, "a segment in a chunk that is not listed")
    _refuse(segments.length == 0, what, "an empty segment")
    inside = segments.chunk_offset.astype(np.int64) + segments.length
    _refuse(inside > chunks.raw[segments.chunk], what, "a segment that reaches beyond its chunk")
    _refuse(segments.file_offset > limits.FILE_BYTES_MAX, what, "a segment beyond the largest file")
    end = segments.file_offset + segments.length
    rows = manifest.segment_rows()
    _refuse(end > entries.size[rows], what, "a segment that reaches beyond its file")
    same = rows[1:] == rows[:-1]
    _refuse(same & (segments.file_offset[1:] < end[:-1]), what, "segments that overlap in their file")
