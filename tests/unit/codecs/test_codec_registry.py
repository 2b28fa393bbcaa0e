"""Codec ids never change, and a codec that cannot be decoded is named."""

from __future__ import annotations

import pytest

from poorwill.codecs import registry
from poorwill.codecs.chooser import Chooser
from poorwill.codecs.openzl import OpenZL
from poorwill.codecs.planes import Planes
from poorwill.codecs.raw import Raw
from poorwill.codecs.zstd import Zstd
from poorwill.errors import Unsupported, UsageError
from poorwill.snapshot.choices import CODECS

# A line here is never changed: snapshots with these ids exist. New ids are added.
FOR_EVER = {"raw": 0, "zstd": 1, "planes": 2, "openzl": 3, "nvcomp-ans/6": 4}


def test_ids_are_for_ever() -> None:
    """No id was moved, dropped or given to another codec."""
    assert FOR_EVER == registry.ID_BY_NAME


@pytest.mark.parametrize("kind", [Raw, Zstd, Planes, OpenZL])
def test_every_codec_is_known_by_its_id(kind: type[Raw | Zstd | Planes | OpenZL]) -> None:
    """Id, name and class belong together, and each call makes a codec of its own: it belongs to one thread."""
    codec = registry.make(kind.id)
    assert type(codec) is kind
    assert codec is not registry.make(kind.id)
    assert registry.name(kind.id) == kind.name
    assert FOR_EVER[kind.name] == kind.id
    assert registry.needs(kind.id) is None


def test_a_reserved_codec_names_what_it_needs() -> None:
    """nvCOMP's id is known, and the error names what a machine must have."""
    with pytest.raises(Unsupported, match=r"nvcomp-ans/6.*nvcomp>=6,<7"):
        registry.make(4)
    assert registry.needs(4) == "nvcomp>=6,<7"


@pytest.mark.parametrize("number", [5, 200, 255, -1])
def test_an_unknown_codec(number: int) -> None:
    """An id of a later version is refused, and the error says what to do."""
    with pytest.raises(Unsupported, match=rf"codec id {number} .*newer poorwill"):
        registry.make(number)
    assert registry.name(number) == f"unknown-{number}"


def test_policies() -> None:
    """The names of the command line, and a usage error that lists them for any other."""
    assert CODECS == ("auto", "ans", "planes", "zstd", "raw")
    with pytest.raises(UsageError, match="auto, ans, planes, zstd, raw"):
        Chooser("lz4")


def test_a_policy_keeps_to_its_codecs() -> None:
    """`raw`, `zstd` and `planes` use only the codec of that name."""
    raw, out = memoryview(bytes(4096)), memoryview(bytearray(4096))
    chosen = {policy: Chooser(policy).encode(raw, out)[0] for policy in CODECS}
    assert (chosen["raw"], chosen["zstd"], chosen["planes"]) == (0, 1, 2)
