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

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
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
from blocks.lookup import model_block, store_block
from blocks.stores import STORES
from blocks.webhooks import USERS
from poorwill import defaults
from poorwill.errors import UsageError

STORE, MEDIA, MODEL, KEYS = defaults.STORE, defaults.MEDIA, defaults.VIDEO_MODEL, "poorwill"
STAND_IN = "POORWILL_MODEL_STAND_IN"
"""The folder of a model with random weights, which a real one may replace."""
_OFFERED: tuple[type[Block], ...] = (
    *(getattr(blocks, name) for name in blocks.__all__),
    AwsCredentials, MinIOCredentials, S3Bucket, Secret,
    SlackWebhook, MicrosoftTeamsWebhook, PagerDutyWebHook, SendgridEmail, CustomWebhookNotificationBlock,
)  # fmt: skip
"""The types that the UI offers to make blocks of. Those of all of Prefect's collections would take ten seconds."""


def register(client: SyncPrefectClient, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Register the types and make what is missing; `say` gets a line for each block made, and one that begins with '! '
    for a store that is not the one configured. UsageError for settings that contradict each other, and what Prefect's
    client raises."""
    for kind in _OFFERED:
        kind.register_type_and_schema()
    made = _DefaultBlocks(client, environment, say)
    made.providers()
    made.webhook()
    if address := environment.get("POORWILL_STORE", "").strip():
        made.store(_split(address))
    made.model()


class _DefaultBlocks:
    def __init__(self, client: SyncPrefectClient, environment: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._client, self._environment, self._say = client, environment, say
        self._keys = _keys(environment)
        self._endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None

    def providers(self) -> None:
        self._make(blocks.OwnMachines, "own")
        if directory := self._environment.get("POORWILL_LOCAL_MACHINES"):
            self._make(blocks.LocalProvider, "local", root=directory)
        if key := self._environment.get("VAST_API_KEY"):
            self._make(blocks.VastProvider, "vast", api_key=SecretStr(key))
        if self._keys is None:
            return
        if self._exists(AwsCredentials, KEYS) and _saved_keys().aws_access_key_id != self._keys["aws_access_key_id"]:
            # The keys in the block may be for another service.
            self._warn(f"the block {KEYS} has other keys than the environment")
        elif (region := self._keys["region_name"]) and self._endpoint is None:
            self._make(AwsCredentials, KEYS, **self._keys)
            self._make(blocks.Ec2Provider, "ec2", credentials=_saved_keys(), region=region)

    def webhook(self) -> None:
        if secret_file := self._environment.get("POORWILL_WEBHOOK_SECRET_FILE", "").strip():
            secret = Path(secret_file).expanduser().read_text().strip()
            self._make(blocks.Webhook, USERS, secrets=[SecretStr(secret)])

    def store(self, address: SplitResult) -> None:
        """Of that address, and the media block on it."""
        if address.scheme == "file":
            self._make(blocks.LocalStore, STORE, directory=address.path)
            wanted = f"file://{address.path}"
        else:
            if self._keys is None:
                raise UsageError(
                    "POORWILL_STORE names a bucket, and its keys are not in the environment: set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY, which the block of the store keeps"
                )
            bucket, prefix = address.netloc, address.path.strip("/")
            self._make(AwsCredentials, KEYS, **self._keys)
            place = {"bucket": bucket, "prefix": prefix, "endpoint": self._endpoint}
            self._make(blocks.S3Store, STORE, **place, credentials=_saved_keys())
            wanted = f"s3://{bucket}/{prefix} at {self._endpoint or 'Amazon'}"
        allow = self._environment.get("POORWILL_MEDIA_ALLOW", "").replace(",", " ").split()
        found = store_block(STORE)
        self._make(blocks.Media, MEDIA, store=found, allow=allow)
        if isinstance(found, blocks.LocalStore):
            there = f"file://{found.directory}"
        else:
            there = f"s3://{found.bucket}/{found.prefix.strip('/')} at {found.endpoint or 'Amazon'}"
        if there != wanted:
            # The block is an operator's and is not changed, but one who configures another store has to be warned.
            self._warn(f"the store block {STORE} is {there}, not {wanted}")

    def model(self) -> None:
        """The one that the environment names, else the stand-in, if there is one; it takes a stand-in's place, and not
        that of a block that an operator made."""
        given = self._environment.get
        pipeline, source, stand_in = given("POORWILL_MODEL_PIPELINE"), given("POORWILL_MODEL_SOURCE"), given(STAND_IN)
        if bool(pipeline) != bool(source):
            raise UsageError("a video model needs both POORWILL_MODEL_PIPELINE and POORWILL_MODEL_SOURCE")
        if pipeline:
            fields: dict[str, Any] = {
                "pipeline": pipeline,
                "source": source,
                "revision": given("POORWILL_MODEL_REVISION", ""),
            }
            self._make(blocks.VideoModel, MODEL, **fields)
            if stand_in is not None and model_block(MODEL).source == stand_in != source:
                blocks.VideoModel(**fields).save(MODEL, overwrite=True)
                self._say(f"block {blocks.VideoModel.get_block_type_slug()}/{MODEL}, instead of the stand-in")
        elif stand_in:
            self._make(blocks.VideoModel, MODEL, **tiny_model(stand_in))

    def _warn(self, what: str) -> None:
        self._say(f"! {what}: it is left as it is, change it in Prefect's UI")

    def _make(self, kind: type[Block], name: str, **fields: Any) -> None:
        """Unless it exists. A second store of that name, of another type, would make the name ambiguous."""
        kinds = STORES if kind in STORES else (kind,)
        if not any(self._exists(each, name) for each in kinds):
            kind(**fields).save(name)
            self._say(f"block {kind.get_block_type_slug()}/{name}")

    def _exists(self, kind: type[Block], name: str) -> bool:
        try:
            self._client.read_block_document_by_name(name, kind.get_block_type_slug(), include_secrets=False)
        except ObjectNotFound:
            return False
        return True


def tiny_model(folder: str) -> dict[str, Any]:
    """Fields of the block of the SkyReels that `deployments.demo.tiny_models` makes in that folder: short videos."""
    size = {"num_frames": 9, "height": 128, "width": 128, "steps": 4, "fps": 8}
    return {"pipeline": "HunyuanSkyreelsImageToVideoPipeline", "source": folder, "dtype": "float32", **size}


def _split(address: str) -> SplitResult:
    """The parts of a store's address. UsageError, which does not repeat the address: it may hold a secret."""
    parts = urlsplit(address)
    is_bucket = parts.scheme == "s3" and parts.netloc and not {"@", ":"} & set(parts.netloc)
    is_directory = parts.scheme == "file" and not parts.netloc and len(parts.path) > 1
    if not (is_bucket or is_directory) or parts.query or parts.fragment:
        raise UsageError("POORWILL_STORE is not a store's address: s3://bucket/prefix, or file:///path (three slashes)")
    return parts


def _keys(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """The fields of AwsCredentials, None without keys."""
    access_key, secret_key = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        return None
    return {
        "aws_access_key_id": access_key,
        "aws_secret_access_key": SecretStr(secret_key),
        "aws_session_token": environment.get("AWS_SESSION_TOKEN") or None,
        "region_name": environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or None,
    }


def _saved_keys() -> AwsCredentials:
    return cast(AwsCredentials, AwsCredentials.load(KEYS))
