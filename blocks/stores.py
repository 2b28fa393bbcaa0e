"""Blocks that say where snapshots are kept. `open()` gives the store of poorwill."""

from __future__ import annotations

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials, MinIOCredentials
from pydantic import Field

from poorwill.errors import UsageError
from poorwill.store.base import Store
from poorwill.store.local import LocalStore as DirectoryStore
from poorwill.store.retrying import RetryingStore
from poorwill.store.s3.store import S3Store as BucketStore


class LocalStore(Block):
    """Snapshots in a directory of the host that runs the flows and the machines."""

    _block_type_name = "Poorwill local store"
    _block_type_slug = "poorwill-local-store"

    directory: str = Field(description="Absolute path of a directory; it is created when it is first used.")
    price_per_gb_month: float = Field(
        default=0.0, ge=0, description="What keeping 1 GB for a month costs, in US dollars; for reports alone."
    )

    def open(self) -> Store:
        """The store. UsageError, StoreRefused."""
        if not self.directory.startswith("/"):
            raise UsageError(f"store directory '{self.directory}': expected an absolute path")
        return DirectoryStore(self.directory)


class S3Store(Block):
    """Snapshots in a bucket of Amazon S3, or of a store that speaks its protocol."""

    _block_type_name = "Poorwill S3 store"
    _block_type_slug = "poorwill-s3-store"

    bucket: str = Field(description="Name of the bucket; it must exist.")
    prefix: str = Field(default="", description="All objects lie below it, for example 'poorwill/team-a'.")
    endpoint: str | None = Field(
        default=None,
        description="URL of a store that is not Amazon's, for example 'https://minio.example.com:9000'. "
        "Empty: the endpoint of the credentials' client parameters, else Amazon.",
    )
    # In this order: AwsCredentials, all of whose fields are optional, would accept a MinIO block's fields too.
    credentials: MinIOCredentials | AwsCredentials = Field(
        union_mode="left_to_right", description="Keys that may read, write and list the bucket."
    )
    price_per_gb_month: float = Field(
        default=0.023,
        ge=0,
        description="What keeping 1 GB for a month costs, in US dollars; for reports alone. 0.023 is Amazon's price "
        "of S3 Standard in us-east-1 for the first 50 TB (https://aws.amazon.com/s3/pricing/).",
    )

    def open(self) -> Store:
        """The store, with transient errors retried. StoreRefused for unusable credentials; no request is sent yet."""
        found = self.credentials
        access_key, secret_key, session_token = (
            (found.minio_root_user, found.minio_root_password.get_secret_value(), None)
            if isinstance(found, MinIOCredentials)
            else keys_of(found, "S3 store")
        )
        connected = BucketStore.connect(
            self.bucket,
            self.prefix,
            endpoint=self.endpoint or found.aws_client_parameters.endpoint_url,
            region=found.region_name,
            access_key=access_key,
            secret_key=secret_key,
            session_token=session_token,
            attempts_max=1,  # RetryingStore tries again
        )
        return RetryingStore(connected)


def keys_of(credentials: AwsCredentials, what: str) -> tuple[str | None, str | None, str | None]:
    """(access key, secret key, session token). UsageError, naming `what`, for profiles and assumed roles."""
    if credentials.profile_name or credentials.assume_role_arn:
        raise UsageError(f"{what} block: profiles and assumed roles are not supported, give it keys")
    secret = credentials.aws_secret_access_key
    shown = secret.get_secret_value() if secret is not None else None
    return credentials.aws_access_key_id, shown, credentials.aws_session_token


STORES: tuple[type[LocalStore | S3Store], ...] = (LocalStore, S3Store)
