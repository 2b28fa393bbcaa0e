"""Writes prefect.yaml from the catalogue, for those who deploy with `prefect --no-prompt deploy --all`.

python -m deployments.prefect_yaml > prefect.yaml
"""

from __future__ import annotations

import sys
from typing import Any

import yaml

from deployments.catalogue import CATALOGUE, DEPLOYMENT, POOL, Deployment, Schedule
from poorwill import __version__

HEADER = """\
# Written by `python -m deployments.prefect_yaml > prefect.yaml` from deployments/catalogue.py: change that.
#
#     prefect work-pool create gpu --type gpu
#     prefect --no-prompt deploy --all
#
# `poorwill up` and `python -m deployments.registration` deploy the same, and keep what was changed in the UI, which
# `prefect deploy` overwrites. Entrypoints are paths of modules: Poorwill is installed where the runs are.
"""


def document() -> dict[str, Any]:
    """What prefect.yaml says."""
    return {
        "name": "poorwill",
        # Nothing to fetch: without this line Prefect would have every run begin in the folder that was deployed from.
        "pull": [],
        "deployments": [_entry(deployment) for deployment in CATALOGUE],
    }


def text() -> str:
    return HEADER + str(yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=118))


def _entry(deployment: Deployment) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": DEPLOYMENT,
        "entrypoint": deployment.entrypoint,
        "version": __version__,
        "description": deployment.description,
        "tags": list(deployment.tags),
        "parameters": dict(deployment.parameters),
        "work_pool": {"name": POOL, "work_queue_name": deployment.queue, "job_variables": deployment.job_variables},
    }
    if deployment.limit is not None:
        entry["concurrency_limit"] = {"limit": deployment.limit.runs, "collision_strategy": deployment.limit.collision}
    entry["schedules"] = [_schedule(schedule) for schedule in deployment.schedules]
    return entry


def _schedule(schedule: Schedule) -> dict[str, Any]:
    entry = {"slug": schedule.slug, **schedule.when, "active": False}
    return {**entry, "parameters": dict(schedule.parameters)} if schedule.parameters else entry


if __name__ == "__main__":
    sys.stdout.write(text())
