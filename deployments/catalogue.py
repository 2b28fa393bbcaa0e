"""Every deployment of Poorwill, declared once: what `deployments.registration` puts on a server and prefect.yaml says.

Nothing of Prefect is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from poorwill import defaults

POOL = defaults.GPU_POOL
GENERATE, CONTROL = defaults.GENERATE_QUEUE, "control"
DEPLOYMENT = "poorwill"
CONTROL_TIMEOUT_S = 86_400


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a deployment runs by itself: `cron`, or every `interval_s`. Off until an operator switches it on, in the UI
    or by naming its slug in POORWILL_SCHEDULES."""

    slug: str
    cron: str = ""
    interval_s: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def when(self) -> dict[str, Any]:
        """As Prefect takes it, in JSON and in YAML."""
        rule: dict[str, Any] = {"cron": self.cron} if self.cron else {"interval": self.interval_s}
        return {**rule, "timezone": "UTC"}


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `runs` runs of one deployment at once; one more waits, or is cancelled."""

    runs: int
    collision: Literal["ENQUEUE", "CANCEL_NEW"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """`module` is of flows/, and its function has the same name. `parameters` fill in the form."""

    module: str
    description: str
    tags: tuple[str, ...]
    gpus: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)
    limit: Limit | None = None
    schedules: tuple[Schedule, ...] = ()

    @property
    def entrypoint(self) -> str:
        """A module's path: a file's would put the folder flows/ first on sys.path, before packages of PyPI."""
        return f"flows.{self.module}.{self.module}"

    @property
    def flow_name(self) -> str:
        """As Prefect shows it."""
        return self.module.replace("_", "-")

    @property
    def queue(self) -> str:
        """Two queues, so that no number of waiting videos keeps a machine from being put to sleep."""
        return GENERATE if self.gpus else CONTROL

    @property
    def job_variables(self) -> dict[str, int]:
        """Of the worker type `gpu`. Machines hold more than two hours can carry; the pool's default is for videos."""
        return {"gpus": self.gpus} if self.gpus else {"gpus": 0, "run_timeout_s": CONTROL_TIMEOUT_S}


# A second one at the same time would only do the same work.
ALONE = Limit(1, "CANCEL_NEW")

CATALOGUE: tuple[Deployment, ...] = (
    Deployment("generate", "Make a video from an image, on a GPU that is awake.", ("video",), gpus=1),
    Deployment(
        "hibernate",
        "Put a machine to sleep: compress its workspace into a store, prove that it can be read back, destroy it.",
        ("machines",),
        parameters={"store": defaults.STORE},
    ),
    Deployment(
        "wake",
        "Restore a snapshot onto a new machine, or onto one that exists.",
        ("machines",),
        parameters={"store": defaults.STORE},
    ),
    Deployment(
        "snapshot",
        "Keep a machine's workspace in a store, and leave the machine running.",
        ("machines",),
        parameters={"store": defaults.STORE},
    ),
    Deployment(
        "replicate",
        "Wake one snapshot on several new machines at once.",
        ("machines",),
        parameters={"store": defaults.STORE},
        limit=Limit(4, "ENQUEUE"),
    ),
    Deployment(
        "retention",
        "Remove the snapshots that the policy does not keep. Until dry_run is switched off it only reports them.",
        ("upkeep",),
        # The flow has no defaults for these; an operator changes them in the UI.
        parameters={
            "store": defaults.STORE,
            "keep_last": 3,
            "keep_daily": 7,
            "keep_weekly": 4,
            "keep_monthly": 6,
            "dry_run": True,
        },
        limit=ALONE,
        schedules=(Schedule("retention-daily", cron="15 3 * * *"),),
    ),
    Deployment(
        "verify",
        "Read a share of all snapshots back and check every hash, so that each byte is looked at in turn.",
        ("upkeep",),
        parameters={"store": defaults.STORE},
        limit=ALONE,
        schedules=(Schedule("verify-daily", cron="15 4 * * *"),),
    ),
    Deployment(
        "reap",
        "Report the machines that bill, and the orphans among them; with destroy, end the orphans.",
        ("upkeep",),
        limit=Limit(4, "ENQUEUE"),  # one a provider
        schedules=(
            Schedule("reap-vast-hourly", cron="5 * * * *", parameters={"provider": "vast"}),
            Schedule("reap-ec2-hourly", cron="10 * * * *", parameters={"provider": "ec2"}),
        ),
    ),
    Deployment(
        "autosleep",
        "Put unused machines to sleep. Until dry_run is switched off it only reports them.",
        ("upkeep",),
        parameters={"store": defaults.STORE, "dry_run": True},
        limit=ALONE,
        schedules=(Schedule("autosleep", interval_s=300),),
    ),
    Deployment(
        "delete", "Remove one snapshot; what others use is kept.", ("upkeep",), parameters={"store": defaults.STORE}
    ),
    Deployment(
        "deliver",
        "Send a signed message about the end of a run to a webhook, and try again until it is accepted.",
        ("messages",),
    ),
    Deployment(
        "wake_on_demand",
        "Wake a named machine when runs of generate wait and no GPU is awake; an automation starts it.",
        ("machines",),
        parameters={"store": defaults.STORE},
        limit=Limit(4, "ENQUEUE"),
    ),
)


def schedule_slugs() -> tuple[str, ...]:
    return tuple(schedule.slug for deployment in CATALOGUE for schedule in deployment.schedules)
