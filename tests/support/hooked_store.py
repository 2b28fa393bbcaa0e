"""A store that calls back, so that a test can act at a known moment of a run."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from poorwill.store.base import Store

Moment = Callable[[str, int], None]


def hooked(inner: Store, before: dict[str, Moment] | None = None, after: dict[str, Moment] | None = None) -> Store:
    """`inner`; `before` and `after` map a method's name to what is called with (key, number of the call)."""
    return cast(Store, _HookedStore(inner, before or {}, after or {}))


class _HookedStore:
    def __init__(self, inner: Store, before: dict[str, Moment], after: dict[str, Moment]) -> None:
        self._inner, self._before, self._after = inner, before, after
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._inner, name)
        if name in ("put_fenced", "put_new"):
            name = "put"  # to who looks on from outside, an object is written
        if name not in self._before and name not in self._after:
            return inner

        def call(key: str, *arguments: Any, **options: Any) -> Any:
            with self._lock:
                self._counts[name] += 1
                count = self._counts[name]
            if name in self._before:
                self._before[name](key, count)
            result = inner(key, *arguments, **options)
            if name in self._after:
                self._after[name](key, count)
            return result

        return call
