"""The blocks that a new installation has, made from the environment; those that exist are left as they are.

| block | made when |
|---|---|
| store `default`, media `media` | POORWILL_STORE is `s3://bucket/prefix` (with AWS keys) or `file:///path` |
| model `video` | POORWILL_MODEL_PIPELINE and POORWILL_MODEL_SOURCE are set |
| webhook `webhooks` | POORWILL_WEBHOOK_SECRET_FILE names a file with a secret |
| provider `own` | always |
| provider `local` | POORWILL_LOCAL_MACHINES names a directory |
| provider `vast` | VAST_API_KEY is set |
| provider `ec2` | there are AWS keys and a region, and no AWS_ENDPOINT_URL that says they are for another service |

AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL say where another store than Amazon's is, POORWILL_MEDIA_ALLOW which addresses
that are not public images may come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from prefect.blocks.core import Block
from prefect.blocks.notifications import (
    CustomWebhookNotificationBlock,
    MicrosoftTeamsWebhook,
    PagerDutyWebHook,
    SendgridEmail,
    SlackWebhook,
)
from prefect.blocks.system import Secret
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from prefect_aws import AwsCredentials, MinIOCredentials, S3Bucket
from pydantic import SecretStr

import blocks
from blocks.lookup import store_block
from blocks.stores import STORES
from blocks.webhooks import USERS
from poorwill.errors import UsageError

STORE, MEDIA, MODEL, KEYS = "default", "media", "video", "poorwill"
STAND_IN = "POORWILL_MODEL_STAND_IN"
"""The folder of a model with random weights, which a real one may replace."""
_OFFERED: tuple[type[Block], ...] = (
    *(getattr(blocks, name) for name in blocks.__all__),
    AwsCredentials, MinIOCredentials, S3Bucket, Secret,
    SlackWebhook, MicrosoftTeamsWebhook, PagerDutyWebHook, SendgridEmail, CustomWebhookNotificationBlock,
)  # fmt: skip
"""The types that the UI offers to make blocks of. Those of all of Prefect's collections would take ten seconds."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A block to be made under a name, unless there is one."""

    kind: type[Block]
    name: str
    make: Callable[[], Block]


def register(client: SyncPrefectClient, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Register the types and make what is missing; `say` is told of each block made, and, after '! ', of a store that
    is not the one configured. UsageError for settings that contradict each other, and what Prefect's client raises."""
    for kind in _OFFERED:
        kind.register_type_and_schema()
    foreign = _has_other_keys(client, environment)
    if foreign:
        say(f"! the block {KEYS} has other keys than the environment: it is left as it is, change it in Prefect's UI")
    for wanted in _wanted(environment, with_ec2=not foreign):
        # A second store of that name, of another type, would make the name ambiguous.
        kinds = STORES if wanted.kind in STORES else (wanted.kind,)
        if not any(_exists(client, kind, wanted.name) for kind in kinds):
            wanted.make().save(wanted.name)
            say(f"block {wanted.kind.get_block_type_slug()}/{wanted.name}")
    _replace_stand_in(environment, say)
    _compare_store(environment, say)


def _exists(client: SyncPrefectClient, kind: type[Block], name: str) -> bool:
    try:
        client.read_block_document_by_name(name, kind.get_block_type_slug(), include_secrets=False)
    except ObjectNotFound:
        return False
    return True


def _has_other_keys(client: SyncPrefectClient, environment: Mapping[str, str]) -> bool:
    """Whether the keys that blocks are made with are not those of the environment: they may be for another service."""
    if not _has_keys(environment) or not _exists(client, AwsCredentials, KEYS):
        return False
    return bool(AwsCredentials.load(KEYS).aws_access_key_id != environment["AWS_ACCESS_KEY_ID"])


def _wanted(environment: Mapping[str, str], with_ec2: bool) -> Iterator[Wanted]:
    yield Wanted(blocks.OwnMachines, "own", blocks.OwnMachines)
    if directory := environment.get("POORWILL_LOCAL_MACHINES"):
        yield Wanted(blocks.LocalProvider, "local", lambda: blocks.LocalProvider(root=directory))
    if key := environment.get("VAST_API_KEY"):
        yield Wanted(blocks.VastProvider, "vast", lambda: blocks.VastProvider(api_key=SecretStr(key)))
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if with_ec2 and _has_keys(environment) and region and _endpoint(environment) is None:
        yield Wanted(AwsCredentials, KEYS, lambda: _keys(environment))
        yield Wanted(
            blocks.Ec2Provider, "ec2", lambda: blocks.Ec2Provider(credentials=AwsCredentials.load(KEYS), region=region)
        )
    if secret_file := environment.get("POORWILL_WEBHOOK_SECRET_FILE", "").strip():
        secret = Path(secret_file).expanduser().read_text().strip()
        yield Wanted(blocks.Webhook, USERS, lambda: blocks.Webhook(secrets=[SecretStr(secret)]))
    yield from _stores(environment)
    if (model := _model(environment)) is not None:
        yield Wanted(blocks.VideoModel, MODEL, lambda: model)


def _stores(environment: Mapping[str, str]) -> Iterator[Wanted]:
    address = environment.get("POORWILL_STORE", "").strip()
    if not address:
        return
    parts = _checked(address)
    if parts.scheme == "file":
        yield Wanted(blocks.LocalStore, STORE, lambda: blocks.LocalStore(directory=parts.path))
    else:
        if not _has_keys(environment):
            raise UsageError(
                "POORWILL_STORE names a bucket, and its keys are not in the environment: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, which the block of the store keeps"
            )
        yield Wanted(AwsCredentials, KEYS, lambda: _keys(environment))
        yield Wanted(
            blocks.S3Store,
            STORE,
            lambda: blocks.S3Store(
                bucket=parts.netloc,
                prefix=parts.path.strip("/"),
                endpoint=_endpoint(environment),
                credentials=AwsCredentials.load(KEYS),
            ),
        )
    allow = environment.get("POORWILL_MEDIA_ALLOW", "").replace(",", " ").split()
    yield Wanted(blocks.Media, MEDIA, lambda: blocks.Media(store=store_block(STORE), allow=allow))


def _checked(address: str) -> SplitResult:
    """The parts of a store's address. UsageError, which repeats nothing: what stands there may be a secret."""
    parts = urlsplit(address)
    is_bucket = parts.scheme == "s3" and parts.netloc and not {"@", ":"} & set(parts.netloc)
    is_directory = parts.scheme == "file" and not parts.netloc and len(parts.path) > 1
    if not (is_bucket or is_directory) or parts.query or parts.fragment:
        raise UsageError("POORWILL_STORE is not a store's address: s3://bucket/prefix, or file:///path (three slashes)")
    return parts


def _model(environment: Mapping[str, str]) -> blocks.VideoModel | None:
    """The one that the environment names, else the stand-in, if there is one."""
    pipeline, source = environment.get("POORWILL_MODEL_PIPELINE"), environment.get("POORWILL_MODEL_SOURCE")
    if bool(pipeline) != bool(source):
        raise UsageError("a video model needs both POORWILL_MODEL_PIPELINE and POORWILL_MODEL_SOURCE")
    if pipeline and source:
        revision = environment.get("POORWILL_MODEL_REVISION", "")
        return blocks.VideoModel(pipeline=pipeline, source=source, revision=revision)
    if folder := environment.get(STAND_IN):
        small = {"num_frames": 9, "height": 128, "width": 128, "steps": 4, "fps": 8}
        return blocks.VideoModel(
            pipeline="HunyuanSkyreelsImageToVideoPipeline", source=folder, dtype="float32", **small
        )
    return None


def _replace_stand_in(environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """A stand-in gives way to the model that the environment names; a block that an operator made does not."""
    folder, model = environment.get(STAND_IN), _model(environment)
    if folder is None or model is None or model.source == folder:
        return
    if blocks.VideoModel.load(MODEL).source == folder:
        model.save(MODEL, overwrite=True)
        say(f"block {blocks.VideoModel.get_block_type_slug()}/{MODEL}, instead of the stand-in")


def _compare_store(environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """The block is an operator's: it is not changed, but whoever configures another store has to hear of it."""
    address = environment.get("POORWILL_STORE", "").strip()
    if not address:
        return
    parts, found = _checked(address), store_block(STORE)
    if isinstance(found, blocks.LocalStore):
        there, wanted = f"file://{found.directory}", f"{parts.scheme}://{parts.netloc}{parts.path}"
    else:
        there = f"s3://{found.bucket}/{found.prefix.strip('/')} at {found.endpoint or 'Amazon'}"
        wanted = f"{parts.scheme}://{parts.netloc}/{parts.path.strip('/')} at {_endpoint(environment) or 'Amazon'}"
    if there != wanted:
        say(f"! the store block {STORE} is {there}, not {wanted}: it is left as it is, change it in Prefect's UI")


def _has_keys(environment: Mapping[str, str]) -> bool:
    return bool(environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY"))


def _endpoint(environment: Mapping[str, str]) -> str | None:
    return environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None


def _keys(environment: Mapping[str, str]) -> AwsCredentials:
    return AwsCredentials(
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=SecretStr(environment["AWS_SECRET_ACCESS_KEY"]),
        aws_session_token=environment.get("AWS_SESSION_TOKEN") or None,
        region_name=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or None,
    )
