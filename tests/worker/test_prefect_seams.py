"""The private parts of Prefect that the worker type relies on: a test fails when one has gone."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from prefect import flow_engine
from prefect._internal import control_listener
from prefect.client.schemas.objects import FlowRun, Worker
from prefect.workers.base import BaseWorker

import worker
from worker import GpuWorker

OVERRIDDEN = {
    "_submit_scheduled_flow_runs": ["self", "flow_run_response"],
    "_submit_run": ["self", "flow_run"],
    "_cancel_run": ["self", "flow_run_id"],
}
READ = ["_cancelling_observer"]
IMPORTED = ["prefect._internal"]
PUBLIC = ["get_flow_run_logger", "is_worker_still_polling", "get_and_submit_flow_runs", "work_pool", "limiter"]


def test_the_methods_are_there_and_are_used() -> None:
    """With the same parameters, and called by Prefect's own worker: else an override would be dead."""
    source = inspect.getsource(BaseWorker)
    for name, parameters in OVERRIDDEN.items():
        assert list(inspect.signature(getattr(BaseWorker, name)).parameters) == parameters
        assert f"self.{name}" in source, name
    for name in (*PUBLIC, *READ):
        assert f"self.{name}" in source, name


def test_no_other_private_part_is_used() -> None:
    """Of Prefect's worker no other underscored method or attribute, and of Prefect no other private module."""
    named = ast.walk(ast.parse(inspect.getsource(BaseWorker)))
    theirs = {node.attr for node in named if isinstance(node, ast.Attribute)} | set(dir(BaseWorker))
    theirs -= {"_description", "_display_name"}  # every type of worker is documented to set these
    ours, imported = set[str](), set[str]()
    for path in Path(worker.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prefect"):
                imported.add(str(node.module))
            elif path.stem == "gpu_worker" and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                ours.add(node.name)
            elif path.stem == "gpu_worker" and isinstance(node, ast.Attribute):
                ours.add(node.attr)
    used = {name for name in ours & theirs if name.startswith("_") and not name.startswith("__")}
    assert used == {*OVERRIDDEN, *READ}
    assert sorted(module for module in imported if "._" in module) == IMPORTED


def test_the_engine_runs_a_run_by_its_id() -> None:
    """As the resident process does."""
    assert list(inspect.signature(flow_engine.load_flow_and_flow_run).parameters) == ["flow_run_id"]
    assert {"flow_run", "return_type", "error_logger"} <= set(inspect.signature(flow_engine.run_flow).parameters)
    assert list(inspect.signature(control_listener._set_intent).parameters) == ["value"]


def test_the_server_has_the_fields_that_recovery_reads() -> None:
    """Of runs and of workers."""
    assert {"labels", "run_count", "expected_start_time", "job_variables", "state"} <= set(FlowRun.model_fields)
    assert {"name", "last_heartbeat_time", "heartbeat_interval_seconds"} <= set(Worker.model_fields)


def test_prefect_finds_the_type() -> None:
    """By the entry point, as `prefect worker start --type gpu` does."""
    assert BaseWorker.get_worker_class_from_type("gpu") is GpuWorker
