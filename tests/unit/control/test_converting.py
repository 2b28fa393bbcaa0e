"""A snapshot that not every machine reads becomes one that any CPU does, of the same content and with nothing of it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poorwill.cli import verify as convert_command
from poorwill.cli.arguments import parser
from poorwill.cli.output import Output
from poorwill.codecs import registry
from poorwill.control.records import catalog, manifests, verified
from poorwill.control.removal import deletion
from poorwill.control.snapshot.convert_run import ConvertRun, is_portable
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.pack.convert_run import PARTS_AT_ONCE
from poorwill.errors import Corrupt, HostUnfit, NotFound, PoorwillError, Refused, Unsupported, UsageError
from poorwill.snapshot import ids, keys
from poorwill.store.base import Store
from poorwill.store.local import LocalStore
from poorwill.store.s3.store import S3Store
from tests.support.engines import ThreadHost
from tests.support.hooked_store import hooked
from tests.support.needing_codec import NeedingToolset
from tests.support.program import poorwill
from tests.support.runs import MACHINE, Taken, convert, part_objects, restore, take, verify
from tests.support.trees import differences
from tests.support.workspaces import SKIPPED, aged, make_everything, noise, safetensors

NEED = "nvcomp>=6,<7"


class Here(ThreadHost):
    """An engine on a thread that a command of the program works with."""

    here = True


def able(*, mixed: bool = False) -> ThreadHost:
    """A machine that has what the snapshots need. mixed: it takes some with every codec there is."""
    return Here(toolset=NeedingToolset(mixed=mixed))


def few(root: Path) -> Path:
    """A workspace of three chunks."""
    return weights(root, 3)


def mixed(root: Path) -> Path:
    """A workspace whose chunks call for every codec there is."""
    weights(root, 9)
    (root / "noise.bin").write_bytes(noise(4_200_000, 50))
    (root / "log.txt").write_text("the same line\n" * 310_000)
    return aged(root)


def weights(root: Path, count: int) -> Path:
    root.mkdir(parents=True)
    for number in range(count):
        (root / f"{number}.safetensors").write_bytes(safetensors("BF16", 2_100_000, number))
    return aged(root)


def needing(store: Store, workspace: Path, *, every_codec: bool = False, **fields: Any) -> Taken:
    """A snapshot that needs more than a CPU."""
    taken = take(store, workspace, host=able(mixed=every_codec), **fields)
    assert taken.metadata.needs == (NEED,) and not is_portable(taken.metadata)
    return taken


def objects(store: Store) -> dict[str, tuple[int, float]]:
    return {found.key: (found.size, found.modified_s) for found in store.list("")}


def test_any_cpu_reads_it(local_store: LocalStore, tmp_path: Path) -> None:
    """A machine without the need refuses the old one; it verifies and restores the new one after the old one is gone.
    What describes the workspace is carried over."""
    workspace = aged(make_everything(tmp_path / "w"))
    old = needing(local_store, workspace, name="before the trip", tags=("keep",))
    with pytest.raises((Unsupported, HostUnfit)):
        restore(local_store, old.id, tmp_path / "refused")
    with pytest.raises((Unsupported, HostUnfit)):
        verify(local_store, old.id, "full")
    before = objects(local_store)
    new = convert(local_store, old.id, host=able())
    metadata = catalog.read(local_store, MACHINE, new.id)
    assert objects(local_store).items() >= before.items()
    assert (metadata.converted_from, metadata.parent) == (old.id, None)
    assert (metadata.needs, metadata.portable) == ((), True)
    for field in ("machine", "workspace", "instance", "name", "tags", "left_out", "left_out_count", "facts"):
        assert getattr(metadata, field) == getattr(old.metadata, field), field
    for total in ("entries", "files", "chunks", "raw_bytes", "data_bytes"):
        assert metadata.totals.document()[total] == old.totals[total], total
    assert not any(part.borrowed for part in metadata.parts)
    assert deletion.delete(local_store, old.id)["kept_parts"] == []
    verify(local_store, new.id, "full")
    restore(local_store, new.id, tmp_path / "back", privileged=True)
    assert differences(workspace, tmp_path / "back", without=SKIPPED) == []


def test_what_any_cpu_reads_is_copied(local_store: LocalStore, tmp_path: Path) -> None:
    """Chunks of other codecs keep every stored byte; of those that are coded anew the raw bytes are the same."""
    old = needing(local_store, mixed(tmp_path / "w"), every_codec=True)
    assert set(old.metadata.codecs) == {"raw", "zstd", "planes", "openzl", "nvcomp-ans/6"}
    new = convert(local_store, old.id, host=able())
    before, after = (manifests.read(local_store, metadata) for metadata in (old.metadata, new.metadata))
    assert before.entries.equals(after.entries) and before.segments.equals(after.segments)
    assert before.chunks.equals(after.chunks, ("raw", "raw_hash"))
    coded = before.chunks.codec == 4
    same = (before.chunks.stored_hash == after.chunks.stored_hash).all(axis=1)
    assert np.array_equal(same, ~coded) and 0 < coded.sum() < len(coded)
    assert all(registry.needs(codec) is None for codec in np.unique(after.chunks.codec).tolist())
    assert new.run.work.coded_chunks == coded.sum() and new.run.work.chunks == len(coded)
    assert new.counters["checked_bytes"] == before.chunks.stored.sum()
    # The parts are as even as chunks can be dealt.
    sizes = list(new.run.planned.values())
    assert len(sizes) > PARTS_AT_ONCE and max(sizes) - min(sizes) <= 2 * int(before.chunks.raw.max())
    restore(local_store, new.id, tmp_path / "back")
    assert differences(tmp_path / "w", tmp_path / "back") == []


def test_over_presigned_urls(s3_store: S3Store, tmp_path: Path) -> None:
    """The same through an S3 store: ranged reads and uploads in pieces, and no upload is left."""
    old = needing(s3_store, mixed(tmp_path / "w"), every_codec=True)
    new = convert(s3_store, old.id, host=able())
    verify(s3_store, new.id)
    restore(s3_store, new.id, tmp_path / "back")
    assert differences(tmp_path / "w", tmp_path / "back") == []
    assert list(s3_store.list_uploads("")) == []


def test_of_one_that_borrows(local_store: LocalStore, tmp_path: Path) -> None:
    """Of an increment a full snapshot is made: both old ones can go."""
    workspace = few(tmp_path / "w")
    first = needing(local_store, workspace)
    (workspace / "new.safetensors").write_bytes(safetensors("BF16", 2_100_000, 90))
    second = needing(local_store, aged(workspace))
    assert second.metadata.parent == first.id and len(second.own_parts) < len(second.metadata.parts)
    new = convert(local_store, second.id, host=able())
    for old in (second, first):
        assert deletion.delete(local_store, old.id)["kept_parts"] == []
    restore(local_store, new.id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []


def test_an_empty_one(local_store: LocalStore, tmp_path: Path) -> None:
    """Nothing is to be coded; what comes out is a snapshot without parts, like the first."""
    (tmp_path / "w").mkdir()
    old = take(local_store, tmp_path / "w", host=able())
    new = convert(local_store, old.id, host=able())
    assert new.metadata.parts == () and new.run.planned == {}
    restore(local_store, new.id, tmp_path / "back")
    assert differences(tmp_path / "w", tmp_path / "back") == []


def test_a_machine_that_cannot_decode_it(local_store: LocalStore, tmp_path: Path) -> None:
    """Unsupported, saying what is missing; not an object is written."""
    old = needing(local_store, few(tmp_path / "w"))
    before = objects(local_store)
    with pytest.raises(Unsupported, match=f"{old.id} cannot be decoded there.*NVIDIA GPU.*nothing was written"):
        convert(local_store, old.id, host=ThreadHost())
    assert objects(local_store) == before


@pytest.mark.parametrize("codec", [2, 4])
def test_a_damaged_chunk(local_store: LocalStore, tmp_path: Path, codec: int) -> None:
    """Corrupt, naming the part, whether the chunk is copied or decoded; nothing is committed."""
    old = needing(local_store, mixed(tmp_path / "w"), every_codec=True)
    chunks = manifests.read(local_store, old.metadata).chunks
    row = int(np.flatnonzero(chunks.codec == codec)[0])
    key = old.metadata.parts[int(chunks.part[row])].key
    data = bytearray(local_store.get(key))
    data[int(chunks.offset[row]) + 100] ^= 1
    local_store.put(key, bytes(data))
    with pytest.raises(Corrupt, match=f"{key}: bytes {int(chunks.offset[row])} to"):
        convert(local_store, old.id, host=able())
    assert list(catalog.names(local_store)) == [(MACHINE, old.id)]


def test_an_engine_that_lies(local_store: LocalStore, tmp_path: Path) -> None:
    """A machine that gives the new snapshot another content than the old one had is found out here."""
    old = needing(local_store, few(tmp_path / "w"))

    def set_id_bits(request: object) -> None:
        converting = host.operations._convert
        assert converting is not None
        converting.source.entries.mode |= 0o7000

    def other_bytes(request: object) -> None:
        converting = host.operations._convert
        assert converting is not None
        converting._chunks.raw_hash[0] ^= 1

    for lie, what in ((set_id_bits, "entries"), (other_bytes, "chunks")):
        host = ThreadHost(before={"finish_convert": lie}, toolset=NeedingToolset())
        with pytest.raises(Corrupt, match=f"has other {what}"):
            convert(local_store, old.id, host=host)
    assert list(catalog.names(local_store)) == [(MACHINE, old.id)]
    assert list(local_store.list(keys.MANIFESTS)) == [local_store.head(old.metadata.manifest.key)]


def begin(store: Store, source: str, new_id: str) -> None:
    """The first step alone."""
    session = EngineSession(able())
    try:
        session.hello("/")
        ConvertRun(store, session, catalog.find(store, source), new_id).open()
    finally:
        session.close()


def test_ids(local_store: LocalStore, tmp_path: Path) -> None:
    """The new snapshot takes the old one's place in time, so that it is no younger than what was taken since; an id
    that means something else is refused, before anything is written."""
    old = needing(local_store, few(tmp_path / "w"), snapshot_id="20260101T000000Z-00000001")
    later = needing(local_store, tmp_path / "w")
    behind = ids.id_behind(old.id)
    assert ids.is_snapshot_id(behind) and behind[:17] == old.id[:17] and behind > old.id
    assert ids.id_behind(f"{old.id[:17]}ffffffff")[:17] == old.id[:17]
    unfinished = ids.id_behind(old.id)
    begin(local_store, old.id, unfinished)
    before = objects(local_store)
    for new_id, reason in (
        (old.id, "into itself"),
        (later.id, "no conversion of"),
        (unfinished, f"begun to convert {old.id}, not to convert {later.id}"),
    ):
        with pytest.raises(Refused, match=reason):
            begin(local_store, old.id if new_id != unfinished else later.id, new_id)
    with pytest.raises(Refused, match=f"begun to convert {old.id}, not for {tmp_path / 'w'}"):
        take(local_store, tmp_path / "w", unfinished)
    with pytest.raises(UsageError, match="not a snapshot id"):
        begin(local_store, old.id, "../x")
    assert objects(local_store) == before


def test_removals_beside_it(local_store: LocalStore, tmp_path: Path) -> None:
    """The source is deleted while it is read: its parts stay until the conversion has ended, and go after it."""
    old = needing(local_store, few(tmp_path / "w"))
    kept: list[str] = []

    def remove(key: str, count: int) -> None:
        if count == 1:
            kept.extend(deletion.delete(local_store, old.id)["kept_parts"])

    new = convert(hooked(local_store, after={"complete_upload": remove}), old.id, host=able())
    assert kept == old.own_parts and part_objects(local_store).keys() >= set(kept)
    deletion.delete(local_store, old.id)
    assert not part_objects(local_store).keys() & set(kept)
    restore(local_store, new.id, tmp_path / "back")
    assert differences(tmp_path / "w", tmp_path / "back") == []


def test_the_source_is_removed_before_it_is_held(local_store: LocalStore, tmp_path: Path) -> None:
    """Between the first look and the pending record: the conversion ends, and leaves nothing that holds parts."""
    old = needing(local_store, few(tmp_path / "w"))

    def remove(key: str, count: int) -> None:
        deletion.delete(local_store, old.id)

    with pytest.raises(NotFound, match=old.id):
        convert(hooked(local_store, before={"put": remove}), old.id, host=able())
    assert list(local_store.list("")) == []


def run_command(
    *arguments: str, host: ThreadHost, capsys: pytest.CaptureFixture[str]
) -> tuple[int | PoorwillError, list[dict[str, object]]]:
    """The command in this process, with an engine of our own: its exit code or error, and its JSON lines."""
    parsed: argparse.Namespace = parser("convert").parse_args(["convert", *arguments, "--json"])
    ended: int | PoorwillError
    try:
        ended = convert_command.convert(parsed, Output(json_lines=True), host)
    except PoorwillError as error:
        ended = error
    return ended, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_command(local_store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It converts, reads the result back, and leaves a record of that; a second time there is nothing to do."""
    old = needing(local_store, few(tmp_path / "w"))
    given = (old.id, "--portable", "--store", local_store.url)
    code, events = run_command(*given, host=able(), capsys=capsys)
    done = events[-1]
    assert code == 0 and done["event"] == "done" and done["converted"] is True
    assert (done["converted_from"], done["verified"]) == (old.id, "stored")
    assert [event["event"] for event in events if event["event"] != "progress"] == ["begun", "planned", "done"]
    new_id = str(done["snapshot_id"])
    assert verified.read(local_store, MACHINE, new_id).mode == "stored"
    assert list(local_store.list(keys.PENDING)) == []
    # With the id of one that is done it is read back once more; without any it would be made again.
    code, again = run_command(*given, "--id", new_id, host=able(), capsys=capsys)
    assert code == 0 and again[-1]["snapshot_id"] == new_id
    before = objects(local_store)
    ran = poorwill("convert", new_id, "--portable", "--store", local_store.url)
    assert ran.code == 0 and f"{new_id} is portable already: nothing was converted" in ran.out
    assert objects(local_store) == before


def test_the_command_where_it_cannot(local_store: LocalStore, tmp_path: Path) -> None:
    """One line and an exit code: without --portable, and on a machine that cannot decode the snapshot."""
    old = needing(local_store, few(tmp_path / "w"))
    wrong = poorwill("convert", old.id, "--store", local_store.url)
    assert wrong.code == 2 and "give --portable" in wrong.err and len(wrong.err.splitlines()) == 1
    before = objects(local_store)
    unable = poorwill("convert", old.id, "--portable", "--store", local_store.url)
    assert unable.code == 4 and "NVIDIA GPU" in unable.err and "Traceback" not in unable.err
    assert objects(local_store) == before


@pytest.mark.parametrize("method", ["complete_upload", "put"])
def test_the_command_on_damage(
    local_store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    """A new part that is not what was written: not committed, or found by the proof, and then said not to be trusted.
    The old snapshot is as it was, and the new one can be deleted like any other."""
    old = needing(local_store, few(tmp_path / "w"))
    root = Path(local_store.url.removeprefix("file://"))

    def harm(key: str, count: int) -> None:
        parts = sorted(key for key in part_objects(local_store) if key not in old.own_parts)
        if method == "complete_upload" or key.startswith(keys.SNAPSHOTS):
            data = (root / parts[0]).read_bytes()
            (root / parts[0]).write_bytes(data[:-1] if method == "complete_upload" else b"\xff" * 9 + data[9:])

    harmed = hooked(local_store, after={method: harm})
    output = Output(json_lines=True)
    session = EngineSession(able())
    try:
        session.hello("/")
        run = ConvertRun(harmed, session, old.metadata, ids.id_behind(old.id))
        with pytest.raises(Corrupt) as caught:
            convert_command._convert(run, output)
    finally:
        session.close()
    assert caught.value.exit_code == 4 and f"snapshot {old.id} is as it was" in output.hint
    assert list(local_store.list(keys.PENDING)) == []
    verify(local_store, old.id)
    if method == "put":
        assert "not to be trusted: delete it" in output.hint
        deletion.delete(local_store, run.snapshot_id)
    assert list(catalog.names(local_store)) == [(MACHINE, old.id)]
