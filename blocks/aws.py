"""The keys in a block of AWS credentials, for stores and providers."""

from __future__ import annotations

from prefect_aws import AwsCredentials

from poorwill.errors import UsageError


def keys_of(credentials: AwsCredentials, what: str) -> tuple[str | None, str | None, str | None]:
    """(access key, secret key, session token). UsageError, naming `what`, for profiles and assumed roles."""
    if credentials.profile_name or credentials.assume_role_arn:
        raise UsageError(f"{what} block: profiles and assumed roles are not supported, give it keys")
    secret = credentials.aws_secret_access_key
    shown = secret.get_secret_value() if secret is not None else None
    return credentials.aws_access_key_id, shown, credentials.aws_session_token
