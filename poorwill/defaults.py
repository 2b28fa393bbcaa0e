"""What holds where nothing is given: one place for flows, the program, the HTTP API, blocks and deployments.

The signatures of flows, the program's help and the API's settings read these. Bounds of the format are in
snapshot/limits.py; waits and retries stand beside what waits.
"""

from __future__ import annotations

from typing import Final

WORKSPACE = "/workspace"
CODEC: Final = "auto"
VERIFY: Final = "stored"
ON_UNREADABLE: Final = "fail"
WRITERS: Final = "refuse"
PARENT_NONE = "none"
"""Where a parent is named: borrow nothing."""
CACHE_BYTES_MAX = 100_000_000_000
"""What a directory of cached chunks may come to hold."""

TRASH_GRACE = "48h"
"""How long a removed snapshot can be brought back."""
STALE_AFTER = "7d"
"""Retention reports a run that has been taking a snapshot for longer."""
VERIFY_SHARE = "30d"
"""The scheduled verification reads what was not read for so long."""
IDLE_AFTER = "30m"
"""A machine that was idle for so long is put to sleep."""
REAP_GRACE = "2h"
"""An instance that belongs to nothing is an orphan once it is this old."""

STORE, MEDIA, VIDEO_MODEL = "default", "media", "video"
"""Names of blocks."""
GPU_POOL, GENERATE_QUEUE = "gpu", "generate"
"""The work pool of GPU workers, and its queue of videos."""
