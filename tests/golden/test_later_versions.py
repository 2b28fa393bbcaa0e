"""A store with documents of a made-up later version of one kind: those are refused, and everything else works."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import blake3
import pytest

from poorwill.control.machine.destruction import check_destroyable
from poorwill.control.records import catalog, intents, trash, verified
from poorwill.control.records.holdings import Holdings
from poorwill.control.records.intents import Intent
from poorwill.control.records.pending import Pending
from poorwill.control.records.trash import Removing, Trashed
from poorwill.control.records.verified import Verified
from poorwill.control.removal import purging
from poorwill.errors import Refused, Unsupported
from poorwill.media import delivery, weights
from poorwill.media.weights_manifest import WeightsFile, WeightsManifest
from poorwill.snapshot import keys, manifest, versions
from poorwill.snapshot.metadata import ManifestReference, Metadata
from poorwill.snapshot.record import SealedRecord
from poorwill.snapshot.versions import Versions
from poorwill.store.base import Store
from poorwill.store.local import LocalStore
from tests.golden import make_previous
from tests.golden.make_previous import BORROWING, MACHINE, TRASHED
from tests.support.runs import restore, verify

WEIGHTS, RUN = "weights/tiny", "3c0f2a5e-0000-4000-8000-000000000000"
MARKED = MACHINE, "20260201T000000Z-00000005"
SEALED: dict[str, tuple[type[SealedRecord], str]] = {
    "snapshot": (Metadata, keys.SNAPSHOTS),
    "pending": (Pending, keys.PENDING),
    "verified": (Verified, keys.VERIFIED),
    "trash": (Trashed, f"{keys.TRASH}{MACHINE}/{TRASHED}"),
    "removing": (Removing, keys.removing(*MARKED)),
    "intent": (Intent, keys.INTENTS),
}


def write(store: Store, kind: str) -> None:
    """Every object of a kind anew, by the code of this version; those that were there are read and written again."""
    if kind in SEALED:
        record, prefix = SEALED[kind]
        for info in store.list(prefix):
            store.put(info.key, record.unseal(store.get(info.key), info.key).seal())
    elif kind == "manifest":
        for document, prefix in (SEALED["snapshot"], SEALED["trash"]):
            for info in store.list(prefix):
                metadata = document.unseal(store.get(info.key), info.key)
                assert isinstance(metadata, Metadata)
                key = metadata.manifest.key
                data = b"".join(manifest.encode(manifest.decode(store.get(key), key)))
                store.put(key, data)
                named = ManifestReference(key, len(data), blake3.blake3(data).hexdigest())
                store.put(info.key, replace(metadata, manifest=named).seal())
                if metadata.snapshot_id == BORROWING:
                    record = verified.read(store, MACHINE, BORROWING)
                    store.put(record.key, replace(record, manifest=named).seal())
    elif kind == "part index":
        for info in store.list(keys.PARTS):
            store.put(info.key, store.get(info.key)[:-1] + b"%d" % versions.BY_KIND[kind].written)
    elif kind == "weights":
        listed = WeightsManifest((WeightsFile("a", 1, blake3.blake3(b"a").hexdigest()),))
        store.put(f"{WEIGHTS}/weights.json", listed.encode())
        store.put(f"{WEIGHTS}/a", b"a")
    else:
        assert kind == "video"
        video = delivery.VideoRecord(RUN, {"video": 1}, "tiny", {}, {}, {}, {}, 0.5)
        store.put(delivery.key_of(RUN, "record"), json.dumps(video.document()).encode())


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    shutil.copytree(make_previous.STORE, tmp_path / "store")
    store = LocalStore(tmp_path / "store")
    mark = Removing(machine=MARKED[0], snapshot_id=MARKED[1])
    store.put(mark.key, mark.seal())
    for kind in ("weights", "video"):
        write(store, kind)
    return store


Work = Callable[[Store, Path], object]
WORK: dict[str, tuple[Work, set[str]]] = {
    "list": (lambda store, _: list(catalog.names(store)), set()),
    "show": (lambda store, _: catalog.find(store, BORROWING), {"snapshot"}),
    "verify": (lambda store, _: verify(store, BORROWING), {"snapshot", "manifest", "part index"}),
    "restore": (lambda store, to: restore(store, BORROWING, to), {"snapshot", "manifest", "part index"}),
    "destroy": (
        lambda store, _: check_destroyable(store, MACHINE, BORROWING, "i-1"),
        {"snapshot", "manifest", "verified"},
    ),
    "trash": (lambda store, _: trash.move(store, (MACHINE, BORROWING)), {"snapshot"}),
    "undelete": (lambda store, _: trash.undelete(store, TRASHED), {"trash", "manifest"}),
    "purge": (lambda store, _: purging.purge(Holdings(store), 0), {"snapshot", "trash", "pending"}),
    "look for a mark": (lambda store, _: trash.marked(store, MARKED), set()),
    "look for machines": (lambda store, _: list(intents.every(store)), {"intent"}),
    "fetch weights": (lambda store, to: weights.local_folder(store, WEIGHTS, to), {"weights"}),
    "find a video": (lambda store, _: delivery.delivered(store, RUN), {"video"}),
}
"""What is done with a store, and the kinds of documents that it reads."""


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("kind", versions.BY_KIND)
def test_a_later_version_of_one_kind(
    store: LocalStore, tmp_path: Path, kind: str, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has to read a document of it is refused, and told what to do. Nobody else notices."""
    with monkeypatch.context() as later:
        later.setitem(versions.BY_KIND, kind, Versions(oldest=1, newest=2, written=2))
        write(store, kind)
        if work == "show":
            verify(store, BORROWING)  # the later version reads what it writes, and what this one wrote
    act, reads = WORK[work]
    if kind not in reads:
        assert act(store, tmp_path / "to") is not False
        return
    with pytest.raises((Unsupported, Refused)) as caught:
        act(store, tmp_path / "to")
    said = f"version 2 of the {kind} format, this poorwill reads version 1: use a newer poorwill"
    assert re.search(rf"[a-z]+/[\w./-]+: {said}", caught.value.message)


@pytest.mark.parametrize("work", WORK)
def test_versions_of_before_are_read_for_ever(
    store: LocalStore, tmp_path: Path, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that writes 2 of every kind, and reads 1 and 2, does all of it with a store of version 1."""
    for kind in versions.BY_KIND:
        monkeypatch.setitem(versions.BY_KIND, kind, Versions(oldest=1, newest=2, written=2))
    assert WORK[work][0](store, tmp_path / "to") is not False


def test_which_versions_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written can be read, and version 1 of each kind is read by every later version."""
    for kind, each in versions.BY_KIND.items():
        assert each.oldest == 1 <= each.written <= each.newest, kind
    monkeypatch.setitem(versions.BY_KIND, "video", Versions(oldest=2, newest=3, written=2))
    for found, what_to_do in ((7, "use a newer poorwill"), (1, "use an older poorwill")):
        with pytest.raises(Unsupported, match=f"^k: version {found} .* reads versions 2 to 3: {what_to_do}$"):
            versions.check(found, "video", "k")
