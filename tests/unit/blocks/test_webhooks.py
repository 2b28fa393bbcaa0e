"""The block that signs: what it refuses to hold, and what it hands to whom."""

from __future__ import annotations

from typing import Any

import pytest
from prefect.types import SecretDict
from pydantic import SecretStr, ValidationError

from blocks.webhooks import Webhook
from poorwill.errors import Refused, UsageError

SECRET = "whsec-0123456789abcdef"
URL = "https://hooks.example.com/in?token=told-to-nobody"


def made(**fields: Any) -> Webhook:
    return Webhook(**{"secrets": [SecretStr(SECRET)], **fields})


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"secrets": []}, "at least 1 item"),
        ({"secrets": [SecretStr("short")]}, "16 characters"),
        ({"url": SecretStr("ftp://example.com/")}, "the URL begins with"),
        ({"url": SecretStr("https://user:pw@example.com/")}, "user name"),
        ({"allow": ["localhost"]}, "not a rule for addresses"),
        ({"headers": SecretDict({"Host": "other.example"})}, "not the name of a header"),
        ({"headers": SecretDict({"Poorwill-Signature": "t=1"})}, "not the name of a header"),
        ({"headers": SecretDict({"X-Two": "a\r\nb"})}, "not a line of ASCII"),
        ({"headers": SecretDict({"X-Number": 7})}, "not a line of ASCII"),
        ({"headers": SecretDict({f"X-{n}": "" for n in range(17)})}, "at most 16"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"attempts_max": 21}, "less than or equal to 20"),
    ],
)
def test_invalid_fields_are_refused(fields: dict[str, Any], why: str) -> None:
    """The refusal does not repeat a secret."""
    with pytest.raises(ValidationError, match=why) as caught:
        made(**fields)
    assert "user:pw" not in str(caught.value.errors(include_input=False))


def test_operators_and_users() -> None:
    """The block's own URL gets its headers; a user's URL is signed with the same secrets and gets none of them."""
    block = made(url=SecretStr(URL), headers=SecretDict({"Authorization": "Bearer x"}), allow=["10.0.0.0/8"])
    own, users = block.receiver(), block.receiver_at("https://10.1.2.3/done")
    assert own.url == URL and own.headers == (("Authorization", "Bearer x"),)
    assert users.url == "https://10.1.2.3/done" and users.headers == ()
    assert list(own.secrets) == list(users.secrets) == [SECRET]
    with pytest.raises(UsageError, match="has no URL"):
        made().receiver()


@pytest.mark.parametrize(
    ("url", "error", "why"),
    [
        ("http://169.254.169.254/latest", Refused, "webhook_url: .* link-local"),
        ("http://[::1]:8000/", Refused, "webhook_url: .* loopback"),
        ("http://10.0.0.1:81/", Refused, "webhook_url: .* private"),
        ("http://2130706433/", UsageError, "webhook_url: the URL has the host"),
        ("file:///etc/passwd", UsageError, "webhook_url: the URL begins with"),
    ],
)
def test_users_urls_are_checked_before_anything_is_resolved(url: str, error: type[Exception], why: str) -> None:
    """By the rules of the network, as far as a URL shows; only port 80 is allowed here."""
    with pytest.raises(error, match=why):
        made(allow=["10.0.0.1:80"]).receiver_at(url)


def test_secrets_are_not_printed() -> None:
    """In Prefect's UI and in logs a block and what it hands out show neither URL nor secret nor header."""
    block = made(url=SecretStr(URL), headers=SecretDict({"Authorization": "Bearer x"}))
    for shown in (repr(block), str(block), repr(block.receiver())):
        assert "told-to-nobody" not in shown and SECRET not in shown and "Bearer" not in shown
    assert set(Webhook.model_json_schema()["secret_fields"]) == {"url", "secrets", "headers.*"}
