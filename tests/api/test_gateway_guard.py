"""Tokens, limits and settings of the gateway, and the headers of every answer."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import create_app
from api.http.auth import Tokens
from api.http.limits import TokenBuckets
from api.http.middleware import RequestIdFilter
from api.settings import Settings
from poorwill.errors import UsageError
from tests.support.api_gateway import ASKED, TOKEN, kind_of

ONE, TWO = "first-token-0123456789", "second-token-0123456789"
NOWHERE = "http://127.0.0.1:9/api"


@pytest.fixture(autouse=True)
def no_server() -> Iterator[None]:
    """Nothing listens there: these tests need no Prefect server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: NOWHERE}):
        yield


def calls(settings: Settings, called: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """`called` with a client of an application in this process."""

    async def scenario() -> None:
        app = create_app(settings)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://api") as client,
        ):
            await called(client)

    asyncio.run(scenario())


def settings(**other: Any) -> Settings:
    return Settings(**{"tokens": (("tests", TOKEN),), "prefect_timeout_s": 0.3, **other})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def logged(name: str) -> Iterator[list[logging.LogRecord]]:
    """The records of a logger, as the gateway's own handler gets them."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    handler.addFilter(RequestIdFilter())
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def test_a_token_is_needed() -> None:
    """401 for every path but the two of health, whatever is wrong with the token; with it, the request goes on."""

    async def called(client: httpx.AsyncClient) -> None:
        paths = [path for path, routes in (await client.get("/openapi.json")).json()["paths"].items()
                 if path not in ("/health", "/ready")]  # fmt: skip
        assert "/run" in paths and len(paths) > 5
        for path in paths:
            for method in ("GET", "POST", "DELETE"):
                answer = await client.request(method, path.format(id="x", snapshot_id="x", instance_id="x"))
                assert answer.status_code in (401, 405), (method, path)
        for wrong in ({}, bearer(""), bearer(TOKEN[:-1]), bearer(TOKEN + "x"), {"Authorization": f"Basic {TOKEN}"},
                      bearer("\u00e9" * 20), {"Authorization": TOKEN}):  # fmt: skip
            headers = {name: value.encode() for name, value in wrong.items()}
            answer = await client.get("/processes", headers=headers)
            assert (answer.status_code, kind_of(answer)) == (401, "unauthorized"), wrong
            assert answer.headers["www-authenticate"] == "Bearer"
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/processes", headers=bearer(TOKEN))).status_code == 503

    calls(settings(), called)


def test_tokens_change_without_a_restart(tmp_path: Path) -> None:
    """Those of a file are added, replaced and removed; a broken or missing file changes nothing, and is logged."""
    file = tmp_path / "tokens"

    def write(text: str) -> None:
        new = tmp_path / "new"
        new.write_text(text)
        os.replace(new, file)

    write(f"# ours\nalice:{ONE}\n")
    tokens = Tokens((("fixed", TOKEN),), file)
    assert tokens.caller(TOKEN) == "fixed" and tokens.caller(ONE) == "alice"
    assert tokens.caller(TWO) is None
    write(f"alice:{ONE}\nalice:{TWO}  # the new one\n")
    assert tokens.caller(ONE) == tokens.caller(TWO) == "alice"
    with logged("api.http.auth") as records:
        write("alice\n")
        assert tokens.caller(TWO) == "alice"
        file.unlink()
        assert tokens.caller(TWO) == "alice"
    assert len(records) == 2 and all(ONE not in r.getMessage() and TWO not in r.getMessage() for r in records)
    write(f"bob:{TWO}\n")
    assert tokens.caller(ONE) is None and tokens.caller(TWO) == "bob"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, "no token is set.*POORWILL_API_TOKENS_FILE.*POORWILL_API_OPEN"),
        ({"TOKENS": "alice:short"}, "TOKENS, line 1: the token of 'alice' has 5 characters"),
        ({"TOKENS": ONE}, "line 1: not 'name:token'"),
        ({"TOKENS_FILE": "/no/such/file"}, "TOKENS_FILE: there is no file /no/such/file"),
        ({"OPEN": "perhaps"}, "OPEN is 'perhaps'"),
        ({"OPEN": "true", "QUEUE_MAX": "-1"}, "QUEUE_MAX is '-1': must be greater than or equal to 1"),
        ({"OPEN": "true", "QUEUE_MAX": "1.5"}, "QUEUE_MAX is '1.5': must be a valid integer"),
        ({"OPEN": "true", "RATE_PER_S": "nan"}, "RATE_PER_S is 'nan'"),
        (
            {"OPEN": "true", "RATE_PER_S": "no", "STREAMS_MAX": "-1"},
            "RATE_PER_S is 'no'.*; POORWILL_API_STREAMS_MAX is",
        ),
        ({"OPEN": "true", "BODY_BYTES_MAX": "9" * 30}, "BODY_BYTES_MAX"),
    ],
)
def test_wrong_settings(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], says: str) -> None:
    """One line that names the variable, and never a token."""
    set_environment(monkeypatch, **environment)
    with pytest.raises(UsageError, match=says) as refused:
        Settings.read()
    assert "\n" not in str(refused.value) and ONE not in str(refused.value)


def set_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """These variables of the gateway, and no other ones."""
    for name in [name for name in os.environ if name.startswith("POORWILL_API_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(f"POORWILL_API_{name}", value)


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As documented; an empty variable counts as unset; a representation shows no token."""
    set_environment(monkeypatch, TOKENS=f"a:{ONE}, b:{TWO}", QUEUE_MAX="5", TOKENS_FILE="", STORE="",
                    CORS_ORIGINS="https://a.example https://b.example")  # fmt: skip
    given = Settings.read()
    assert given.tokens == (("a", ONE), ("b", TWO)) and given.queue_max == 5 and given.store == "default"
    assert given.cors_origins == ("https://a.example", "https://b.example") and ONE not in repr(given)


def test_a_body_that_is_too_large() -> None:
    """413, also if its length is not announced: it is read up to the limit."""
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 1024
            yield b"x" * 1024

    async def called(client: httpx.AsyncClient) -> None:
        small = {"content": b"x" * 2048, "headers": bearer(TOKEN)}
        assert kind_of(await client.post("/run", **small)) == "invalid-request"
        for content in (b"x" * 5000, endless()):
            answer = await client.post("/run", content=content, headers=bearer(TOKEN))
            assert (answer.status_code, kind_of(answer)) == (413, "too-large")
        assert 4096 <= sent <= 8192

    calls(settings(body_bytes_max=4096), called)


def test_a_caller_that_asks_too_often() -> None:
    """Its burst, then 429 with the time to wait; other callers are not affected."""

    async def called(client: httpx.AsyncClient) -> None:
        async def times(token: str) -> list[httpx.Response]:
            return [await client.post("/run", headers=bearer(token)) for _ in range(4)]

        assert [answer.status_code for answer in await times(ONE)] == [422, 422, 422, 429]
        answers = await times(TWO)
        assert kind_of(answers[3]) == "too-many-requests" and int(answers[3].headers["retry-after"]) >= 1
        assert (await client.get("/health")).status_code == 200

    calls(settings(tokens=(("a", ONE), ("b", TWO)), rate_per_s=0.05, rate_burst=3), called)


def test_buckets_fill_and_are_bounded() -> None:
    """By the clock, up to the burst; the names that called last are remembered."""
    now_s = 0.0
    buckets = TokenBuckets(2.0, 3, clock=lambda: now_s, names_max=2)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    now_s = 0.5
    assert (buckets.take("a"), buckets.take("a")) == (0, 0.5)
    now_s = 1000.0
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    buckets.take("b")
    buckets.take("c")
    assert len(buckets._buckets) == 2 and buckets.take("a") == 0


def test_headers_of_every_answer() -> None:
    """Security headers, and an id that is also in the log: the caller's own, if it is harmless. The log holds neither
    queries nor tokens."""

    async def called(client: httpx.AsyncClient) -> None:
        with logged("api.http.middleware") as records:
            mine = {"X-Request-ID": "mine-1", **bearer(TOKEN)}
            answer = await client.post("/run?secret=hunter2", json=ASKED | {"seed": -1}, headers=mine)
            assert answer.headers["x-request-id"] == answer.json()["request_id"] == "mine-1"
            other = await client.get("/health", headers={"X-Request-ID": "a b\x7f" * 50})
            assert other.headers["x-request-id"].isalnum() and len(other.headers["x-request-id"]) == 16
        for found in (answer, other, await client.get("/nowhere")):
            assert found.headers["x-content-type-options"] == "nosniff"
            assert found.headers["cache-control"] == "no-store"
            assert found.headers["content-security-policy"].startswith("default-src 'none'")
        line = records[0]
        assert line.request_id == "mine-1" and line.getMessage().startswith("POST /run 422 ")  # type: ignore[attr-defined]
        assert line.getMessage().endswith(" tests")
        assert not any(word in record.getMessage() for record in records for word in ("hunter2", TOKEN))

    calls(settings(), called)


def test_browsers_of_other_origins() -> None:
    """Only the origins that the operator names are allowed."""

    async def called(client: httpx.AsyncClient) -> None:
        def asked(origin: str) -> Any:
            return client.options("/run", headers={"Origin": origin, "Access-Control-Request-Method": "POST",
                                                   "Access-Control-Request-Headers": "authorization"})  # fmt: skip

        allowed = await asked("https://ours.example")
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://ours.example"
        assert "access-control-allow-origin" not in (await asked("https://theirs.example")).headers

    calls(settings(cors_origins=("https://ours.example",)), called)


def test_a_server_that_is_not_there() -> None:
    """503 with Retry-After within a bounded time, first after having tried for a while and then at once; alive, and
    not ready."""

    async def called(client: httpx.AsyncClient) -> None:
        began_s = time.monotonic()
        answer = await client.post("/run", json=ASKED, headers=bearer(TOKEN))
        assert (answer.status_code, kind_of(answer)) == (503, "unavailable") and answer.headers["retry-after"]
        assert time.monotonic() - began_s < 5
        assert "Prefect server" in answer.json()["detail"] and "127.0.0.1" not in answer.text
        began_s = time.monotonic()
        for path in ("/status?id=0b8f1a52-6c11-4f0e-9a3f-0a4f7f6b6a10", "/processes"):
            assert (await client.get(path, headers=bearer(TOKEN))).status_code == 503
        assert time.monotonic() - began_s < 2
        assert (await client.get("/health")).status_code == 200

    calls(settings(), called)


def test_no_server_named() -> None:
    """Prefect would start one of its own."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    async def called(client: httpx.AsyncClient) -> None:
        raise AssertionError

    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(UsageError, match="PREFECT_API_URL is not set"),
    ):
        calls(settings(), called)


def test_the_program_refuses_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, before anything listens."""
    from api.__main__ import main

    monkeypatch.setattr("sys.argv", ["api"])
    for name, value in (("POORWILL_API_TOKENS", "alice:short"), ("POORWILL_API_TOKENS", f"alice:{ONE}:")):
        monkeypatch.setenv(name, value)
        assert main() == 2
        said = capsys.readouterr().err
        assert said.startswith("api: POORWILL_API_TOKENS, line 1: ") and said.count("\n") == 1 and ONE not in said
