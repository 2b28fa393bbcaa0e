"""The settings of the gateway, from environment variables POORWILL_API_*."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from typing_extensions import Self

from poorwill import defaults
from poorwill.errors import UsageError

PREFIX = "POORWILL_API_"
TOKEN_CHARACTERS_MIN, TOKEN_CHARACTERS_MAX, TOKENS_MAX = 16, 512, 1000
TOKENS_BYTES_MAX = 1 << 20
_CALLER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
TokenPairs = tuple[tuple[str, str], ...]


def parse_tokens(text: str, where: str) -> TokenPairs:
    """The pairs of lines (or words) `name:token`; `#` begins a comment. A name may have several tokens, so that one
    can be replaced while both work. UsageError, which shows no token, for anything else."""
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


def _tokens(given: str | TokenPairs) -> TokenPairs:
    try:
        return parse_tokens(given, f"{PREFIX}TOKENS") if isinstance(given, str) else given
    except UsageError as error:
        raise ValueError(error.message) from None


def _file(path: Path) -> Path:
    if not path.expanduser().is_file():
        raise ValueError(f"{PREFIX}TOKENS_FILE: there is no file {path}")
    return path.expanduser()


def _words(given: Any) -> Any:
    return given.replace(",", " ").split() if isinstance(given, str) else given


class Settings(BaseSettings):
    """Each is read from POORWILL_API_<its name in capitals>; docs/operating.md says what it does. `tokens` are pairs of
    a caller's name and its token."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        str_strip_whitespace=True,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
    )

    tokens: Annotated[TokenPairs, NoDecode, BeforeValidator(_tokens), Field(repr=False)] = ()
    tokens_file: Annotated[Path, AfterValidator(_file)] | None = None
    open: bool = False
    store: str = defaults.STORE
    media: str = defaults.MEDIA
    model: str = defaults.VIDEO_MODEL
    provider: str = "own"
    pool: str = defaults.GPU_POOL
    queue_max: Annotated[int, Field(ge=1, le=100_000)] = 1000
    rate_per_s: Annotated[float, Field(ge=0.01, le=1e6)] = 100.0
    rate_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    body_bytes_max: Annotated[int, Field(ge=1 << 10, le=64 << 20)] = 512 << 10
    wait_s_max: Annotated[float, Field(ge=0, le=3600)] = 60.0
    prefect_timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 4.0
    ready_timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 3.0
    streams_max: Annotated[int, Field(ge=0, le=100_000)] = 500
    heartbeat_s: Annotated[float, Field(ge=0.1, le=300)] = 15.0
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = ()
    metrics_open: bool = False
    metrics_every_s: Annotated[float, Field(ge=1, le=3600)] = 30.0

    @model_validator(mode="after")
    def _check_callers(self) -> Self:
        if not (self.tokens or self.tokens_file or self.open):
            raise ValueError(
                f"no token is set, so nobody could call: set {PREFIX}TOKENS_FILE to a file of lines 'name:token', "
                f"{PREFIX}TOKENS to such pairs, or {PREFIX}OPEN=true to let everybody in who reaches the port"
            )
        return self

    @classmethod
    def read(cls) -> Self:
        """Of this process's environment. UsageError, of one line, names each variable that is wrong."""
        try:
            return cls()
        except ValidationError as error:
            raise UsageError("; ".join(map(_problem, error.errors(include_url=False)))) from None


def _problem(found: ErrorDetails) -> str:
    """What the validators above say is complete; what pydantic says lacks the variable and its value."""
    if found["type"] == "value_error":
        return found["msg"].removeprefix("Value error, ")
    variable, value = f"{PREFIX}{str(found['loc'][0]).upper()}", str(found["input"])[:40]
    return f"{variable} is {value!r}: {found['msg'].replace('Input should be', 'must be')}"
