"""A finished video in its store, and its record.

    videos/<run>/video.mp4  poster.jpg  contact-sheet.jpg     any order
    videos/<run>/video.json                                   written last: without it there is no video

One run has one video. A run that is begun anew finds the record and is done, or writes the same keys again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poorwill.errors import Corrupt, NotFound
from poorwill.snapshot import versions
from poorwill.store.base import Store

RECORD_BYTES_MAX = 256 << 10
_NAMES = {"video": ("video.mp4", "video/mp4"), "poster": ("poster.jpg", "image/jpeg"),
          "contact_sheet": ("contact-sheet.jpg", "image/jpeg")}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Files:
    """Where the three are on this host."""

    video: Path
    poster: Path
    contact_sheet: Path


def key_of(run: str, what: str) -> str:
    """The key of a run's `video`, `poster`, `contact_sheet` or `record`."""
    return f"videos/{run}/{'video.json' if what == 'record' else _NAMES[what][0]}"


def delivered(store: Store, run: str) -> dict[str, Any] | None:
    """The record of a run's video, None before it is delivered. Corrupt; Unsupported for a later version."""
    key = key_of(run, "record")
    try:
        record = json.loads(store.get(key, bytes_max=RECORD_BYTES_MAX))
    except NotFound:
        return None
    except ValueError as error:
        raise Corrupt(
            f"{store.describe()}: {key} is not JSON: delete it to generate the video again", key=key
        ) from error
    if not isinstance(record, dict):
        raise Corrupt(f"{store.describe()}: {key} is not a JSON object: delete it to generate the video again", key=key)
    versions.check(record.get("format"), "video", f"{store.describe()}: {key}")
    return record


def deliver(store: Store, run: str, files: Files, facts: dict[str, Any]) -> dict[str, Any]:
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
    record = {"format": versions.BY_KIND["video"].written, "run": run, "bytes": sizes, **facts}
    store.put(key_of(run, "record"), json.dumps(record, indent=1).encode())
    return record


def urls(store: Store, run: str, expires_s: int) -> dict[str, str]:
    """Where a browser finds the three, for `expires_s`: presigned, or paths of a store that is a directory."""
    found = {}
    for what in _NAMES:
        grant = store.grant_read(key_of(run, what), expires_s=expires_s)
        found[what] = grant.url if grant.url is not None else Path(grant.path or "").as_uri()
    return found
