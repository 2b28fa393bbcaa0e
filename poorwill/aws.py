"""What the clients of all AWS services share: credentials, time limits, and what their exceptions mean.

Only an error's code goes into a message, never the server's own text: that may repeat an access key or the string that
was signed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore import exceptions as boto
from botocore.config import Config

from poorwill.errors import NotFound, PermanentError, PoorwillError, TransientError, UsageError
from poorwill.retry import is_transient_status

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
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
    boto.ResponseStreamingError,
    boto.ChecksumError,
    boto.FlexibleChecksumError,
    OSError,
)
FAULTS = (boto.BotoCoreError, boto.ClientError, *NO_ANSWER)
"""All that a client raises."""


def aws_session(
    region: str | None, access_key: str | None, secret_key: str | None, session_token: str | None
) -> boto3.Session:
    """What is not given comes from the usual AWS environment variables and files. One of FAULTS without credentials."""
    session = boto3.Session(
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        aws_session_token=session_token,
        region_name=region,
    )
    if session.get_credentials() is None:
        raise boto.NoCredentialsError
    return session


def client_config(connections_max: int, attempts_max: int, **more: Any) -> Config:
    """`attempts_max` counts the first try; the pauses between grow exponentially, with jitter, to 20 s."""
    return Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=connections_max,
        retries={"mode": "standard", "total_max_attempts": attempts_max},
        **more,
    )


def code_of(error: BaseException) -> str:
    """The error's code, or the HTTP status as text where the answer has none, as to a HEAD; '' without an answer."""
    if not isinstance(error, boto.ClientError):
        return ""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return re.sub(r"[^A-Za-z0-9._-]", "", code)[:60] or str(_status_of(error))


def _status_of(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """What the FAULTS of one service become.

    `refusals` says for each code what to do, `missing` what is not there; `transient` codes may not come again.
    `credentials` and `network` say what to do where there are no usable credentials, or no answer; `invalid`, about a
    code that begins with Invalid or Missing.
    """

    refused: type[PermanentError]
    unavailable: type[TransientError]
    refusals: Mapping[str, str]
    missing: Mapping[str, str]
    transient: Collection[str]
    credentials: str
    network: str
    invalid: str = ""

    @contextmanager
    def translated(self, what: str, **facts: Any) -> Iterator[None]:
        """Raise the errors of this table in place of FAULTS."""
        try:
            yield
        except FAULTS as error:
            raise self.error(error, what, **facts) from error

    def error(self, error: BaseException, what: str, **facts: Any) -> PoorwillError:
        """The error to raise for one of FAULTS, with the `code` and HTTP `status` of an answer among its facts. `what`:
        who cannot do what, as in 'EC2 in eu-west-1: cannot list'."""
        if isinstance(error, boto.ClientError):
            return self._answered(code_of(error), _status_of(error), what, facts)
        kind = type(error).__name__
        if isinstance(error, boto.ParamValidationError):
            return UsageError(f"{what}: a name, key or number is not one that AWS takes", **facts)
        if isinstance(error, NO_CREDENTIALS):
            return self.refused(f"{what}: no usable credentials ({kind}): {self.credentials}", **facts)
        if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
            advice = "check the endpoint, or set AWS_CA_BUNDLE"
            return self.refused(f"{what}: its certificate is not trusted: {advice}", **facts)
        if isinstance(error, boto.PaginationError):
            return self.unavailable(f"{what}: the list goes in circles", **facts)
        if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
            return self.unavailable(f"{what}: it did not answer in time", **facts)
        if isinstance(error, NO_ANSWER):
            return self.unavailable(f"{what}: no answer ({kind}): {self.network}", **facts)
        return self.refused(f"{what}: {kind}", **facts)

    def _answered(self, code: str, status: int, what: str, facts: dict[str, Any]) -> PoorwillError:
        facts = {**facts, "code": code, "status": status}
        if code in self.refusals:
            return self.refused(f"{what}: {self.refusals[code]} ({code})", **facts)
        if code in self.missing:
            return NotFound(f"{what}: {self.missing[code]}", **facts)
        if code in self.transient or is_transient_status(status):
            return self.unavailable(f"{what}: it answered {code} ({status})", **facts)
        hint = f": {self.invalid}" if self.invalid and code.startswith(("Invalid", "Missing")) else ""
        return self.refused(f"{what}: it answered {code} ({status}){hint}", **facts)
