"""What each request of the protocol does. One snapshot, restore and verification at a time per engine."""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import blake3
import numpy as np

from poorwill.engine import command, facts, protocol
from poorwill.engine.activity import Activity
from poorwill.engine.buffers import POOL_BYTES, BufferPool
from poorwill.engine.chunk_cache import BYTES_MAX, open_cache
from poorwill.engine.context import Context
from poorwill.engine.fetch import Reader
from poorwill.engine.meter import Meter
from poorwill.engine.packing import Adopted, threads_of_this_machine
from poorwill.engine.part_reading import RUN_BYTES, read_index
from poorwill.engine.pool import WorkPool
from poorwill.engine.protocol import Message
from poorwill.engine.restoring import Restoring
from poorwill.engine.taking import Settings, Taking
from poorwill.engine.transfers import Transfers
from poorwill.engine.verifying import Verifying
from poorwill.errors import Corrupt, UsageError
from poorwill.snapshot import limits, manifest
from poorwill.snapshot.tables import Manifest

log = logging.getLogger(__name__)
Emit = Callable[[Message], None]
T = TypeVar("T")


class Operations:
    """The requests by name; `handle` is what a Server calls."""

    def __init__(self) -> None:
        self.meter = Meter()
        self._pool = WorkPool(threads_of_this_machine())
        self._transfers = Transfers(self.meter)
        self._taking: Taking | None = None
        self._restoring: Restoring | None = None
        self._verifying: Verifying | None = None

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
        self._transfers.close()
        if self._restoring is not None:
            self._restoring.close()

    def op_hello(self, request: Message, context: Context, emit: Emit) -> Message:
        return facts.machine_facts(str(request.get("workspace", "/")))

    def op_command(self, request: Message, context: Context, emit: Emit) -> Message:
        status, output = command.run(str(request["command"]), str(request["workspace"]), context)
        return {"status": status, "output": output}

    def op_activity(self, request: Message, context: Context, emit: Emit) -> Message:
        return Activity().look(float(request["window_s"]), context)

    def op_scan(self, request: Message, context: Context, emit: Emit) -> Message:
        given = request["settings"]
        settings = Settings(**{**given, "exclude": tuple(given.get("exclude", ()))})
        self._taking = Taking(settings, self._pool, self.meter)
        found = [self._adopt(part, context) for part in request.get("adopt", [])]
        adopted = [part for part in found if part is not None]
        parent = request.get("parent")
        before = self._manifest(parent, context) if parent else None
        return self._taking.scan(before, parent["blake3"] if parent else "", adopted, context)

    def _adopt(self, found: Message, context: Context) -> Adopted | None:
        source = self._transfers.source(found["key"], context)
        try:
            return Adopted(
                int(found["number"]), int(found["size"]), read_index(source, int(found["size"]), found["key"])
            )
        except Corrupt as error:
            log.warning("%s: it is packed again", error.message)
            return None
        finally:
            source.close()

    def op_pack(self, request: Message, context: Context, emit: Emit) -> Message:
        taking, number = _needed(self._taking, "scan"), int(request["part"])
        return taking.pack(number, lambda: self._transfers.sink(number, context), context)

    def op_settle(self, request: Message, context: Context, emit: Emit) -> Message:
        return _needed(self._taking, "scan").settle(context)

    def op_manifest(self, request: Message, context: Context, emit: Emit) -> Message:
        taking = _needed(self._taking, "scan")
        digest, size, rest = blake3.blake3(), 0, b""
        for page in taking.manifest():
            digest.update(page)
            size += len(page)
            rest += page
            while len(rest) >= protocol.PAGE_BYTES:
                emit({"event": "page", "data": base64.b64encode(rest[: protocol.PAGE_BYTES]).decode()})
                rest = rest[protocol.PAGE_BYTES :]
            context.check()
        emit({"event": "page", "data": base64.b64encode(rest).decode()})
        left_out = list(taking.left_out.values())
        return {
            "bytes": size,
            "blake3": digest.hexdigest(),
            "left_out": [left.to_wire() for left in left_out[: limits.LEFT_OUT_MAX]],
            "left_out_count": len(left_out),
        }

    def op_changed(self, request: Message, context: Context, emit: Emit) -> Message:
        found = self._manifest(request["manifest"], context)
        given = request["settings"]
        settings = Settings(**{**given, "exclude": tuple(given.get("exclude", ()))})
        left_out = frozenset(os.fsencode(path) for path in request.get("left_out", []))
        return {"paths": Taking(settings, self._pool, self.meter).changed(found, left_out, context)}

    def op_open_restore(self, request: Message, context: Context, emit: Emit) -> Message:
        found = self._manifest(request["manifest"], context)
        if self._restoring is not None:
            self._restoring.close()
            self._restoring = None
        workspace, cache = str(request["workspace"]), request.get("cache")
        bytes_max = int(request.get("cache_bytes_max", BYTES_MAX))
        self._restoring = Restoring(
            os.fsencode(workspace), found, request["manifest"]["blake3"],
            include=list(request.get("include", [])), overwrite=bool(request.get("overwrite")),
            privileged=bool(request.get("privileged")), reader=self._reader(found), meter=self.meter,
            cache=open_cache(str(cache), workspace, bytes_max) if cache is not None else None, context=context,
        )  # fmt: skip
        left = self._restoring.left
        return {
            "parts": _part_list(found, np.unique(found.chunks.part[left]).tolist()),
            "raw_bytes": self._restoring.data_bytes,
            "fetch_bytes_max": int(found.chunks.stored[left].sum(dtype=np.int64)),
            "resumed": self._restoring.resumed,
        }

    def op_restore(self, request: Message, context: Context, emit: Emit) -> Message:
        restoring, row = _needed(self._restoring, "open_restore"), int(request["part_row"])
        key = restoring.manifest.parts.key(row)
        return restoring.part(row, lambda: self._transfers.source(key, context), context)

    def op_finish_restore(self, request: Message, context: Context, emit: Emit) -> Message:
        return _needed(self._restoring, "open_restore").finish()

    def op_open_verify(self, request: Message, context: Context, emit: Emit) -> Message:
        found = self._manifest(request["manifest"], context)
        self._verifying = Verifying(found, bool(request.get("full")), self._reader(found), self.meter)
        return {"parts": _part_list(found, range(len(found.parts)))}

    def op_verify(self, request: Message, context: Context, emit: Emit) -> Message:
        verifying, row = _needed(self._verifying, "open_verify"), int(request["part_row"])
        source = self._transfers.source(verifying.manifest.parts.key(row), context)
        try:
            return verifying.part(row, row, source, context)
        finally:
            source.close()

    def _reader(self, found: Manifest) -> Reader:
        largest = int(found.chunks.stored.max()) if len(found.chunks) else 0
        size = max(RUN_BYTES, largest)
        return Reader(self._pool, BufferPool(size, max(4, POOL_BYTES // size)), self._transfers.threads)

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


def _part_list(found: Manifest, rows: Any) -> list[Message]:
    return [{"row": row, "key": found.parts.key(row), "size": int(found.parts.size[row])} for row in rows]
