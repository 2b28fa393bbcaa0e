"""What the local stack is told by its environment, and the secrets it makes for itself once."""

from __future__ import annotations

import ipaddress
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from poorwill.errors import UsageError

FOLDER = "~/.poorwill/stack"
BUCKET = "poorwill"
USER = "admin"
"""With POORWILL_PASSWORD: whom the Prefect server lets in."""
_PORTS = {
    "prefect": ("POORWILL_PREFECT_PORT", 4200),
    "api": ("POORWILL_API_PORT", 8000),
    "s3": ("POORWILL_S3_PORT", 9000),
    "worker": ("POORWILL_WORKER_PORT", 8082),
}
DRAIN_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class StackSettings:
    """`ports` by the part's name. `auth` is `user:password` of the Prefect server, empty where it lets everybody in.
    `own_store`: no other store is configured. `environment`: everything else, for the parts."""

    folder: Path
    host: str
    ports: Mapping[str, int]
    auth: str = field(repr=False)
    own_store: bool
    drain_timeout_s: int
    environment: Mapping[str, str] = field(repr=False)

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> StackSettings:
        """From POORWILL_STACK_DIR, POORWILL_BIND, POORWILL_<PREFECT, API, S3, WORKER>_PORT, POORWILL_PASSWORD (or
        PREFECT_SERVER_API_AUTH_STRING), POORWILL_STORE, POORWILL_DRAIN_TIMEOUT_S. UsageError."""
        host = environment.get("POORWILL_BIND", "").strip() or "127.0.0.1"
        auth = environment.get("PREFECT_SERVER_API_AUTH_STRING", "")
        if not auth and (password := environment.get("POORWILL_PASSWORD", "")):
            auth = f"{USER}:{password}"
        _check_reach(host, auth)
        ports = {part: _number(environment, name, default, 65_535) for part, (name, default) in _PORTS.items()}
        if len(set(ports.values())) != len(ports):
            raise UsageError(f"two parts of the stack have one port: {', '.join(f'{p} {n}' for p, n in ports.items())}")
        return cls(
            folder=stack_folder(environment),
            host=host,
            ports=ports,
            auth=auth,
            own_store=not environment.get("POORWILL_STORE", "").strip(),
            drain_timeout_s=_number(environment, "POORWILL_DRAIN_TIMEOUT_S", DRAIN_TIMEOUT_S, 86_400),
            environment=environment,
        )

    def address(self, part: str) -> str:
        """Where this host reaches it, as host:port."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.bind(part), self.bind(part))
        return f"{host if ':' not in host or host.startswith('[') else f'[{host}]'}:{self.ports[part]}"

    def bind(self, part: str) -> str:
        """The store of a trial and the worker's health are for this host alone."""
        return self.host if part in ("prefect", "api") else "127.0.0.1"

    @staticmethod
    def port_variable(part: str) -> str:
        return _PORTS[part][0]

    @property
    def api_url(self) -> str:
        """Of the Prefect server."""
        return f"http://{self.address('prefect')}/api"

    @property
    def token_file(self) -> Path:
        """Who may call the gateway: an operator's file, else the stack's."""
        given = self.environment.get("POORWILL_API_TOKENS_FILE", "").strip()
        return Path(given).expanduser().absolute() if given else self.folder / "api-tokens"

    @property
    def auth_file(self) -> Path:
        return self.folder / "prefect-auth"

    @property
    def webhook_secret_file(self) -> Path:
        """What messages to users' webhooks are signed with, unless POORWILL_WEBHOOK_SECRET says it."""
        return self.folder / "webhook-secret"

    @property
    def s3_keys_file(self) -> Path:
        return self.folder / "s3-keys.json"

    def s3_keys(self) -> tuple[str, str]:
        """Of the stack's own store; empty before they were made."""
        try:
            access_key, secret_key = json.loads(self.s3_keys_file.read_text())
        except FileNotFoundError:
            return "", ""
        return str(access_key), str(secret_key)

    def make_secrets(self) -> None:
        """The gateway's token, the keys of the store, the secret of webhooks: each is made once. OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = {
            self.token_file: f"operator:{secrets.token_urlsafe(32)}\n",
            self.webhook_secret_file: f"{secrets.token_urlsafe(32)}\n",
            self.s3_keys_file: json.dumps([secrets.token_hex(16), secrets.token_hex(32)]),
        }
        for path, text in made.items():
            if not path.exists():
                write_private(path, text)

    def write_stack_file(self) -> None:
        """Where everything is and what it takes to be let in, for the program `poorwill`. OSError."""
        if self.auth:
            write_private(self.auth_file, self.auth)
        else:
            self.auth_file.unlink(missing_ok=True)
        told = {
            "api_url": self.api_url,
            "ui_url": f"http://{self.address('prefect')}",
            "gateway_url": f"http://{self.address('api')}",
            "token_file": str(self.token_file),
            "auth_string_file": str(self.auth_file) if self.auth else "",
        }
        write_private(self.folder / "stack.json", json.dumps(told, indent=2) + "\n")


def stack_folder(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("POORWILL_STACK_DIR", "").strip() or FOLDER).expanduser().absolute()


def write_private(path: Path, text: str) -> None:
    """A file that only its owner can read; whole, or as it was before. OSError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def _check_reach(host: str, auth: str) -> None:
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise UsageError(f"POORWILL_BIND='{host[:60]}': expected an address of this host, like 127.0.0.1") from None
    if not loopback and not auth:
        raise UsageError(
            f"POORWILL_BIND={host} lets the network reach the Prefect server, which runs what it is told: set "
            "POORWILL_PASSWORD too"
        )
    if auth and not all(auth.partition(":")):
        raise UsageError("PREFECT_SERVER_API_AUTH_STRING is not 'user:password'")


def _number(environment: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = environment.get(name, "").strip() or str(default)
    if not (text.isascii() and text.isdecimal()) or not 0 < int(text) <= most:
        raise UsageError(f"{name}='{text[:40]}': expected a whole number from 1 to {most}")
    return int(text)
