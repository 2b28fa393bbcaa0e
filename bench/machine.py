"""Says what a benchmark ran on, without naming the machine or any folder of it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path


def _field(path: str, name: str) -> str | None:
    try:
        found = re.search(rf"^{name}\s*:\s*(.+)$", Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found.group(1).strip() if found else None


def cpu_model() -> str:
    """As the kernel names it, or the architecture."""
    return _field("/proc/cpuinfo", "model name") or platform.machine()


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes(name: str = "MemTotal") -> int:
    """A figure of /proc/meminfo, 0 if it is not there."""
    found = _field("/proc/meminfo", name)
    return int(found.split()[0]) << 10 if found else 0


def filesystem(folder: Path) -> str:
    """The type of the file system that holds `folder`, e.g. tmpfs."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        inside = mount == "/" or folder.resolve().is_relative_to(mount)
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def describe(scratch: Path) -> dict[str, str | int]:
    """CPU, cores, memory in bytes, kernel, Python, the scratch folder's file system, the load of the last minute."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "filesystem": filesystem(scratch),
        "load_before": f"{os.getloadavg()[0]:.1f}",
    }


def slug() -> str:
    """CPU and cores for a file name: amd-epyc-2cores."""
    model = re.sub(r"\(.*?\)|@.*|\b(cpu|processor|\d+-core)\b", " ", cpu_model().lower())
    return f"{re.sub(r'[^a-z0-9]+', '-', model).strip('-')}-{cores()}cores"
