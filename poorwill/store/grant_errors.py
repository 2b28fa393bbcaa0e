"""What an HTTP answer to a presigned URL means. Needs no S3 library: grants are used on machines that have none.

An expired URL has no code of its own: Amazon answers AccessDenied with "Request has expired", others
ExpiredRequest, or that the clocks differ. Codes: the S3 API reference, "Error responses".
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from poorwill.errors import Corrupt, GrantExpired, NotFound, PoorwillError, StoreRefused, StoreUnavailable
from poorwill.retry import is_transient_status

ANSWER_BYTES_MAX = 16 << 10  # of an error's body
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,60})\s*</Code>")
_TRANSIENT = ("SlowDown", "RequestTimeout", "Throttling", "OperationAborted")
_EXPIRED = ("ExpiredRequest", "ExpiredToken", "RequestExpired", "AccessExpired")
_EXPIRED_HINTS = (b"expired", b"Expired", b"difference between the request time")  # the last: rclone


def granted_place(url: str) -> str:
    """Endpoint and path of a presigned URL, without the query, which is the secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def grant_error(url: str, status: int, body: bytes = b"") -> PoorwillError:
    """The error for an answer that is not a success. `body` is the beginning of the answer."""
    place = granted_place(url)
    body = body[:ANSWER_BYTES_MAX]
    found = _CODE.search(body)
    code = found[1].decode("ascii") if found else "no code"
    answered = f"{place}: answered {status} ({code})"
    if code in _EXPIRED or (status in (400, 403) and any(hint in body for hint in _EXPIRED_HINTS)):
        return GrantExpired(f"{place}: the permission to use it has expired ({code}): ask for a new one")
    if code == "NoSuchUpload":
        return NotFound(f"{place}: there is no such unfinished upload")
    if code == "NoSuchBucket":
        return StoreRefused(f"{place}: there is no such bucket")
    if status == 404:
        return NotFound(f"{place}: there is no such object")
    if status == 416:
        return Corrupt(f"{place}: the object ends before the bytes asked for")
    if code in _TRANSIENT or is_transient_status(status):
        return StoreUnavailable(answered)
    return StoreRefused(f"{answered}: check the credentials with which the control side signs, and its clock")
