"""A signed message to a URL, sent until it is taken or there is no hope.

    POST <url>
    Content-Type: application/json
    Poorwill-Delivery: <id>                         the same for every attempt: what was taken already can be told
    Poorwill-Signature: t=<unix seconds>,v1=<hex>   HMAC-SHA256 of "<t>.<body>", one v1 for each secret

The signature's scheme is Stripe's (https://docs.stripe.com/webhooks#verify-manually). Several secrets are for
changing them: a receiver takes a message of which one v1 fits.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from poorwill.errors import PoorwillError, TransientError, UsageError, from_wire
from poorwill.web.addresses import AllowRule
from poorwill.web.guarded_http import post
from poorwill.web.guarded_network import Resolve, system_addresses
from poorwill.web.urls import checked, host_of

log = logging.getLogger(__name__)

SIGNATURE, DELIVERY = "Poorwill-Signature", "Poorwill-Delivery"
ATTEMPTS_MAX = 8
TIMEOUT_S = 10.0
WAIT_S_FIRST, WAIT_S_MAX = 1.0, 60.0
RETRY_AFTER_S_MAX = 300.0
"""Longer than a receiver may have us wait once."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where messages go, and how persistently. `secrets` sign; `headers` are sent as they are."""

    url: str = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    allow: tuple[AllowRule, ...] = ()
    timeout_s: float = TIMEOUT_S
    attempts_max: int = ATTEMPTS_MAX


@dataclass(frozen=True, slots=True)
class Delivered:
    """How a message was taken: the receiver's host, its status (2xx), and at which attempt."""

    host: str
    status: int
    attempts: int


def signature(body: bytes, secrets: Sequence[str], at_s: int) -> str:
    """The header Poorwill-Signature. UsageError without a secret."""
    if not secrets:
        raise UsageError("a message needs a secret that signs it: give the webhook's block one")
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
    """Send a JSON body under the id `delivery`, again after waits that double, and that the receiver may lengthen.

    At least once: an answer can be lost, and the receiver tells repetitions by the id. Each attempt is signed anew.
    The errors are those of `guarded_http.post`; a transient one comes after `attempts_max` attempts.
    """
    host = host_of(checked(receiver.url))
    for attempt in range(1, receiver.attempts_max + 1):
        headers = {
            **dict(receiver.headers),
            "Content-Type": "application/json",
            DELIVERY: delivery,
            SIGNATURE: signature(body, receiver.secrets, int(clock())),
        }
        try:
            status = post(
                receiver.url, body, headers, timeout_s=receiver.timeout_s, allow=receiver.allow, resolve=resolve
            )
            return Delivered(host, status, attempt)
        except TransientError as error:
            if attempt == receiver.attempts_max:
                raise _given_up(error, attempt) from error
            wait_s = _wait_s(attempt, draw(), str(error.facts.get("retry_after", "")), clock())
            say(f"attempt {attempt} of {receiver.attempts_max}: {error.message}; again in {wait_s:.1f} s")
        sleep(wait_s)
    raise UsageError("attempts_max is below 1: a message needs an attempt")


def _wait_s(attempt: int, drawn: float, retry_after: str, now_s: float) -> float:
    """From half to the whole of a wait that doubles, lest many senders come back together; no less than asked for."""
    longest_s = min(WAIT_S_MAX, math.ldexp(WAIT_S_FIRST, attempt - 1))
    return max(longest_s * (0.5 + drawn / 2), min(_asked_s(retry_after, now_s), RETRY_AFTER_S_MAX))


def _asked_s(retry_after: str, now_s: float) -> float:
    """What a Retry-After asks for, in seconds or as a date (RFC 9110, 10.2.3); 0 for anything else."""
    if retry_after.isdecimal() and retry_after.isascii():
        return float(retry_after)
    try:
        return float(parsedate_to_datetime(retry_after).timestamp()) - now_s
    except (ValueError, TypeError, OverflowError, OSError):
        return 0.0


def _given_up(error: PoorwillError, attempts: int) -> PoorwillError:
    wire = error.to_wire()
    return from_wire({**wire, "message": f"{error.message}; given up after {attempts} attempts"})
