"""Who may call: bearer tokens, and how often each of them may."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.http.limits import TokenBuckets
from api.http.problems import Problem
from api.settings import TOKENS_BYTES_MAX, parse_tokens
from poorwill.errors import UsageError

log = logging.getLogger(__name__)
ANYBODY = "anybody"
IDEMPOTENCY_KEY_CHARACTERS_MAX = 255
bearer = HTTPBearer(auto_error=False, description="A token that the operator gave out.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token it was: all tokens of one name are one caller."""

    name: str


class Tokens:
    """The tokens of the settings and of a file, which is read again when it has changed.

    A file that cannot be read, or says something else than tokens, changes nothing: those that were good stay good,
    and the log says why. Only digests are kept.
    """

    def __init__(self, fixed: Sequence[tuple[str, str]], file: Path | None = None) -> None:
        """UsageError for a file that cannot be read now."""
        self._fixed = tuple((name, _digest(token)) for name, token in fixed)
        self._file, self._seen = file, _stamp(file) if file is not None else None
        self._of_file = _read(file) if file is not None else ()

    def caller(self, token: str) -> Caller | None:
        """Whose token it is. Takes as long for any token: every digest is compared, in constant time."""
        self._read_again()
        digest, found = _digest(token), None
        for name, known in (*self._fixed, *self._of_file):
            if hmac.compare_digest(digest, known):
                found = name
        return Caller(found) if found is not None else None

    def _read_again(self) -> None:
        if self._file is None or (stamp := _stamp(self._file)) == self._seen:
            return
        self._seen = stamp
        try:
            self._of_file = _read(self._file)
        except UsageError as error:
            log.error("the tokens stay what they were: %s", error.message)
        else:
            log.info("tokens were read again: %d in %s", len(self._of_file), self._file)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        seen = os.stat(file)
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino


def _read(file: Path) -> tuple[tuple[str, bytes], ...]:
    try:
        with open(file, "rb") as stream:
            text = stream.read(TOKENS_BYTES_MAX + 1)
        if len(text) > TOKENS_BYTES_MAX:
            raise UsageError(f"{file} has more than {TOKENS_BYTES_MAX} bytes")
        return tuple((name, _digest(token)) for name, token in parse_tokens(text.decode(), str(file)))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text") from None


class Guard:
    """Lets callers in, each as often as it may call. `tokens` None: everybody, as one caller."""

    def __init__(self, tokens: Tokens | None, buckets: TokenBuckets) -> None:
        self._tokens, self._buckets = tokens, buckets

    def admit(self, token: str | None) -> Caller:
        """Problem: unauthorized, or too-many-requests."""
        caller = self._known(token)
        wait_s = self._buckets.take(caller.name)
        if wait_s > 0:
            raise Problem(
                429,
                "too-many-requests",
                detail=f"more requests of '{caller.name}' than are allowed",
                retry_after_s=wait_s,
            )
        return caller

    def _known(self, token: str | None) -> Caller:
        if self._tokens is None:
            return Caller(ANYBODY)
        caller = self._tokens.caller(token) if token is not None else None
        if caller is None:
            detail = (
                "the token is not known" if token is not None else "send the header 'Authorization: Bearer <token>'"
            )
            raise Problem(401, "unauthorized", detail=detail, headers={"WWW-Authenticate": "Bearer"})
        return caller


async def caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """The dependency of every router but health: who calls. Problem: unauthorized, too-many-requests."""
    guard: Guard = request.app.state.gateway.guard
    admitted = guard.admit(credentials.credentials if credentials is not None else None)
    request.state.caller = admitted.name
    return admitted


async def idempotency_key(
    who: Annotated[Caller, Depends(caller)],
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=IDEMPOTENCY_KEY_CHARACTERS_MAX,
            description="The same key with the same body is the same run, however often it is sent; "
            "with another body it is refused (409). Keys of different callers have nothing to do with each other.",
        ),
    ] = None,
) -> str | None:
    """The dependency of what starts runs: the key that was sent, made the caller's own, for `Runs.create`."""
    return f"{who.name}:{hashlib.sha256(key.encode()).hexdigest()}" if key is not None else None


Admitted = Annotated[Caller, Depends(caller)]
IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]
