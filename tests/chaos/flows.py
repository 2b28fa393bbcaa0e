"""Rounds of the flows: a hibernation and the wake after it are struck, finished, and compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from deployments.demo.tree_listing import list_tree
from deployments.servers.prefect_server import PrefectServer
from poorwill.snapshot import ids
from tests.chaos.lives import begin, change
from tests.chaos.programs import Fault, Programs, same
from tests.support.flow_world import World

PARTS = 4


class Flows:
    """One machine that is put to sleep and woken again and again."""

    def __init__(self, folder: Path, server: PrefectServer) -> None:
        self.world = World(server, folder, "sleeper")
        self.world.machine(begin)

    def round(self, programs: Programs) -> None:
        """Fault if a machine is destroyed and not woken equal, if it is not destroyed, or if two bill."""
        world = self.world
        instance = world.block().instance
        workspace = world.workspace(instance)
        change(workspace, programs.random)
        expected, snapshot_id = list_tree(workspace), ids.new_snapshot_id()
        self._struck(programs, "hibernate", world.hibernation(snapshot_id=snapshot_id, parts=PARTS))
        programs.let_go()
        if world.provider.exists(instance) or world.block().status != "asleep":
            raise Fault(f"machine {instance} is not asleep: {world.block().status}")
        self._struck(programs, "wake", {"snapshot": snapshot_id, "store": world.store_name, "machine": world.name})
        self._awake(expected)
        programs.let_go()
        self._awake(expected)

    def remove_all(self, programs: Programs) -> None:
        """The store keeps what the machine sleeps by."""

    def _awake(self, expected: Any) -> None:
        world = self.world
        there, block = [path.name for path in world.provider.root.iterdir()], world.block()
        if block.status != "awake" or there != [block.instance]:
            raise Fault(f"the machine is {block.status} as {block.instance}, and there are {there}")
        same(expected, world.workspace(block.instance))

    def _struck(self, programs: Programs, flow: str, parameters: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "tests.chaos.flow_process", flow, json.dumps(parameters)]
        programs.strike(command)
        self.world.free_slot()
        programs.finish(command)
