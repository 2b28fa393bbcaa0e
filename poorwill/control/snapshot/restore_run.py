"""Restoring a snapshot, as the control side does it."""

from __future__ import annotations

from dataclasses import dataclass, field

from poorwill.control.snapshot import needs
from poorwill.control.snapshot.presigned_grants import ReadGrants
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.protocol.answers import PartRestored, Restored
from poorwill.engine.protocol.requests import FinishRestore, OpenRestore, Restore
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.order import RestoreOrder
from poorwill.store.base import Store


@dataclass(slots=True)
class RestoreRun:
    """One restore: `open`, `restore_part` for every part of `parts`, `finish`. Each step may be repeated.

    A restore that had ended in that workspace, whatever became of its answer, is `already_done`: it has no parts, and
    nothing there is touched. An order that overwrites is carried out in any case.
    `parts` maps the rows of the manifest's part table to their bytes, `fetch_bytes_max` is how much of them is fetched
    at most. The order's cache may not be in the workspace (Refused).
    """

    store: Store
    session: EngineSession
    metadata: Metadata
    order: RestoreOrder
    parts: dict[int, int] = field(default_factory=dict)
    raw_bytes: int = 0
    fetch_bytes_max: int = 0
    resumed: bool = False
    already_done: bool = False
    _grants: ReadGrants = field(init=False)

    def __post_init__(self) -> None:
        self._grants = ReadGrants(self.store, self.metadata.readable_keys)

    def open(self) -> dict[int, int]:
        """Have the engine check the manifest, the disk and the directory, and create the directories.

        Before that, HostUnfit if the machine lacks what the snapshot needs, Unsupported if it is not known here.
        """
        if needs.of(self.metadata):
            needs.check_machine(self.metadata, self.session.facts or self.session.hello(self.order.workspace))
        opened = self.session.request(OpenRestore(self.metadata.manifest, self.order), answer=self._grants.answer)
        self.parts = {part.row: part.size for part in opened.parts}
        self.raw_bytes, self.resumed, self.already_done = opened.raw_bytes, opened.resumed, opened.already_done
        self.fetch_bytes_max = opened.fetch_bytes_max
        return self.parts

    def restore_part(self, row: int, attempt: int = 1) -> PartRestored:
        """Have everything the snapshot needs of one part found or downloaded, checked, decoded and written."""
        return self.session.request(Restore(row), attempt=attempt, answer=self._grants.answer)

    def finish(self) -> Restored:
        """Links, attributes, directory times, and the count of everything: `kept_bytes` of files that stood there
        already, stored bytes from the cache (`cached_bytes`) and from the store (`fetched_bytes`)."""
        return self.session.request(FinishRestore())
