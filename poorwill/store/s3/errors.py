"""What an S3 client's exceptions mean, in Poorwill's errors.

Only an error's code goes into a message, never the server's own text: that may repeat the access key
or the string that was signed. Codes: the S3 API reference, "Error responses".
"""

from __future__ import annotations

from typing import Any

from botocore import exceptions as boto

from poorwill.aws_errors import NO_ANSWER, NO_CREDENTIALS, code_of, is_transient, is_untrusted, status_of
from poorwill.errors import Corrupt, NotFound, PoorwillError, StoreRefused, StoreUnavailable, UsageError

_CREDENTIALS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_PROFILE"
_REGION = "the bucket is in another region: set AWS_REGION"
_REFUSED = {
    "InvalidAccessKeyId": f"the access key is not known there: {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret key is wrong: {_CREDENTIALS}",
    "AccessDenied": "these credentials may not do that: check them and the bucket's permissions",
    "403": "these credentials are wrong or may not do that: check them and the bucket's permissions",
    "ExpiredToken": "the session token has expired: renew the credentials",
    "InvalidToken": "the session token is wrong: check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock differs from the store's: set it",
    "NoSuchBucket": "there is no such bucket: create it, or correct the store's address",
    "PermanentRedirect": _REGION,
    "301": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
}
_TRANSIENT = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "RequestTimeout",
    "RequestLimitExceeded",
    "OperationAborted",
    "ConditionalRequestConflict",
}
_MISSING = {"NoSuchKey", "NotFound", "404"}
_WRONG_PIECES = {"InvalidPart", "InvalidPartOrder", "EntityTooSmall"}
# All of botocore's are FAULTS already.
_NO_ANSWER = (*NO_ANSWER, boto.ResponseStreamingError, boto.ChecksumError, boto.FlexibleChecksumError)


def was_retried(answer: Any) -> bool:
    """Whether the client had sent a request more than once when this answer came."""
    return int(answer.get("ResponseMetadata", {}).get("RetryAttempts", 0)) > 0


def s3_error(error: BaseException, place: str, verb: str, key: str) -> PoorwillError:
    """The error to raise for one of FAULTS. `place` names endpoint and bucket.

    An answer that nothing here knows is a StoreRefused whose facts hold its HTTP `status`.
    """
    what = f"{place}: cannot {verb} {key}".rstrip()
    if isinstance(error, boto.ClientError):
        return _answered(error, place, what, key)
    if isinstance(error, boto.ParamValidationError):
        return UsageError(f"{what}: not a bucket, key or number that S3 takes", key=key)
    if isinstance(error, NO_CREDENTIALS):
        return no_credentials(place, error)
    if is_untrusted(error):
        return StoreRefused(f"{what}: its certificate is not trusted: check the endpoint, or set AWS_CA_BUNDLE")
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return StoreUnavailable(f"{what}: it did not answer in time", key=key)
    if isinstance(error, _NO_ANSWER):
        kind = type(error).__name__
        return StoreUnavailable(f"{what}: no answer ({kind}): check that it is up and reachable", key=key)
    return StoreRefused(f"{what}: {type(error).__name__}", key=key)


def no_credentials(place: str, error: BaseException | None = None) -> StoreRefused:
    cause = f" ({type(error).__name__})" if error is not None else ""
    return StoreRefused(
        f"{place}: no usable credentials{cause}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    )


def _answered(error: boto.ClientError, place: str, what: str, key: str) -> PoorwillError:
    code, status = code_of(error), status_of(error)
    if code in _REFUSED:
        return StoreRefused(f"{what}: {_REFUSED[code]} ({code})", key=key)
    if code == "NoSuchUpload":
        return NotFound(f"{what}: there is no such unfinished upload", key=key)
    if code in _MISSING:
        return NotFound(f"{place}: there is no object {key}", key=key)
    if code in _WRONG_PIECES:
        return Corrupt(f"{what}: the pieces are not those the store holds ({code})", key=key)
    if code == "InvalidRange":
        return Corrupt(f"{what}: the object ends before the bytes asked for", key=key)
    if code in _TRANSIENT or is_transient(status):
        return StoreUnavailable(f"{what}: it answered {code} ({status})", key=key)
    return StoreRefused(f"{what}: it answered {code} ({status})", key=key, status=status)
