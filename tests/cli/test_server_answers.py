"""Which Prefect server is asked and with what password, and what is made of its answers: real HTTP on loopback."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from poorwill.cli import address
from poorwill.cli.following import Following, Look
from poorwill.cli.run_report import failure, from_markdown
from poorwill.cli.runs import Runs
from poorwill.cli.server import ATTEMPTS, Server
from poorwill.errors import (
    Corrupt,
    NotFound,
    PoorwillError,
    Refused,
    RunFailed,
    ServerRefused,
    ServerUnavailable,
    UsageError,
)
from tests.support.program import poorwill

SECRET = "admin:hunter2"
RUN = "00000000-0000-4000-8000-000000000001"


class Answers(ThreadingHTTPServer):
    """Answers each request with the next of `planned`, (status, body), and the last one for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.planned: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api"


class _Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.do_GET()

    def do_GET(self) -> None:
        planned = self.server.planned
        status, body = planned.pop(0) if len(planned) > 1 else planned[0]
        self.server.asked.append((self.path, str(self.headers.get("Authorization"))))
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def answers() -> Iterator[Answers]:
    with Answers() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def server_at(url: str, waits: list[float]) -> Server:
    return Server(address.find({"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": SECRET}), sleep=waits.append)


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (401, {"exception_message": "Unauthorized"}, ServerRefused, "does not accept the password it was given"),
        (404, {"detail": "Flow run not found"}, NotFound, "Flow run not found"),
        (404, {"detail": "Not Found"}, ServerRefused, "its address ends in /api"),
        (200, b"<html>the UI</html>", ServerRefused, "its address ends in /api"),
        (302, b"", ServerRefused, "(302)"),
        (409, {"detail": "Error creating flow run:\n 33 is too many"}, UsageError, "flow run: 33 is too many"),
        (422, {"exception_detail": [{"msg": "no"}], "exception_message": "Invalid"}, UsageError, '"msg": "no"'),
    ],
)
def test_answers_that_are_final(answers: Answers, status: int, body: Any, kind: type, says: str) -> None:
    """Each has its type and one line; it is asked once, and a redirect is not followed with the password."""
    answers.planned = [(status, body)]
    with pytest.raises(PoorwillError) as raised:
        server_at(answers.url, []).ask("GET", "/x")
    assert type(raised.value) is kind and says in raised.value.message
    assert len(answers.asked) == 1 and "hunter2" not in raised.value.message


def test_answers_that_may_change(answers: Answers) -> None:
    """5xx and 429 are asked again, with longer and longer waits, a bounded number of times."""
    answers.planned = [(503, {}), (429, {}), (200, {"ok": 1})]
    waits: list[float] = []
    assert server_at(answers.url, waits).ask("POST", "/x", {}) == {"ok": 1} and waits == [0.5, 1.0]
    answers.planned, answers.asked = [(500, {"exception_message": "Internal Server Error"})], []
    with pytest.raises(ServerUnavailable, match="answered 500: Internal Server Error"):
        server_at(answers.url, waits).ask("GET", "/x")
    assert len(answers.asked) == ATTEMPTS


def test_a_server_that_stays_away(answers: Answers) -> None:
    """Following ends when the server has been away for longer than a restart takes; each failure was told."""
    answers.planned = [(200, {"id": RUN, "state": {"type": "SCHEDULED", "name": "Scheduled"}}), (503, {})]
    now = [0.0]
    told: list[object] = []

    class Told:
        def look(self, look: Look) -> None:
            told.append(look.run.status)

        def away(self, error: PoorwillError) -> None:
            told.append(type(error))

    def sleep(seconds: float) -> None:
        now[0] += 10 * seconds

    server = Server(address.find({"PREFECT_API_URL": answers.url}), sleep=sleep)
    following = Following(Runs(server), RUN, clock=lambda: now[0], sleep=sleep, away_s_max=100)
    with pytest.raises(ServerUnavailable):
        following.end(Told())
    assert told[0] == "queued" and set(told[1:]) == {ServerUnavailable} and 100 < now[0] < 200


def test_the_password(answers: Answers, tmp_path: Path) -> None:
    """Of the environment, or of the stack's file; it is in no repr and no message."""
    answers.planned = [(200, {"id": RUN})]
    basic = "Basic " + base64.b64encode(SECRET.encode()).decode()
    given = address.find({"PREFECT_API_URL": answers.url + "/", "PREFECT_API_AUTH_STRING": SECRET})
    stack = address.find({"POORWILL_STACK_DIR": str(stack_in(tmp_path, answers.url))})
    for found in (given, stack):
        Runs(Server(found)).read(RUN)
        assert "hunter2" not in repr(found) and basic not in repr(found)
    assert answers.asked == [(f"/api/flow_runs/{RUN}", basic)] * 2
    assert stack.run_page("r") == "http://127.0.0.1:1/ui/runs/flow-run/r"


def stack_in(folder: Path, api_url: str, **other: Any) -> Path:
    (folder / "auth").write_text(SECRET + "\n")
    described = {"api_url": api_url, "auth_string_file": str(folder / "auth"), "ui_url": "http://127.0.0.1:1/ui"}
    (folder / "stack.json").write_text(json.dumps({**described, **other}))
    return folder


def test_a_stack_that_names_another_host(tmp_path: Path) -> None:
    """Its password does not go there in the clear, unless the user names the host; TLS and this host are fine."""
    far = {"POORWILL_STACK_DIR": str(stack_in(tmp_path, "http://192.0.2.1:4200/api"))}
    with pytest.raises(Refused, match="password is not sent there"):
        address.find(far)
    given = {**far, "PREFECT_API_URL": "http://192.0.2.1:4200/api", "PREFECT_API_AUTH_STRING": SECRET}
    assert address.find(given).authorization
    for near in ("https://192.0.2.1/api", "http://[::1]:4200/api", "http://localhost:4200/api"):
        assert address.find({"POORWILL_STACK_DIR": str(stack_in(tmp_path, near))}).authorization
    assert not address.find({"POORWILL_STACK_DIR": str(stack_in(tmp_path, near, auth_string_file=None))}).authorization


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://user:password@host/api", "set PREFECT_API_AUTH_STRING"),
        ("ftp://host/api", "expected an address like"),
        ("http://host:port/api", "expected one like"),
        ("http:///api", "expected an address like"),
    ],
)
def test_invalid_server_addresses(url: str, says: str) -> None:
    """They are refused before anything is sent; the message has no password."""
    with pytest.raises(UsageError, match=says) as raised:
        address.find({"PREFECT_API_URL": url})
    assert "password" not in raised.value.message.split("holds a user's name or password")[0]


def test_no_server(tmp_path: Path) -> None:
    """One line that says what to do: its address is not known (2), or it does not answer (7)."""
    env = {"PREFECT_API_URL": "", "POORWILL_STACK_DIR": str(tmp_path)}
    nowhere = poorwill("machines", env=env)
    assert nowhere.code == 2 and nowhere.err.count("\n") == 1 and "`poorwill up`" in nowhere.err
    (tmp_path / "stack.json").write_text("[]")
    assert poorwill("machines", env=env).code == 2
    stack_in(tmp_path, "http://127.0.0.1:1/api")
    away = poorwill("machines", env=env)
    assert away.code == 7 and away.err.count("\n") == 1
    assert "http://127.0.0.1:1/api does not answer (connection refused)" in away.err and "`poorwill up`" in away.err


@pytest.mark.parametrize(
    ("message", "kind", "text"),
    [
        ("Corrupt: part 3 differs", Corrupt, "part 3 differs"),
        ("Flow run encountered an exception: Refused: no", Refused, "no"),
        ("Flow run encountered an exception: ValueError: x", RunFailed, "m failed: .*ValueError: x"),
        ("Finished in state: Cached", RunFailed, "m failed: Finished"),
        ("", RunFailed, "m failed: no reason was given"),
    ],
)
def test_errors_of_runs(message: str, kind: type[PoorwillError], text: str) -> None:
    """The type that a failed run's message begins with is the error's; what has none is RunFailed, exit code 1."""
    error = failure("m", "FAILED", message)
    assert type(error) is kind and re.match(text, error.message)


def test_reports_in_a_terminal() -> None:
    """Tables in columns, no pictures, no escape sequence of a prompt."""
    report = "# T\n\n![x](data:image/png;base64,AA)\n\n| a | b |\n|---|---|\n| 1 | x\\|y |\n| 22 | \x1b[2J |\n"
    assert from_markdown(report) == ["T", "", "", "a   b", "1   x|y", "22  \\x1b[2J", ""]
