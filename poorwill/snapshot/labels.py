"""What a user calls a snapshot: one name, and tags that retention can go by."""

from __future__ import annotations

from collections.abc import Iterable

from poorwill.errors import UsageError

NAME_CHARS_MAX = 120
TAG_CHARS_MAX = 64
TAGS_MAX = 32


def checked_name(name: str | None) -> str | None:
    """`name`, None for an empty one, or UsageError: printable, without white space at its ends, not too long."""
    if not name:
        return None
    if len(name) > NAME_CHARS_MAX or not name.isprintable() or name != name.strip():
        raise UsageError(
            f"'{name[:NAME_CHARS_MAX]}' cannot name a snapshot: expected up to {NAME_CHARS_MAX} printable characters, "
            "without spaces at the ends"
        )
    return name


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags, sorted, each once; or UsageError."""
    found = tuple(sorted(set(tags)))
    if len(found) > TAGS_MAX:
        raise UsageError(f"{len(found)} tags: expected at most {TAGS_MAX}")
    for tag in found:
        if not 0 < len(tag) <= TAG_CHARS_MAX or not tag.isprintable() or " " in tag or "," in tag:
            raise UsageError(
                f"'{tag[:TAG_CHARS_MAX]}' is not a tag: expected up to {TAG_CHARS_MAX} printable characters without "
                "spaces and commas"
            )
    return found
