"""Prefect's notification blocks, and Poorwill's webhook blocks, as variables of the environment describe them.

A block that no variable describes is left as it is: one that was made in Prefect's UI under the same name does as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.blocks.core import Block
from prefect.blocks.notifications import (
    CustomWebhookNotificationBlock,
    MicrosoftTeamsWebhook,
    SendgridEmail,
    SlackWebhook,
)
from prefect.types import SecretDict
from pydantic import SecretStr, ValidationError

from blocks.webhooks import USERS, Webhook
from deployments.validation import first_problem
from poorwill.errors import UsageError

NAME, APPRISE, NOTIFY = "poorwill", "poorwill-apprise", "notify"
EMAIL = ("POORWILL_NOTIFY_EMAIL_TO", "POORWILL_NOTIFY_EMAIL_FROM", "POORWILL_NOTIFY_SENDGRID_KEY")
WEBHOOK = ("POORWILL_NOTIFY_WEBHOOK_URL", "POORWILL_NOTIFY_WEBHOOK_SECRET")
_BY_URL: tuple[tuple[str, type[Block], str], ...] = (
    ("POORWILL_NOTIFY_SLACK_URL", SlackWebhook, NAME),
    ("POORWILL_NOTIFY_TEAMS_URL", MicrosoftTeamsWebhook, NAME),
    # Prefect has no block for SMTP; this one hands any URL but Slack's to Apprise, which knows mailtos://.
    ("POORWILL_NOTIFY_APPRISE_URL", SlackWebhook, APPRISE),
)


def described(environment: Mapping[str, str]) -> dict[str, Block]:
    """The blocks, by their names. A name is unique among blocks of its type; here the key is `<type slug>/<name>`.

    UsageError.
    """
    found = [
        (name, _made(variable, kind, url=SecretStr(url)))
        for variable, kind, name in _BY_URL
        if (url := environment.get(variable))
    ]
    if email := _together(environment, EMAIL):
        to, sender, key = email
        block = _made(EMAIL[0], SendgridEmail, api_key=SecretStr(key), sender_email=sender, to_emails=_several(to))
        found.append((NAME, block))
    if hook := _together(environment, WEBHOOK):
        url, secret = hook
        found.append((NOTIFY, _webhook("POORWILL_NOTIFY_WEBHOOK", environment, secret, url=SecretStr(url))))
        found.append((NAME, _unsigned(url)))
    if secret := _users_secret(environment):
        found.append((USERS, _webhook("POORWILL_WEBHOOK", environment, secret)))
    return {f"{block.get_block_type_slug()}/{name}": block for name, block in found}


def _users_secret(environment: Mapping[str, str]) -> str:
    """Empty if the block is not described. A file alone does not describe it: new blocks are made from it, and those
    that exist are not kept up with it."""
    given = environment.get("POORWILL_WEBHOOK_SECRET", "")
    if given or not environment.get("POORWILL_WEBHOOK_ALLOW"):
        return given
    path = environment.get("POORWILL_WEBHOOK_SECRET_FILE", "")
    try:
        return Path(path).expanduser().read_text().strip()
    except OSError:
        raise UsageError("POORWILL_WEBHOOK_ALLOW needs POORWILL_WEBHOOK_SECRET, or a file that can be read") from None


def _webhook(prefix: str, environment: Mapping[str, str], secrets: str, **fields: Any) -> Block:
    signing = [SecretStr(secret) for secret in _several(secrets)]
    allow = _several(environment.get(f"{prefix}_ALLOW", ""))
    return _made(prefix, Webhook, secrets=signing, allow=allow, **fields)


def _unsigned(url: str) -> Block:
    """For messages that the server has to send itself, since no worker is there to sign them. Its URL is a secret."""
    return _made(
        WEBHOOK[0],
        CustomWebhookNotificationBlock,
        name=NAME,
        url="{{url}}",
        secrets=SecretDict({"url": url}),
        json_data={"event": "prefect.work-pool.not-ready", "about": "{{subject}}", "message": "{{body}}"},
    )


def _made(variables: str, kind: type[Block], **fields: Any) -> Block:
    try:
        return kind(**fields)
    except ValidationError as error:
        where, problem = first_problem(error)
        raise UsageError(f"{variables}: {where}: {problem}") from None
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{variables} is not what {kind.__name__} expects") from None


def _together(environment: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The values of variables that go together; None if none is set."""
    values = tuple(environment.get(name, "") for name in names)
    if any(values) and not all(values):
        unset = ", ".join(name for name, value in zip(names, values, strict=True) if not value)
        raise UsageError(f"{' and '.join(names)} go together: set {unset} too")
    return values if all(values) else None


def _several(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
