"""Errors: one line, no secret, the same at both ends of a wire."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.errors import Corrupt, EngineFailed, GrantExpired, NotFound, PoorwillError, TransientError, from_wire


@given(st.text(max_size=40))
def test_a_message_is_one_line(text: str) -> None:
    """Whatever a file name or a server's answer in it holds: no line break, nothing that steers a terminal."""
    message = Corrupt(f"f{text}").message
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in message)
    assert str(Corrupt(message)) == message


def test_control_characters_stay_readable() -> None:
    """As escapes."""
    assert Corrupt("a\nb\x1b[2Jc\x9b").message == "a\\x0ab\\x1b[2Jc\\x9b"


def test_presigned_urls_are_masked() -> None:
    """In messages and facts."""
    error = NotFound("GET https://s3.example/b/k?X-Amz-Signature=secret failed", url="http://h/p?secret", n=1)
    assert "secret" not in error.message and "https://s3.example/b/k?***" in error.message
    assert error.facts == {"url": "http://h/p?***", "n": 1}


def test_the_wire_keeps_an_error() -> None:
    """Its type, message and facts; so does a pickle."""
    error = GrantExpired("gone", part=3)
    for again in (from_wire(error.to_wire()), pickle.loads(pickle.dumps(error))):
        assert (type(again), again.message, again.facts) == (GrantExpired, "gone", {"part": 3})
        assert isinstance(again, TransientError)


@pytest.mark.parametrize(
    "wire",
    [
        {},
        {"type": "SystemExit", "message": None},
        {"type": ["Corrupt"], "message": 1, "facts": []},
        {"type": "Corrupt", "facts": {"message": "again", "self": 1, "ok": 2}},
    ],
)
def test_a_hostile_wire_still_is_an_error(wire: dict[str, Any]) -> None:
    """Whatever an engine sends in place of an error."""
    assert isinstance(from_wire(wire), PoorwillError)


def test_unknown_types_are_permanent() -> None:
    """A later version's error is not tried again by mistake."""
    assert type(from_wire({"type": "Later", "message": "m"})) is EngineFailed
