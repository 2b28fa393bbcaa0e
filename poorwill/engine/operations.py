"""What each request of the protocol does. One snapshot, restore and verification at a time per engine."""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import blake3
import numpy as np

from poorwill.codecs.toolset import Toolset
from poorwill.engine import protocol
from poorwill.engine.context import Context
from poorwill.engine.machine import command, facts
from poorwill.engine.machine.activity import Activity
from poorwill.engine.meter import Meter
from poorwill.engine.pack.convert_run import POLICY, ConvertRun
from poorwill.engine.pack.packer import Packer
from poorwill.engine.pack.round import Adopted
from poorwill.engine.pack.snapshot_run import SnapshotRun
from poorwill.engine.pool import WorkPool, threads_of_this_machine
from poorwill.engine.protocol import Message
from poorwill.engine.restore.chunk_cache import open_cache
from poorwill.engine.restore.restore_run import RestoreRun
from poorwill.engine.transfer.buffers import POOL_BYTES, BufferPool
from poorwill.engine.transfer.fetch import Reader, Source
from poorwill.engine.transfer.part_reading import RUN_BYTES, read_index
from poorwill.engine.transfer.transfers import Transfers
from poorwill.engine.transfer.verify_run import VerifyRun
from poorwill.errors import Corrupt, Unsupported, UsageError
from poorwill.snapshot import fields, ids, limits, manifest
from poorwill.snapshot.order import CACHE_BYTES_MAX, PackSettings
from poorwill.snapshot.tables import Manifest

log = logging.getLogger(__name__)
Emit = Callable[[Message], None]
T = TypeVar("T")


class Operations:
    """The requests by name; `handle` is what a Server calls."""

    def __init__(self, toolset: Toolset | None = None, command_umask: int = -1) -> None:
        """command_umask: with which commands run; -1: with that of this process."""
        self.meter = Meter()
        self._toolset, self._command_umask = toolset or Toolset(), command_umask
        self._pool = WorkPool(threads_of_this_machine(), self._toolset)
        self._packer = Packer(self._pool, self.meter)
        self._transfers = Transfers(self.meter)
        self._buffers: BufferPool | None = None
        self._snapshot: SnapshotRun | None = None
        self._restore: RestoreRun | None = None
        self._verify: VerifyRun | None = None
        self._convert: ConvertRun | None = None

    def handle(self, request: Message, context: Context, emit: Emit) -> Message:
        op = str(request.get("op"))
        operation = getattr(self, f"op_{op}", None)
        if operation is None:
            raise UsageError(f"the engine knows no request '{op}'")
        result: Message = operation(request, context, emit)
        return result

    def close(self) -> None:
        """Let threads end and close files. Idempotent."""
        self._pool.close()
        self._toolset.close()
        self._transfers.close()
        if self._restore is not None:
            self._restore.close()

    def op_hello(self, request: Message, context: Context, emit: Emit) -> Message:
        return facts.machine_facts(str(request.get("workspace", "/")))

    def op_command(self, request: Message, context: Context, emit: Emit) -> Message:
        status, output = command.run(str(request["command"]), str(request["workspace"]), context, self._command_umask)
        return {"status": status, "output": output}

    def op_activity(self, request: Message, context: Context, emit: Emit) -> Message:
        return Activity().look(float(request["window_s"]), context)

    def op_scan(self, request: Message, context: Context, emit: Emit) -> Message:
        settings = fields.read(PackSettings, request["settings"], "settings", UsageError)
        self._snapshot = SnapshotRun(settings, self.meter)
        adopted = self._adopted(request, context)
        parent = request.get("parent")
        before = self._manifest(parent, context) if parent else None
        return self._snapshot.scan(before, parent["blake3"] if parent else "", adopted, context)

    def _adopted(self, request: Message, context: Context) -> list[Adopted]:
        found = [self._adopt(part, context) for part in request.get("adopt", [])]
        return [part for part in found if part is not None]

    def _adopt(self, found: Message, context: Context) -> Adopted | None:
        source = self._transfers.source(found["key"], context)
        try:
            return Adopted(
                int(found["number"]), int(found["size"]), read_index(source, int(found["size"]), found["key"])
            )
        except (Corrupt, Unsupported) as error:
            log.warning("%s: it is packed again", error.message)
            return None
        finally:
            source.close()

    def op_pack(self, request: Message, context: Context, emit: Emit) -> Message:
        round_, number = _needed(self._snapshot, "scan").round, int(request["part"])
        return self._packer.pack(round_, number, lambda: self._transfers.sink(number, context), context)

    def op_settle(self, request: Message, context: Context, emit: Emit) -> Message:
        return _needed(self._snapshot, "scan").settle(context)

    def op_manifest(self, request: Message, context: Context, emit: Emit) -> Message:
        taking = _needed(self._snapshot, "scan")
        sums = _send_pages(taking.manifest(), emit, context)
        left_out = list(taking.left_out.values())
        return {
            **sums,
            "left_out": [fields.write(left) for left in left_out[: limits.LEFT_OUT_MAX]],
            "left_out_count": len(left_out),
            "coding": self._toolset.coding(taking.settings.codec, portable=taking.settings.portable),
        }

    def op_changed(self, request: Message, context: Context, emit: Emit) -> Message:
        found = self._manifest(request["manifest"], context)
        settings = fields.read(PackSettings, request["settings"], "settings", UsageError)
        left_out = frozenset(os.fsencode(path) for path in request.get("left_out", []))
        return {"paths": SnapshotRun(settings, self.meter).changed(found, left_out, context)}

    def op_open_restore(self, request: Message, context: Context, emit: Emit) -> Message:
        found = self._manifest(request["manifest"], context)
        self._check_decodable(found)
        if self._restore is not None:
            self._restore.close()
            self._restore = None
        workspace, cache = str(request["workspace"]), request.get("cache")
        bytes_max = int(request.get("cache_bytes_max", CACHE_BYTES_MAX))
        self._restore = RestoreRun(
            os.fsencode(workspace), found, request["manifest"]["blake3"],
            include=list(request.get("include", [])), overwrite=bool(request.get("overwrite")),
            privileged=bool(request.get("privileged")), reader=self._reader(found), meter=self.meter,
            cache=open_cache(str(cache), workspace, bytes_max) if cache is not None else None, context=context,
        )  # fmt: skip
        left = self._restore.left
        return {
            "parts": _part_list(found, np.unique(found.chunks.part[left]).tolist()),
            "raw_bytes": self._restore.data_bytes,
            "fetch_bytes_max": int(found.chunks.stored[left].sum(dtype=np.int64)),
            "resumed": self._restore.resumed,
        }

    def op_restore(self, request: Message, context: Context, emit: Emit) -> Message:
        restoring, row = _needed(self._restore, "open_restore"), int(request["part_row"])
        key = restoring.manifest.parts.key(row)
        return restoring.part(row, lambda: self._transfers.source(key, context), context)

    def op_finish_restore(self, request: Message, context: Context, emit: Emit) -> Message:
        return _needed(self._restore, "open_restore").finish()

    def op_open_verify(self, request: Message, context: Context, emit: Emit) -> Message:
        found = self._manifest(request["manifest"], context)
        full = bool(request.get("full"))
        if full:
            self._check_decodable(found)
        self._verify = VerifyRun(found, full, self._reader(found), self.meter)
        return {"parts": _part_list(found, range(len(found.parts)))}

    def op_verify(self, request: Message, context: Context, emit: Emit) -> Message:
        verifying, row = _needed(self._verify, "open_verify"), int(request["part_row"])
        source = self._transfers.source(verifying.manifest.parts.key(row), context)
        try:
            return verifying.part(row, row, source, context)
        finally:
            source.close()

    def op_open_convert(self, request: Message, context: Context, emit: Emit) -> Message:
        found, adopted = self._manifest(request["manifest"], context), self._adopted(request, context)
        self._check_decodable(found)
        snapshot_id, reader = ids.checked_snapshot_id(str(request["snapshot_id"])), self._reader(found)
        self._convert = ConvertRun(found, snapshot_id, adopted, reader, self.meter)
        return self._convert.summary()

    def op_convert(self, request: Message, context: Context, emit: Emit) -> Message:
        converting, number = _needed(self._convert, "open_convert"), int(request["part"])

        def open_source(key: str) -> Source:
            return self._transfers.source(key, context)

        return converting.part(number, open_source, lambda: self._transfers.sink(number, context), context)

    def op_finish_convert(self, request: Message, context: Context, emit: Emit) -> Message:
        converting = _needed(self._convert, "open_convert")
        sums = _send_pages(manifest.encode(converting.converted()), emit, context)
        return {**sums, "coding": self._toolset.coding(POLICY, portable=True)}

    def _reader(self, found: Manifest) -> Reader:
        largest = int(found.chunks.stored.max()) if len(found.chunks) else 0
        size = max(RUN_BYTES, largest)
        if self._buffers is None or self._buffers.buffer_bytes < size:
            # Kept from one request to the next: buffers that were pinned stay as long as the process lives.
            self._buffers = BufferPool(size, max(4, POOL_BYTES // size), self._toolset.pinned)
        return Reader(self._pool, self._buffers, self._transfers.threads)

    def _check_decodable(self, found: Manifest) -> None:
        """Unsupported, before anything is read or written, if a chunk is of a codec that this machine cannot decode."""
        for codec in np.unique(found.chunks.codec).tolist():
            self._toolset.codec(codec)

    def _manifest(self, given: Message, context: Context) -> Manifest:
        key, size = str(given["key"]), int(given["bytes"])
        if not 0 < size <= limits.MANIFEST_BYTES_MAX:
            raise Corrupt(f"{key}: a manifest of {size} bytes, expected at most {limits.MANIFEST_BYTES_MAX}")
        data = bytearray(size)
        source = self._transfers.source(key, context)
        try:
            source.read(0, memoryview(data))
        finally:
            source.close()
        found = blake3.blake3(data).hexdigest()
        if found != given["blake3"]:
            raise Corrupt(f"{key}: hashes to {found}, expected {given['blake3']}", object=key)
        return manifest.decode(bytes(data), key)


def _needed(opened: T | None, before: str) -> T:
    if opened is None:
        raise UsageError(f"the engine needs the request '{before}' first")
    return opened


def _send_pages(pages: Iterable[bytes], emit: Emit, context: Context) -> Message:
    """Tell a manifest in `page` events; returns its size and its hash."""
    digest, size, rest = blake3.blake3(), 0, b""
    for page in pages:
        digest.update(page)
        size += len(page)
        rest += page
        while len(rest) >= protocol.PAGE_BYTES:
            emit({"event": "page", "data": base64.b64encode(rest[: protocol.PAGE_BYTES]).decode()})
            rest = rest[protocol.PAGE_BYTES :]
        context.check()
    emit({"event": "page", "data": base64.b64encode(rest).decode()})
    return {"bytes": size, "blake3": digest.hexdigest()}


def _part_list(found: Manifest, rows: Any) -> list[Message]:
    return [{"row": row, "key": found.parts.key(row), "size": int(found.parts.size[row])} for row in rows]
