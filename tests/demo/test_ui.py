"""Poorwill in Prefect's UI, as a person uses it: a real browser on a real server, with a worker."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from deployments.gpu_pool import create_pool, deploy
from deployments.prefect_server import PrefectServer
from deployments.worker_process import GpuWorkerProcess
from poorwill.snapshot import limits
from tests import browser
from tests.flow_world import World


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """With its web pages, which the server of the other tests does not serve."""
    browser.chromium()
    with PrefectServer(tmp_path_factory.mktemp("prefect-ui"), ui=True) as started, started.settings():
        yield started


@pytest.mark.timeout(240)
def test_hibernating_by_the_run_form(server: PrefectServer, tmp_path: Path) -> None:
    """A person fills in the form of the deployment, with its descriptions, and presses Submit: the run is shown with
    all its parts, its report is one click away, and the machine sleeps."""
    from flows.hibernate import hibernate

    world = World(server, tmp_path, "trainer")
    world.machine(_make_full)
    create_pool()
    deployment = deploy(hibernate)
    environment = {**server.env(), "POORWILL_GPUS": "none", "POORWILL_CONTROL_SLOTS": "1"}
    with GpuWorkerProcess(tmp_path, environment), browser.page(tmp_path / "profile") as page:
        page.goto(f"{server.ui_url}/deployments/deployment/{deployment}/run")
        expect(page.get_by_text("What to keep: a directory on the machine.")).to_be_visible()
        _fill(page, "machine", world.name)
        _fill(page, "store", world.store_name)
        browser.picture(page, "hibernate-form")
        page.get_by_role("button", name="Submit").click()

        page.get_by_role("link", name=re.compile("View run|hibernate-trainer")).first.click()
        expect(page.get_by_text("Completed").first).to_be_visible()
        with page.expect_response(re.compile("/graph-v2")) as drawn:
            page.reload()
        nodes = [node["label"] for _, node in drawn.value.json()["nodes"]]
        assert sum(label.startswith("pack_part") for label in nodes) == limits.PARTS
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


def _fill(page: Page, parameter: str, value: str) -> None:
    """Into the field under that label."""
    label = page.locator(".schema-form-property__label", has_text=re.compile(f"^{parameter}$"))
    page.locator(".schema-form-property").filter(has=label).locator("textarea").first.fill(value)
