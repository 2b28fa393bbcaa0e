"""Patterns of --exclude and --include, against a plain matcher that walks pattern and path by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.errors import UsageError
from poorwill.snapshot.globs import Globs

ATOMS = st.sampled_from(["a", "b", ".", "/", "*", "**", "**/", "?", "[ab]", "[!a]", "-", "^", "\\", "(", "\n"])
PATHS = st.lists(st.text("ab.-^\\(\n", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)


def matches(pattern: str, path: str) -> bool:
    """The rules of the docs, one character at a time."""
    if pattern.startswith("**/"):
        rest = pattern[3:]
        return matches(rest, path) or any(matches(rest, path[i + 1 :]) for i, c in enumerate(path) if c == "/")
    if pattern.startswith("**"):
        return any(matches(pattern[2:], path[i:]) for i in range(len(path) + 1))
    if pattern.startswith("*"):
        stop = path.find("/") if "/" in path else len(path)
        return any(matches(pattern[1:], path[i:]) for i in range(stop + 1))
    if not pattern or not path:
        return not pattern and not path
    if pattern.startswith("?"):
        return path[0] != "/" and matches(pattern[1:], path[1:])
    if pattern.startswith("["):
        close = pattern.index("]", 2)
        inner = pattern[1:close]
        found = path[0] not in inner[1:] if inner[0] == "!" else path[0] in inner
        return found and path[0] != "/" and matches(pattern[close + 1 :], path[1:])
    return path[0] == pattern[0] and matches(pattern[1:], path[1:])


@given(st.lists(ATOMS, min_size=1, max_size=5).map("".join), PATHS)
def test_as_the_plain_matcher(pattern: str, path: str) -> None:
    """Anchored patterns match whole paths, others a name at any depth."""
    try:
        globs = Globs([pattern])
    except UsageError:
        return
    stripped = pattern.rstrip("/")
    if "/" in stripped:
        expected = matches(stripped.lstrip("/"), path)
    else:
        expected = matches("**/" + stripped, path)
    assert globs.match(path.encode()) == expected


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.pyc", "a/b/c.pyc", True),
        ("*.pyc", "a/b.pyc/c", False),
        ("/cache", "cache", True),
        ("/cache", "a/cache", False),
        ("cache/", "a/cache", True),
        ("a/*/c", "a/b/c", True),
        ("a/*/c", "a/b/b/c", False),
        ("a/**/c", "a/c", True),
        ("a/**/c", "a/b/b/c", True),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("[a-c]x", "bx", True),
        ("[!a-c]x", "bx", False),
        ("[^a]", "^", True),
        ("/a[!b]c", "a/c", False),
        ("[]x", "[]x", True),
        ("a.c", "abc", False),
        ("ä*", "ä\n", True),
        ("\udcff", "\udcff", True),
    ],
)
def test_examples(pattern: str, path: str, expected: bool) -> None:
    """What users of .gitignore and rsync expect; names need not be UTF-8."""
    assert Globs([pattern]).match(path.encode("utf-8", "surrogateescape")) is expected


def test_any_of_several() -> None:
    """One match is enough; no pattern matches nothing, and says so."""
    globs = Globs(["*.a", "b/*"])
    assert globs and globs.match(b"x.a") and globs.match(b"b/c") and not globs.match(b"c")
    assert not Globs([]) and not Globs([]).match(b"")


@pytest.mark.parametrize("pattern", ["", "/", "///", "../x", "a/../b", "[b-a]", "[!]"])
def test_patterns_that_cannot_be(pattern: str) -> None:
    """Refused in one line that names the pattern."""
    with pytest.raises(UsageError) as caught:
        Globs([pattern])
    assert f"'{pattern}'" in caught.value.message
