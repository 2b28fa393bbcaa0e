"""From the names in a flow's parameters to blocks, and all blocks of a role.

A name is that of a block document (`trainer`), looked up among the known types of its role, or
`<type slug>/<name>` (`poorwill-s3-store/trainer`) where several types have a block of that name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import httpx
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from prefect.exceptions import ObjectNotFound

from blocks.machines import Machine
from blocks.media import Media
from blocks.providers import PROVIDERS, AnyProvider
from blocks.stores import STORES, LocalStore, S3Store
from blocks.video_models import VideoModel
from blocks.webhooks import Webhook
from poorwill.errors import NotFound, Refused, UsageError

BLOCKS_MAX = 10_000
PATIENCE_S = 120.0
RETRY_S = 1.0
T = TypeVar("T")
B = TypeVar("B", bound=Block)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")


def store_block(name: str) -> LocalStore | S3Store:
    """The store block of that name. NotFound, UsageError."""
    return _find("store", name, STORES)


def provider_block(name: str) -> AnyProvider:
    """The provider block of that name. NotFound, UsageError."""
    return _find("provider", name, PROVIDERS)


def machine_block(name: str) -> Machine:
    """The machine block of that name, with its `name` filled in. NotFound, UsageError."""
    found = _find("machine", name, (Machine,))
    found.name = found.name or bare(name)
    return found


def machine_if_any(name: str) -> Machine | None:
    """The same, or None."""
    try:
        return machine_block(name)
    except NotFound:
        return None


def media_block(name: str) -> Media:
    """The media block of that name. NotFound, UsageError."""
    return _find("media", name, (Media,))


def model_block(name: str) -> VideoModel:
    """The video model's block of that name. NotFound, UsageError."""
    return _find("video model", name, (VideoModel,))


def webhook_block(name: str) -> Webhook:
    """The webhook block of that name. NotFound, UsageError."""
    return _find("webhook", name, (Webhook,))


def store_names() -> list[str]:
    """`<type slug>/<name>` of every store block, as `store_block` takes it. Refused if there are too many to read."""
    return [name for kind in STORES for name in _names(kind)]


def machine_blocks() -> dict[str, Machine]:
    """Every machine block by its name. UsageError, naming it, if one of them cannot be read; Refused as above."""
    return {bare(name): machine_block(name) for name in _names(Machine)}


def save_machine(name: str, machine: Machine) -> None:
    """Write the block of that name, replacing the one that is there.

    Of a block that was loaded, only the fields that the flows keep up to date are written, in one request.
    """
    known, source = machine._block_document_id, machine.provider._block_document_id
    if known is not None:
        data: dict[str, Any] = {field: getattr(machine, field) for field in Machine.KEPT}
        if source is not None:
            data["provider"] = {"$ref": {"block_document_id": str(source)}}
        with get_client(sync_client=True) as client:
            try:
                client.update_block_document(known, BlockDocumentUpdate(data=data, merge_existing_data=True))
                return
            except ObjectNotFound:
                pass  # somebody deleted it meanwhile
    machine.save(bare(name), overwrite=True)


def bare(name: str) -> str:
    """A block's name without the slug of its type."""
    return name.rpartition("/")[2]


def block_name_of(machine: str) -> str:
    """A valid block name for a machine's: Prefect allows lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-") or "machine"


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


def _find(role: str, name: str, types: tuple[type[B], ...]) -> B:
    slug, _, document = name.rpartition("/")
    wanted = [kind for kind in types if slug in ("", kind.get_block_type_slug())]
    if not wanted or _NAME.fullmatch(document) is None:
        slugs = ", ".join(kind.get_block_type_slug() for kind in types)
        raise UsageError(
            f"'{name[:120]}' is not the name of a {role} block: give its name, or one of {slugs}, '/', its name"
        )
    found = [block for kind in wanted if (block := _load(kind, document)) is not None]
    if not found:
        names = ", ".join(kind.get_block_type_name() for kind in wanted)
        raise NotFound(f"there is no {role} block named '{document}': create one ({names}) in Prefect's UI")
    if len(found) > 1:
        slugs = " or ".join(f"{block.get_block_type_slug()}/{document}" for block in found)
        raise UsageError(f"several {role} blocks are named '{document}': say {slugs}")
    return found[0]


def _load(kind: type[B], document: str) -> B | None:
    try:
        return patiently(lambda: cast("B", kind.load(document)))
    except ValueError as error:
        # Prefect raises it for a block that is not there, and for a document of other fields.
        if "Unable to find block document" in str(error):
            return None
        raise UsageError(
            f"block {kind.get_block_type_slug()}/{document} cannot be read: save it again ({type(error).__name__})"
        ) from None


def patiently(load: Callable[[], T], patience_s: float = PATIENCE_S, retry_s: float = RETRY_S) -> T:
    """`load()`, again while Prefect's server cannot be reached, for `patience_s`: a restart must not fail a run.

    Prefect's own client tries again only on a server that it has reached before, and each load makes a new client.
    """
    ends_s = time.monotonic() + patience_s
    while True:
        try:
            return load()
        except httpx.TransportError:
            if time.monotonic() + retry_s > ends_s:
                raise
            time.sleep(retry_s)
