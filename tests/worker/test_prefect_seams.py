"""The private parts of Prefect that the worker type relies on: a test fails when one has gone."""

from __future__ import annotations

import inspect

from prefect import flow_engine
from prefect._internal import control_listener
from prefect.client.schemas.objects import FlowRun, Worker
from prefect.workers.base import BaseWorker

from worker import GpuWorker

OVERRIDDEN = {
    "_submit_scheduled_flow_runs": ["self", "flow_run_response"],
    "_submit_run": ["self", "flow_run"],
    "_release_limit_slot": ["self", "flow_run_id"],
    "_cancel_run": ["self", "flow_run_id"],
}
ATTRIBUTES = ["_cancelling_observer", "_last_polled_time"]


def test_the_methods_are_there_and_are_used() -> None:
    """With the same parameters, and called by Prefect's own worker: else an override would be dead."""
    source = inspect.getsource(BaseWorker)
    for name, parameters in OVERRIDDEN.items():
        assert list(inspect.signature(getattr(BaseWorker, name)).parameters) == parameters
        assert f"self.{name}" in source, name
    for name in ATTRIBUTES:
        assert f"self.{name}" in source or hasattr(BaseWorker, name), name


def test_the_engine_runs_a_run_by_its_id() -> None:
    """As the resident process does."""
    assert list(inspect.signature(flow_engine.load_flow_run).parameters) == ["flow_run_id"]
    assert list(inspect.signature(flow_engine.load_flow).parameters) == ["flow_run"]
    assert {"flow_run", "return_type", "error_logger"} <= set(inspect.signature(flow_engine.run_flow).parameters)
    assert list(inspect.signature(control_listener._set_intent).parameters) == ["value"]


def test_the_server_has_the_fields_that_recovery_reads() -> None:
    """Of runs and of workers."""
    assert {"labels", "run_count", "expected_start_time", "job_variables", "state"} <= set(FlowRun.model_fields)
    assert {"name", "last_heartbeat_time", "heartbeat_interval_seconds"} <= set(Worker.model_fields)


def test_prefect_finds_the_type() -> None:
    """By the entry point, as `prefect worker start --type gpu` does."""
    assert BaseWorker.get_worker_class_from_type("gpu") is GpuWorker
