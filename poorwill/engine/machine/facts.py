"""The facts of a machine that are recorded with every snapshot."""

from __future__ import annotations

import os
import platform
import shutil
import socket

from poorwill import __version__
from poorwill.engine.machine import nvidia_smi
from poorwill.engine.pool import threads_of_this_machine
from poorwill.engine.protocol import lines
from poorwill.engine.protocol.answers import MachineFacts
from poorwill.engine.protocol.asking import TEXT_MAX
from poorwill.errors import Unsupported


def machine_facts(workspace: str) -> MachineFacts:
    """Host, cores, memory and disk in bytes, GPUs and driver, kernel, Python; recorded with every snapshot."""
    try:
        disk = shutil.disk_usage(workspace)
        total, free = disk.total, disk.free
    except OSError:
        total = free = 0
    gpus, driver = nvidia_smi.gpus_and_driver()
    unusable = unusable_because() if gpus else "there is no GPU"
    return MachineFacts(
        host=socket.gethostname(),
        cores=len(os.sched_getaffinity(0)),
        codec_threads=threads_of_this_machine(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk_bytes=total,
        disk_free_bytes=free,
        kernel=platform.release(),
        python=platform.python_version(),
        gpu=tuple(gpus),
        gpu_driver=driver,
        gpu_usable=not unusable,
        gpu_unusable=unusable[:TEXT_MAX],
        nvcomp=nvcomp_version() if gpus else "",
        engine=__version__,
        protocol=lines.VERSION,
    )


def nvcomp_version() -> str:
    """Of the nvCOMP that is installed for this engine; empty without it."""
    from importlib import metadata  # slow to import, and most machines that are not rented have no GPU

    for name in ("nvidia-nvcomp-cu12", "nvidia-nvcomp-cu13"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def unusable_because() -> str:
    """Why nothing can be coded on a GPU; empty if it can. Takes seconds the first time, and no memory of the GPU."""
    from poorwill.codecs.gpu.libraries import load, usable_devices

    try:
        usable_devices(load())
        return ""
    except Unsupported as error:
        return error.message
