"""The address of the Prefect server that runs the flows, and the password for it."""

from __future__ import annotations

import base64
import ipaddress
import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poorwill.errors import Refused, UsageError

STACK_DIR = "~/.poorwill/stack"
STACK_FILE_BYTES_MAX = AUTH_FILE_BYTES_MAX = 64 << 10
_NOWHERE = (
    "no Prefect server is known: start a local one with `poorwill up`, or set PREFECT_API_URL to the address of "
    "yours, like http://127.0.0.1:4200/api"
)


@dataclass(frozen=True, slots=True)
class Address:
    """`source` is the variable or the file that names it."""

    api_url: str
    ui_url: str
    source: str
    authorization: str = field(default="", repr=False)

    def run_page(self, run: str) -> str:
        """The run in Prefect's UI."""
        return f"{self.ui_url}/runs/flow-run/{run}"


def find(environment: Mapping[str, str]) -> Address:
    """PREFECT_API_URL with PREFECT_API_AUTH_STRING, else the local stack's. UsageError, Refused.

    A password goes over plain http to another host only if the user named that host: in a file it may be a mistake.
    """
    url, auth = environment.get("PREFECT_API_URL", "").strip(), environment.get("PREFECT_API_AUTH_STRING", "")
    if url:
        api_url = _checked(url, "PREFECT_API_URL")
        ui_url = environment.get("PREFECT_UI_URL", "").rstrip("/") or api_url.removesuffix("/api")
        return Address(api_url, ui_url, "PREFECT_API_URL", _basic(auth))
    path = Path(environment.get("POORWILL_STACK_DIR") or STACK_DIR).expanduser() / "stack.json"
    stack = _read_stack(path)
    api_url = _checked(_text(stack, "api_url"), f"api_url in {path}")
    auth = auth or _read_auth(_text(stack, "auth_string_file"), path)
    if auth and not _private(api_url):
        raise Refused(
            f"{path} names {api_url}, which is on another host and without TLS: the password is not sent there; "
            "set PREFECT_API_URL to it if that is meant"
        )
    ui_url = _text(stack, "ui_url").rstrip("/") or api_url.removesuffix("/api")
    return Address(api_url, ui_url, str(path), _basic(auth))


def _read_stack(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(STACK_FILE_BYTES_MAX))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(_NOWHERE) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): start the stack again with `poorwill up`") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} describes no stack: start it again with `poorwill up`")
    return found


def _read_auth(name: str, stack: Path) -> str:
    if not name:
        return ""
    path = stack.parent / Path(name).expanduser()
    try:
        with path.open("rb") as file:
            return file.read(AUTH_FILE_BYTES_MAX).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise UsageError(f"{path}, which {stack} names for the password, cannot be read: {why}") from None


def _text(stack: dict[str, Any], name: str) -> str:
    found = stack.get(name)
    return found if isinstance(found, str) else ""


def _checked(url: str, source: str) -> str:
    try:
        parsed = urllib.parse.urlsplit(url)
        usable = parsed.scheme in ("http", "https") and bool(parsed.hostname) and (parsed.port or 1) > 0
    except ValueError:
        raise UsageError(f"{source} is not an address: expected one like http://127.0.0.1:4200/api") from None
    if parsed.username or parsed.password:
        raise UsageError(f"{source} holds a user's name or password: leave them out, and set PREFECT_API_AUTH_STRING")
    if not usable or parsed.query or parsed.fragment:
        raise UsageError(f"{source} is '{url[:200]}': expected an address like http://127.0.0.1:4200/api")
    return url.rstrip("/")


def _private(url: str) -> bool:
    """Whether no one on the network can read what is sent: it is encrypted, or stays on this host."""
    parsed = urllib.parse.urlsplit(url)
    host = parsed.hostname or ""
    try:
        return parsed.scheme == "https" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _basic(auth: str) -> str:
    return f"Basic {base64.b64encode(auth.encode()).decode()}" if auth else ""
