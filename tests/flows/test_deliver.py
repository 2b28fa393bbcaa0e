"""The flow deliver on a real Prefect server, to a real receiver: its messages, and what a failed delivery shows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import Running
from pydantic import SecretStr

import blocks
from deployments.servers.prefect_server import PrefectServer
from flows.deliver import Notice, deliver
from flows.generate import generate
from flows.stages import ended, failed
from poorwill.errors import Cancelled, DeviceFailed
from poorwill.media.delivery import Files
from poorwill.media.delivery import deliver as upload
from poorwill.store.local import LocalStore
from tasks.events import STILL_BILLING, WEBHOOK_UNDELIVERED
from tests.support.told_events import told
from tests.unit.web.receiver import MessageReceiver
from tests.unit.web.test_webhook import documented

SECRET = "whsec-0123456789abcdef"
FACTS = {"model": "m", "parameters": {}, "image": {}, "video": {}, "timings_ms": {}, "inference_began_at": 0.0}
_numbers = itertools.count()


@flow(name="asked", persist_result=False)
def asked(webhook_url: str | None, how: str, media: str = "media") -> Any:
    """A run that ends as it is asked to."""
    if how == "failed":
        return failed(DeviceFailed("the GPU fell off the bus at https://host/x?token=told-to-nobody"))
    return ended(Cancelled("somebody stopped it")) if how == "cancelled" else None


@pytest.fixture
def receiver() -> Iterator[MessageReceiver]:
    with MessageReceiver() as listening:
        yield listening


@pytest.fixture
def block(prefect_server: PrefectServer, receiver: MessageReceiver) -> str:
    """The name of a webhook block that may send to the receiver, in two attempts."""
    return saved(receiver)


def saved(receiver: MessageReceiver, name: str = "", **fields: Any) -> str:
    name = name or f"hooks-{next(_numbers)}"
    given = {"secrets": [SecretStr(SECRET)], "allow": [receiver.address], "attempts_max": 2, **fields}
    blocks.Webhook(**given).save(name, overwrite=True)
    return name


def run_of(webhook_url: str | None, how: str = "done", **other: Any) -> str:
    """The id of a run that has ended."""
    state: State[Any] = asked(webhook_url, how, return_state=True, **other)
    assert state.state_details.flow_run_id is not None
    return str(state.state_details.flow_run_id)


def test_the_message_of_a_run_that_made_a_video(block: str, receiver: MessageReceiver, tmp_path: Path) -> None:
    """Its id, status, times and the video's URL, signed; sent again, it has the same delivery id."""
    blocks.Media(store=blocks.LocalStore(directory=str(tmp_path / "store"))).save(block)
    run = run_of(receiver.url(), media=block)
    files = [tmp_path / name for name in ("video", "poster", "sheet")]
    for file in files:
        file.write_bytes(b"not looked at here")
    upload(LocalStore(tmp_path / "store"), run, Files(*files), FACTS)
    result = deliver(run=run, webhook=block)
    assert result["status"] == 200 and result["attempts"] == 1
    deliver(run=run, webhook=block)
    first, second = receiver.messages
    assert first.headers["poorwill-delivery"] == second.headers["poorwill-delivery"] == result["delivery"]
    assert documented()(first.headers["poorwill-signature"], first.body, SECRET)
    body = json.loads(first.body)
    assert (body["event"], body["id"], body["flow"], body["status"]) == ("run.done", run, "asked", "done")
    assert body["url"].endswith("/video.mp4") and body["poster_url"].endswith("/poster.jpg") and "error" not in body
    assert body["created_at"] <= body["started_at"] <= body["ended_at"]


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("failed", {"type": "DeviceFailed", "message": "the GPU fell off the bus at https://host/x?***"}),
        ("cancelled", None),
    ],
)
def test_the_message_of_a_run_without_a_video(block: str, receiver: MessageReceiver, how: str, error: Any) -> None:
    """The error's type and message for one that failed, without secrets, and no error for one that was stopped."""
    deliver(run=run_of(receiver.url(), how), webhook=block)
    body = json.loads(receiver.messages[0].body)
    assert (body["event"], body["status"], body.get("error")) == (f"run.{how}", how, error)
    assert "url" not in body


def test_runs_without_a_message(block: str, receiver: MessageReceiver) -> None:
    """A run without a webhook_url, and one that was begun again, whose next end will have one."""
    without, again = run_of(None), run_of(receiver.url())
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(again, Running(), force=True)
    for run in (without, again):
        state = deliver(run=run, webhook=block, return_state=True)
        assert state.is_completed() and "nothing to tell" in str(state.message)
    assert not receiver.messages


def test_a_notice_goes_to_the_operators_url(receiver: MessageReceiver) -> None:
    """As it is, signed, to the block's own URL; the same event has the same delivery id."""
    block = saved(receiver, url=SecretStr(receiver.url("/ops")))
    notice = Notice(id="e-1", event=STILL_BILLING, about="trainer", message="vast 123 is still billing")
    assert deliver(notice=notice, webhook=block) == deliver(notice=notice, webhook=block)
    assert {message.path for message in receiver.messages} == {"/ops"}
    assert json.loads(receiver.messages[0].body) == notice.model_dump()


def test_a_failed_delivery_fails_the_run_and_emits_an_event(receiver: MessageReceiver) -> None:
    """A receiver that is down: the run fails with one line that names host and attempts and nothing else of the URL,
    and an event says so. A notice about such an event emits no further one."""
    block = saved(receiver, url=SecretStr(receiver.url()), attempts_max=1)
    run = run_of(receiver.url(), "failed")
    receiver.close()
    state = deliver(run=run, webhook=block, return_state=True)
    assert state.is_failed() and str(state.message).startswith("SourceUnavailable: the connection to 127.0.0.1 failed")
    assert "given up after 1 attempts" in str(state.message) and "told-to-nobody" not in str(state.message)
    for event in (WEBHOOK_UNDELIVERED, STILL_BILLING):
        notice = Notice(id=event, event=event, message="told already")
        assert deliver(notice=notice, webhook=block, return_state=True).is_failed()
    billing, ended_run = told(WEBHOOK_UNDELIVERED, "webhook", block, count=2)
    assert ended_run["run"] == run and billing["run"] is None
    assert ended_run["message"].startswith(f"the end of run {run} was not delivered: the connection to 127.0.0.1")
    assert billing["message"].startswith(f"the event {STILL_BILLING} was not delivered: the connection to 127.0.0.1")


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({}, "UsageError: deliver tells either"),
        ({"run": "x"}, "UsageError: 'x' is not the id of a run"),
        ({"run": str(uuid4())}, "NotFound: there is no run"),
        ({"notice": Notice(id="e", event="e", message="m"), "webhook": "none"}, "NotFound: there is no webhook block"),
    ],
)
def test_what_cannot_be_asked(prefect_server: PrefectServer, parameters: dict[str, Any], why: str) -> None:
    state = deliver(**parameters, return_state=True)
    assert state.is_failed() and str(state.message).startswith(why)


def test_a_bad_webhook_url_is_refused_before_the_run_works(receiver: MessageReceiver) -> None:
    """`generate` fails at once for a webhook_url inside the network or that is not a URL, and on a server without a
    webhook block to sign with."""

    def refused(url: str) -> str:
        state = generate("data:,", "", model="no-model", media="no-media", webhook_url=url, return_state=True)
        assert state.is_failed()
        return str(state.message)

    with get_client(sync_client=True) as client:
        for document in client.read_block_documents():
            if document.name == "webhooks":
                client.delete_block_document(document.id)
    assert refused(receiver.url()).startswith("NotFound: there is no webhook block named 'webhooks': create one")
    saved(receiver, "webhooks")
    assert refused("http://169.254.169.254/").startswith("Refused: webhook_url: 169.254.169.254 may not be reached")
    assert refused("example.com/done").startswith("UsageError: webhook_url: the URL begins with")
    assert "there is no media block" in refused(receiver.url())


def test_secrets_are_stored_and_not_shown(receiver: MessageReceiver) -> None:
    """They survive being saved and loaded, and the server shows them only with include_secrets."""
    name = saved(receiver, url=SecretStr(receiver.url()), secrets=[SecretStr(SECRET), SecretStr(SECRET + "2")])
    assert list(blocks.Webhook.load(name).receiver().secrets) == [SECRET, SECRET + "2"]
    with get_client(sync_client=True) as client:
        shown = client.read_block_document_by_name(name, "poorwill-webhook", include_secrets=False)
    assert "whsec" not in str(shown.data) and "told-to-nobody" not in str(shown.data)
