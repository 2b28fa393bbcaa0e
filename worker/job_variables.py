"""What a work pool of type `gpu`, a deployment or a run can set: Prefect's job variables."""

from __future__ import annotations

from pathlib import Path

from prefect.workers.base import BaseJobConfiguration, BaseVariables
from pydantic import BaseModel, Field, field_validator


class RunSettings(BaseModel):
    """How one run is to be run: the same fields in a pool's form and in the configuration of a job."""

    gpus: int = Field(
        default=1, ge=0, le=1, title="GPUs", description="0: the run needs none, and takes no GPU from others."
    )
    run_timeout_s: int = Field(
        default=7200,
        ge=1,
        title="Run timeout (s)",
        description="A run that takes longer than this is ended with its process, whatever it is doing.",
    )
    queue_timeout_s: int = Field(
        default=3600,
        ge=0,
        title="Queue timeout (s)",
        description="A run that waited longer than this for a GPU fails instead of running late. 0: it waits forever. "
        "Runs that need no GPU always wait.",
    )
    cancel_grace_s: int = Field(
        default=120,
        ge=0,
        title="Cancel grace (s)",
        description="How long a cancelled run may go on to its next step before its process is killed.",
    )
    recycle_runs: int = Field(
        default=100, ge=1, title="Recycle after runs", description="After so many runs the process is replaced."
    )
    recycle_growth: float = Field(
        default=1.5,
        gt=1,
        title="Recycle at growth",
        description="The process is replaced when its memory is so many times that after its first run.",
    )
    working_dir: Path | None = Field(
        default=None, title="Working folder", description="Where runs begin. Empty: where the worker was started."
    )


class GpuJobConfiguration(RunSettings, BaseJobConfiguration):
    """How one run is to be run, on this host."""

    @field_validator("working_dir")
    @classmethod
    def _there(cls, folder: Path | None) -> Path | None:
        if folder is not None and not folder.is_dir():
            raise ValueError(f"working folder {folder} is not a folder on the worker's host")
        return folder

    def lasting_environment(self) -> dict[str, str]:
        """The environment that a warm process must have for this run; without what names the run itself."""
        return {k: v for k, v in self.env.items() if v is not None and not k.startswith("PREFECT__")}


class GpuVariables(RunSettings, BaseVariables):
    """The same, as the form of a work pool shows it."""
