"""A signed message to a URL, sent until it is accepted, refused, or the attempts are used up.

    POST <url>
    Content-Type: application/json
    Poorwill-Delivery: <id>                         the same for every attempt, to recognize repetitions by
    Poorwill-Signature: t=<unix seconds>,v1=<hex>   HMAC-SHA256 of "<t>.<body>", one v1 for each secret

The signature's scheme is Stripe's (https://docs.stripe.com/webhooks#verify-manually). There are several secrets while
they are being changed: a receiver accepts a message if one v1 fits.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from poorwill.errors import TransientError, UsageError, from_wire
from poorwill.retry import Backoff, retry, retry_after_s
from poorwill.web.addresses import AllowRule
from poorwill.web.guarded_http import post
from poorwill.web.guarded_network import Resolve, system_addresses
from poorwill.web.urls import checked, host_of

log = logging.getLogger(__name__)

SIGNATURE, DELIVERY = "Poorwill-Signature", "Poorwill-Delivery"
ATTEMPTS_MAX = 8
TIMEOUT_S = 10.0
RETRY_AFTER_S_MAX = 300.0
"""The longest pause that a receiver may ask for."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where messages go, and how often they are tried. `secrets` sign; `headers` are sent as they are."""

    url: str = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    allow: tuple[AllowRule, ...] = ()
    timeout_s: float = TIMEOUT_S
    attempts_max: int = ATTEMPTS_MAX


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message that was accepted: the receiver's host, its status (2xx), and the number of attempts."""

    host: str
    status: int
    attempts: int


def signature(body: bytes, secrets: Sequence[str], at_s: int) -> str:
    """The header Poorwill-Signature. UsageError without a secret."""
    if not secrets:
        raise UsageError("a message has to be signed: give the webhook's block a secret")
    signed = f"{at_s}.".encode() + body
    marks = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={at_s}", *(f"v1={mark}" for mark in marks)])


def deliver(
    receiver: Receiver,
    delivery: str,
    body: bytes,
    *,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    draw: Callable[[], float] = random.random,
    say: Callable[[str], None] = log.warning,
    resolve: Resolve = system_addresses,
) -> Delivered:
    """Send a JSON body under the id `delivery`, and again after pauses that double and that the receiver may lengthen.

    It arrives at least once: if an answer is lost, the receiver recognizes the repetition by the id. Each attempt is
    signed anew. The errors are those of `guarded_http.post`; a transient one is raised after `attempts_max` attempts.
    """
    host = host_of(checked(receiver.url))
    pauses = Backoff(first_s=1.0, max_s=60.0, attempts_max=receiver.attempts_max).pauses(uniform=draw)

    def attempt() -> Delivered:
        headers = {
            **dict(receiver.headers),
            "Content-Type": "application/json",
            DELIVERY: delivery,
            SIGNATURE: signature(body, receiver.secrets, int(clock())),
        }
        status = post(receiver.url, body, headers, timeout_s=receiver.timeout_s, allow=receiver.allow, resolve=resolve)
        return Delivered(host, status, pauses.attempts)

    def asked_s(error: TransientError) -> float:
        return min(retry_after_s(str(error.facts.get("retry_after", "")), clock()), RETRY_AFTER_S_MAX)

    def on_pause(error: TransientError, pause_s: float) -> None:
        tried = f"attempt {pauses.attempts - 1} of {receiver.attempts_max}"
        say(f"{tried}: {error.message}; again in {pause_s:.1f} s")

    try:
        return retry(attempt, pauses, least_s=asked_s, on_pause=on_pause, sleep=sleep)
    except TransientError as error:
        message = f"{error.message}; given up after {pauses.attempts} attempts"
        raise from_wire({**error.to_wire(), "message": message}) from error
