"""A whole document of each sealed kind, with every field that it may have."""

from __future__ import annotations

from collections.abc import Mapping

from poorwill.control.records.intents import Intent
from poorwill.control.records.pending import Pending
from poorwill.control.records.trash import Removing, Trashed
from poorwill.control.records.verified import CheckedPart, Verified, Verifier
from poorwill.snapshot.metadata import (
    CodecTotals,
    Coding,
    LeftOut,
    ManifestReference,
    Metadata,
    Tool,
    Totals,
    UsedPart,
)
from poorwill.snapshot.record import SealedRecord
from poorwill.snapshot.surroundings import LinksOut, Mount, Root, Surroundings, Woken

MACHINE, SNAPSHOT_ID = "m", "20260102T030405Z-0badcafe"
TOOL = Tool("poorwill", "0")
MANIFEST = ManifestReference(f"manifests/{MACHINE}/{SNAPSHOT_ID}", 1, "00")
METADATA = Metadata(
    machine=MACHINE,
    snapshot_id=SNAPSHOT_ID,
    created_at="2026-01-02T03:04:05Z",
    committed_at_ms=1_767_323_045_250,
    workspace="/w",
    instance="",
    name="before the upgrade",
    tags=("a", "b"),
    parent=None,
    converted_from="20260102T030405Z-00000001",
    tool=TOOL,
    codec="auto",
    portable=False,
    needs=(),
    manifest=MANIFEST,
    parts=(UsedPart(f"parts/{MACHINE}/{SNAPSHOT_ID}/00", 1, False),),
    totals=Totals(0, 0, 0, 0, 0, 0, 0, 0, 0),
    codecs={"raw": CodecTotals(0, 0, 0)},
    coding=Coding(by="cpu", codec="zstd", reason="", warning="", rates_mb_s={}, versions={}, fell_back=0),
    left_out=(LeftOut("s", "socket"),),
    left_out_count=1,
    allow_shrink=True,
    surroundings=Surroundings(
        Root(device=45, inode=2, mounts=(Mount("data", 46, "/", "xfs"),)),
        LinksOut(1, ("a -> /etc",)),
        Woken(MACHINE, "20260102T030405Z-00000001", partial=True),
    ),
    facts={"host": "box", "cores": 4},
    timings_ms={"scan": 1},
)
LABEL = "poorwill-01234567-m-0123456789ab"
EVERY: Mapping[str, SealedRecord] = {
    record.KIND: record
    for record in (
        METADATA,
        Trashed.at(1_767_323_045, METADATA),
        Pending(
            machine=MACHINE, snapshot_id=SNAPSHOT_ID, workspace="/w", instance="", parent="20260102T030405Z-00000001",
            borrows=("20260102T030405Z-00000001",), plan_hash=None, started_at="2026-01-02T03:04:05Z", tool=TOOL,
            converted_from="20260102T030405Z-00000001", attempt="0123456789abcdef",
        ),
        Verified(
            machine=MACHINE, snapshot_id=SNAPSHOT_ID, instance="", manifest=MANIFEST, mode="stored", verified_at_s=0,
            by=Verifier("poorwill", "0", "box"), bytes_read=1, chunks_sampled=8,
            parts=(CheckedPart(f"parts/{MACHINE}/{SNAPSHOT_ID}/00", 1, True),), failure="a part is lost",
        ),
        Removing(machine=MACHINE, snapshot_id=SNAPSHOT_ID),
        Intent(
            LABEL, MACHINE, SNAPSHOT_ID, "vast", "2026-01-02T03:04:05Z", "i-1", False, {"gpu": "H100"}, "run", "1.5",
            True,
        ),
    )
}  # fmt: skip
