"""Makes the workspaces that are measured, the same bytes for the same seed.

    python -m bench.workspace KIND DIR

`weights` is 2 GB, as on a machine that runs models: 1.2 GB bf16 and 0.4 GB fp32 Gaussian weights (sigma
0.02) as safetensors, 0.2 GB of text and code in 26,000 files, 0.2 GB that nothing compresses. `weights-8gb`
is four times that, `weights-small` a twentieth. `many` is 300,000 files of 500 bytes in 3,000 folders.

The text is cut from the running Python's standard library: another Python gives another text.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

SEED = 1
SIGMA = np.float32(0.02)
BF16_TENSORS, BF16_VALUES = 20, 30_000_000
FP32_TENSORS, FP32_VALUES = 10, 10_000_000
RANDOM_BYTES = 200_000_000
TEXT_FILES, TEXT_BYTES, TEXT_FILE_BYTES_MAX = 26_000, 200_000_000, 400_000
MANY_FILES, MANY_FILE_BYTES, MANY_FOLDERS = 300_000, 500, 3_000
SLICE_VALUES = 2_500_000
SOURCES_SUFFIXES = (".py", ".txt", ".h", ".json", ".md")
SOURCES_BYTES_MAX = 256 << 20

KINDS = {"weights": 1.0, "weights-8gb": 4.0, "weights-small": 0.05}
BF16_FILE = "model-bf16.safetensors"

Slice = tuple[int, int, int]  # seed of the tensor, number of the slice, values in it


def _slices(tensors: int, values: int, first_seed: int) -> list[Slice]:
    return [
        (first_seed + tensor, at // SLICE_VALUES, min(SLICE_VALUES, values - at))
        for tensor in range(tensors)
        for at in range(0, values, SLICE_VALUES)
    ]


def _gaussian(cut: Slice) -> npt.NDArray[np.float32]:
    seed, number, values = cut
    drawn = np.random.default_rng([SEED, seed, number]).standard_normal(values, dtype=np.float32)
    drawn *= SIGMA
    return drawn


def _fp32(cut: Slice) -> bytes:
    return _gaussian(cut).tobytes()


def _bf16(cut: Slice) -> bytes:
    """The upper half of each float32: rounding towards zero, which changes nothing about the entropy."""
    bits: npt.NDArray[np.uint32] = _gaussian(cut).view(np.uint32)
    return bytes((bits >> np.uint32(16)).astype(np.uint16))


def bf16_weights(seed: int, values: int) -> bytes:
    """Weights like those of the workspace, and none of them: what a changed region is overwritten with."""
    return _bf16((300_000 + seed, 0, values))


def _noise(cut: Slice) -> bytes:
    seed, number, values = cut
    return bytes(np.random.default_rng([SEED, seed, number]).integers(0, 256, values, dtype=np.uint8))


def _made(make: Callable[[Slice], bytes], cuts: list[Slice]) -> Iterator[bytes]:
    """make(cut) for every cut in order, on all cores, with a bounded number of results waiting."""
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(make, cut) for cut in cuts[: 2 * workers]]
        for following in range(len(waiting), len(cuts) + len(waiting)):
            yield waiting.pop(0).result()
            if following < len(cuts):
                waiting.append(pool.submit(make, cuts[following]))


def _safetensors_header(dtype: str, value_bytes: int, tensors: int, values: int) -> bytes:
    """Format: 8 bytes little-endian length, then JSON padded to 8 (github.com/huggingface/safetensors)."""
    size = values * value_bytes
    header = {
        f"layers.{i}.weight": {"dtype": dtype, "shape": [values], "data_offsets": [i * size, (i + 1) * size]}
        for i in range(tensors)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write(path: Path, header: bytes, pieces: Iterator[bytes]) -> None:
    with open(path, "wb") as out:
        out.write(header)
        for piece in pieces:
            out.write(piece)


def _sources() -> bytes:
    """Text and code to cut files from."""
    found: list[Path] = []
    for folder, _, names in os.walk(sysconfig.get_paths()["stdlib"]):
        found += [Path(folder, name) for name in names if name.endswith(SOURCES_SUFFIXES)]
    text = bytearray()
    for path in sorted(found):
        text += path.read_bytes()
        if len(text) > SOURCES_BYTES_MAX:
            break
    return bytes(text)


def _write_text(root: Path, text: bytes, files: int, bytes_total: int) -> None:
    draw = random.Random(SEED)
    written = 0
    for number in range(files):
        size = min(int(draw.lognormvariate(8.45, 1.0)), TEXT_FILE_BYTES_MAX, bytes_total - written)
        begin = draw.randrange(len(text) - size)
        folder = root / f"p{number // 520:03d}" / f"m{number // 26 % 20:02d}"
        if number % 26 == 0:
            folder.mkdir(parents=True)
        (folder / f"f{number}.py").write_bytes(text[begin : begin + size])
        written += size


def make_weights(root: Path, scale: float = 1.0, text: bytes | None = None) -> None:
    """A workspace of `scale` times 2 GB in `root`, which must not exist or be empty.

    Its small files are cut from `text` (more than 400,000 bytes), by default from the standard library.
    """
    (root / "src").mkdir(parents=True)
    bf16, fp32 = (max(1, round(scale * count)) for count in (BF16_TENSORS, FP32_TENSORS))
    bf16_values, fp32_values = (
        round(values * min(1.0, scale * count))
        for values, count in ((BF16_VALUES, BF16_TENSORS), (FP32_VALUES, FP32_TENSORS))
    )
    _write(
        root / BF16_FILE,
        _safetensors_header("BF16", 2, bf16, bf16_values),
        _made(_bf16, _slices(bf16, bf16_values, 0)),
    )
    _write(
        root / "model-f32.safetensors",
        _safetensors_header("F32", 4, fp32, fp32_values),
        _made(_fp32, _slices(fp32, fp32_values, 100_000)),
    )
    noise_bytes = round(RANDOM_BYTES * scale)
    _write(root / "random.bin", b"", _made(_noise, _slices(1, noise_bytes, 200_000)))
    _write_text(root / "src", text or _sources(), round(TEXT_FILES * scale), round(TEXT_BYTES * scale))


def make_many(root: Path, files: int = MANY_FILES, folders: int = MANY_FOLDERS, text: bytes | None = None) -> None:
    """`files` files of 500 bytes of text, spread evenly over `folders` folders."""
    text = text or _sources()
    draw = random.Random(SEED)
    per_folder = -(-files // folders)
    for number in range(files):
        folder = root / f"d{number // per_folder:04d}"
        if number % per_folder == 0:
            folder.mkdir(parents=True)
        begin = draw.randrange(len(text) - MANY_FILE_BYTES)
        (folder / f"{number}.txt").write_bytes(text[begin : begin + MANY_FILE_BYTES])


def make(kind: str, root: Path) -> None:
    """Make the workspace of that kind; KeyError for a kind that is not one."""
    if kind == "many":
        make_many(root)
    elif kind == "many-small":
        make_many(root, MANY_FILES // 20, MANY_FOLDERS // 20)
    else:
        make_weights(root, KINDS[kind])


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.workspace", description="Make a benchmark workspace.")
    parser.add_argument("kind", choices=[*KINDS, "many", "many-small"])
    parser.add_argument("directory", type=Path)
    given = parser.parse_args()
    if given.directory.exists() and any(given.directory.iterdir()):
        parser.error(f"{given.directory} is not empty")
    make(given.kind, given.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
