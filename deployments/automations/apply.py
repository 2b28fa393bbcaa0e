"""Automations on a Prefect server, as the files of a folder describe them.

    python -m deployments.automations [folder]

Idempotent: an automation that is as described is left alone. Automations are found by their names; others, and an
operator's switching one on or off, are never touched.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from deployments.automations import notification_blocks
from deployments.automations.files import read
from poorwill.errors import UsageError

FOLDER = Path(__file__).parent
_COMPARED = {"name", "description", "tags", "trigger", "actions", "actions_on_trigger", "actions_on_resolve"}


@dataclass(frozen=True, slots=True)
class Change:
    """What was done about a block or an automation. `why` is for those that are skipped."""

    kind: Literal["block", "automation"]
    name: str
    what: Literal["created", "updated", "unchanged", "skipped"]
    why: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.what}{f' ({self.why})' if self.why else ''}"


def apply(folder: Path, environment: Mapping[str, str]) -> list[Change]:
    """Make the server's notification blocks and automations those of the environment and of the folder's files.

    Idempotent. UsageError for variables that do not describe a block, before anything is changed, and for files that
    cannot be read, before any automation is changed.
    """
    blocks = notification_blocks.described(environment)
    changes = [_save(key, block) for key, block in blocks.items()]
    with get_client(sync_client=True) as client:
        find = functools.cache(functools.partial(_find, client, environment))
        planned = [each for path in sorted(folder.glob("*.yaml")) for each in read(path, find)]
        for each in planned:
            if each.core is None:
                why = "not there: " + ", ".join(each.missing)
                changes.append(Change("automation", each.name, "skipped", why))
            else:
                changes.append(_reconcile(client, each.core))
    return changes


def _find(client: SyncPrefectClient, environment: Mapping[str, str], what: str) -> str | None:
    """What a placeholder stands for, None if it is not there."""
    kind, colon, full_name = what.partition(":")
    if not colon:
        return environment.get(what)
    slug, _, name = full_name.partition("/")
    try:
        if kind == "deployment":
            return str(client.read_deployment_by_name(full_name).id)
        if kind in ("block", "block-name"):
            block = client.read_block_document_by_name(name, slug, include_secrets=False)
            return str(block.id) if kind == "block" else str(block.name)
    except ObjectNotFound:
        return None
    raise UsageError(f"${{{what}}}: expected a variable's name, deployment:, block: or block-name:")


def _reconcile(client: SyncPrefectClient, wanted: AutomationCore) -> Change:
    existing = client.read_automations_by_name(wanted.name)
    if not existing:
        client.create_automation(wanted)
        return Change("automation", wanted.name, "created")
    # An operator may have made several of that name; the first is taken each time.
    found = existing[0]
    if found.model_dump(include=_COMPARED) == wanted.model_dump(include=_COMPARED):
        return Change("automation", wanted.name, "unchanged")
    client.update_automation(found.id, wanted.model_copy(update={"enabled": found.enabled}))
    return Change("automation", wanted.name, "updated")


def _save(key: str, block: Block) -> Change:
    """Write the block only if it differs: saving registers its type, and counts as a change of the block."""
    name = key.rpartition("/")[2]
    try:
        found = cast(Block, type(block).load(name, validate=False))
    except ValueError:
        found = None
    if found is not None and _fields(found) == _fields(block):
        return Change("block", key, "unchanged")
    block.save(name, overwrite=True)
    return Change("block", key, "created" if found is None else "updated")


def _fields(block: Block) -> dict[str, Any]:
    return {name: getattr(block, name) for name in type(block).model_fields}


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 1 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.automations", description="Put automations on a Prefect server."
    )
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="of YAML files; default: Poorwill's own")
    try:
        for change in apply(parser.parse_args(argv).folder, os.environ):
            print(change)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
