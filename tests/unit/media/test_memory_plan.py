"""How a model is fitted into a GPU's memory, decided without one."""

from __future__ import annotations

import pytest

from poorwill.errors import UsageError
from poorwill.media.memory import plan
from poorwill.media.model import Memory

GIB = 1 << 30


def everything(package: str) -> bool:
    return True


def nothing(package: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("card", "vram_gib", "offload", "quantization"),
    [
        ("GTX 1080, 8 GB", 7.9, "group", "4bit"),
        ("RTX 3060, 12 GB", 11.76, "group", "4bit"),
        ("T4, 16 GB with ECC", 14.56, "group", "fp8"),
        ("RTX 4080, 16 GB", 15.69, "group", "fp8"),
        ("A10G, 24 GB with ECC", 22.06, "model", "fp8"),
        ("RTX 4090, 24 GB", 23.64, "model", "fp8"),
        ("RTX 5090, 32 GB", 31.36, "model", "fp8"),
        ("A100, 40 GB", 39.39, "model", "none"),
        ("L40S, 48 GB", 44.42, "model", "none"),
        ("A100, 80 GB", 79.15, "none", "none"),
        ("H200, 141 GB", 139.8, "none", "none"),
    ],
)
def test_auto_goes_by_what_a_card_reports(card: str, vram_gib: float, offload: str, quantization: str) -> None:
    """A card reports less memory than its name says, even less with error correction."""
    found = plan(Memory(), int(vram_gib * GIB), everything)
    assert (found.offload, found.quantization, found.notes) == (offload, quantization, ())


def test_settings_overrule_the_table() -> None:
    """Each field by itself; the other one stays with the table."""
    assert plan(Memory(offload="sequential", quantization="none"), 12 * GIB, everything).offload == "sequential"
    assert plan(Memory(offload="none"), 12 * GIB, everything).quantization == "4bit"
    found = plan(Memory("model", False, "int8", "flash", True), 80 * GIB, everything)
    assert (found.offload, found.quantization) == ("model", "int8")
    assert (found.vae_tiling, found.attention, found.compile) == (False, "flash", True)


def test_sequential_offload_takes_plain_weights() -> None:
    """Auto does not choose what diffusers cannot combine."""
    assert plan(Memory(offload="sequential"), 11 * GIB, everything).quantization == "none"


def test_auto_falls_back_without_the_package_and_says_so() -> None:
    """fp8 needs none; the note is for the log."""
    found = plan(Memory(), 11 * GIB, nothing)
    assert (found.offload, found.quantization) == ("group", "fp8")
    assert len(found.notes) == 1 and "pip install bitsandbytes" in found.notes[0]


@pytest.mark.parametrize(("quantization", "package"), [("4bit", "bitsandbytes"), ("int8", "torchao")])
def test_a_missing_package_is_named(quantization: str, package: str) -> None:
    """Asked for by name, nothing else is done instead."""
    with pytest.raises(UsageError, match=f"pip install {package}"):
        plan(Memory(quantization=quantization), 80 * GIB, nothing)
    assert plan(Memory(quantization="fp8"), 80 * GIB, nothing).quantization == "fp8"


def test_the_cpu_needs_no_plan() -> None:
    """All weights are in its memory; a note says that offload and quantization have no effect."""
    found = plan(Memory(), None, nothing)
    assert (found.offload, found.quantization, found.vae_tiling, found.notes) == ("none", "none", True, ())
    asked = plan(Memory(offload="group", quantization="4bit"), None, nothing)
    assert (asked.offload, asked.quantization) == ("none", "none")
    assert [note.partition(":")[2] for note in asked.notes] == [
        " offload 'group' has no effect",
        " quantization '4bit' has no effect",
    ]
