"""From a store's address, as users write it, to the store."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from poorwill.errors import UsageError
from poorwill.store.base import Store
from poorwill.store.local import LocalStore
from poorwill.store.retrying import RetryingStore

_FORMS = "a store is file:///path (three slashes) or s3://bucket/prefix"


def open_store(url: str) -> Store:
    """The store at `file:///path` or `s3://bucket/prefix`.

    S3's endpoint, region and credentials come from the usual AWS environment variables and files; its transient errors
    are retried. No request is sent yet. UsageError for another address, or if boto3 is not installed; StoreRefused if
    the directory or the credentials cannot be used.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"not a store address: {_FORMS}") from error
    if parts.scheme == "file":
        # Not parts.path: a file's name may hold '?' and '#'.
        return _open_directory(url)
    if parts.scheme == "s3":
        if parts.query or parts.fragment or "@" in parts.netloc or ":" in parts.netloc or not parts.netloc:
            # The address may hold a secret: it is not repeated.
            raise UsageError(
                "not an S3 store address: it is s3://bucket/prefix, with endpoint and credentials in the "
                "environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE)"
            )
        return _open_bucket(parts.netloc, parts.path)
    begins = f"{parts.scheme[:40]}:" if parts.scheme else "no scheme"
    raise UsageError(f"not a store address ({begins}): {_FORMS}")


def _open_directory(url: str) -> Store:
    host, slash, path = url.partition(":")[2].removeprefix("//").partition("/")
    if host not in ("", "localhost") or not slash or not path.strip("/"):
        raise UsageError(f"not a store address: {url[:200]!a}: {_FORMS}")
    decoded = unquote("/" + path, errors="surrogateescape")
    if "\0" in decoded:
        raise UsageError(f"not a store address: {url[:200]!a}: a path cannot hold NUL")
    return LocalStore(decoded)


def _open_bucket(bucket: str, prefix: str) -> Store:
    try:
        # Imported here because it needs boto3, which file:// stores do not.
        from poorwill.store.s3.store import S3Store
    except ImportError as error:
        if (error.name or "").split(".")[0] not in ("boto3", "botocore", "s3transfer"):
            raise
        raise UsageError(
            f"s3:// stores need boto3: pip install 'poorwill[s3]' ({error.name} is not installed)"
        ) from error
    # The client itself does not retry: RetryingStore does, also when an answer breaks off.
    return RetryingStore(S3Store.connect(bucket, prefix, attempts_max=1))
