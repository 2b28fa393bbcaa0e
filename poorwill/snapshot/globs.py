"""Path patterns of --exclude and --include.

A pattern without '/' matches a name at any depth; one with '/' is anchored at the workspace. `*` and `?`
stop at '/', `**` does not. What matches a directory holds for everything below it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from poorwill.errors import UsageError

_WILDCARDS = {b"**/": b"(?:.*/)?", b"**": b".*", b"*": b"[^/]*", b"?": b"[^/]"}
_TOKEN = re.compile(rb"\*\*/|\*\*|\*|\?|\[(.[^\]]*)\]|.", re.DOTALL)


class Globs:
    """Several patterns as one test on paths below the workspace."""

    def __init__(self, patterns: Iterable[str]) -> None:
        sources = [_source(p) for p in patterns]
        self._any = re.compile(b"|".join(sources), re.DOTALL) if sources else None

    def __bool__(self) -> bool:
        return self._any is not None

    def match(self, path: bytes) -> bool:
        """Whether a pattern matches `path` itself (not one of its ancestors)."""
        return self._any is not None and self._any.fullmatch(path) is not None

    def covers(self, path: bytes) -> bool:
        """Whether a pattern matches `path` or one of its ancestors."""
        ends = [at for at, byte in enumerate(path) if byte == ord("/")] if self else []
        return any(self.match(path[:end]) for end in (*ends, len(path)))


def _source(pattern: str) -> bytes:
    text = os.fsencode(pattern.rstrip("/"))
    if not text or pattern.startswith("../") or "/../" in pattern:
        raise UsageError(f"pattern '{pattern}' is empty or leaves the workspace")
    anchored = b"/" in text
    body = _TOKEN.sub(_translated, text.lstrip(b"/"))
    source = b"(?:" + (body if anchored else b"(?:.*/)?" + body) + b")"
    try:
        re.compile(source)
    except re.error as error:
        raise UsageError(f"pattern '{pattern}' is not valid: {error.msg}") from None
    return source


def _translated(token: re.Match[bytes]) -> bytes:
    if token[0] in _WILDCARDS:
        return _WILDCARDS[token[0]]
    if token[1] is None:
        return re.escape(token[0])
    negated = token[1].startswith(b"!")
    # All but '-' loses what it means to `re`; no class matches '/'.
    members = re.sub(rb"[^\w-]", lambda found: b"\\" + found[0], token[1][negated:])
    return b"(?!/)[" + b"^" * negated + members + b"]"
