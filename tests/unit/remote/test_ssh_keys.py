"""Pinned host keys, and the keys with which we log in."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import paramiko
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poorwill.errors import HostRefused, UsageError
from poorwill.remote.host_key import TYPES, PinnedKey, checked_line, fingerprint
from poorwill.remote.identity import KEYS_MAX, Identity

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE6H8z5Tcfi8SqkykZ7y+m/3PQZZOLBGNdkJx9Ax1GV1"
OFFERED = ("ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")


class TestPinnedKey:
    """Any key is accepted at first contact, from then on only the same one."""

    def test_first_contact_is_recorded_once_and_only_after_login(self) -> None:
        """Checking records nothing; accepting does, the first time."""
        seen: list[str] = []
        pin = PinnedKey(record=seen.append)
        pin.check(ED25519, "there")
        assert seen == [] and pin.known == ""
        pin.accept(ED25519)
        pin.accept(ED25519)
        assert seen == [ED25519] and pin.known == ED25519

    def test_another_key_is_refused_with_both_fingerprints(self) -> None:
        """The message says what was shown, what was expected, and what to do."""
        pin = PinnedKey(ED25519 + " root@somewhere\n")
        pin.check(ED25519, "there")
        with pytest.raises(HostRefused) as caught:
            pin.check(OTHER, "root@there:22")
        for word in ("root@there:22", fingerprint(OTHER), fingerprint(ED25519), "clear the host key"):
            assert word in caught.value.message

    def test_the_known_type_is_asked_for_first(self) -> None:
        """A server has keys of several types and shows one: the known one has to be asked for."""
        assert PinnedKey().algorithms(OFFERED) == OFFERED
        assert PinnedKey(ED25519).algorithms(OFFERED[::-1])[0] == "ssh-ed25519"
        blob = base64.b64encode(b"\0\0\0\x07ssh-rsa" + b"x" * 20).decode()
        assert PinnedKey(f"ssh-rsa {blob}").algorithms(OFFERED)[:2] == ("rsa-sha2-512", "rsa-sha2-256")

    @given(
        st.text(max_size=80) | st.sampled_from(TYPES).flatmap(lambda t: st.text(max_size=60).map(lambda x: f"{t} {x}"))
    )
    def test_a_malformed_key_is_a_usage_error(self, line: str) -> None:
        """Any text is a UsageError or has a fingerprint."""
        try:
            assert fingerprint(checked_line(line)).startswith("SHA256:")
        except UsageError:
            pass

    def test_fingerprints_are_those_of_openssh(self) -> None:
        """What `ssh-keygen -lf` prints for this key."""
        assert fingerprint(ED25519) == "SHA256:T7SvZ2cslqpPj6nKzitCBHHlpVF3r3MvLwmFL0fk0IE"


@pytest.fixture(scope="module")
def ecdsa() -> paramiko.ECDSAKey:
    return paramiko.ECDSAKey.generate()


class TestIdentity:
    """Keys are read from text or files and never shown; a malformed one is an error."""

    def test_a_key_as_text(self, ecdsa: paramiko.ECDSAKey) -> None:
        """In OpenSSH or PEM format, with or without a passphrase; the text is in no repr."""
        plain, locked = io.StringIO(), io.StringIO()
        ecdsa.write_private_key(plain)
        ecdsa.write_private_key(locked, password="open sesame")
        public = f"{ecdsa.get_name()} {ecdsa.get_base64()}"
        given_plain, given_locked = Identity(plain.getvalue()), Identity(locked.getvalue(), "open sesame")
        assert given_plain.public_lines() == given_locked.public_lines() == [public]
        assert "PRIVATE" not in repr(given_plain) and "sesame" not in repr(given_locked)
        with pytest.raises(UsageError, match="locked by a passphrase"):
            Identity(locked.getvalue()).keys()
        with pytest.raises(UsageError, match="passphrase"):
            Identity(locked.getvalue(), "wrong").keys()

    @given(st.text(max_size=60))
    def test_a_malformed_private_key_is_a_usage_error(self, text: str) -> None:
        """The error does not repeat the text."""
        if not text:
            return
        with pytest.raises(UsageError) as caught:
            Identity(f"hush-{text}").keys()
        assert "hush" not in caught.value.message

    def test_files_that_cannot_be_used_are_passed_over(self, tmp_path: Path, ecdsa: paramiko.ECDSAKey) -> None:
        """Missing, locked and broken ones are skipped; without any key the message says what to do."""
        good, locked, broken = tmp_path / "good", tmp_path / "locked", tmp_path / "broken"
        ecdsa.write_private_key_file(str(good))
        ecdsa.write_private_key_file(str(locked), password="x")
        broken.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n")
        found = Identity(files=[str(tmp_path / "none"), str(locked), str(broken), *[str(good)] * 20]).keys()
        assert 1 <= len(found) <= KEYS_MAX and found[-1] == ecdsa
