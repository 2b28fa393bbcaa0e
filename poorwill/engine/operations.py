"""What each request of the protocol does. One snapshot, restore and verification at a time per engine.

What only some requests need is imported by the first of them: most engines live for one command.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import blake3
import numpy as np

from poorwill.codecs.toolset import Toolset
from poorwill.engine.machine import facts
from poorwill.engine.machine.control_side import ControlSide
from poorwill.engine.machine.workspace_lock import WorkspaceLock
from poorwill.engine.meter import Meter
from poorwill.engine.pack.file_systems import FileSystems
from poorwill.engine.pack.packer import Packer
from poorwill.engine.pack.root_watch import RootWatch
from poorwill.engine.pack.round import Adopted
from poorwill.engine.pack.scan import OWN_STATE
from poorwill.engine.pack.snapshot_run import SnapshotRun
from poorwill.engine.pool import WorkPool, threads_of_this_machine
from poorwill.engine.protocol import answers, asking, lines, requests
from poorwill.engine.protocol.context import Context
from poorwill.engine.transfer.buffers import POOL_BYTES, BufferPool
from poorwill.engine.transfer.fetch import Reader
from poorwill.engine.transfer.part_reading import RUN_BYTES, listed, read_index
from poorwill.engine.transfer.transfers import Transfers
from poorwill.errors import Corrupt, Unsupported, UsageError
from poorwill.snapshot import ids, limits, manifest
from poorwill.snapshot.metadata import ManifestReference
from poorwill.snapshot.tables import Manifest

if TYPE_CHECKING:
    from poorwill.engine.pack.convert_run import ConvertRun
    from poorwill.engine.restore.ended import EndedRestore
    from poorwill.engine.restore.restore_run import RestoreRun
    from poorwill.engine.transfer.verify_run import VerifyRun

log = logging.getLogger(__name__)
A = TypeVar("A")
T = TypeVar("T")


class Operations:
    """What works on the requests that a Server takes, by their names."""

    def __init__(
        self,
        toolset: Toolset | None = None,
        command_umask: int = -1,
        control: ControlSide | None = None,
        file_systems: FileSystems | None = None,
    ) -> None:
        """command_umask: with which commands run; -1: with that of this process. control: for whom it works."""
        self.meter = Meter()
        self._toolset, self._command_umask = toolset or Toolset(), command_umask
        self._workspace = WorkspaceLock(control)
        self._check = control.check if control is not None else lambda: None
        self._pool = WorkPool(threads_of_this_machine(), self._toolset)
        self._packer = Packer(self._pool, self.meter)
        self._transfers = Transfers(self.meter)
        self._buffers: BufferPool | None = None
        self._file_systems = file_systems or FileSystems()
        self._snapshot: SnapshotRun | None = None
        self._watch: RootWatch | None = None
        self._restore: RestoreRun | EndedRestore | None = None
        self._verify: VerifyRun | None = None
        self._convert: ConvertRun | None = None

    def of(self, request: asking.Request[A]) -> Callable[[asking.Request[A], Context], A]:
        """What answers such a request. It raises PoorwillError."""
        operation: Callable[[asking.Request[A], Context], A] = getattr(self, f"op_{request.op}")
        return operation

    def close(self) -> None:
        """Let threads end and close files. Idempotent."""
        self._pool.close()
        self._toolset.close()
        self._transfers.close()
        if self._restore is not None:
            self._restore.close()
        self._workspace.release()

    def op_hello(self, request: requests.Hello, context: Context) -> answers.MachineFacts:
        return facts.machine_facts(request.workspace)

    def op_command(self, request: requests.Command, context: Context) -> answers.CommandEnd:
        from poorwill.engine.machine import command

        return command.run(request.command, request.workspace, context, self._command_umask)

    def op_activity(self, request: requests.Activity, context: Context) -> dict[str, Any]:
        from poorwill.engine.machine.activity import Activity

        return Activity().look(request.window_s, context)

    def op_hold(self, request: requests.Hold, context: Context) -> dict[str, Any]:
        self._workspace.take(request.workspace, "snapshot", context)
        return {}

    def op_scan(self, request: requests.Scan, context: Context) -> answers.Planned:
        adopted = self._adopted(request.adopt, context)
        before = self._manifest(request.parent, context) if request.parent else None
        with self._workspace.released_on_failure():
            self._workspace.take(request.settings.workspace, "snapshot", context)
            self._snapshot = SnapshotRun(request.settings, self.meter, self._file_systems)
            self._watch = RootWatch(request.settings)
            parent_hash = request.parent.blake3 if request.parent else ""
            with self._watch.scanning():
                planned = self._snapshot.scan(before, parent_hash, adopted, context)
        warnings = (*planned.warnings, *self._workspace.warnings)
        return planned._replace(warnings=warnings, surroundings=self._watch.surroundings(self._snapshot.round.scan))

    def _adopted(self, found: Iterable[requests.FoundPart], context: Context) -> list[Adopted]:
        adopted = []
        for part in found:
            with closing(self._transfers.source(part.key, context)) as source:
                try:
                    adopted.append(Adopted(part.number, part.size, read_index(source, part.size, part.key)))
                except (Corrupt, Unsupported) as error:
                    log.warning("%s: it is packed again", error.message)
        return adopted

    def op_pack(self, request: requests.Pack, context: Context) -> answers.PartSent:
        round_ = _needed(self._snapshot, "scan").round
        return self._packer.pack(round_, request.part, lambda: self._transfers.sink(request.part, context), context)

    def op_settle(self, request: requests.Settle, context: Context) -> answers.Planned:
        with _needed(self._watch, "scan").scanning():
            return _needed(self._snapshot, "scan").settle(context)

    def op_manifest(self, request: requests.Manifest, context: Context) -> answers.SnapshotManifestSent:
        snapshot = _needed(self._snapshot, "scan")
        size, digest = _send_pages(manifest.encode(snapshot.settled()), context)
        coding = self._coding(snapshot.settings.codec, snapshot.settings.portable)
        left_out = tuple(snapshot.left_out.values())
        self._workspace.release()  # nothing more of it is read
        lost = sum(left.reason != OWN_STATE for left in left_out)
        return answers.SnapshotManifestSent(size, digest, coding, left_out[: limits.LEFT_OUT_MAX], lost)

    def op_changed(self, request: requests.Changed, context: Context) -> answers.Changes:
        from poorwill.engine.pack.gate import Gate

        found, watch = self._manifest(request.manifest, context), RootWatch(request.settings)
        gate = Gate(request.settings, found, request.left_out, self._file_systems, self.meter)
        alone = self._workspace.during(request.settings.workspace, "last look before the machine goes", context)
        with alone, watch.scanning():
            changes = gate.changes(context)
        return changes._replace(surroundings=watch.surroundings())

    def op_open_restore(self, request: requests.OpenRestore, context: Context) -> answers.RestoreOpened:
        from poorwill.engine.restore.ended import EndedRestore
        from poorwill.engine.restore.restore_run import RestoreRun

        found = self._manifest(request.manifest, context)
        self._check_decodable(found)
        if self._restore is not None:
            self._restore.close()
            self._restore = None
        order, digest = request.order, request.manifest.blake3
        if not order.overwrite:
            self._restore = EndedRestore.found(found, digest, order)
        if self._restore is None:
            with self._workspace.released_on_failure():
                self._restore = RestoreRun(
                    found, digest, order, reader=self._reader(found), meter=self.meter, context=context,
                    enter=lambda: self._workspace.take(order.workspace, "restore", context), check=self._check,
                )  # fmt: skip
        return self._restore.opened()

    def _opened_restore(self) -> RestoreRun | EndedRestore:
        if self._restore is None:
            raise UsageError("the engine needs the request 'open_restore' first")
        return self._restore

    def op_restore(self, request: requests.Restore, context: Context) -> answers.PartRestored:
        restore = self._opened_restore()
        key = _key_of(restore.manifest, request.part_row)
        return restore.part(request.part_row, lambda: self._transfers.source(key, context), context)

    def op_finish_restore(self, request: requests.FinishRestore, context: Context) -> answers.Restored:
        restored = self._opened_restore().finish()
        warnings = () if restored.already_done else self._workspace.warnings
        self._workspace.release()
        return restored._replace(warnings=(*restored.warnings, *warnings))

    def op_open_verify(self, request: requests.OpenVerify, context: Context) -> answers.PartsListed:
        from poorwill.engine.transfer.verify_run import VerifyRun

        found = self._manifest(request.manifest, context)
        if request.full:
            self._check_decodable(found)
        self._verify = VerifyRun(found, request.full, self._reader(found), self.meter)
        return answers.PartsListed(listed(found, range(len(found.parts))))

    def op_verify(self, request: requests.Verify, context: Context) -> answers.PartVerified:
        verify = _needed(self._verify, "open_verify")
        with closing(self._transfers.source(_key_of(verify.manifest, request.part_row), context)) as source:
            return verify.part(request.part_row, source, context)

    def op_open_convert(self, request: requests.OpenConvert, context: Context) -> answers.ConvertPlanned:
        from poorwill.engine.pack.convert_run import ConvertRun

        found, adopted = self._manifest(request.manifest, context), self._adopted(request.adopt, context)
        self._check_decodable(found)
        snapshot_id, reader = ids.checked_snapshot_id(request.snapshot_id), self._reader(found)
        self._convert = ConvertRun(found, snapshot_id, adopted, reader, self.meter)
        return self._convert.summary()

    def op_convert(self, request: requests.Convert, context: Context) -> answers.PartSent:
        transfers, number = self._transfers, request.part
        return _needed(self._convert, "open_convert").part(
            number, lambda key: transfers.source(key, context), lambda: transfers.sink(number, context), context
        )

    def op_finish_convert(self, request: requests.FinishConvert, context: Context) -> answers.ManifestSent:
        convert = _needed(self._convert, "open_convert")
        size, digest = _send_pages(manifest.encode(convert.converted()), context)
        return answers.ManifestSent(size, digest, self._coding(convert.POLICY, portable=True))

    def _coding(self, policy: str, portable: bool) -> answers.CodingTold | None:
        coding = self._toolset.coding(policy, portable=portable)
        if coding is None:
            return None
        texts = {name: text[: asking.TEXT_MAX] for name, text in coding.items() if isinstance(text, str)}
        return answers.CodingTold(**{**coding, **texts})

    def _reader(self, found: Manifest) -> Reader:
        size = int(found.chunks.stored.max(initial=RUN_BYTES))
        if self._buffers is None or self._buffers.buffer_bytes < size:
            # Kept from one request to the next: buffers that were pinned stay as long as the process lives.
            self._buffers = BufferPool(size, max(4, POOL_BYTES // size), self._toolset.pinned)
        return Reader(self._pool, self._buffers, self._transfers.threads)

    def _check_decodable(self, found: Manifest) -> None:
        """Unsupported, before anything is read or written, if a chunk is of a codec that this machine cannot decode."""
        for codec in np.unique(found.chunks.codec).tolist():
            self._toolset.codec(codec)

    def _manifest(self, given: ManifestReference, context: Context) -> Manifest:
        key, size = given.key, given.bytes
        if not 0 < size <= limits.MANIFEST_BYTES_MAX:
            raise Corrupt(f"{key}: a manifest of {size} bytes, expected at most {limits.MANIFEST_BYTES_MAX}")
        data = bytearray(size)
        with closing(self._transfers.source(key, context)) as source:
            source.read(0, memoryview(data))
        found = blake3.blake3(data).hexdigest()
        if found != given.blake3:
            raise Corrupt(f"{key}: hashes to {found}, expected {given.blake3}", object=key)
        return manifest.decode(bytes(data), key)


def _needed(opened: T | None, before: str) -> T:
    if opened is None:
        raise UsageError(f"the engine needs the request '{before}' first")
    return opened


def _key_of(found: Manifest, row: int) -> str:
    if row >= len(found.parts):
        raise UsageError(f"part_row {row}: the manifest lists {len(found.parts)} parts")
    return found.parts.key(row)


def _send_pages(pages: Iterable[bytes], context: Context) -> tuple[int, str]:
    """Send a manifest in pieces; returns its size and its hash."""
    digest, size, rest = blake3.blake3(), 0, b""
    for page in pages:
        digest.update(page)
        size += len(page)
        rest += page
        while len(rest) >= lines.PAGE_BYTES:
            context.send_page(rest[: lines.PAGE_BYTES])
            rest = rest[lines.PAGE_BYTES :]
        context.check()
    context.send_page(rest)
    return size, digest.hexdigest()
