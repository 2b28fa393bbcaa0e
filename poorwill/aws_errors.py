"""What the answers of every AWS service have in common: their codes, and the exceptions that are no answer."""

from __future__ import annotations

import re

from botocore import exceptions as boto

NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.ConfigParseError,
    boto.ConfigNotFound,
    boto.UnauthorizedSSOTokenError,
    boto.SSOError,
)
NO_ANSWER = (
    boto.HTTPClientError,  # also: endpoint unreachable, connect and read timeouts, closed connections
    boto.ConnectionError,
    boto.IncompleteReadError,
    OSError,
)
FAULTS = (boto.BotoCoreError, boto.ClientError, *NO_ANSWER)
"""All that a client raises."""


def code_of(error: BaseException) -> str:
    """The error's code, or the HTTP status as text where the answer has none, as to a HEAD; '' without an answer."""
    if not isinstance(error, boto.ClientError):
        return ""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return re.sub(r"[^A-Za-z0-9._-]", "", code)[:60] or str(status_of(error))


def status_of(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_untrusted(error: BaseException) -> bool:
    """Whether the server's certificate was refused: trying again does not help."""
    return isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)


def is_transient(status: int) -> bool:
    """Whether an answer of this HTTP status may be another one later."""
    return status == 429 or (status >= 500 and status != 501)
