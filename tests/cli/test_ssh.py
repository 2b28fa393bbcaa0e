"""The program on a machine behind SSH: there and back, with the host keys of OpenSSH's own file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.demo.tree_listing import differences, list_tree
from deployments.servers.s3_server import S3Server
from poorwill.cli.hosts import parse
from poorwill.cli.known_hosts import pinned
from poorwill.errors import UsageError
from poorwill.providers.base import SshEndpoint
from tests.support.engine_homes import EngineHome
from tests.support.program import poorwill
from tests.support.ssh_machines import KeyPair, SshMachine
from tests.support.workspaces import make_large


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("box", SshEndpoint("box", 22, "")),
        ("me@box:2222", SshEndpoint("box", 2222, "me")),
        ("root@[2001:db8::1]:22022", SshEndpoint("2001:db8::1", 22022, "root")),
        ("[2001:db8::1]", SshEndpoint("2001:db8::1", 22, "")),
    ],
)
def test_addresses(text: str, expected: SshEndpoint) -> None:
    """As ssh and scp users write them."""
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["", "me@", "box:", "box:0", "box:65536", "box:x", "-oProxyCommand=x", "me@:22"])
def test_invalid_ssh_addresses(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_known_hosts_is_read_and_added_to(tmp_path: Path) -> None:
    """A host that is there is pinned, one that is not is added once, and what was there stays."""
    path, said = tmp_path / ".ssh" / "known_hosts", list[str]()
    key, endpoint = KeyPair.generate().public, SshEndpoint("box", 2222)
    pin = pinned(path, endpoint, said.append)
    assert pin.known == "" and not path.exists()
    pin.accept(key)
    assert path.read_text() == f"[box]:2222 {key}\n" and "SHA256:" in said[0]
    path.write_text(f"# mine\n[box]:2222 {key}")
    assert pinned(path, endpoint, said.append).known == key
    pinned(path, SshEndpoint("other"), said.append).accept(key)
    assert path.read_text() == f"# mine\n[box]:2222 {key}\nother {key}\n"


def test_there_and_back(
    rent: Callable[..., SshMachine], engine_home: EngineHome, ssh_keys: KeyPair, s3_server: S3Server, tmp_path: Path
) -> None:
    """A snapshot of a machine behind SSH, restored beside it; another host key is refused with its exit code."""
    machine = rent(home=engine_home.copy_to(tmp_path / "machine"))
    key = tmp_path / "key"
    key.write_text(ssh_keys.private)
    key.chmod(0o600)
    env = {
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
        "AWS_ENDPOINT_URL": s3_server.endpoint,
        "AWS_REGION": "us-east-1",
    }
    where = ["--ssh", f"{machine.user}@{machine.host}:{machine.port}", "--ssh-key", key]
    store = ["--store", f"s3://{s3_server.bucket}/cli-ssh"]
    workspace = make_large(machine.home / "workspace")
    taken = poorwill("snapshot", workspace, *where, *store, "--machine", "box", "--json", env=env)
    assert taken.code == 0, taken
    assert machine.host_key in (tmp_path / ".ssh" / "known_hosts").read_text()
    back = machine.home / "back"
    restored = poorwill("restore", taken.done["snapshot_id"], back, *where, *store, env=env)
    assert restored.code == 0, restored
    assert differences(list_tree(workspace), list_tree(back)) == []

    refused = poorwill("snapshot", workspace, *where, "--store", "file:///tmp/none", env=env)
    assert refused.code == 2 and "use an S3 store" in refused.err
    machine.rekey()
    refused = poorwill("snapshot", workspace, *where, *store, env=env)
    assert refused.code == 6 and "is not the machine it was" in refused.err
