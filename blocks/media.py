"""The block that says where images may come from and where videos go."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from blocks.allow import AllowRules, parsed
from blocks.schema import SteadySchema
from blocks.stores import LocalStore, S3Store
from poorwill.errors import UsageError
from poorwill.store.base import Store

if TYPE_CHECKING:
    from poorwill.media.image_source import Sources

URL_EXPIRES_S_MAX = 7 * 24 * 3600
"""What AWS's signatures allow."""


class Media(SteadySchema):
    """Where `generate` takes its images from and puts its videos."""

    _block_type_name = "Poorwill media"
    _block_type_slug = "poorwill-media"

    store: S3Store | LocalStore = Field(union_mode="left_to_right", description="Where videos go, below 'videos/'.")
    # Names and not blocks: Prefect 3.9's server cannot read back a block that refers twice to one with a union in it.
    image_stores: list[str] = Field(
        default=[],
        description="Names of S3 store blocks: 's3://bucket/key' images may come from there, below their prefix.",
    )
    allow: AllowRules = Field(
        default=[],
        description="Addresses that are not public and may be asked for images all the same, like 10.0.0.0/8 or "
        "127.0.0.1:8000. Everything else inside your network stays out of reach.",
    )
    image_bytes_max: int = Field(default=20_000_000, ge=1, description="Larger images are refused.")
    image_pixels_max: int = Field(default=50_000_000, ge=1, description="The same, in pixels.")
    image_timeout_s: float = Field(default=30.0, gt=0, description="For one image, with all redirects.")
    url_expires_s: int = Field(
        default=URL_EXPIRES_S_MAX, ge=1, le=URL_EXPIRES_S_MAX, description="How long the URL of a video works."
    )

    def open(self) -> Store:
        """The store of videos. UsageError, StoreRefused."""
        return self.store.open()

    def sources(self, stores: Iterable[S3Store | LocalStore]) -> Sources:
        """What an image may be, and where from; `stores` are the blocks that `image_stores` names. UsageError."""
        from poorwill.media.image_source import Bucket, Sources  # Pillow is on machines that generate alone

        return Sources(
            allow=parsed(self.allow),
            buckets=tuple(
                Bucket(store.bucket, store.prefix.strip("/"), store.open()) for store in map(_bucket, stores)
            ),
            bytes_max=self.image_bytes_max,
            pixels_max=self.image_pixels_max,
            timeout_s=self.image_timeout_s,
        )


def _bucket(store: S3Store | LocalStore) -> S3Store:
    if not isinstance(store, S3Store):
        raise UsageError(f"the image store {store.directory} is not a bucket: name S3 store blocks in the media block")
    return store
