"""How tests reach an S3 server as somebody: with its own keys, or with wrong ones."""

from __future__ import annotations

from deployments.servers.s3_server import S3Server
from poorwill.store.s3.store import S3Store


def connect(server: S3Server, prefix: str = "", **other: str) -> S3Store:
    """A store on a server, with its keys or with `other` ones."""
    asked = {
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        **other,
    }
    bucket = asked.pop("bucket", server.bucket)
    return S3Store.connect(bucket, prefix, **asked)
