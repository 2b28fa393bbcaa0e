"""The settings of the local stack, from its environment."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from deployments.validation import first_problem
from poorwill.cli.address import STACK_DIR
from poorwill.errors import UsageError

PARTS = ("s3", "prefect", "worker", "api")
"""In the order in which they are started, which is not that in which they are ended."""
USER = "admin"
"""The name that goes with POORWILL_PASSWORD."""
Port = Annotated[int, Field(ge=1, le=65_535)]
_PREFIX = "POORWILL_"


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise ValueError("must be an address of this host, like 127.0.0.1") from None


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class StackSettings(BaseSettings):
    """Each is read from POORWILL_<its name in capitals>; the rest of the environment is for the parts."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, validate_default=True, frozen=True, extra="ignore"
    )

    stack_dir: AbsolutePath = Path(STACK_DIR)
    bind: Annotated[str, AfterValidator(_address)] = "127.0.0.1"
    prefect_port: Port = 4200
    api_port: Port = 8000
    s3_port: Port = 9000
    worker_port: Port = 8082
    drain_timeout_s: Annotated[int, Field(ge=0, le=86_400)] = 300
    password: str = Field(default="", repr=False)
    server_auth: str = Field(default="", repr=False, validation_alias="PREFECT_SERVER_API_AUTH_STRING")
    store: str = ""
    api_tokens_file: AbsolutePath | None = None
    automations: AbsolutePath | None = None
    webhook_secret_file: AbsolutePath | None = None
    model_pipeline: str = ""

    @classmethod
    def read(cls) -> StackSettings:
        """The settings of this process's environment. UsageError names the variable."""
        try:
            return cls()
        except ValidationError as error:
            name, problem = first_problem(error)
            value = str(error.errors()[0]["input"])[:40]
            raise UsageError(f"{_PREFIX}{name.upper()} is '{value}': {problem}") from None

    def check(self) -> None:
        """UsageError if the stack cannot be started like this."""
        if not ipaddress.ip_address(self.bind).is_loopback and not self.auth:
            raise UsageError(
                f"POORWILL_BIND={self.bind} lets the network reach the Prefect server, which runs whatever it is asked "
                "to: set POORWILL_PASSWORD too"
            )
        if self.auth and not all(self.auth.partition(":")):
            raise UsageError("PREFECT_SERVER_API_AUTH_STRING is not 'user:password'")
        if len({self.port(part) for part in PARTS}) != len(PARTS):
            ports = ", ".join(f"{self.port_variable(part)}={self.port(part)}" for part in PARTS)
            raise UsageError(f"two parts of the stack have the same port: {ports}")

    @property
    def auth(self) -> str:
        """`user:password` of the Prefect server, empty if it asks for none."""
        return self.server_auth or (f"{USER}:{self.password}" if self.password else "")

    @property
    def own_store(self) -> bool:
        """Whether the stack runs a store, since no other one is configured."""
        return not self.store.strip()

    @property
    def api_url(self) -> str:
        """Of the Prefect server."""
        return f"http://{self.address('prefect')}/api"

    @property
    def token_file(self) -> Path:
        """Who may call the gateway: an operator's file, else the stack's."""
        return self.api_tokens_file or self.stack_dir / "api-tokens"

    def port(self, part: str) -> int:
        return int(getattr(self, f"{part}_port"))

    @staticmethod
    def port_variable(part: str) -> str:
        return f"{_PREFIX}{part.upper()}_PORT"

    def host(self, part: str) -> str:
        """Where it listens. The store of a trial and the worker's health are for this host alone."""
        return self.bind if part in ("prefect", "api") else "127.0.0.1"

    def address(self, part: str) -> str:
        """Where this host reaches it, as host:port."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host(part), self.host(part))
        return f"[{host}]:{self.port(part)}" if ":" in host else f"{host}:{self.port(part)}"
