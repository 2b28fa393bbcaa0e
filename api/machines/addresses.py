"""The fields by which clients name a machine, checked before anything else is done."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, Field

from poorwill import defaults
from poorwill.errors import UsageError
from poorwill.providers.base import checked_path
from poorwill.remote.host_key import checked_line

T = TypeVar("T")
R = TypeVar("R")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def validator(check: Callable[[T], R]) -> AfterValidator:
    """`check` for pydantic, which takes a ValueError where `check` raises UsageError."""

    def checked(value: T) -> R:
        try:
            return check(value)
        except UsageError as error:
            raise ValueError(error.message) from None

    return AfterValidator(checked)


def checked_host(host: str) -> str:
    """A host name or an IP address, without brackets. ValueError for anything that a program could take for an
    option, a user or a port."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    labels = host.removesuffix(".").split(".")
    # A name that looks like a number could be read as another address than was checked: 0x7f.1, 2130706433.
    named = all(_LABEL.fullmatch(label) for label in labels) and re.fullmatch(r"[0-9].*", labels[-1]) is None
    if len(host) > 253 or not named:
        raise ValueError("expected a host name or an IP address, like gpu.example.com or 192.0.2.7")
    return host


def _printable(path: str) -> str:
    if not path.isprintable():
        raise ValueError("expected a path without control characters")
    return path


InstanceId = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$",
        description="The machine's block, its instance's id at its provider, or `<provider block>:<instance id>`.",
        examples=["vast:31337"],
    ),
]
SnapshotId = Annotated[str, Field(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$", examples=["20261125T031500Z-0badcafe"])]
SshHost = Annotated[
    str,
    Field(min_length=1, max_length=255, description="Host name or IP address.", examples=["ssh4.vast.ai"]),
    AfterValidator(checked_host),
]
Workspace = Annotated[
    str,
    Field(
        min_length=2,
        max_length=4096,
        pattern="^/",
        description="Absolute path on the machine.",
        examples=[defaults.WORKSPACE],
    ),
    validator(checked_path),
    AfterValidator(_printable),
]
HostKey = Annotated[
    str,
    Field(max_length=20_000, description="The machine's public host key, 'ssh-ed25519 AAAA...', if you know it."),
    validator(checked_line),
]


class MachineAddress(BaseModel):
    """How a machine is reached, where the server does not know that yet. The other fields count with `ssh_host`."""

    ssh_host: SshHost | None = None
    ssh_port: int = Field(22, ge=1, le=65535, examples=[22])
    ssh_user: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9._-]{0,31}$", description="Whom to log in as. Left out: root."
    )
    host_key: HostKey | None = None
    workspace_path: Workspace = defaults.WORKSPACE
