"""A finished video in its store, and its record.

    videos/<run>/video.mp4  poster.jpg  contact-sheet.jpg     any order
    videos/<run>/video.json                                   written last: without it there is no video

One run has one video. A run that is begun anew finds the record and is done, or writes the same keys again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poorwill.errors import Corrupt, NotFound
from poorwill.snapshot import documents, fields, versions
from poorwill.snapshot.record import Record
from poorwill.store.base import Store

_NAMES = {"video": ("video.mp4", "video/mp4"), "poster": ("poster.jpg", "image/jpeg"),
          "contact_sheet": ("contact-sheet.jpg", "image/jpeg")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Files:
    """Where the three are on this host."""

    video: Path
    poster: Path
    contact_sheet: Path


@dataclass(frozen=True, slots=True)
class VideoRecord(Record):
    """What a run made: the kind `video`. It is not sealed, and may hold floating-point numbers.

    bytes: the sizes of the files. parameters: all that the video was made with. image: what it begins with. video:
    facts of the file.
    """

    run: str
    bytes: Mapping[str, int]
    model: str
    parameters: Mapping[str, Any]
    image: Mapping[str, Any]
    video: Mapping[str, Any]
    timings_ms: Mapping[str, int]
    inference_began_at: float  # POSIX seconds

    def document(self) -> dict[str, Any]:
        return {"format": versions.BY_KIND["video"].written, **Record.document(self)}


def key_of(run: str, what: str) -> str:
    """The key of a run's `video`, `poster`, `contact_sheet` or `record`."""
    return f"videos/{run}/{'video.json' if what == 'record' else _NAMES[what][0]}"


def delivered(store: Store, run: str) -> VideoRecord | None:
    """The record of a run's video, None before it is delivered. Corrupt; Unsupported for a later version."""
    key = key_of(run, "record")
    what = f"{store.describe()}: {key}"
    try:
        document = documents.parsed(store.get(key, bytes_max=256 << 10), what)
        versions.check(document.pop("format", None), "video", what)
        return fields.read(VideoRecord, document, what)
    except NotFound:
        return None
    except Corrupt as error:
        raise Corrupt(f"{error.message}: delete it to generate the video again", key=key) from error


def deliver(store: Store, run: str, files: Files, facts: Mapping[str, Any]) -> VideoRecord:
    """Upload the files, look whether the store has them whole, and write the record: `facts` and each file's size.

    Idempotent, and safe to repeat after any failure. Corrupt if the store holds another size than was sent.
    """
    sizes = {}
    for what, (_, content_type) in _NAMES.items():
        path, key = Path(getattr(files, what)), key_of(run, what)
        store.put_file(key, path, content_type=content_type)
        sizes[what], found = path.stat().st_size, store.head(key).size
        if found != sizes[what]:
            raise Corrupt(f"{store.describe()}: {key} holds {found} bytes, expected {sizes[what]}", key=key)
    record = VideoRecord(run=run, bytes=sizes, **facts)
    store.put(key_of(run, "record"), json.dumps(record.document(), indent=1).encode())
    return record


def urls(store: Store, run: str, expires_s: int) -> dict[str, str]:
    """Where a browser finds the three, for `expires_s`: presigned, or paths of a store that is a directory."""
    found = {}
    for what in _NAMES:
        grant = store.grant_read(key_of(run, what), expires_s=expires_s)
        found[what] = grant.url if grant.url is not None else Path(grant.path or "").as_uri()
    return found
