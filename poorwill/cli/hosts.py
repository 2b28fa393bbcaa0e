"""Which machine a command works on: this one, or one behind SSH."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from pathlib import Path

from poorwill.errors import UsageError
from poorwill.providers.base import SshEndpoint, checked_path
from poorwill.remote.base import Host
from poorwill.remote.local_host import LocalHost

KNOWN_HOSTS = "~/.ssh/known_hosts"
_FORM = "[USER@]HOST[:PORT]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ssh", metavar=_FORM,
        help="work on that machine; its host key must be the one in ~/.ssh/known_hosts, where it is added if new",
    )  # fmt: skip
    parser.add_argument(
        "--ssh-key", metavar="FILE", help="private key for it; default: the SSH agent's, and those in ~/.ssh"
    )


def host_of(arguments: argparse.Namespace) -> Host:
    """The machine to work on. UsageError."""
    if not getattr(arguments, "ssh", None):
        return LocalHost().start_ahead(arguments.run) if arguments.engine else LocalHost()
    try:
        from poorwill.cli.known_hosts import pinned
        from poorwill.remote.identity import DEFAULT_FILES, Identity
        from poorwill.remote.ssh_host import SshHost
    except ImportError as error:
        raise UsageError(
            f"--ssh needs more than is installed ({error.name}): pip install 'poorwill[control]'"
        ) from None
    endpoint = parse(arguments.ssh)
    files = [arguments.ssh_key] if arguments.ssh_key else DEFAULT_FILES
    if arguments.ssh_key and not os.access(arguments.ssh_key, os.R_OK):
        raise UsageError(f"--ssh-key {arguments.ssh_key}: no such file, or it cannot be read")
    say = (lambda line: None) if arguments.json else _say
    pin = pinned(Path(KNOWN_HOSTS).expanduser(), endpoint, say)
    return SshHost(endpoint, Identity(files=files, agent=not arguments.ssh_key), pin, on_step=say)


def parse(text: str) -> SshEndpoint:
    """[USER@]HOST[:PORT], with an IPv6 address in brackets. UsageError."""
    user, _, where = text.rpartition("@")
    host, colon, port = where.rpartition(":") if not where.endswith("]") else (where, "", "")
    if not colon:
        host, port = where, "22"
    host = host.strip("[]")
    if not host or host.startswith("-") or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--ssh '{text[:80]}': expected {_FORM}, like root@203.0.113.7:2222")
    return SshEndpoint(host, int(port), user)


def name_of(arguments: argparse.Namespace) -> str:
    """The machine's name, unless another one is given."""
    return parse(arguments.ssh).host if arguments.ssh else socket.gethostname()


def path_on(arguments: argparse.Namespace, path: str) -> str:
    """A path that was given, absolute on the machine it is meant for. UsageError."""
    return checked_path(path) if getattr(arguments, "ssh", None) else os.path.abspath(path)


def _say(line: str) -> None:
    print(f"poorwill: {line}", file=sys.stderr)
