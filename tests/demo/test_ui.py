"""Poorwill in Prefect's UI, as a person uses it: a real browser on a real server, with a worker."""

from __future__ import annotations

import random
import re
from collections.abc import Container
from pathlib import Path
from uuid import UUID

import pytest
from playwright.sync_api import Error, Page, Response, expect
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun

from deployments.registration.gpu_pool import create_pool, deploy
from deployments.servers.prefect_server import PrefectServer
from deployments.servers.worker_process import GpuWorkerProcess
from flows.hibernate import hibernate
from poorwill.snapshot import limits
from tests.support import browser
from tests.support.flow_world import World
from tests.worker.rig import until

pytestmark = pytest.mark.long

POOL = "ui"
SUBMISSIONS_MAX = 5


@pytest.mark.timeout(240)
def test_hibernating_by_the_run_form(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """A person fills in the form of the deployment, with its descriptions, and presses Submit: the run is shown with
    all its parts, its report is one click away, and the machine sleeps."""
    browser.chromium()
    world = World(prefect_server, tmp_path, "trainer")
    world.machine(_make_full)
    create_pool(POOL)
    deployment = deploy(hibernate, pool=POOL)
    environment = {**prefect_server.env(), "POORWILL_GPUS": "none", "POORWILL_CONTROL_SLOTS": "1"}
    with GpuWorkerProcess(tmp_path, environment, pool=POOL), browser.page(tmp_path / "profile") as page:
        before = _runs_of(deployment)  # other tests deploy the same flow on this server
        page.goto(f"{prefect_server.base_url}/deployments/deployment/{deployment}/run")
        expect(page.get_by_text("What to keep: a directory on the machine.")).to_be_visible()
        _fill(page, "machine", world.name)
        _fill(page, "store", world.store_name)
        browser.picture(page, "hibernate-form")
        _submit(page)

        graphs: list[Response] = []
        page.on("response", lambda answer: graphs.append(answer) if "/graph-v2" in answer.url else None)
        page.get_by_role("link", name=re.compile("View run|hibernate-trainer")).first.click()
        until(lambda: _is_over(deployment, before), "the end of the run")
        page.reload()  # it would look for another state by itself, once in half a minute
        expect(page.get_by_text("Completed").first).to_be_visible()
        until(lambda: _parts_drawn(page, graphs) == limits.PARTS, "a graph with all parts")
        browser.picture(page, "hibernate-run")

        page.get_by_text("Artifacts", exact=True).first.click()
        page.get_by_text("snapshot", exact=True).first.click()
        expect(page.get_by_text(re.compile(f"Snapshot .* of {world.name}")).first).to_be_visible()
        browser.picture(page, "hibernate-artifact")
    assert world.block().status == "asleep"


def _make_full(workspace: Path) -> None:
    """Enough for all parts."""
    workspace.mkdir(parents=True, exist_ok=True)
    chunk = random.Random(1).randbytes(1 << 20)
    with open(workspace / "weights.bin", "wb") as file:
        for number in range((limits.FULL_BYTES_MIN >> 20) + 8):
            file.write(number.to_bytes(8, "little") + chunk[8:])


def _runs_of(deployment: UUID) -> dict[UUID, FlowRun]:
    only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    with get_client(sync_client=True) as client:
        return {run.id: run for run in client.read_flow_runs(deployment_filter=only)}


def _is_over(deployment: UUID, before: Container[UUID]) -> bool:
    """Of the only run that was not there before."""
    (run,) = (run for number, run in _runs_of(deployment).items() if number not in before)
    return run.state is not None and run.state.is_final()


def _parts_drawn(page: Page, graphs: list[Response]) -> int:
    """In the newest graph that the page was given."""
    page.wait_for_timeout(100)  # in which the page goes on
    try:
        nodes = graphs[-1].json()["nodes"] if graphs and graphs[-1].ok else []
    except Error:  # it was given before the page was loaded again
        return 0
    return sum(node["label"].startswith("pack_part") for _, node in nodes)


def _submit(page: Page) -> None:
    """Press the button, as a person does: once more where the server was too busy."""
    for _ in range(SUBMISSIONS_MAX):
        with page.expect_response(re.compile("/create_flow_run$")) as answered:
            page.get_by_role("button", name="Submit").click()
        if answered.value.status != 503:
            return


def _fill(page: Page, parameter: str, value: str) -> None:
    """Into the field under that label."""
    label = page.locator(".schema-form-property__label", has_text=re.compile(f"^{parameter}$"))
    page.locator(".schema-form-property").filter(has=label).locator("textarea").first.fill(value)
