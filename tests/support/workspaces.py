"""Small workspaces for tests: one of everything, and weights in a few chunks."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import time
from pathlib import Path

import numpy as np

CHUNK_BYTES = 8 << 20
SKIPPED = (b"links/socket",)
"""What `make_everything` makes that no snapshot keeps."""
SET_ID = (b"modes/set-user-id", b"modes/set-group-id-folder")
TICK_NS = 40_000_000


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that nothing compresses and no two seeds share."""
    return np.random.default_rng(seed).bytes(size)


def safetensors(dtype: str, values: int, seed: int, *, padding: int = 0) -> bytes:
    """A file of one tensor of Gaussian weights; `padding` makes the header longer by as many bytes."""
    weights = np.random.default_rng(seed).standard_normal(values, dtype=np.float32) * np.float32(0.02)
    data = {
        "F32": lambda: weights.tobytes(),
        "F16": lambda: weights.astype(np.float16).tobytes(),
        "BF16": lambda: (weights.view(np.uint32) >> np.uint32(16)).astype(np.uint16).tobytes(),
    }[dtype]()
    tensor = {"dtype": dtype, "shape": [values], "data_offsets": [0, len(data)]}
    header = json.dumps({"weight": tensor}).encode() + b" " * padding
    return struct.pack("<Q", len(header)) + header + data


def make_everything(root: Path, *, as_root: bool = os.geteuid() == 0) -> Path:
    """One of everything that a snapshot keeps, and one thing it does not; 15 MB."""
    root.mkdir(parents=True, exist_ok=True)
    _make_weights(root / "weights")
    _make_text(root / "src")
    _make_links(root / "links")
    _make_sparse(root / "sparse")
    _make_names(root / "names")
    _make_modes(root / "modes", as_root)
    _make_attributes(root / "attributes")
    return root


def _make_weights(root: Path) -> None:
    root.mkdir()
    (root / "bf16.safetensors").write_bytes(safetensors("BF16", 4_500_000, 1))
    (root / "fp16.safetensors").write_bytes(safetensors("F16", 500_000, 2))
    (root / "fp32.safetensors").write_bytes(safetensors("F32", 400_000, 3))
    (root / "noise.bin").write_bytes(noise(700_000, 4))


def _make_text(root: Path) -> None:
    for folder in range(3):
        (root / f"p{folder}").mkdir(parents=True)
        for number in range(10):
            (root / f"p{folder}" / f"f{number}.py").write_text(f"def f{number}():\n    return {folder}\n" * number)
    (root / "empty-folder").mkdir()
    (root / "empty.txt").touch()


def _make_links(root: Path) -> None:
    root.mkdir()
    (root / "file").write_bytes(b"linked")
    os.link(root / "file", root / "hardlink")
    os.link(root / "file", root / "another-hardlink")
    for name, target in {
        "symlink": "file",
        "to-folder": "../src",
        "dangling": "nothing/here",
        "absolute": "/etc/hostname",
        "outside": "../../..",
    }.items():
        os.symlink(target, root / name)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "socket", stat.S_IFSOCK | 0o600)


def _make_sparse(root: Path) -> None:
    root.mkdir()
    with open(root / "middle", "wb") as file:
        file.write(noise(300_000, 5))
        file.seek(3 << 20)
        file.write(noise(300_000, 6))
    with open(root / "end", "wb") as file:
        file.write(noise(400_000, 7))
        file.truncate(2 << 20)
    with open(root / "all", "wb") as file:
        file.truncate(5 << 20)


def _make_names(root: Path) -> None:
    root.mkdir()
    names = [
        b"new\nline",
        b"not-utf8-\xff\xfe",
        b"-dash",
        b" space ",
        b"quote'\"",
        "Größe-猫-🐦".encode(),
        b"n" * 255,
        b"*?[x]",
    ]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(root), name))).write_bytes(name)
    (root / os.fsdecode(b"folder\xff")).mkdir()
    (root / os.fsdecode(b"folder\xff") / "x").write_text("x")


def _make_modes(root: Path, as_root: bool) -> None:
    root.mkdir()
    for mode in (0o444, 0o711, 0o777, 0o640, *([0o000] if as_root else [0o400])):
        (root / f"{mode:03o}").write_text(f"{mode:o}")
        (root / f"{mode:03o}").chmod(mode)
    (root / "set-user-id").write_text("#!/bin/sh\n")
    (root / "set-user-id").chmod(0o4755)
    (root / "set-group-id-folder").mkdir()
    (root / "set-group-id-folder").chmod(0o2755)
    (root / "sticky-folder").mkdir()
    (root / "sticky-folder").chmod(0o1777)
    (root / "read-only-folder").mkdir()
    (root / "read-only-folder" / "inside").write_text("inside")
    (root / "read-only-folder").chmod(0o500)
    if as_root:
        (root / "someone-elses").write_text("theirs")
        os.chown(root / "someone-elses", 12345, 54321)


def _make_attributes(root: Path) -> None:
    root.mkdir()
    for name in ("file", "read-only"):
        (root / name).write_text(name)
        _set_xattr(root / name, "user.poorwill.test", b"\0\xffvalue")
        _set_xattr(root / name, "user.empty", b"")
    (root / "read-only").chmod(0o444)
    _set_xattr(root, "user.of-a-folder", b"folder")
    for name, mtime_ns in {
        "ns": 1_700_000_000_123_456_789,
        "before-1970": -1_234_567_890_123_456_789,
        "zero": 0,
    }.items():
        (root / name).write_text(name)
        os.utime(root / name, ns=(mtime_ns, mtime_ns))
    os.symlink("ns", root / "old-symlink")
    os.utime(root / "old-symlink", ns=(5, 7), follow_symlinks=False)
    (root / "old-folder").mkdir()
    os.utime(root / "old-folder", ns=(11, 13))


def _set_xattr(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        if error.errno != errno.ENOTSUP:  # a tmpfs of an older kernel has none
            raise


def make_large(root: Path, chunks: int = 4, *, seed: int = 100) -> Path:
    """`chunks` chunks of noise in one file, and a little text beside it: as many parts as chunks, and one."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "large.bin").write_bytes(noise(chunks * CHUNK_BYTES, seed))
    for number in range(20):
        (root / f"{number}.txt").write_text(f"{number}\n" * 50)
    return root


def aged(root: Path) -> Path:
    """`root`, once its newest file is older than the tick within which a change could go unseen."""
    newest = max(
        os.lstat(os.path.join(folder, n)).st_ctime_ns for folder, ds, fs in os.walk(root) for n in [*ds, *fs, "."]
    )
    while time.time_ns() < newest + TICK_NS:
        time.sleep(0.005)
    return root
