"""Signed messages: what receivers get, what is tried again and when, and what is never sent."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from poorwill.errors import DeadlineExceeded, NotFound, PoorwillError, Refused, SourceUnavailable, UsageError
from poorwill.web.addresses import AllowRule
from poorwill.web.guarded_http import POST_BYTES_MAX, post
from poorwill.web.guarded_network import Deadline, GuardedNetwork
from poorwill.web.webhook import RETRY_AFTER_S_MAX, Delivered, Receiver, deliver, signature
from tests.unit.web.loopback_server import LoopbackServer, http, redirect
from tests.unit.web.receiver import MessageReceiver

SECRET, OLD = "whsec-0123456789abcdef", "whsec-of-last-year"
BODY = b'{"event": "run.done", "what": "caf\xc3\xa9"}'
DOCS = (Path(__file__).parents[3] / "docs" / "notifications.md").read_text()


def block_of(language: str, containing: str) -> str:
    found = [code for code in re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL) if containing in code]
    return str(found[0])


def documented() -> Callable[..., bool]:
    """`verified` as receivers copy it from the docs."""
    names: dict[str, Any] = {}
    exec(block_of("python", "def verified"), names)
    found: Callable[..., bool] = names["verified"]
    return found


def to(receiver: MessageReceiver | LoopbackServer, url: str | None = None, **fields: Any) -> Receiver:
    rule = receiver.rule if isinstance(receiver, LoopbackServer) else AllowRule.parse(receiver.address)
    return Receiver(url or receiver.url(), **{"secrets": (SECRET,), "allow": (rule,), **fields})


def test_what_a_receiver_gets() -> None:
    """One POST with the given body, the delivery's id, and a signature that the documented code verifies."""
    with MessageReceiver() as receiver:
        to_it = to(receiver, headers=(("X-Shop", "7"),))
        assert deliver(to_it, "d-1", BODY) == Delivered("127.0.0.1", 200, 1)
    (message,) = receiver.messages
    assert (message.path, message.body) == ("/hook?token=told-to-nobody", BODY)
    assert message.headers["content-type"] == "application/json" and message.headers["x-shop"] == "7"
    assert message.headers["poorwill-delivery"] == "d-1" and "transfer-encoding" not in message.headers
    verified = documented()
    mark = message.headers["poorwill-signature"]
    assert verified(mark, BODY, SECRET)
    assert not verified(mark, BODY, OLD) and not verified(mark, BODY + b" ", SECRET)


def test_the_documented_command_gives_the_same_signature(tmp_path: Path) -> None:
    """openssl, as the docs call it, computes what the header says."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this host")
    (tmp_path / "body.json").write_bytes(BODY)
    environment = {**os.environ, "t": "1790000000", "POORWILL_WEBHOOK_SECRET": SECRET}
    ran = subprocess.run(
        ["sh", "-c", block_of("sh", "openssl")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert signature(BODY, [SECRET], 1_790_000_000) == f"t=1790000000,v1={ran.stdout.strip()}"


def test_old_messages_and_changed_secrets() -> None:
    """A signature is valid for as long as the receiver says; with two secrets, either verifies it."""
    verified = documented()
    assert not verified(signature(BODY, [SECRET], 1_000), BODY, SECRET)
    assert verified(signature(BODY, [SECRET], 1_000), BODY, SECRET, tolerance_s=float("inf"))
    both = signature(BODY, [SECRET, OLD], 1_000)
    assert all(verified(both, BODY, secret, tolerance_s=float("inf")) for secret in (SECRET, OLD))
    assert both.count("v1=") == 2
    with pytest.raises(UsageError, match="secret"):
        signature(BODY, [], 1_000)


def test_a_message_is_sent_again_until_it_is_accepted() -> None:
    """Two 500 and a 200: three attempts with one id, each signed anew, after pauses that double."""
    waits, now, said = list[float](), iter(range(1_000, 9_000)), list[str]()
    with MessageReceiver(500, 500, 200) as receiver:
        done = deliver(
            to(receiver), "d-1", BODY, clock=lambda: next(now), sleep=waits.append, draw=lambda: 1.0, say=said.append
        )
    assert done == Delivered("127.0.0.1", 200, 3) and waits == [1.0, 2.0]
    assert {message.headers["poorwill-delivery"] for message in receiver.messages} == {"d-1"}
    assert len({message.headers["poorwill-signature"] for message in receiver.messages}) == 3
    assert said[0] == "attempt 1 of 8: 127.0.0.1 answers HTTP 500: try again later; again in 1.0 s"


def test_pauses_are_bounded() -> None:
    """They double up to a minute, shortened by up to half; the attempts are bounded too."""
    waits: list[float] = []
    with MessageReceiver(503) as receiver, pytest.raises(SourceUnavailable, match=r"given up after 20 attempts"):
        deliver(to(receiver, attempts_max=20), "d-1", BODY, sleep=waits.append, draw=lambda: 0.0)
    assert waits[:7] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0] and set(waits[6:]) == {30.0}
    assert len(receiver.messages) == 20


@pytest.mark.parametrize(
    ("status", "told", "least_s"),
    [
        (429, "7", 7.0),
        (503, formatdate(1_000_060, usegmt=True), 60.0),
        (503, formatdate(999_000, usegmt=True), 1.0),
        (503, "86400", RETRY_AFTER_S_MAX),
        (503, "9" * 60, RETRY_AFTER_S_MAX),
        (503, "soon", 1.0),
        (503, "-5", 1.0),
    ],
)
def test_retry_after_lengthens_a_pause(status: int, told: str, least_s: float) -> None:
    """In seconds or as a date, within bounds; anything else is ignored."""
    waits: list[float] = []
    with MessageReceiver(status, 200, headers=[("Retry-After", told)]) as receiver:
        deliver(to(receiver), "d-1", BODY, clock=lambda: 1_000_000, sleep=waits.append, draw=lambda: 1.0)
    assert waits == [least_s]


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Refused), (401, Refused), (404, NotFound), (410, NotFound), (302, Refused), (307, Refused), (304, Refused)],
)
def test_permanent_statuses_are_not_tried_again(status: int, error: type[PoorwillError]) -> None:
    """One attempt, and no redirect is followed."""
    with MessageReceiver() as inside, MessageReceiver(status, headers=[("Location", inside.url())]) as receiver:
        rules = (AllowRule.parse(receiver.address), AllowRule.parse(inside.address))
        with pytest.raises(error, match=f"HTTP {status}") as caught:
            deliver(to(receiver, allow=rules), "d-1", BODY, sleep=_never)
    assert len(receiver.messages) == 1 and not inside.messages
    assert caught.value.facts["status"] == status


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_transient_statuses_are_tried_again(status: int) -> None:
    with MessageReceiver(status, 204) as receiver:
        assert deliver(to(receiver), "d-1", BODY, sleep=lambda _: None).attempts == 2


def test_nobody_listens() -> None:
    """All attempts fail, the error says how many, and it holds nothing of the URL but its host."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        receiver = Receiver(
            f"http://{address}/very/secret?x=y", (SECRET,), allow=(AllowRule.parse(address),), attempts_max=3
        )
        with pytest.raises(SourceUnavailable, match="given up after 3 attempts") as caught:
            deliver(receiver, "d-1", BODY, sleep=lambda _: None)
    assert "127.0.0.1" in caught.value.message and "secret" not in caught.value.message
    assert SECRET not in repr(receiver) and "secret" not in repr(receiver)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://10.0.0.1/", "http://[::1]/", "http://inside.example/"])
def test_internal_addresses_are_refused(url: str) -> None:
    """At once, whether the URL holds the address or a name that leads to it."""
    with pytest.raises(Refused, match="may not be reached"):
        deliver(Receiver(url, (SECRET,)), "d-1", BODY, sleep=_never, resolve=lambda host, port: ["10.1.2.3"])


def test_an_answer_without_end() -> None:
    """The status counts; only a little of the body is read."""

    def endless(connection: socket.socket, stopping: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not stopping.is_set():
            connection.sendall(b"x" * 65536)

    with LoopbackServer({"/": endless}) as server:
        assert post(server.url(), b"{}", {}, timeout_s=30, allow=(server.rule,)) == 200


def test_a_receiver_that_says_nothing() -> None:
    """The attempt ends at its deadline, although the connection stays."""

    def silent(connection: socket.socket, stopping: threading.Event) -> None:
        stopping.wait(30)

    with LoopbackServer({"/": silent}) as server, pytest.raises(DeadlineExceeded, match=r"did not end in 0\.3 s"):
        post(server.url(), b"{}", {}, timeout_s=0.3, allow=(server.rule,))


def test_a_receiver_that_reads_nothing() -> None:
    """Sending ends at the deadline too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        deadline = Deadline(0.5, "the message", lambda: None)
        network = GuardedNetwork(deadline, (AllowRule.parse(f"127.0.0.1:{port}"),))
        stream = network.connect_tcp("127.0.0.1", port)
        with pytest.raises(DeadlineExceeded):
            stream.write(b"x" * (64 << 20))
        stream.close()


def test_a_message_has_a_bound() -> None:
    with pytest.raises(UsageError, match="bytes"):
        post("http://1.1.1.1/", b"x" * (POST_BYTES_MAX + 1), {}, timeout_s=1)


@pytest.mark.parametrize("answer", [http(status=200), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
def test_any_server(answer: bytes) -> None:
    with LoopbackServer({"/": answer, "/moved": redirect("/")}) as server:
        assert post(server.url(), BODY, {}, timeout_s=10, allow=(server.rule,)) == 200


def _never(_: float) -> None:
    raise AssertionError("it was to be tried again")
