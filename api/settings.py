"""What an operator sets of the gateway, by environment variables POORWILL_API_*."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poorwill.errors import UsageError

PREFIX = "POORWILL_API_"
TOKEN_CHARACTERS_MIN, TOKEN_CHARACTERS_MAX, TOKENS_MAX = 16, 512, 1000
TOKENS_BYTES_MAX = 1 << 20
_CALLER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Settings:
    """See docs/api.md for what each of them does. `tokens` are pairs of a caller's name and its token."""

    tokens: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tokens_file: Path | None = None
    open: bool = False
    store: str = "default"
    media: str = "media"
    model: str = "video"
    provider: str = "own"
    pool: str = "gpu"
    queue_max: int = 1000
    rate_per_s: float = 100.0
    rate_burst: int = 200
    body_bytes_max: int = 512 << 10
    wait_s_max: float = 60.0
    prefect_timeout_s: float = 4.0
    ready_timeout_s: float = 3.0
    streams_max: int = 500
    heartbeat_s: float = 15.0
    cors_origins: tuple[str, ...] = ()
    metrics_open: bool = False
    metrics_every_s: float = 30.0

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """UsageError, of one line, for a value that is none and when nobody could call."""
        given: dict[str, Any] = {}
        for name, read in _READERS.items():
            text = environment.get(f"{PREFIX}{name.upper()}", "").strip()
            if text:
                given[name] = read(f"{PREFIX}{name.upper()}", text)
        settings = cls(**given)
        if not (settings.tokens or settings.tokens_file or settings.open):
            raise UsageError(
                f"no token is set, so nobody could call: set {PREFIX}TOKENS_FILE to a file of lines 'name:token', "
                f"{PREFIX}TOKENS to such pairs, or {PREFIX}OPEN=true to let everybody in who reaches the port"
            )
        return settings


def parse_tokens(text: str, where: str) -> tuple[tuple[str, str], ...]:
    """The pairs of lines (or words) `name:token`; `#` begins a comment. A name may have several tokens, so that one
    can be replaced while both work. UsageError, which holds no token, for anything else."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for word in line.partition("#")[0].replace(",", " ").split():
            name, colon, token = word.partition(":")
            if not colon or _CALLER.fullmatch(name) is None:
                raise UsageError(
                    f"{where}, line {number}: not 'name:token' with a name of letters, digits, '.', '_', '-'"
                )
            if not TOKEN_CHARACTERS_MIN <= len(token) <= TOKEN_CHARACTERS_MAX or _TOKEN.fullmatch(token) is None:
                raise UsageError(
                    f"{where}, line {number}: the token of '{name}' has {len(token)} characters: it must have "
                    f"{TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX} of A-Z a-z 0-9 . _ ~ + / = -"
                )
            found.append((name, token))
    if len(found) > TOKENS_MAX:
        raise UsageError(f"{where}: {len(found)} tokens, at most {TOKENS_MAX}")
    return tuple(found)


def _tokens(variable: str, text: str) -> tuple[tuple[str, str], ...]:
    return parse_tokens(text, variable)


def _file(variable: str, text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise UsageError(f"{variable}: there is no file {path}")
    return path


def _text(variable: str, text: str) -> str:
    return text


def _words(variable: str, text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _bool(variable: str, text: str) -> bool:
    if text.lower() not in (*_YES, *_NO):
        raise UsageError(f"{variable} is {text[:40]!r}: must be true or false")
    return text.lower() in _YES


def _whole(least: int, most: int) -> Any:
    def read(variable: str, text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
            raise UsageError(f"{variable} is {text[:40]!r}: must be a whole number from {least} to {most}")
        return int(text)

    return read


def _number(least: float, most: float) -> Any:
    def read(variable: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise UsageError(f"{variable} is {text[:40]!r}: must be a number from {least:g} to {most:g}")
        return value

    return read


_READERS: dict[str, Any] = {
    "tokens": _tokens,
    "tokens_file": _file,
    "open": _bool,
    "store": _text,
    "media": _text,
    "model": _text,
    "provider": _text,
    "pool": _text,
    "queue_max": _whole(1, 100_000),
    "rate_per_s": _number(0.01, 1e6),
    "rate_burst": _whole(1, 1_000_000),
    "body_bytes_max": _whole(1 << 10, 64 << 20),
    "wait_s_max": _number(0, 3600),
    "prefect_timeout_s": _number(0.1, 60),
    "ready_timeout_s": _number(0.1, 60),
    "streams_max": _whole(0, 100_000),
    "heartbeat_s": _number(0.1, 300),
    "cors_origins": _words,
    "metrics_open": _bool,
    "metrics_every_s": _number(1, 3600),
}
