"""All blocks of a role that Prefect holds, for flows that look at everything."""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound

from blocks.lookup import machine_block
from blocks.machines import Machine
from blocks.stores import STORES
from poorwill.errors import Refused

BLOCKS_MAX = 10_000


def store_names() -> list[str]:
    """`<type slug>/<name>` of every store block, as `store_block` takes it. Refused if there are too many to read."""
    return [name for kind in STORES for name in _names(kind)]


def machines() -> dict[str, Machine]:
    """Every machine block by its name. UsageError, naming it, if one of them cannot be read; Refused as above."""
    return {name.rpartition("/")[2]: machine_block(name) for name in _names(Machine)}


def _names(kind: type[Any]) -> list[str]:
    slug = kind.get_block_type_slug()
    with get_client(sync_client=True) as client:
        try:
            client.read_block_type_by_slug(slug)
        except ObjectNotFound:
            return []  # no such block was ever made
        # Prefect returns all of them at once, whatever the limit.
        found = client.read_block_documents_by_type(slug, include_secrets=False)
    if len(found) > BLOCKS_MAX:
        raise Refused(f"Prefect holds {len(found)} blocks of type {slug}, at most {BLOCKS_MAX} are read")
    return [f"{slug}/{document.name}" for document in found if document.name and not document.is_anonymous]
