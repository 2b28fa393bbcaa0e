"""Who may call: bearer tokens, and how often each of them may."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from api.http.limits import TokenBuckets
from api.http.problems import Problem
from api.settings import TOKENS_BYTES_MAX, Settings, parse_tokens
from poorwill.errors import UsageError

log = logging.getLogger(__name__)


class Tokens:
    """The tokens of the settings and of a file, which is read again when it has changed.

    A file that cannot be read, or holds something other than tokens, changes nothing: the tokens read before stay
    valid, and the log says why. Only digests are kept.
    """

    def __init__(self, fixed: Sequence[tuple[str, str]], file: Path | None = None) -> None:
        """UsageError for a file that cannot be read now."""
        self._fixed = tuple((name, _digest(token)) for name, token in fixed)
        self._file, self._seen = file, _stamp(file) if file is not None else None
        self._of_file = _read(file) if file is not None else ()

    def caller(self, token: str) -> str | None:
        """The name of the token's caller, which may have several. Every digest is compared, in constant time."""
        self._read_again()
        digest, found = _digest(token), None
        for name, known in (*self._fixed, *self._of_file):
            if hmac.compare_digest(digest, known):
                found = name
        return found

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
    """Lets callers in, each as often as it may call. With `open` everybody, as the one caller `anybody`."""

    def __init__(self, settings: Settings) -> None:
        """UsageError for tokens that cannot be read."""
        self._tokens = None if settings.open else Tokens(settings.tokens, settings.tokens_file)
        self._buckets = TokenBuckets(settings.rate_per_s, settings.rate_burst)

    def admit(self, token: str | None) -> str:
        """The caller's name. Problem: unauthorized, or too-many-requests."""
        caller: str | None = "anybody"
        if self._tokens is not None:
            caller = self._tokens.caller(token) if token is not None else None
        if caller is None:
            detail = "send the header 'Authorization: Bearer <token>'" if token is None else "the token is not known"
            raise Problem("unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})
        if (wait_s := self._buckets.take(caller)) > 0:
            detail = f"more requests of '{caller}' than are allowed"
            raise Problem("too-many-requests", detail, retry_after_s=wait_s)
        return caller
