"""Snapshots that say they need a GPU, made without one; and a host that seems to have one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from poorwill.control.records import catalog
from poorwill.store.base import Store

H100 = "NVIDIA H100 80GB HBM3, 81559 MiB"


def reseal(store: Store, snapshot_id: str, needs: list[str]) -> None:
    """Write a snapshot's metadata anew, with other needs."""
    metadata = catalog.find(store, snapshot_id)
    store.put(metadata.key, replace(metadata, needs=tuple(needs)).seal())


def nvidia_smi(folder: Path, gpus: int = 0, driver: str = "570.124.06") -> str:
    """A PATH on which nvidia-smi comes first and lists so many GPUs."""
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    lines = [f'if [ "$1" = -L ]; then echo "GPU 0: NVIDIA H100"; else echo "{H100}, {driver}"; fi'] * gpus
    program.write_text("\n".join(["#!/bin/sh", *(lines or ["exit 9"]), ""]))
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"
