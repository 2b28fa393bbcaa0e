"""Rounds of the command line: a snapshot and a restore are struck, finished, and compared."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from deployments.demo.tree_listing import list_tree
from poorwill.control.records import catalog
from poorwill.snapshot import ids
from poorwill.store.base import Store
from tests.chaos.lives import begin, change
from tests.chaos.programs import Fault, Programs, same

PROGRAM = str(Path(sys.executable).with_name("poorwill"))
PARTS = 4


class CommandLine:
    """One workspace and one store, reached by the program at `url` and by us as `store`."""

    def __init__(self, folder: Path, url: str, store: Store) -> None:
        self.folder, self.url, self.store = folder, url, store
        self.workspace = folder / "workspace"
        begin(self.workspace)

    def round(self, programs: Programs) -> None:
        """Fault if a snapshot or a restore is not what it was asked for, or a committed snapshot changed later."""
        change(self.workspace, programs.random)
        expected = list_tree(self.workspace)
        given_up = programs.random.random() < 0.1
        snapshot_id = self._snapshot(programs, finished=not given_up)
        if given_up:
            snapshot_id = self._snapshot(programs, finished=True)
        restored = self.folder / f"restored-{snapshot_id}"
        command = self._command("restore", snapshot_id, str(restored))
        programs.strike(command)
        programs.finish(command)
        same(expected, restored)
        programs.let_go()
        same(expected, restored)
        same(expected, self.workspace)
        shutil.rmtree(restored)

    def remove_all(self, programs: Programs) -> None:
        """Fault if anything is left in the store once all snapshots are removed."""
        said = programs.finish(self._command("ls", "--json"))
        for line in map(json.loads, said.splitlines()):
            if "snapshot_id" in line:
                programs.finish(self._command("delete", line["snapshot_id"], "--force"))
        left = [found.key for found in self.store.list("")]
        if left:
            raise Fault(f"{len(left)} objects are left in the store: {', '.join(sorted(left)[:10])}")

    def _snapshot(self, programs: Programs, *, finished: bool) -> str:
        snapshot_id = ids.new_snapshot_id()
        options = ("--machine", "trainer", "--id", snapshot_id, "--parts", str(PARTS))
        command = self._command("snapshot", str(self.workspace), *options)
        programs.strike(command)
        if not finished:
            programs.let_go()
            return snapshot_id
        programs.finish(command)
        sealed = self._sealed(snapshot_id)
        programs.let_go()
        if self._sealed(snapshot_id) != sealed:
            raise Fault(f"snapshot {snapshot_id} was changed after its commit")
        programs.finish(self._command("verify", snapshot_id, "--full"))
        return snapshot_id

    def _sealed(self, snapshot_id: str) -> tuple[bytes, bytes]:
        metadata = catalog.find(self.store, snapshot_id)
        return self.store.get(metadata.key), self.store.get(metadata.manifest.key)

    def _command(self, kind: str, *arguments: str) -> list[str]:
        return [PROGRAM, kind, "--store", self.url, *arguments]
