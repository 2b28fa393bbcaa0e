"""The boto3 client of an S3Store: endpoint, signature, time limits.

What is not given comes from the usual AWS environment variables and files, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL,
AWS_PROFILE, AWS_REGION, AWS_CA_BUNDLE among them.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from poorwill.aws import aws_session, client_config
from poorwill.errors import StoreRefused, UsageError
from poorwill.store.s3.errors import S3

CONNECTIONS_MAX = 32


def s3_client(
    bucket: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    session_token: str | None = None,
    attempts_max: int = 3,
) -> Any:
    """A thread-safe boto3 client; no request is sent yet. StoreRefused without credentials."""
    place = f"s3://{bucket}" + (f" at {shown_endpoint(endpoint)}" if endpoint else "")
    try:
        with S3.translated(f"{place}: cannot connect"):
            session = aws_session(region, access_key, secret_key, session_token)
            client = _client(session, endpoint, "auto", attempts_max)
            host = urlsplit(client.meta.endpoint_url).hostname or ""
            if not host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
                # Few other stores have a host name per bucket.
                client = _client(session, client.meta.endpoint_url, "path", attempts_max)
            shown_endpoint(client.meta.endpoint_url)
            return client
    except ValueError as error:
        raise StoreRefused(
            f"{place}: the endpoint is not a URL: correct AWS_ENDPOINT_URL, like https://host:9000"
        ) from error


def shown_endpoint(endpoint: str) -> str:
    """An endpoint as it may stand in a message. UsageError if credentials were written into it."""
    parts = urlsplit(endpoint)
    if parts.username is not None or parts.password is not None or parts.query:
        raise UsageError(
            "an S3 endpoint holds a host and a port, and nothing secret: give the credentials by themselves"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _client(session: Any, endpoint: str | None, addressing: str, attempts_max: int) -> Any:
    return session.client(
        "s3",
        endpoint_url=endpoint,
        # Stores other than Amazon's ignore the region, or accept this one, as R2 does.
        region_name=session.region_name or "us-east-1",
        config=client_config(
            CONNECTIONS_MAX,
            attempts_max,
            signature_version="s3v4",
            s3={"addressing_style": addressing},
            # Many stores other than Amazon's refuse trailing checksums.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
