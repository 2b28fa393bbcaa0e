"""A token bucket: how much may pass at a set speed."""

from __future__ import annotations

import time
from collections.abc import Callable

CHUNK_BYTES_MAX = 128 << 10
BURST_BYTES_MAX = 256 << 10
LATE_S_MAX = 0.25
# Chunks and bursts are also at most what passes in this time, so that a slow link is as smooth as a fast one.
_SMOOTH_S = 0.01


class TokenBucket:
    """How much may pass now at `bytes_per_second`. For one thread.

    A chunk of up to `chunk_bytes` may pass when `wait_s` says 0, and is then spent: it may overdraw the bucket, and
    the next chunk waits for that. So in t seconds at most `bytes_per_second * t + burst_bytes + chunk_bytes` pass;
    and where somebody always waits, as much as that without burst and chunk, as lateness is made up for.
    """

    def __init__(self, bytes_per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        if bytes_per_second <= 0:
            raise ValueError(f"bytes_per_second {bytes_per_second}: expected more than 0")
        self.bytes_per_second = bytes_per_second
        self.chunk_bytes = max(1, min(CHUNK_BYTES_MAX, int(bytes_per_second * _SMOOTH_S)))
        self.burst_bytes = max(1, min(BURST_BYTES_MAX, int(bytes_per_second * _SMOOTH_S)))
        self._clock = clock
        self._tokens, self._at = 0.0, clock()

    def wait_s(self, *, owed: bool) -> float:
        """0 if a chunk may pass now, else how long to wait: until a burst may, so that waits are few.

        owed: somebody has waited since the last call. Whatever the wait took, up to LATE_S_MAX, then counts in full;
        an idle link saves up no more than a burst.
        """
        now = self._clock()
        kept_max = self.bytes_per_second * LATE_S_MAX if owed else self.burst_bytes
        self._tokens = min(self._tokens + (now - self._at) * self.bytes_per_second, max(kept_max, self.burst_bytes))
        self._at = now
        if self._tokens > 0:
            return 0.0
        return (self.burst_bytes - self._tokens) / self.bytes_per_second

    def spend(self, size: int) -> None:
        """Note that `size` bytes have passed."""
        self._tokens -= size
