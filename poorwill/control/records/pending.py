"""The pending record of a snapshot being made, by which whoever removes something knows what it is about to need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from poorwill import __version__
from poorwill.control.records.timestamps import now
from poorwill.errors import NotFound, Refused
from poorwill.snapshot import documents, keys, versions
from poorwill.snapshot.documents import Document
from poorwill.store.base import Store


@dataclass(frozen=True, slots=True)
class PendingRecord:
    """The first object of a snapshot to be written, and the last to go. All of it may be repeated."""

    store: Store
    machine: str
    snapshot_id: str

    @property
    def key(self) -> str:
        return keys.pending(self.machine, self.snapshot_id)

    def write(
        self,
        *,
        workspace: str,
        instance: str,
        parent: str | None,
        borrows: list[str],
        plan_hash: str | None = None,
        converted_from: str | None = None,
    ) -> None:
        """Write it, or write it anew. Refused when the id was begun for another workspace, or from another snapshot.

        borrows: ids of the snapshots whose parts must stay while it exists.
        """
        before = self._read()
        if before is not None:
            self._check_same(before, workspace, converted_from)
        self.store.put(self.key, documents.seal({
            "format": versions.written_format("pending"),
            "machine": self.machine,
            "snapshot_id": self.snapshot_id,
            "workspace": workspace,
            "instance": instance,
            "parent": parent,
            "borrows": borrows,
            "plan_hash": plan_hash,
            "started_at": before["started_at"] if before else now(),
            "tool": {"name": "poorwill", "version": __version__},
            **({"converted_from": converted_from} if converted_from else {}),
        }))  # fmt: skip

    def _read(self) -> Document | None:
        try:
            return documents.unseal(self.store.get(self.key), "pending", self.key)
        except NotFound:
            return None

    def _check_same(self, before: Document, workspace: str, converted_from: str | None) -> None:
        source = before.get("converted_from")
        if source != converted_from:
            begun = f"to convert {source}" if source else f"for {before['workspace']}"
            wanted = f"to convert {converted_from}" if converted_from else f"for {workspace}"
            raise Refused(f"snapshot {self.snapshot_id} was begun {begun}, not {wanted}: use another id")
        if before["workspace"] != workspace:
            raise Refused(
                f"snapshot {self.snapshot_id} was begun for {before['workspace']}, not {workspace}: use another id"
            )

    def remove(self) -> bool:
        """The last step of all: whoever continues the run must find it until then. False if there was none."""
        try:
            self.store.head(self.key)
        except NotFound:
            return False
        self.store.delete(self.key)
        return True

    def finished_parts(self) -> list[dict[str, Any]]:
        """What the engine may adopt: the parts that an earlier run of this snapshot had completed. Those it had not
        are dropped: without their pieces' tags nobody can complete them."""
        prefix = keys.parts_of(self.machine, self.snapshot_id)
        for key, upload in self.store.list_uploads(prefix):
            self.store.abort_upload(key, upload)
        return [
            {"key": found.key, "number": int(found.key[-2:]), "size": found.size}
            for found in self.store.list(prefix)
            if keys.is_part(found.key)
        ]


def borrowed_from(metadata: Document) -> list[str]:
    """The ids of all snapshots whose parts a snapshot uses, its own among them if it has any."""
    return sorted({part["key"].split("/")[2] for part in metadata["parts"]})
