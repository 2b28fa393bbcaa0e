"""From a run's end to its user's program: automation, a run of `deliver` and a receiver that fails at first."""

from __future__ import annotations

import json

import pytest
from prefect.client.schemas.filters import FlowRunFilter

from deployments.automations.apply import FOLDER, apply
from flows.deliver import deliver
from flows.generate import generate
from tests.unit.web.receiver import MessageReceiver
from tests.unit.web.test_webhook import documented
from tests.worker.rig import Rig

SECRET = "whsec-0123456789abcdef"


@pytest.mark.timeout(240)
def test_the_end_of_a_run_is_delivered_by_webhook(lane: Rig) -> None:
    """Once for a run that fails, with an id that stays the same while its receiver answers 500, 500, 200; its operator
    is notified as well. The run of `deliver` shows how it went."""
    delivering = lane.deploy(deliver, gpus=0)
    deployment = lane.deploy(generate)
    with MessageReceiver(500, 500, 200) as users, MessageReceiver() as operators:
        environment = {
            "POORWILL_WEBHOOK_SECRET": SECRET,
            "POORWILL_WEBHOOK_ALLOW": users.address,
            "POORWILL_NOTIFY_APPRISE_URL": f"json://{operators.address}/",
        }
        apply(FOLDER, environment)
        try:
            given = {"image_url": "data:,", "prompt": "", "model": "no-such-model", "webhook_url": users.url()}
            run = lane.client.create_flow_run_from_deployment(deployment, parameters=given)
            messages = users.wait(3)
            notified = json.loads(operators.wait(1)[0].body)
            of_it = FlowRunFilter.model_validate({"deployment_id": {"any_": [str(delivering)]}})
            found = [each for each in lane.client.read_flow_runs(flow_run_filter=of_it) if each.parameters.get("run")]
            assert [each.parameters for each in found] == [{"run": str(run.id)}]
            assert lane.ended(found[0].id) == ["COMPLETED"]
        finally:
            for automation in lane.client.read_automations():
                lane.client.delete_automation(automation.id)
    assert notified["title"] == "Poorwill: generate-no-such-model failed" and "no media block" in notified["message"]
    assert len({message.headers["poorwill-delivery"] for message in messages}) == 1 and len(messages) == 3
    verified = documented()
    assert all(verified(message.headers["poorwill-signature"], message.body, SECRET) for message in messages)
    body = json.loads(messages[-1].body)
    assert (body["id"], body["status"], body["error"]["type"]) == (str(run.id), "failed", "NotFound")
