"""Damage to any object of a snapshot: restore and verify stop and name it, or the result is equal all the same."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from deployments.demo.tree_listing import Listing, list_tree
from poorwill.control.records import catalog
from poorwill.control.snapshot.restore_run import RestoreRun
from poorwill.control.snapshot.session import Answer
from poorwill.control.snapshot.verify_run import VerifyRun
from poorwill.engine.operations import Operations
from poorwill.engine.protocol.answers import MachineFacts
from poorwill.engine.protocol.asking import Question, Request
from poorwill.engine.protocol.context import Context
from poorwill.errors import Corrupt, NotFound, PoorwillError, Refused, Unsupported
from poorwill.snapshot import keys, part_index
from poorwill.snapshot.order import RestoreOrder
from poorwill.snapshot.part_index import TRAILER_BYTES
from poorwill.store.local import LocalStore
from tests.support.runs import MACHINE, take
from tests.support.workspaces import aged, noise, safetensors

HEAD_BYTES = 32
SAMPLED_OFFSETS = 24
A = TypeVar("A")
OBJECTS = ("metadata", "manifest", "own part", "borrowed part")


class DirectSession:
    """What an EngineSession offers to control runs; the engine's operations are called directly, so that
    hundreds of damaged snapshots take seconds."""

    def __init__(self) -> None:
        os.umask(0)  # as the engine's own process does
        self.operations = Operations()
        self.facts: MachineFacts | None = None
        self.alive = True

    def request(self, request: Request[A], *, attempt: int = 1, answer: Answer | None = None) -> A:
        def nobody(question: Question[Any]) -> Any:
            raise Refused(f"nobody answers {question}")

        return self.operations.of(request)(request, Context(request.op, 60.0, answer or nobody))


@dataclass
class Kept:
    """A snapshot that borrows from another one, what it must restore to, and an engine to do it."""

    store: LocalStore
    snapshot_id: str
    objects: dict[str, str]
    expected: Listing
    session: DirectSession
    target: Path

    def path(self, what: str) -> Path:
        return Path(self.store.url.removeprefix("file://"), self.objects[what])

    def restore(self) -> Listing:
        shutil.rmtree(self.target, ignore_errors=True)
        metadata = catalog.read(self.store, MACHINE, self.snapshot_id)
        run = RestoreRun(self.store, self.session, metadata, RestoreOrder(str(self.target)))  # type: ignore[arg-type]
        for row in run.open():
            run.restore_part(row)
        run.finish()
        return list_tree(self.target)

    def verify(self) -> None:
        """All that a verification reads; the record it would write proves nothing here."""
        metadata = catalog.read(self.store, MACHINE, self.snapshot_id)
        run = VerifyRun(self.store, self.session, metadata)  # type: ignore[arg-type]
        for row in run.open():
            run.verify_part(row)
        run.sample(lambda chunks, count: list(range(chunks)))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    folder = tmp_path_factory.mktemp("corruption")
    umask = os.umask(0o022)
    workspace, store = folder / "w", LocalStore(folder / "store")
    (workspace / "src").mkdir(parents=True)
    (workspace / "weights.safetensors").write_bytes(safetensors("BF16", 300_000, 1))
    (workspace / "src" / "text.py").write_text("def f():\n    return 1\n" * 500)
    first = take(store, aged(workspace))
    (workspace / "noise.bin").write_bytes(noise(20_000))
    os.symlink("src/text.py", workspace / "link")
    os.link(workspace / "noise.bin", workspace / "src" / "same")
    second = take(store, aged(workspace), parent=first.id)
    objects = {
        "metadata": keys.metadata(MACHINE, second.id),
        "manifest": keys.manifest(MACHINE, second.id),
        "own part": second.own_parts[0],
        "borrowed part": first.own_parts[0],
    }
    direct = DirectSession()
    yield Kept(store, second.id, objects, list_tree(workspace), direct, folder / "out")
    direct.operations.close()
    os.umask(umask)


def _offsets(size: int, seed: int) -> list[int]:
    """Every byte of header and trailer, and some between."""
    ends = {*range(min(HEAD_BYTES, size)), *range(max(0, size - TRAILER_BYTES - 16), size)}
    return sorted(ends | set(random.Random(seed).sample(range(size), min(SAMPLED_OFFSETS, size))))


def _outcome(kept: Kept, what: str) -> str:
    """How a restore of the damaged snapshot ends: "equal", or the message of a proper error."""
    try:
        found = kept.restore()
    except (Corrupt, NotFound, Unsupported) as error:
        assert kept.objects[what] in error.message or kept.snapshot_id in error.message, error.message
        return error.message
    assert found == kept.expected
    return "equal"


def test_the_snapshot_is_whole(kept: Kept) -> None:
    """Undamaged it restores equal and verifies; it has objects of every kind, one of them borrowed."""
    assert kept.restore() == kept.expected
    kept.verify()
    assert all(kept.path(what).is_file() for what in OBJECTS)
    assert kept.objects["borrowed part"].split("/")[2] != kept.snapshot_id


@pytest.mark.parametrize("what", OBJECTS)
def test_any_bit_flipped(kept: Kept, what: str) -> None:
    """In every byte of header and trailer and in samples of the rest: found by both, and named."""
    path = kept.path(what)
    good = path.read_bytes()
    equal = 0
    try:
        for offset in _offsets(len(good), seed=1):
            bad = bytearray(good)
            bad[offset] ^= 1 << (offset % 8)
            path.write_bytes(bad)
            with pytest.raises((Corrupt, NotFound, Unsupported)) as caught:
                kept.verify()
            assert kept.objects[what] in caught.value.message, caught.value.message
            equal += _outcome(kept, what) == "equal"
    finally:
        path.write_bytes(good)
    # A restore does not read the chunks of a borrowed part that its snapshot has no use for.
    assert equal == 0 or what == "borrowed part"


@pytest.mark.parametrize("what", OBJECTS)
def test_truncated_anywhere(kept: Kept, what: str) -> None:
    """An object that ends too early is never taken for a shorter one."""
    path = kept.path(what)
    good = path.read_bytes()
    size = len(good)
    try:
        for length in (0, 1, 8, 16, 24, size // 2, size - TRAILER_BYTES, size - 17, size - 16, size - 2):
            path.write_bytes(good[:length])
            with pytest.raises(Corrupt) as caught:
                kept.verify()
            assert kept.objects[what] in caught.value.message
            assert _outcome(kept, what) != "equal"
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("what", OBJECTS)
def test_missing(kept: Kept, what: str) -> None:
    """What is not there is NotFound, by its name, and nothing is restored in its place."""
    path = kept.path(what)
    good = path.read_bytes()
    path.unlink()
    try:
        for step in (kept.verify, kept.restore):
            with pytest.raises(NotFound, match=kept.objects[what]):
                step()
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("what", OBJECTS)
def test_another_object_in_its_place(kept: Kept, what: str) -> None:
    """A whole and valid object under another one's key is not accepted."""
    path = kept.path(what)
    good = path.read_bytes()
    try:
        for other in set(OBJECTS) - {what}:
            path.write_bytes(kept.path(other).read_bytes())
            with pytest.raises(Corrupt):
                kept.verify()
            assert _outcome(kept, what) != "equal"
    finally:
        path.write_bytes(good)


def test_a_damaged_chunk_is_described(kept: Kept) -> None:
    """The message has object, place, found and expected hash; so do the facts for a program."""
    path = kept.path("own part")
    good = path.read_bytes()
    try:
        path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
        with pytest.raises(Corrupt, match=r"bytes 0 to \d+ hash to [0-9a-f]{64}, expected [0-9a-f]{64}") as caught:
            kept.restore()
        assert caught.value.facts["object"] == kept.objects["own part"]
        assert caught.value.facts["found"] != caught.value.facts["expected"]
    finally:
        path.write_bytes(good)


def test_an_index_that_disagrees(kept: Kept) -> None:
    """A part whose own index is valid, but lists a chunk otherwise than the manifest, is used by nobody."""
    path, key = kept.path("own part"), kept.objects["own part"]
    good = path.read_bytes()
    trailer, rows = part_index.decode(good, len(good), key)
    data = good[: -trailer.tail_bytes]
    rows.source = np.frombuffer(noise(rows.source.size, 8), np.uint8).reshape(rows.source.shape)
    harmless = data + part_index.encode(trailer.snapshot_id, trailer.number, rows)
    rows.stored_hash, rows.raw_hash = rows.stored_hash ^ np.uint8(1), rows.raw_hash ^ np.uint8(1)
    bad = data + part_index.encode(trailer.snapshot_id, trailer.number, rows)
    assert len(harmless) == len(bad) == len(good)
    try:
        path.write_bytes(harmless)
        assert kept.restore() == kept.expected
        path.write_bytes(bad)
        for step in (kept.verify, kept.restore):
            with pytest.raises(Corrupt, match=f"{key}: manifest and the part's own index disagree about 'stored_hash'"):
                step()
    finally:
        path.write_bytes(good)


def test_only_errors_of_ours(kept: Kept) -> None:
    """Heavier damage, several bytes in several places at once, ends in an error of ours too, or in an equal tree."""
    chance = random.Random(2)
    for what in OBJECTS:
        path = kept.path(what)
        good = path.read_bytes()
        try:
            for _ in range(25):
                bad = bytearray(good)
                for _ in range(chance.randint(1, 6)):
                    at = chance.randrange(len(bad))
                    bad[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
                path.write_bytes(bad)
                try:
                    found = kept.restore()
                except PoorwillError:
                    continue
                assert found == kept.expected
        finally:
            path.write_bytes(good)
