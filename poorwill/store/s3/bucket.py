"""One bucket, and a prefix in it, as an S3 client reaches them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from poorwill.aws import FAULTS, code_of
from poorwill.errors import Corrupt, NotFound, StoreRefused, UsageError
from poorwill.store.base import Grant, LifecycleRule, ObjectInfo
from poorwill.store.object_key import checked_key, checked_store_prefix
from poorwill.store.s3 import lifecycle
from poorwill.store.s3.client import shown_endpoint
from poorwill.store.s3.errors import NO_BUCKET, S3, s3_error

EXPIRES_S_MAX = 7 * 24 * 3600  # of a signature version 4


class S3Bucket:
    """Sends requests about a bucket and raises Poorwill's errors. Thread-safe, as the client is. `prefix` is empty or
    ends in '/'. `place` names url and endpoint in messages, without secrets."""

    def __init__(self, client: Any, name: str, prefix: str) -> None:
        """`client` is a boto3 S3 client. UsageError for a prefix that is not accepted."""
        prefix = checked_store_prefix(prefix)
        self.client, self.name = client, name
        self.prefix = prefix + "/" if prefix else ""
        self.url = f"s3://{name}/{prefix}".rstrip("/")
        self.place = f"{self.url} at {shown_endpoint(client.meta.endpoint_url)}"
        self._seen = False

    def full(self, key: str) -> str:
        """The name in the bucket of a store's key. UsageError for a key that is not accepted."""
        return self.prefix + checked_key(key)

    def ask(self, verb: str, key: str, operation: str, **parameters: Any) -> Any:
        """The answer to one operation on one object. `verb` is for error messages. UsageError for a malformed key."""
        full = self.full(key)
        with self._errors(verb, key):
            return getattr(self.client, operation)(Bucket=self.name, Key=full, **parameters)

    def pages(self, verb: str, prefix: str, operation: str, **parameters: Any) -> Iterator[Any]:
        """Every page of a listing. StoreUnavailable for one that goes in circles."""
        pages = iter(self.client.get_paginator(operation).paginate(Bucket=self.name, **parameters))
        while True:
            with self._errors(verb, prefix):
                page = next(pages, None)
            if page is None:
                return
            yield page

    @contextmanager
    def _errors(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except FAULTS as error:
            failure = s3_error(error, self.place, verb, key)
            # The answer to a HEAD has no body that says what is missing, and some servers look for the upload
            # before they look for the bucket.
            unclear = isinstance(failure, NotFound) and code_of(error) in ("404", "NoSuchUpload")
            if unclear and not self._seen:
                self._check_exists()
            raise failure from error
        self._seen = True

    def head(self, key: str) -> ObjectInfo:
        """Size and time of one object, and what is to become of it."""
        answer = self.ask("look at", key, "head_object")
        modified_s = answer["LastModified"].timestamp()
        return ObjectInfo(key, int(answer["ContentLength"]), modified_s, **lifecycle.prospects(answer))

    def lifecycle(self) -> tuple[LifecycleRule, ...]:
        """See TellsRules. Any error is an answer: many servers have no such request, and few keys have leave for it."""
        try:
            found = self.client.get_bucket_lifecycle_configuration(Bucket=self.name)
        except FAULTS:
            return ()
        return tuple(lifecycle.rules(found, self.prefix))

    def grant(self, operation: str, key: str, expires_s: int, **parameters: Any) -> Grant:
        """Permission for one operation on one object, signed here, without a request.

        UsageError if it is to live longer than EXPIRES_S_MAX. It expires earlier with the credentials that signed it:
        those of a session live for hours.
        """
        if not 1 <= expires_s <= EXPIRES_S_MAX:
            raise UsageError(f"a grant cannot live {expires_s} s: expected 1 to {EXPIRES_S_MAX}")
        wanted = {"Bucket": self.name, "Key": self.full(key), **parameters}
        with S3.translated(f"{self.place}: cannot sign a grant for {key}", key=key):
            return Grant(url=str(self.client.generate_presigned_url(operation, Params=wanted, ExpiresIn=expires_s)))

    def check_size(self, key: str, found: int, expected: int) -> None:
        """Corrupt if an object does not have the size that was written."""
        if found != expected:
            raise Corrupt(f"{self.place}: {key} holds {found} bytes, expected {expected}", key=key)

    def _check_exists(self) -> None:
        try:
            self.client.head_bucket(Bucket=self.name)
        except FAULTS as error:
            failure = s3_error(error, self.place, "look at", "the bucket")
            if isinstance(failure, NotFound):
                failure = StoreRefused(f"{self.place}: {NO_BUCKET}")
            raise failure from error
        self._seen = True
