"""What the engine tells about its machine."""

from __future__ import annotations

import os
import platform
import shutil
import socket
from pathlib import Path
from typing import Any

from poorwill import __version__
from poorwill.engine import protocol
from poorwill.engine.packing import threads_of_this_machine


def machine_facts(workspace: str) -> dict[str, Any]:
    """Host name, cores, memory and disk in bytes, kernel, Python; recorded with every snapshot."""
    try:
        disk = shutil.disk_usage(workspace)
        total, free = disk.total, disk.free
    except OSError:
        total = free = 0
    return {
        "host": socket.gethostname(),
        "cores": len(os.sched_getaffinity(0)),
        "codec_threads": threads_of_this_machine(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "disk_bytes": total,
        "disk_free_bytes": free,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "gpu": [p.name for p in sorted(Path("/proc/driver/nvidia/gpus").glob("*"))][:64],
        "engine": __version__,
        "protocol": protocol.VERSION,
    }
