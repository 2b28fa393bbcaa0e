"""How a machine is used, apart from us: the operation `activity`. It reads, and changes nothing.

A figure that cannot be read is null and named in `unreadable`; whoever decides counts it as use. All files are read
below `root`, so that a folder of made files can stand for a machine.
"""

from __future__ import annotations

import ipaddress
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from poorwill.engine.machine import logins, processes
from poorwill.engine.machine.gpu_load import GpuLoad, busiest, gpu_loads
from poorwill.engine.machine.processes import read_text
from poorwill.engine.protocol.context import Context
from poorwill.errors import HostUnfit

T = TypeVar("T")
WINDOW_S_MAX = 10.0
LISTED_MAX = 100
LINE_MAX = 200
TCP_BYTES_MAX = 8 << 20
SSH_PORT = 22
_ESTABLISHED, _LISTENING = "01", "0A"
# What this container used, where many share a host; without such a file, what the host used.
_CPU_V2 = "sys/fs/cgroup/cpu.stat"
_CPU_V1 = ("sys/fs/cgroup/cpuacct/cpuacct.usage", "sys/fs/cgroup/cpu,cpuacct/cpuacct.usage")


class Activity:
    """Looks at the machine below `root`, with `environment` of this process and the nvidia-smi in `path`."""

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        path: str | None = None,
        environment: Mapping[str, str] = os.environ,
        pid: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._root, self._path, self._environment = root, path, environment
        self._pid = os.getpid() if pid is None else pid
        self._clock, self._now_s = clock, now_s
        self._unreadable: list[str] = []

    def look(self, window_s: float, context: Context) -> dict[str, Any]:
        """The result of the request. It takes the window, at most WINDOW_S_MAX, and the answers of nvidia-smi."""
        root = self._root
        gpus_before = self._figure("GPU", lambda: gpu_loads(root, self._path))
        began_s, network_before, cpu_before = self._clock(), self._network_bytes(), self._cpu_s()
        context.pause(min(max(window_s, 0.0), WINDOW_S_MAX))
        network, cpu_s, lasted_s = self._network_bytes(), self._cpu_s(), max(self._clock() - began_s, 0.001)
        gpus = self._figure("GPU", lambda: gpu_loads(root, self._path)) if gpus_before is not None else None
        found = self._figure("logins", lambda: processes.read_processes(root))
        sessions, used = self._people(found) if found is not None else (None, None)
        clients = self._figure("clients", lambda: _clients(root, self._ssh_ports()))
        return {
            "boot": _boot(root),
            "window_s": round(lasted_s, 3),
            "gpus": _listed(busiest(gpus_before or {}, gpus)) if gpus is not None else None,
            "logins": _listed(sessions),
            "terminals": _listed(used),
            "clients": [{"port": port, "count": count} for port, count in clients.most_common(LISTED_MAX)]
            if clients is not None
            else None,
            "network_bytes": network,
            "network_bytes_per_s": _rate(network_before, network, lasted_s),
            "cpu_s": cpu_s,
            "cpu_cores": _rate(cpu_before, cpu_s, lasted_s),
            "load_1m": _load(root),
            "unreadable": list(dict.fromkeys(self._unreadable))[:LISTED_MAX],
        }

    def _figure(self, what: str, read: Callable[[], T]) -> T | None:
        """What `read` returns; None, with a line in `unreadable`, where it fails."""
        try:
            return read()
        except (HostUnfit, OSError, ValueError, IndexError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self._unreadable.append(f"{what}: {reason}"[:LINE_MAX])
            return None

    def _network_bytes(self) -> int | None:
        return self._figure("network", lambda: _network_bytes(self._root))

    def _cpu_s(self) -> float | None:
        return self._figure("CPU", lambda: _cgroup_cpu_s(self._root) or _host_cpu_s(self._root))

    def _people(self, found: dict[int, processes.Process]) -> tuple[list[logins.Login], list[logins.Terminal]]:
        """The logins, without our own, and the terminals in use."""
        ours = logins.own_keeper(self._root, self._pid, found)
        return logins.logins(self._root, found, ours), logins.terminals(self._root, found.values(), self._now_s())

    def _ssh_ports(self) -> set[int]:
        """22, and the one that this engine was started through."""
        through = self._environment.get("SSH_CONNECTION", "").split()
        return {SSH_PORT, *(int(port) for port in through[3:4] if port.isdecimal())}


def _listed(found: Sequence[GpuLoad | logins.Login | logins.Terminal] | None) -> list[dict[str, Any]] | None:
    return [asdict(each) for each in found[:LISTED_MAX]] if found is not None else None


def _network_bytes(root: Path) -> int:
    """Received and sent by all interfaces but loopback, since they were made."""
    total = 0
    for line in read_text(root / "proc/net/dev").splitlines()[2:]:
        name, _, counters = line.partition(":")
        cells = counters.split()
        if name.strip() != "lo":
            total += int(cells[0]) + int(cells[8])
    return total


def _load(root: Path) -> float | None:
    """For information only: the load of a container's host may be that of others."""
    try:
        return float(read_text(root / "proc/loadavg").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _boot(root: Path) -> str:
    """Another one whenever the counters above began anew: of the machine, and of a container's first process."""
    try:
        machine = processes.boot_id(root)
    except OSError:
        machine = ""
    return f"{machine}/{processes.born(root, 1)}"[:LINE_MAX]


def _clients(root: Path, ssh_ports: set[int]) -> Counter[int]:
    """Connections from elsewhere to servers here, by the server's port: notebooks, web interfaces, desktops; not SSH's,
    whose sessions are `logins`."""
    tables = [root / "proc/net/tcp", root / "proc/net/tcp6"]
    rows = [row for table in tables if table.exists() for row in _tcp_rows(read_text(table, TCP_BYTES_MAX))]
    served = {port for port, _, state in rows if state == _LISTENING} - ssh_ports
    return Counter(port for port, peer, state in rows if state == _ESTABLISHED and port in served and _far(peer))


def _rate(before: float | None, after: float | None, seconds: float) -> float | None:
    return None if before is None or after is None else round(max(after - before, 0) / seconds, 4)


def _cgroup_cpu_s(root: Path) -> float | None:
    try:
        for line in read_text(root / _CPU_V2).splitlines():
            key, _, value = line.partition(" ")
            if key == "usage_usec":
                return int(value) / 1e6
    except OSError:
        pass  # the first version of cgroups, or none
    for name in _CPU_V1:
        try:
            return int(read_text(root / name)) / 1e9
        except OSError:
            continue
    return None


def _host_cpu_s(root: Path) -> float:
    """user, nice, system, irq and softirq of all CPUs; not what other guests stole."""
    cells = read_text(root / "proc/stat").splitlines()[0].split()
    if cells[0] != "cpu":
        raise ValueError("the first line of /proc/stat is not about all CPUs")
    return sum(int(cells[at]) for at in (1, 2, 3, 6, 7)) / os.sysconf("SC_CLK_TCK")


def _tcp_rows(table: str) -> list[tuple[int, str, str]]:
    """(own port, the peer's address in hex, state) of each connection and each listening socket."""
    rows = []
    for line in table.splitlines()[1 : None if table.endswith("\n") else -1]:
        _, own, peer, state, *_ = line.split()
        rows.append((int(own.rpartition(":")[2], 16), peer.rpartition(":")[0], state))
    return rows


def _far(address: str) -> bool:
    """Whether it is another machine's. The kernel writes addresses as words of 32 bits in its own byte order."""
    words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
    found = ipaddress.ip_address(b"".join(words))
    mapped = getattr(found, "ipv4_mapped", None)
    return not (mapped or found).is_loopback
