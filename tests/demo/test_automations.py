"""Automations as the files describe them, on a real Prefect server, with a real receiver of their messages."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore
from prefect.states import Cancelled, Completed, Crashed, Failed

from deployments.automations.apply import FOLDER, Change, apply
from deployments.automations.files import read
from deployments.automations.notification_blocks import described
from deployments.registration.gpu_pool import create_pool, deploy
from deployments.servers.prefect_server import PrefectServer
from flows.deliver import Notice, deliver
from flows.generate import generate
from poorwill.errors import UsageError
from tasks.events import STILL_BILLING, VERIFICATION_FAILED, WEBHOOK_UNDELIVERED, emit
from tests.unit.web.receiver import MessageReceiver
from tests.worker.rig import until

POOL, SECRET = "automated", "whsec-0123456789abcdef"
LONG = "Corrupt:" + 4_000 * "'{{<&"
BLOCKS = ("slack-webhook", "custom-webhook", "poorwill-webhook")


@flow
def hibernate() -> None:
    """Its runs are created, and set to a final state; none is ever executed."""


@pytest.fixture
def client(prefect_server: PrefectServer) -> Iterator[SyncPrefectClient]:
    """A client of a server that has a pool without a worker, no automation, and none of the blocks that they use."""
    create_pool(POOL)
    with get_client(sync_client=True) as opened:
        _clear(opened)
        yield opened
        _clear(opened)


def _clear(client: SyncPrefectClient) -> None:
    for automation in client.read_automations():
        client.delete_automation(automation.id)
    for document in client.read_block_documents():
        if document.block_type is not None and document.block_type.slug in BLOCKS:
            client.delete_block_document(document.id)


@pytest.fixture
def receiver() -> Iterator[MessageReceiver]:
    with MessageReceiver() as listening:
        yield listening


def everything(receiver: MessageReceiver) -> dict[str, str]:
    """Variables that switch on every notification. Apprise posts JSON in the place of Slack's format."""
    return {
        "POORWILL_NOTIFY_APPRISE_URL": f"json://{receiver.address}/apprise",
        "POORWILL_NOTIFY_WEBHOOK_URL": receiver.url("/ops"),
        "POORWILL_NOTIFY_WEBHOOK_SECRET": SECRET,
        "POORWILL_NOTIFY_SUCCESS_OF": "wake,hibernate",
        "POORWILL_WEBHOOK_SECRET": SECRET,
    }


def ended(client: SyncPrefectClient, deployment: UUID, state: State[Any], **parameters: Any) -> FlowRun:
    """A run of that deployment that no worker took, set to a final state."""
    run = client.create_flow_run_from_deployment(deployment, parameters=parameters)
    client.set_flow_run_state(run.id, state, force=True)
    return run


def deliveries(
    client: SyncPrefectClient, deployment: UUID, before: Collection[FlowRun], count: int = 1
) -> list[FlowRun]:
    """The runs of the deployment that were not there before, once there are `count`."""
    of_it = FlowRunFilter.model_validate({"deployment_id": {"any_": [str(deployment)]}})
    known = {run.id for run in before}

    def look() -> list[FlowRun]:
        found = [run for run in client.read_flow_runs(flow_run_filter=of_it) if run.id not in known]
        return found if len(found) >= count else []

    return until(look, f"{count} runs of deliver") if count else look()


def by_name(changes: list[Change]) -> dict[str, str]:
    return {change.name.removeprefix("Poorwill: "): change.what for change in changes}


def test_without_variables_every_automation_is_skipped(client: SyncPrefectClient) -> None:
    """Nothing is made, and each skipped automation names what is missing."""
    changes = apply(FOLDER, {})
    assert {change.what for change in changes} == {"skipped"} and not client.read_automations()
    why = {change.name: change.why for change in changes}
    assert "slack-webhook/poorwill" in why["Poorwill: a machine is still billing"]
    assert why["Poorwill: webhooks of runs"] == "not there: block:poorwill-webhook/webhooks"


def test_running_it_again_changes_nothing(client: SyncPrefectClient, receiver: MessageReceiver) -> None:
    """Equal ones stay, changed ones are restored; an operator's switch and other automations are left alone."""
    deploy(deliver, pool=POOL)
    environment = everything(receiver)
    first = apply(FOLDER, environment)
    assert [change.what for change in first if change.what != "skipped"] == ["created"] * (4 + 7)
    assert [change.what for change in apply(FOLDER, environment) if change.what != "skipped"] == ["unchanged"] * (4 + 7)

    (ours,) = client.read_automations_by_name("Poorwill: a run failed")
    core = ours.model_dump(exclude={"id", "owner_resource"})
    client.create_automation(AutomationCore.model_validate({**core, "name": "Mine"}))
    edited = AutomationCore.model_validate({**core, "description": "edited", "enabled": False})
    client.update_automation(ours.id, edited)
    again = by_name(apply(FOLDER, {**environment, "POORWILL_NOTIFY_WEBHOOK_SECRET": SECRET + "2"}))
    assert [name for name, what in again.items() if what == "updated"] == ["poorwill-webhook/notify", "a run failed"]
    (ours,) = client.read_automations_by_name("Poorwill: a run failed")
    assert not ours.enabled and ours.description == "A run of a flow of Poorwill failed or crashed."
    (mine,) = client.read_automations_by_name("Mine")
    assert mine.description == ours.description and mine.enabled


def test_operators_are_notified(client: SyncPrefectClient, receiver: MessageReceiver) -> None:
    """Of failed runs, of successful ones of the chosen flows, and of each event of Poorwill: by the server's own
    notification, and by a run of `deliver` that signs the same message. A failure to deliver does not start another."""
    delivering, hibernating = deploy(deliver, pool=POOL), deploy(hibernate, pool=POOL)
    before = deliveries(client, delivering, (), 0)
    apply(FOLDER, everything(receiver))
    ended(client, delivering, Failed(message="SourceUnavailable: it was not taken"), webhook="notify")
    lost = ended(client, hibernating, Failed(message=LONG))
    silent = ended(client, hibernating, Crashed())
    kept = ended(client, hibernating, Completed())
    emit(STILL_BILLING, "machine", "trainer", "vast 123 is still billing; destroy it by hand")
    emit(VERIFICATION_FAILED, "snapshot", "trainer.20260102T030405Z-0000abcd", "part 3 is damaged")
    for _ in range(3):
        emit(WEBHOOK_UNDELIVERED, "webhook", "webhooks", "the end of run 7 was not delivered")
    unready(client)
    messages = [(message.path.partition("?")[0], json.loads(message.body)) for message in receiver.wait(8)]
    assert {body["title"]: body["message"].splitlines()[0] for path, body in messages if path == "/apprise"} == {
        f"Poorwill: {lost.name} failed": f"Failed: {LONG[:1997]}...",
        f"Poorwill: {silent.name} failed": "Crashed: no message",
        f"Poorwill: {kept.name} is done": str(client.api_url).replace("/api/", f"/runs/flow-run/{kept.id}"),
        "Poorwill: trainer is still billing": "vast 123 is still billing; destroy it by hand",
        "Poorwill: snapshot trainer.20260102T030405Z-0000abcd cannot be read": "part 3 is damaged",
        "Poorwill: a webhook was not delivered": "the end of run 7 was not delivered",
        f"Poorwill: no worker of pool {POOL} answers": f"Runs of pool {POOL} wait until a worker is started: prefect "
        f"worker start --pool {POOL}",
    }
    (unsigned,) = [body for path, body in messages if path == "/ops"]
    assert unsigned["event"] == "prefect.work-pool.not-ready" and POOL in unsigned["about"]
    signed = [run.parameters for run in deliveries(client, delivering, before, 7)]
    notices = [given["notice"] for given in signed if "notice" in given]
    assert {given["webhook"] for given in signed} == {"notify"} and len({notice["id"] for notice in notices}) == 6
    assert sorted((notice["event"], notice["message"]) for notice in notices) == [
        ("poorwill.machine.still-billing", "vast 123 is still billing; destroy it by hand"),
        ("poorwill.snapshot.verification-failed", "part 3 is damaged"),
        ("poorwill.webhook.undelivered", "the end of run 7 was not delivered"),
        ("prefect.flow-run.Completed", f"{kept.name} is done"),
        ("prefect.flow-run.Crashed", "no message"),
        ("prefect.flow-run.Failed", f"{LONG[:1997]}..."),
    ]
    for notice in notices:
        Notice.model_validate(notice)


def unready(client: SyncPrefectClient) -> None:
    """The event that the server emits two minutes after the last sign of a pool's last worker."""
    pool = client.read_work_pool(POOL)
    resource = {
        "prefect.resource.id": f"prefect.work-pool.{pool.id}",
        "prefect.resource.name": POOL,
        "prefect.work-pool.type": "gpu",
    }
    emit_event("prefect.work-pool.not-ready", resource=resource)


def test_each_end_of_generate_is_delivered(client: SyncPrefectClient) -> None:
    """One run of `deliver` for each, with its id, however the run was created and also if no worker ever took it."""
    delivering, generating = deploy(deliver, pool=POOL), deploy(generate, pool=POOL)
    before = deliveries(client, delivering, (), 0)
    apply(FOLDER, {"POORWILL_WEBHOOK_SECRET": SECRET})
    given = {"image_url": "data:,", "prompt": "", "webhook_url": "https://example.com/"}
    runs = [ended(client, generating, state, **given) for state in (Completed(), Failed(), Crashed(), Cancelled())]
    found = [run.parameters for run in deliveries(client, delivering, before, len(runs))]
    assert sorted(each["run"] for each in found) == sorted(str(run.id) for run in runs)
    assert {tuple(each) for each in found} == {("run",)}


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"POORWILL_NOTIFY_WEBHOOK_URL": "https://example.com/"}, "set POORWILL_NOTIFY_WEBHOOK_SECRET too"),
        ({"POORWILL_NOTIFY_EMAIL_TO": "a@example.com", "POORWILL_NOTIFY_SENDGRID_KEY": "k"}, "EMAIL_FROM too"),
        ({"POORWILL_WEBHOOK_ALLOW": "10.0.0.0/8"}, "needs POORWILL_WEBHOOK_SECRET"),
        ({"POORWILL_WEBHOOK_SECRET": "short"}, "POORWILL_WEBHOOK: secrets: .*16 characters"),
        ({"POORWILL_WEBHOOK_SECRET": SECRET, "POORWILL_WEBHOOK_ALLOW": "localhost"}, "not a rule for addresses"),
        ({"POORWILL_NOTIFY_TEAMS_URL": "https://example.com/"}, "POORWILL_NOTIFY_TEAMS_URL"),
    ],
)
def test_incomplete_variables_are_refused(environment: dict[str, str], why: str) -> None:
    """One line that names the variable and not its value."""
    with pytest.raises(UsageError, match=why) as caught:
        described(environment)
    assert not [value for value in environment.values() if len(value) > 9 and value in caught.value.message]


def test_a_file_with_the_users_secret(tmp_path: Path) -> None:
    """The secret that `make up` made describes a block together with allowed addresses, and none without."""
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    only = {"POORWILL_WEBHOOK_SECRET_FILE": str(file)}
    block: Any = described({**only, "POORWILL_WEBHOOK_ALLOW": "127.0.0.1:8000"})["poorwill-webhook/webhooks"]
    assert [secret.get_secret_value() for secret in block.secrets] == [SECRET] and block.allow == ["127.0.0.1:8000"]
    assert described(only) == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("automations: [", "a.yaml cannot be read"),
        ("- name: x", "expected automations"),
        ("automations: [{trigger: {}}]", "expected automations"),
        ("automations: [{name: x, trigger: {expect: [a]}, actions: [{type: fly}]}]", "automation 'x', actions.0"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match=why):
        read(tmp_path / "a.yaml", {}.get)


def test_placeholders(tmp_path: Path) -> None:
    """A value stays one text, whatever it holds; in a list it may be several; an action that lacks one is left out."""
    (tmp_path / "a.yaml").write_text(
        "automations:\n"
        "  - name: one\n"
        "    trigger: {expect: ['${EVENTS}'], posture: Reactive}\n"
        "    actions: [{type: do-nothing}, {type: run-deployment, deployment_id: '${deployment:a/b}'}]\n"
        "  - {name: two, description: '${UNSET}', trigger: {expect: [a], posture: Reactive}, actions: []}\n"
    )
    one, two = read(tmp_path / "a.yaml", {"EVENTS": "a.b, '}: {{ x }}"}.get)
    assert one.core is not None and one.core.trigger.expect == {"a.b", "'}: {{ x }}"}  # type: ignore[union-attr]
    assert [action.type for action in one.core.actions] == ["do-nothing"]
    assert two.core is None and two.missing == ("UNSET",)
