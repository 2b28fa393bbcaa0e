"""Path patterns of --exclude and --include.

A pattern without '/' matches a name at any depth; one with '/' is anchored at the workspace. `*` and `?`
stop at '/', `**` does not. What matches a directory holds for everything below it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from poorwill.errors import UsageError


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


def _source(pattern: str) -> bytes:
    text = os.fsencode(pattern.rstrip("/"))
    if not text or pattern.startswith("../") or "/../" in pattern:
        raise UsageError(f"pattern '{pattern}' is empty or leaves the workspace")
    anchored = b"/" in text
    body = _translated(text.lstrip(b"/"))
    source = b"(?:" + (body if anchored else b"(?:.*/)?" + body) + b")"
    try:
        re.compile(source)
    except re.error as error:
        raise UsageError(f"pattern '{pattern}' is not valid: {error.msg}") from None
    return source


def _translated(text: bytes) -> bytes:
    out, at = [], 0
    while at < len(text):
        if text[at : at + 3] == b"**/":
            out.append(b"(?:.*/)?")
            at += 3
        elif text[at : at + 2] == b"**":
            out.append(b".*")
            at += 2
        elif text[at : at + 1] == b"*":
            out.append(b"[^/]*")
            at += 1
        elif text[at : at + 1] == b"?":
            out.append(b"[^/]")
            at += 1
        elif text[at : at + 1] == b"[" and text.find(b"]", at + 2) > 0:
            stop = text.find(b"]", at + 2)
            inner = text[at + 1 : stop]
            negated = inner[:1] == b"!"
            # All but '-' loses what it means to `re`; no class matches '/'.
            escaped = re.sub(rb"[^\w-]", lambda found: b"\\" + found[0], inner[negated:])
            out.append(b"(?!/)[" + b"^" * negated + escaped + b"]")
            at = stop + 1
        else:
            out.append(re.escape(text[at : at + 1]))
            at += 1
    return b"".join(out)
