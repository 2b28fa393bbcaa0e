"""A workspace like that of a machine that runs models, small enough for a demonstration. The same for the same size."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import struct
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

SEED = 2
SIGMA = np.float32(0.02)
MEGABYTES = 300
"""Above 256 MiB a snapshot has exactly 32 parts."""
MEGABYTES_MIN = 4
TENSORS = 16
SHARES = {"BF16": 0.50, "F16": 0.20, "F32": 0.28}
CODE_PACKAGES = ("json", "email", "asyncio", "logging")
MTIME_NS = 1_700_000_000_123_456_789

Values = npt.NDArray[np.float32]


def make(root: Path, megabytes: int = MEGABYTES) -> None:
    """Fill the directory `root`, which must be empty. Raises OSError, for a full disk above all."""
    models = root / "models"
    models.mkdir()
    for dtype, share in SHARES.items():
        _write_weights(models / f"weights-{dtype.lower()}.safetensors", dtype, round(megabytes * share * 1_000_000))
    _copy_code(root / "src")
    _write_curiosities(root)
    _set_times(root)


def _bf16(values: Values) -> bytes:
    # The upper half of each float32: rounded towards zero, which changes nothing about the entropy.
    return bytes((values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).data)


ENCODERS: dict[str, tuple[int, Callable[[Values], bytes]]] = {
    "BF16": (2, _bf16),
    "F16": (2, lambda values: values.astype(np.float16).tobytes()),
    "F32": (4, lambda values: values.tobytes()),
}


def _write_weights(path: Path, dtype: str, size: int) -> None:
    """A safetensors file: u64 length of a JSON header padded to 8, the header, the tensors' bytes.

    The format: github.com/huggingface/safetensors.
    """
    value_bytes, encode = ENCODERS[dtype]
    count = size // value_bytes // TENSORS
    step = count * value_bytes
    header = {
        f"model.layers.{i}.weight": {"dtype": dtype, "shape": [count], "data_offsets": [i * step, (i + 1) * step]}
        for i in range(TENSORS)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    draw = np.random.default_rng([SEED, value_bytes, len(dtype)])
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _ in range(TENSORS):
            values = draw.standard_normal(count, dtype=np.float32)
            values *= SIGMA
            out.write(encode(values))


def _copy_code(root: Path) -> None:
    library = Path(sysconfig.get_paths()["stdlib"])
    for package in CODE_PACKAGES:
        shutil.copytree(library / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))


def _write_curiosities(root: Path) -> None:
    """One of everything that a careless copy loses."""
    (root / "empty").mkdir()
    (root / "empty-file").touch()
    (root / "run.sh").write_text("#!/bin/sh\nexec python3 -m json.tool\n")
    (root / "run.sh").chmod(0o755)
    (root / "read-only.txt").write_text("modes are kept\n")
    (root / "read-only.txt").chmod(0o400)
    scratch = root / "scratch"
    scratch.mkdir()
    scratch.chmod(0o1777)
    os.symlink("models/weights-bf16.safetensors", root / "latest.safetensors")
    os.symlink("/nowhere/at all", root / "dangling")
    os.link(root / "run.sh", scratch / "the same run.sh")
    os.mkfifo(root / "commands.fifo")
    (root / "commands.fifo").chmod(0o620)
    with open(root / "sparse.img", "wb") as sparse:
        sparse.write(b"begin" * 1000)
        sparse.seek(24 << 20)
        sparse.write(b"middle" * 1000)
        sparse.truncate(48 << 20)
    names = os.fsencode(root / "odd names")
    os.mkdir(names)
    for name in (b"two\nlines", b"not \xff\xfe UTF-8", "Füße 日本".encode(), b" spaces ", b"-rf", b"back\\slash"):
        with open(os.path.join(names, name), "wb") as file:
            file.write(name)
    try:
        os.setxattr(root / "run.sh", "user.origin", b"demo\0bytes")
    except (OSError, AttributeError):
        pass  # not every file system has them
    if os.geteuid() == 0:
        os.lchown(root / "read-only.txt", 1234, 2345)


def _set_times(root: Path) -> None:
    # Bottom up, because making an entry changes its directory's time.
    order = itertools.count()
    for folder, folders, files in os.walk(root, topdown=False):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for path in sorted(os.path.join(folder, name) for name in [*files, *links]):
            _set_time(path, next(order))
        _set_time(folder, next(order))


def _set_time(path: str, number: int) -> None:
    time_ns = MTIME_NS + number * 1_000_000_007
    os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
