"""The block that says how messages are signed, and where they may go."""

from __future__ import annotations

import re

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field, SecretStr, field_validator

from blocks.allow import AllowRules, parsed
from poorwill.errors import PoorwillError, UsageError
from poorwill.web import urls, webhook
from poorwill.web.webhook import Receiver

USERS = "webhooks"
"""Name of the block for the URLs that users give with their runs."""
SECRET_CHARS_MIN, SECRETS_MAX, HEADERS_MAX = 16, 4, 16
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,4000}")
_OURS = re.compile(r"host|connection|content-.*|transfer-encoding|accept.*|user-agent|poorwill-.*", re.IGNORECASE)


class Webhook(Block):
    """How messages are sent to a URL: signed, to public addresses and those allowed here, again until taken."""

    _block_type_name = "Poorwill webhook"
    _block_type_slug = "poorwill-webhook"

    url: SecretStr | None = Field(
        default=None,
        description="Where messages to operators go. Empty in the block 'webhooks', whose URLs come with users' runs.",
    )
    secrets: list[SecretStr] = Field(
        min_length=1,
        max_length=SECRETS_MAX,
        description="What messages are signed with, 16 characters or more. To change one, add the new one, have "
        "receivers take it, and remove the old one.",
    )
    headers: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        description='Sent to the URL of this block, never to users\', like {"Authorization": "Bearer ..."}.',
    )
    allow: AllowRules = Field(
        default=[],
        description="Addresses that are not public and may be sent to all the same, like 10.0.0.0/8 or "
        "127.0.0.1:8000. Everything else inside your network stays out of reach.",
    )
    timeout_s: float = Field(default=webhook.TIMEOUT_S, gt=0, le=60, description="For one attempt.")
    attempts_max: int = Field(
        default=webhook.ATTEMPTS_MAX,
        ge=1,
        le=20,
        description="How often a message is sent to a receiver that does not take it, after waits of 1, 2, 4 to 60 s.",
    )

    @field_validator("url")
    @classmethod
    def _web(cls, url: SecretStr | None) -> SecretStr | None:
        try:
            if url is not None:
                urls.checked(url.get_secret_value())
        except UsageError as error:
            raise ValueError(error.message) from None
        return url

    @field_validator("secrets")
    @classmethod
    def _long(cls, secrets: list[SecretStr]) -> list[SecretStr]:
        if any(len(secret.get_secret_value()) < SECRET_CHARS_MIN for secret in secrets):
            raise ValueError(f"expected {SECRET_CHARS_MIN} characters or more, as `openssl rand -hex 32` gives")
        return secrets

    @field_validator("headers")
    @classmethod
    def _sendable(cls, headers: SecretDict) -> SecretDict:
        given = headers.get_secret_value()
        if len(given) > HEADERS_MAX:
            raise ValueError(f"{len(given)} headers, at most {HEADERS_MAX} are possible")
        for name, value in given.items():
            if _HEADER_NAME.fullmatch(name) is None or _OURS.fullmatch(name):
                raise ValueError(f"{name[:100]!a} is not the name of a header that can be added")
            if not isinstance(value, str) or _HEADER_VALUE.fullmatch(value) is None:
                raise ValueError(f"the value of {name} is not a line of ASCII text")
        return headers

    def receiver(self) -> Receiver:
        """Where messages to operators go. UsageError for a block without a URL."""
        if self.url is None:
            raise UsageError("this webhook block has no URL, so no message can go to it: give it one")
        return self._receiver(self.url.get_secret_value(), **self.headers.get_secret_value())

    def receiver_at(self, url: str) -> Receiver:
        """Where messages to a user's URL go: without this block's headers, which may hold the operator's secrets.

        UsageError, Refused. Nothing is resolved here: a name may still be refused when the message is sent.
        """
        try:
            urls.judged(url, parsed(self.allow))
        except PoorwillError as error:
            raise type(error)(f"webhook_url: {error.message}", **error.facts) from None
        return self._receiver(url)

    def _receiver(self, url: str, **headers: str) -> Receiver:
        secrets = [secret.get_secret_value() for secret in self.secrets]
        return Receiver(url, secrets, tuple(headers.items()), parsed(self.allow), self.timeout_s, self.attempts_max)
