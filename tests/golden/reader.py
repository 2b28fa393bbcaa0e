"""A reader of snapshots in a directory, written from docs/snapshot-format.md and docs/codecs.md alone.

Imports nothing of Poorwill: it shows that those pages are enough. Reads codecs raw, zstd and planes.

    python tests/golden/reader.py STORE MACHINE SNAPSHOT_ID TARGET
"""

from __future__ import annotations

import json
import os
import re
import struct
import sys
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import blake3
import zstandard

Row = dict[str, Any]
BLOB, DIGEST, SIGNED = "blob", "digest", "signed"
CHUNK = [("offset", 8), ("stored", 4), ("raw", 4), ("codec", 1), ("stored_hash", DIGEST), ("raw_hash", DIGEST)]
TABLES: dict[bytes, tuple[str, int, list[tuple[str, Any]]]] = {
    b"PART": ("parts", 1 << 16, [("machine", BLOB), ("snapshot_id", BLOB), ("number", 1), ("size", 8)]),
    b"CHNK": ("chunks", 1 << 22, [("part", 4), *CHUNK]),
    b"ENTR": (
        "entries",
        1 << 25,
        [("parent", 4), ("kind", 1), ("mode", 2), ("uid", 4), ("gid", 4), ("size", 8), ("mtime_ns", SIGNED),
         ("ctime_ns", SIGNED), ("inode", 8), ("link", 4), ("xattrs", 4), ("segments", 4), ("name", BLOB)],
    ),
    b"SEGM": ("segments", 1 << 26, [("file_offset", 8), ("chunk", 4), ("chunk_offset", 4), ("length", 4)]),
    b"TARG": ("targets", 1 << 25, [("target", BLOB)]),
    b"XATT": ("xattr_sets", 1 << 25, [("attributes", BLOB)]),
}  # fmt: skip
DIRECTORY, FILE, SYMLINK, HARDLINK, FIFO = range(5)
MACHINE = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
SNAPSHOT_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}", re.ASCII)


class Damaged(Exception):
    """The snapshot breaks a rule of the format."""


def demand(condition: object, rule: str) -> None:
    if not condition:
        raise Damaged(rule)


def digest(data: bytes) -> bytes:
    return blake3.blake3(data).digest()


def decompressed(frame: bytes, raw_bytes: int) -> bytes:
    try:
        demand(zstandard.frame_content_size(frame) == raw_bytes, "a frame of another content size")
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=raw_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Damaged(str(error)) from None


def metadata(store: Path, machine: str, snapshot_id: str) -> Row:
    """Section "Sealed documents"."""
    data = (store / "snapshots" / machine / f"{snapshot_id}.json").read_bytes()
    demand(len(data) <= 16 << 20, "a document above 16 MiB")
    document = json.loads(data)
    checksum = document.pop("checksum")
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    demand(checksum == "blake3:" + digest(canonical.encode()).hex(), "the metadata's checksum differs")
    demand(document["format"] == "poorwill-snapshot/1", "a document of another format")
    demand((document["machine"], document["snapshot_id"]) == (machine, snapshot_id), "metadata of another snapshot")
    demand(document["manifest"]["key"] == f"manifests/{machine}/{snapshot_id}", "another snapshot's manifest")
    demand(not document["needs"] and document["codecs"].keys() <= {"raw", "zstd", "planes"}, "codecs not known here")
    return dict(document)


def rows_of(columns: list[tuple[str, Any]], page: bytes, count: int) -> list[Row]:
    """Section "How rows are laid out in a page"."""
    at, rows = 0, [Row() for _ in range(count)]

    def take(size: int) -> bytes:
        nonlocal at
        demand(at + size <= len(page), "a page that ends too early")
        at += size
        return page[at - size : at]

    def transposed(width: int) -> list[bytes]:
        planes = take(width * count)
        return [planes[row::count] for row in range(count)]

    for name, kind in columns:
        if kind == BLOB:
            lengths = [int.from_bytes(cell, "little") for cell in transposed(4)]
            values: list[Any] = [take(length) for length in lengths]
        elif kind == DIGEST:
            values = list(transposed(32))
        else:
            cells = transposed(8 if kind == SIGNED else kind)
            values = [int.from_bytes(cell, "little", signed=kind == SIGNED) for cell in cells]
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    demand(at == len(page), "a page with bytes behind its rows")
    return rows


def manifest(data: bytes) -> dict[str, list[Row]]:
    """Section "The manifest": its tables, with everything checked."""
    demand(data[:8] == b"PWMANIF1", "not a manifest")
    at, total, order = 8, 0, [b"HEAD", *TABLES, b"END "]
    header: Row = {}
    tables: dict[str, list[Row]] = {name: [] for name, _, _ in TABLES.values()}
    while True:
        demand(at + 16 <= len(data), "no END page")
        kind, count, raw_bytes, stored_bytes = struct.unpack_from("<4sIII", data, at)
        at += 16 + stored_bytes
        total += raw_bytes
        demand(kind in order and count <= 65536 and raw_bytes <= 64 << 20 and at <= len(data), "a page out of order")
        demand(total <= min((64 << 20) + 256 * len(data), 8 << 30), "a manifest that unpacks to too much")
        order = order[order.index(kind) + (kind == b"HEAD") :]
        if kind == b"END ":
            break
        raw = decompressed(data[at - stored_bytes : at], raw_bytes)
        if kind == b"HEAD":
            header = json.loads(raw)
            demand(header["format"] == 1, "another format version")
        else:
            demand(header, "no HEAD page first")
            name, rows_max, columns = TABLES[kind]
            tables[name] += rows_of(columns, raw, count)
            demand(len(tables[name]) <= min(rows_max, header["rows"][name]), "more rows than declared")
    demand(count == raw_bytes == stored_bytes == 0 and at == len(data), "bytes behind the END page")
    demand(all(len(tables[name]) == header["rows"][name] for name in tables), "fewer rows than declared")
    demand(MACHINE.fullmatch(header["machine"]) and SNAPSHOT_ID.fullmatch(header["snapshot_id"]), "names")
    check_storage(tables)
    check_tree(tables["entries"], tables)
    check_content(tables["entries"], tables)
    return tables


def check_storage(tables: dict[str, list[Row]]) -> None:
    """Rules 2 and 3."""
    for part in tables["parts"]:
        part["key"] = f"parts/{part['machine'].decode()}/{part['snapshot_id'].decode()}/{part['number']:02d}"
        demand(MACHINE.fullmatch(part["machine"].decode()), "a part of no machine")
        demand(SNAPSHOT_ID.fullmatch(part["snapshot_id"].decode()), "a part of no snapshot")
        demand(part["number"] <= 63 and part["size"] <= 1 << 43, "a part beyond the limits")
    demand(len({part["key"] for part in tables["parts"]}) == len(tables["parts"]), "a part twice")
    for chunk in tables["chunks"]:
        demand(chunk["part"] < len(tables["parts"]), "an unlisted part")
        check_chunk(chunk)
        demand(chunk["offset"] + chunk["stored"] <= tables["parts"][chunk["part"]]["size"], "beyond the part")
    for before, after in pairwise(sorted(tables["chunks"], key=lambda c: (c["part"], c["offset"]))):
        apart = before["part"] != after["part"] or before["offset"] + before["stored"] <= after["offset"]
        demand(apart, "chunks overlap")


def check_chunk(chunk: Row) -> None:
    demand(1 <= chunk["stored"] <= chunk["raw"] <= 64 << 20, "a chunk of impossible size")
    demand(chunk["codec"] or chunk["stored"] == chunk["raw"], "a raw chunk of two sizes")
    demand(chunk["codec"] or chunk["stored_hash"] == chunk["raw_hash"], "a raw chunk of two hashes")


def check_tree(entries: list[Row], tables: dict[str, list[Row]]) -> None:
    """Rules 4 to 6; gives every entry its path, as a list of names."""
    demand(entries and (entries[0]["kind"], entries[0]["parent"], entries[0]["name"]) == (DIRECTORY, 0, b""), "row 0")
    entries[0]["path"] = []
    for row, entry in enumerate(entries[1:], 1):
        name, before = entry["name"], entries[row - 1]
        demand(entries[row - 1]["parent"] <= entry["parent"] < row, "entries out of order")
        parent = entries[entry["parent"]]
        demand(parent["kind"] == DIRECTORY, "a parent that is no directory")
        demand(1 <= len(name) <= 255 and name not in (b".", b"..") and not {0, 47} & set(name), "a name")
        demand(row == 1 or before["parent"] != entry["parent"] or before["name"] < name, "names out of order")
        demand(entry["parent"] or name != b".poorwill-restore", "the restore's own name")
        entry["path"] = [*parent["path"], name]
        demand(len(entry["path"]) <= 512, "too deep")
    for entry in entries:
        demand(entry["kind"] <= FIFO and entry["mode"] <= 0o7777 and entry["size"] <= 1 << 53, "an impossible entry")
        demand(entry["kind"] == FILE or entry["size"] == entry["segments"] == 0, "content in what is no file")
        if entry["kind"] == HARDLINK:
            demand(entry["link"] < len(entries) and entries[entry["link"]]["kind"] == FILE, "a hardlink to no file")
        if entry["kind"] == SYMLINK:
            demand(entry["link"] < len(tables["targets"]), "a symlink without target")
    demand(all(1 <= len(t["target"]) <= 4095 and 0 not in t["target"] for t in tables["targets"]), "a target")


def check_content(entries: list[Row], tables: dict[str, list[Row]]) -> None:
    """Rules 7 and 8; gives every entry its segments and attributes."""
    sets = [attributes_of(row["attributes"]) for row in tables["xattr_sets"]]
    ends = list(accumulate(entry["segments"] for entry in entries))
    demand(ends[-1] == len(tables["segments"]), "another number of segments")
    for entry, end in zip(entries, ends, strict=True):
        demand(entry["xattrs"] <= len(sets), "unlisted attributes")
        entry["attributes"] = sets[entry["xattrs"] - 1] if entry["xattrs"] else {}
        entry["content"], at = tables["segments"][end - entry["segments"] : end], 0
        for segment in entry["content"]:
            demand(segment["chunk"] < len(tables["chunks"]) and segment["length"], "a segment")
            raw = tables["chunks"][segment["chunk"]]["raw"]
            demand(segment["chunk_offset"] + segment["length"] <= raw, "a segment beyond its chunk")
            demand(at <= segment["file_offset"], "segments overlap")
            at = segment["file_offset"] + segment["length"]
        demand(at <= entry["size"], "a segment beyond its file")


def attributes_of(data: bytes) -> dict[bytes, bytes]:
    demand(len(data) <= 1 << 20, "a set of attributes above 1 MiB")
    found, at = dict[bytes, bytes](), 0
    while at < len(data):
        demand(at + 6 <= len(data), "attributes cut off")
        name_bytes, value_bytes = struct.unpack_from("<HI", data, at)
        middle, end = at + 6 + name_bytes, at + 6 + name_bytes + value_bytes
        name = data[at + 6 : middle]
        demand(end <= len(data) and 1 <= name_bytes <= 255 and 0 not in name and name not in found, "an attribute")
        found[name] = data[middle:end]
        at = end
    return found


def part_index(part: bytes, snapshot_id: str, number: int) -> dict[int, Row]:
    """Section "Parts": its chunks by offset."""
    demand(len(part) >= 96 and part[-8:] == b"PWPARTv1", "no trailer")
    fields = struct.unpack_from("<25sBxxIII16x32s", part, len(part) - 96)
    demand((fields[0].decode(), fields[1]) == (snapshot_id, number), "another part")
    count, raw_bytes, stored_bytes, expected = fields[2:]
    data_bytes = len(part) - 96 - stored_bytes
    demand(
        raw_bytes == 113 * count and count <= min(1 << 22, data_bytes) and raw_bytes <= 16 * stored_bytes + 1024,
        "an index",
    )
    demand(stored_bytes <= raw_bytes + 1024 and digest(part[data_bytes:-40]) == expected, "the index is damaged")
    frame = part[data_bytes : data_bytes + stored_bytes]
    rows = rows_of([("source", DIGEST), *CHUNK], decompressed(frame, raw_bytes), count)
    ends = [0, *accumulate(row["stored"] for row in rows)]
    demand([row["offset"] for row in rows] == ends[:-1] and ends[-1] == data_bytes, "the index does not cover the part")
    for row in rows:
        check_chunk(row)
    return {row["offset"]: row for row in rows}


def decoded(chunk: Row, stored: bytes) -> bytes:
    """One chunk's raw bytes, by docs/codecs.md."""
    demand(digest(stored) == chunk["stored_hash"], "a chunk is damaged")
    if chunk["codec"] == 0:
        return stored
    demand(chunk["codec"] in (1, 2), "a codec not known here")
    raw = decompressed(stored, chunk["raw"]) if chunk["codec"] == 1 else joined_planes(stored, chunk["raw"])
    demand(len(raw) == chunk["raw"] and digest(raw) == chunk["raw_hash"], "a chunk decodes to other bytes")
    return raw


def joined_planes(stored: bytes, raw_bytes: int) -> bytes:
    demand(len(stored) >= 12, "planes without header")
    version, width, flags, _, block_bytes, declared = struct.unpack_from("<BBBBII", stored)
    demand(version == 1 and width in (1, 2, 4) and flags <= 1 and declared == raw_bytes, "planes of another form")
    demand(4096 <= block_bytes <= 8 << 20 and block_bytes % width == 0, "planes in impossible blocks")
    body = raw_bytes - raw_bytes % width
    starts = range(0, body, block_bytes)
    demand(12 + 4 * len(starts) * width <= len(stored), "planes without sizes")
    sizes = iter(struct.unpack_from(f"<{len(starts) * width}I", stored, 12))
    at, out = 12 + 4 * len(starts) * width, bytearray()
    for start in starts:
        count = min(block_bytes, body - start) // width
        block = bytearray(count * width)
        for plane in range(width):
            size = next(sizes)
            data = stored[at : at + (size & 0x7FFFFFFF)]
            at += size & 0x7FFFFFFF
            block[plane::width] = data = decompressed(data, count) if size >> 31 else data
            demand(len(data) == count, "a plane of another size")
        out += rotated_right(bytes(block), width) if flags else block
    demand(len(stored) == at + raw_bytes - body, "planes of another size")
    return bytes(out) + stored[at:]


def rotated_right(block: bytes, width: int) -> bytes:
    bits, words = 8 * width, memoryview(block).cast({1: "B", 2: "H", 4: "I"}[width])  # as on little-endian machines
    return b"".join(((word >> 1) | ((word & 1) << (bits - 1))).to_bytes(width, "little") for word in words)


def restore(store: Path, machine: str, snapshot_id: str, target: Path) -> None:
    """Make `target`, which must not exist, from a snapshot. Damaged if anything at all is not as it should be."""
    named = metadata(store, machine, snapshot_id)["manifest"]
    data = (store / named["key"]).read_bytes()
    demand(digest(data).hex() == named["blake3"] and len(data) == named["bytes"], "the manifest is damaged")
    tables = manifest(data)
    for part in tables["parts"]:
        part["data"] = (store / part["key"]).read_bytes()
        demand(len(part["data"]) == part["size"], "a part of another size")
        part["index"] = part_index(part["data"], part["snapshot_id"].decode(), part["number"])
    raw = []
    for chunk in tables["chunks"]:
        part = tables["parts"][chunk["part"]]
        listed = part["index"].get(chunk["offset"], {})
        demand(all(listed.get(name) == chunk[name] for name, _ in CHUNK), "manifest and index disagree")
        raw.append(decoded(chunk, part["data"][chunk["offset"] : chunk["offset"] + chunk["stored"]]))
    write_tree(os.fsencode(target), tables, raw)


def write_tree(target: bytes, tables: dict[str, list[Row]], raw: list[bytes]) -> None:
    """Section "What a restore must do", into a directory that nobody else uses."""
    entries = tables["entries"]
    for entry in entries:
        entry["where"] = os.path.join(target, *entry["path"])
    for entry in (e for e in entries if e["kind"] == DIRECTORY):
        os.mkdir(entry["where"], 0o700)
    for entry in (e for e in entries if e["kind"] == FILE):
        with open(entry["where"], "xb") as file:
            for part in entry["content"]:
                file.seek(part["file_offset"])
                file.write(raw[part["chunk"]][part["chunk_offset"] : part["chunk_offset"] + part["length"]])
            file.truncate(entry["size"])
    for entry in entries:
        if entry["kind"] == HARDLINK:
            os.link(entries[entry["link"]]["where"], entry["where"], follow_symlinks=False)
        elif entry["kind"] == SYMLINK:
            os.symlink(tables["targets"][entry["link"]]["target"], entry["where"])
        elif entry["kind"] == FIFO:
            os.mkfifo(entry["where"])
    for entry in (e for e in reversed(entries) if e["kind"] != HARDLINK):
        settle(entry)


def settle(entry: Row) -> None:
    if os.geteuid() == 0:
        os.chown(entry["where"], entry["uid"], entry["gid"], follow_symlinks=False)
    for name, value in entry["attributes"].items() if entry["kind"] in (DIRECTORY, FILE) else ():
        if name.startswith(b"user."):
            os.setxattr(entry["where"], name, value)
    if entry["kind"] != SYMLINK:
        os.chmod(entry["where"], entry["mode"] & 0o1777)
    os.utime(entry["where"], ns=(entry["mtime_ns"],) * 2, follow_symlinks=False)


if __name__ == "__main__":
    restore(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
