"""What the error codes of S3 mean. Source: the S3 API reference, "Error responses"."""

from __future__ import annotations

from poorwill.aws import ErrorTable, code_of
from poorwill.errors import Corrupt, NotFound, PoorwillError, StoreRefused, StoreUnavailable, Unsupported

_CREDENTIALS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_PROFILE"
NO_BUCKET = "there is no such bucket: create it, or correct the store's address"
_REGION = "the bucket is in another region: set AWS_REGION"
_REFUSALS = {
    "InvalidAccessKeyId": f"the access key is not known there: {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret key is wrong: {_CREDENTIALS}",
    "AccessDenied": "these credentials may not do that: check them and the bucket's permissions",
    "403": "these credentials are wrong or may not do that: check them and the bucket's permissions",
    "ExpiredToken": "the session token has expired: renew the credentials",
    "InvalidToken": "the session token is wrong: check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock differs from the store's: set it",
    "NoSuchBucket": NO_BUCKET,
    "PermanentRedirect": _REGION,
    "301": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
}
_TRANSIENT = {
    "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestTimeout", "RequestLimitExceeded",
    "OperationAborted", "ConditionalRequestConflict",
}  # fmt: skip
_MISSING = {"NoSuchKey", "NotFound", "404"}
_WRONG_PIECES = {"InvalidPart", "InvalidPartOrder", "EntityTooSmall"}
S3 = ErrorTable(
    refused=StoreRefused,
    unavailable=StoreUnavailable,
    refusals=_REFUSALS,
    missing={"NoSuchUpload": "there is no such unfinished upload"},
    transient=_TRANSIENT,
    credentials="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    network="check that it is up and reachable",
)


def s3_error(error: BaseException, place: str, verb: str, key: str) -> PoorwillError:
    """The error to raise for one of FAULTS. `place` names endpoint and bucket."""
    what, code = f"{place}: cannot {verb} {key}".rstrip(), code_of(error)
    if code in _MISSING:
        return NotFound(f"{place}: there is no object {key}", key=key)
    if code in _WRONG_PIECES:
        return Corrupt(f"{what}: the pieces are not those the store holds ({code})", key=key)
    if code == "InvalidObjectState":
        return Unsupported(f"{what}: it is in an archive class: have the store bring it back (restore-object)", key=key)
    if code == "InvalidRange":
        return Corrupt(f"{what}: the object ends before the bytes asked for", key=key)
    return S3.error(error, what, key=key)
