"""How the engine sees that a machine is used: in made trees of /proc, and on machines behind a real sshd."""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import paramiko
import pytest

from poorwill.control.machine.idleness import Limits, Observation, signs_of
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.machine.activity import Activity
from poorwill.engine.machine.processes import read_processes
from poorwill.engine.protocol import requests
from poorwill.engine.protocol.context import Context
from tests.support.engine_homes import EngineHome, ssh_host
from tests.support.engines import ThreadHost
from tests.support.ssh_machines import KeyPair, SshMachine
from tests.support.sshd_software import Software
from tests.unit.remote.test_ssh_machines import Client, until

NOW_S = 1_800_000_000.0
ENGINE_PID = 60
GONE = "/nowhere"
NET_HEAD = "Inter-|   Receive                    |  Transmit\n face |bytes    packets errs ...\n"
TCP_HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


class Tree:
    """A machine as files: /proc, /dev/pts and cgroups below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/sys/kernel/random/boot_id", "boot-1\n")
        self.write("proc/loadavg", "0.50 0.40 0.30 1/100 999\n")
        self.cpu(0)
        self.network({"lo": (10**9, 10**9), "eth0": (0, 0)})
        self.sockets()
        self.process(1, 0, "init", "/sbin/init")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process(self, pid: int, parent: int, name: str, title: str, *, pts: int | None = None, state: str = "S") -> int:
        device = 0 if pts is None else (136 << 8) | (pts & 0xFF) | ((pts >> 8) << 20)
        fields = f"{state} {parent} {pid} {pid} {device} -1 " + " ".join(str(at) for at in range(9, 22)) + " 777 0"
        self.write(f"proc/{pid}/stat", f"{pid} ({name}) {fields}\n")
        self.write(f"proc/{pid}/cmdline", title.replace(" ", "\0") if title.startswith("/") else f"{title}\0\0\0")
        return pid

    def terminal(self, number: int, idle_s: float) -> None:
        self.write(f"dev/pts/{number}", "")
        os.utime(self.root / f"dev/pts/{number}", (NOW_S - idle_s, NOW_S - idle_s - 5))

    def network(self, interfaces: dict[str, tuple[int, int]]) -> None:
        lines = [f"{name:>6}: {got} 1 0 0 0 0 0 0 {sent} 1 0 0 0 0 0 0\n" for name, (got, sent) in interfaces.items()]
        self.write("proc/net/dev", NET_HEAD + "".join(lines))

    def cpu(self, ticks: int) -> None:
        self.write("proc/stat", f"cpu  {ticks} 0 0 5000 70 0 0 900 0 0\ncpu0 {ticks} 0 0 5000 70 0 0 900 0 0\n")

    def sockets(self, *rows: tuple[str, int, str, int, str]) -> None:
        tables: dict[int, list[str]] = {4: [], 6: []}
        for own, port, peer, peer_port, state in rows:
            line = f"   0: {hexed(own)}:{port:04X} {hexed(peer)}:{peer_port:04X} {state} 0:0 00:0 0 0 0 1 1 0\n"
            tables[ip_address(own).version].append(line)
        self.write("proc/net/tcp", TCP_HEAD + "".join(tables[4]))
        self.write("proc/net/tcp6", TCP_HEAD + "".join(tables[6]))

    def look(self, meanwhile: Callable[[], None] = lambda: None, **other: Any) -> dict[str, Any]:
        """In a window of two seconds that takes no time, in which `meanwhile` happens."""
        times = iter((100.0, 102.0))

        class Window(Context):
            def pause(self, seconds: float) -> None:
                meanwhile()

        given = {"path": GONE, "environment": {}, "pid": ENGINE_PID, "clock": lambda: next(times)} | other
        found = Activity(self.root, now_s=lambda: NOW_S, **given).look(2.0, Window("activity"))
        return dict(json.loads(json.dumps(found)))


def hexed(address: str) -> str:
    packed = ip_address(address).packed
    return "".join(f"{word:08X}" for (word,) in struct.iter_unpack("<I", packed))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "machine")


def sshd(tree: Tree, first: int, *titles: str, name: str = "sshd") -> None:
    """A connection: processes from `first` on, each the child of the one before, below the listener 10."""
    for at, title in enumerate(titles):
        tree.process(first + at, first + at - 1 if at else 10, name, title)


def whos(found: dict[str, Any]) -> list[str]:
    return [login["who"] for login in found["logins"]]


def test_a_quiet_machine(tree: Tree) -> None:
    """Every figure is known and low, and the control side counts the machine as idle."""
    found = tree.look()
    assert found == {
        "boot": "boot-1/777", "window_s": 2.0, "gpus": [], "logins": [], "terminals": [], "clients": [],
        "network_bytes": 0, "network_bytes_per_s": 0.0, "cpu_s": 0.0, "cpu_cores": 0.0, "load_1m": 0.5,
        "unreadable": [],
    }  # fmt: skip
    assert signs_of(Observation.read(found), None, NOW_S, Limits()) == ()


def test_sessions_of_sshd(tree: Tree) -> None:
    """Each authenticated connection counts once, whatever runs in it; the listener and unauthenticated ones do not."""
    tree.process(10, 1, "sshd", "sshd: /usr/sbin/sshd -D [listener] 1 of 10-100 startups")
    sshd(tree, 100, "sshd: root@pts/0")
    tree.process(110, 100, "bash", "-bash", pts=0)
    sshd(tree, 200, "sshd: ada [priv]", "sshd: ada@notty")
    sshd(tree, 300, "sshd: eve [priv]", "sshd: eve [net]")
    sshd(tree, 400, "sshd: [accepted]", "sshd: [net]")
    sshd(tree, 500, "sshd: tunnel [priv]", "sshd: tunnel")
    tree.process(600, 10, "sshd", "sshd: gone@pts/9", state="Z")
    assert whos(tree.look()) == ["root@pts/0", "ada@notty", "tunnel"]


def test_sessions_of_newer_servers(tree: Tree) -> None:
    """OpenSSH since 9.8 has other programs for a session and for its authentication; Dropbear titles no process."""
    tree.process(10, 1, "sshd", "/usr/sbin/sshd -D")
    sshd(tree, 100, "sshd-session: root [priv]", "sshd-session: root@pts/0", name="sshd-session")
    sshd(tree, 200, "sshd-session: root [priv]", name="sshd-session")
    tree.process(201, 200, "sshd-auth", "sshd-auth: root [net]")
    tree.process(20, 1, "dropbear", "/usr/sbin/dropbear -F")
    tree.process(21, 20, "dropbear", "/usr/sbin/dropbear -F")
    tree.process(22, 20, "dropbear", "/usr/sbin/dropbear -F")
    tree.process(23, 22, "sh", "-sh")
    assert [(login["pid"], login["who"]) for login in tree.look()["logins"]] == [(22, "dropbear"), (100, "root@pts/0")]


def keeper(name: str, more: str = "") -> str:
    return f"/opt/python -I -m poorwill.remote.link.keeper {name}{more}"


def test_our_own_connection_does_not_count_as_a_login(tree: Tree) -> None:
    """The connections through which the engine's own keeper is reached do not count; another engine's do."""
    tree.process(10, 1, "sshd", "/usr/sbin/sshd -D")
    tree.process(50, 1, "python3.11", keeper("abc", " --start"))
    tree.process(ENGINE_PID, 50, "python3.11", "/opt/python -I -m poorwill.engine")
    sshd(tree, 100, "sshd: root [priv]", "sshd: root@notty")
    tree.process(105, 101, "python3.11", keeper("abc"))
    sshd(tree, 200, "sshd: root [priv]", "sshd: root@notty")
    tree.process(205, 201, "sh", "sh -c x")
    tree.process(206, 205, "python3.11", keeper("other", " --start"))
    assert [login["pid"] for login in tree.look()["logins"]] == [200]
    assert [login["pid"] for login in tree.look(pid=1)["logins"]] == [100, 200]


def test_terminals(tree: Tree) -> None:
    """Those that processes have, with the time of the last key or output; not a container's console."""
    tree.terminal(3, 40.0)
    tree.terminal(4, 5.0)
    tree.terminal(300, 7200.0)
    for pid, pts in ((70, 3), (71, 3), (72, 300), (73, 8)):
        tree.process(pid, 1, "tmux: (server", "tmux", pts=pts)
    found = tree.look()
    assert found["terminals"] == [{"name": "pts/3", "idle_s": 40.0}, {"name": "pts/300", "idle_s": 7200.0}]
    assert read_processes(tree.root)[70].name == "tmux: (server"


def test_clients(tree: Tree) -> None:
    """Connections from elsewhere to servers here, but SSH's, by port; not from here, and not to elsewhere."""
    tree.sockets(
        ("0.0.0.0", 8888, "0.0.0.0", 0, "0A"),
        ("0.0.0.0", 2222, "0.0.0.0", 0, "0A"),
        ("10.0.0.5", 8888, "203.0.113.7", 51000, "01"),
        ("10.0.0.5", 8888, "203.0.113.7", 51001, "01"),
        ("10.0.0.5", 8888, "203.0.113.7", 51002, "06"),
        ("127.0.0.1", 8888, "127.0.0.1", 51003, "01"),
        ("10.0.0.5", 2222, "203.0.113.7", 51004, "01"),
        ("10.0.0.5", 40000, "203.0.113.8", 443, "01"),
        ("::", 7860, "::", 0, "0A"),
        ("::ffff:10.0.0.5", 7860, "::ffff:203.0.113.7", 51005, "01"),
        ("::ffff:127.0.0.1", 7860, "::ffff:127.0.0.1", 51006, "01"),
        ("::1", 7860, "::1", 51007, "01"),
    )
    found = tree.look(environment={"SSH_CONNECTION": "203.0.113.7 51004 10.0.0.5 2222"})
    assert found["clients"] == [{"port": 8888, "count": 2}, {"port": 7860, "count": 1}]


def test_rates(tree: Tree) -> None:
    """Of the window, without loopback; and sums, for between looks. The container's own CPU goes before the host's."""

    def work() -> None:
        tree.network({"lo": (10**10, 10**10), "eth0": (3000, 1000), "wg0": (0, 0)})
        tree.cpu(2 * os.sysconf("SC_CLK_TCK"))

    found = tree.look(work)
    assert (found["network_bytes"], found["network_bytes_per_s"]) == (4000, 2000.0)
    assert (found["cpu_s"], found["cpu_cores"]) == (2.0, 1.0)
    tree.write("sys/fs/cgroup/cpuacct/cpuacct.usage", "7000000000\n")
    assert tree.look()["cpu_s"] == 7.0
    tree.write("sys/fs/cgroup/cpu.stat", "usage_usec 9000000\nuser_usec 1\n")
    assert tree.look()["cpu_s"] == 9.0


def test_unreadable_figures_are_null_and_named(tree: Tree) -> None:
    """The control side counts each of them as use."""
    for name in ("proc/net/dev", "proc/1/stat", "proc/stat", "proc/net/tcp", "proc/net/tcp6"):
        tree.write(name, "nonsense\nnonsense\nnonsense\nnonsense")
    (tree.root / "proc/1/stat").unlink()
    tree.write("dev/nvidiactl", "")
    found = tree.look()
    assert {name for name, value in found.items() if value is None} == {
        "gpus", "logins", "terminals", "clients", "network_bytes", "network_bytes_per_s", "cpu_s", "cpu_cores",
    }  # fmt: skip
    kinds = sorted(line.partition(":")[0] for line in found["unreadable"])
    assert kinds == ["CPU", "GPU", "clients", "logins", "network"]
    assert len(signs_of(Observation.read(found), None, NOW_S, Limits())) >= 5


SMI = """#!/bin/sh
case "$1" in
--query-gpu=*) cat "$0.gpus" ;;
--query-compute-apps=*) cat "$0.processes" ;;
*) exit 2 ;;
esac
"""


class Smi:
    """A program nvidia-smi that says what is in two files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.program = folder / "nvidia-smi"
        self.says(SMI)
        self.gpus("")

    def says(self, script: str) -> None:
        self.program.write_text(script)
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    def gpus(self, gpus: str, processes: str = "") -> None:
        Path(f"{self.program}.gpus").write_text(gpus)
        Path(f"{self.program}.processes").write_text(processes)


def test_gpus(tree: Tree, tmp_path: Path) -> None:
    """The larger of two readings; our own process does not count; what the driver does not say is null."""
    smi = Smi(tmp_path / "bin")
    smi.gpus("GPU-a, 0, 500, 81559\nGPU-b, [N/A], [N/A], 81559\n", f"GPU-a, 4711\nGPU-a, {os.getpid()}\n")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def work() -> None:
        smi.gpus("GPU-a, 93, 400, 81559\nGPU-b, [N/A], [N/A], 81559\n", "GPU-a, 4711\nGPU-a, 4712\n")

    assert tree.look(work, path=path)["gpus"] == [
        {"utilisation_percent": 93.0, "memory_used_mib": 500.0, "memory_total_mib": 81559.0, "processes": 2},
        {"utilisation_percent": None, "memory_used_mib": None, "memory_total_mib": 81559.0, "processes": 0},
    ]
    smi.says("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n")
    assert tree.look(path=path)["gpus"] == []  # the image has it, the machine has no GPU
    tree.write("dev/nvidia0", "")
    found = tree.look(path=path)
    assert found["gpus"] is None and "version mismatch" in found["unreadable"][0]


def test_the_request_over_the_protocol(tmp_path: Path) -> None:
    """On this very host every figure can be read."""
    session = EngineSession(ThreadHost())
    try:
        found = session.request(requests.Activity(0.05), deadline_s=60)
    finally:
        session.close()
    assert found["unreadable"] == [] and found["cpu_s"] > 0 and found["boot"]
    assert Observation.read(found).unknown == ()


def test_over_a_real_sshd(
    rent: Callable[..., SshMachine],
    engine_home: EngineHome,
    sshd_software: Software,
    ssh_keys: KeyPair,
    tmp_path: Path,
) -> None:
    """Our own session is no login, also after its connection was cut and made anew; another one with a terminal is."""
    if sshd_software.path is None:
        pytest.skip("the embedded SSH server has no processes of its own for connections")
    machine = rent(home=engine_home.copy_to(tmp_path / "home"))

    def logins() -> list[str]:
        """Those of this machine: /proc shows other tests' as well."""
        here = {process.pid for process in machine.processes()}
        found = session.request(requests.Activity(0.05), deadline_s=60)
        assert found["unreadable"] == []
        return [login["who"] for login in found["logins"] if login["pid"] in here]

    session = EngineSession(ssh_host(machine, ssh_keys))
    try:
        session.hello(str(machine.home))
        assert machine.connections() >= 1 and logins() == []
        machine.cut()
        assert logins() == []
        with Client(machine, ssh_keys) as other:
            stdin, stdout, _ = other.exec_command("echo in; cat", get_pty=True, timeout=20)
            assert stdout.readline().strip() == "in"
            assert [who.partition("/")[0] for who in logins()] == [f"{machine.user}@pts"]
            del stdin
    finally:
        session.close()


def test_a_tunnel_is_a_login(rent: Callable[..., SshMachine], sshd_software: Software, ssh_keys: KeyPair) -> None:
    """A connection without any session, as for forwarding a port to a notebook."""
    if sshd_software.path is None:
        pytest.skip("the embedded SSH server has no processes of its own for connections")
    machine = rent()
    with Client(machine, ssh_keys) as client:
        transport = client.get_transport()
        assert isinstance(transport, paramiko.Transport) and transport.is_authenticated()

        def logins() -> int:
            here = {process.pid for process in machine.processes()}
            found = Activity(environment={}).look(0.0, Context("activity"))
            return [login["pid"] in here for login in found["logins"]].count(True)

        until(lambda: logins() == 1)  # the server's process of before the authentication may still be ending
