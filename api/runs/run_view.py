"""A run as clients see it: its status, and what is known of a run in that status."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from api.http.problems import kind_of
from poorwill.runs import MESSAGE_CHARS_MAX, Failure, Status, status_of

REQUEST_LABEL = "poorwill.request"
"""The label of a run with the digest of its request: a repeated request has the same digest, another request with the
same Idempotency-Key has not."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is kept of a flow run: little, whatever its parameters hold."""

    id: UUID
    flow_id: UUID
    deployment_id: UUID | None
    state_type: str
    message: str
    created_at: datetime
    expected_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    request: str | None
    media: str | None
    machine: str | None
    snapshot_id: str | None

    @property
    def status(self) -> Status:
        return status_of(self.state_type)

    @property
    def step(self) -> str | None:
        """The step, if the state alone determines it."""
        return {"CANCELLING": "cancel", "PAUSED": "paused"}.get(self.state_type)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Run:
        """From a flow run as Prefect's API answers it."""
        parameters, state = document.get("parameters") or {}, document.get("state") or {}
        labels = document.get("labels") or {}
        return cls(
            id=UUID(document["id"]),
            flow_id=UUID(document["flow_id"]),
            deployment_id=UUID(document["deployment_id"]) if document.get("deployment_id") else None,
            state_type=str(document.get("state_type") or "SCHEDULED"),
            message=str(state.get("message") or "")[:MESSAGE_CHARS_MAX],
            created_at=datetime.fromisoformat(document["created"]),
            expected_at=_time(document.get("expected_start_time")),
            started_at=_time(document.get("start_time")),
            ended_at=_time(document.get("end_time")),
            request=_text(labels.get(REQUEST_LABEL)),
            media=_text(parameters.get("media")),
            machine=_text(parameters.get("machine")),
            snapshot_id=_text(parameters.get("snapshot_id") or parameters.get("snapshot")),
        )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _text(value: object) -> str | None:
    return value[:200] if isinstance(value, str) else None


class RunError(BaseModel):
    """Why a run failed."""

    type: str = Field(examples=["UsageError"], description="The error's name.")
    kind: str = Field(examples=["invalid-request"], description="Its class, named as the kinds of problems are.")
    message: str = Field(examples=["num_frames=6: must be 4k+1 for SkyReels: 5 or 9"])

    @classmethod
    def of(cls, run: Run) -> RunError:
        """Of a failed run; `internal` for an error that no flow raised on purpose."""
        failure = Failure.of_state(run.state_type, run.message)
        return cls(type=failure.type, kind=kind_of(failure.type), message=failure.message)


class RunView(BaseModel):
    """A run. What does not apply is left out."""

    id: UUID = Field(examples=["0b8f1a52-6c11-4f0e-9a3f-0a4f7f6b6a10"])
    flow: str = Field(examples=["generate"])
    status: Status
    position: int | None = Field(None, ge=1, description="While queued: 1 is the next to begin.", examples=[3])
    step: str | None = Field(
        None,
        description="While running. For generate: download, load, 'denoise 3/30', encode, upload, cancel; "
        "for other flows the task that runs.",
        examples=["denoise 3/30"],
    )
    progress: float | None = Field(None, ge=0, le=1, description="While running.", examples=[0.14])
    eta_s: float | None = Field(None, ge=0, description="Seconds to the end of the step, where known.", examples=[42])
    url: str | None = Field(None, description="Done: the video. Good for as long as the media block says.")
    poster_url: str | None = Field(None, description="Done: a picture of it.")
    error: RunError | None = Field(None, description="Failed: why.")
    machine: str | None = Field(None, description="The machine's block, for flows that work on one.")
    snapshot_id: str | None = Field(None, description="The snapshot, for flows that take or restore one.")
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @classmethod
    def of(cls, run: Run, flow: str, **more: Any) -> RunView:
        """`more`: fields of a run in its status."""
        # Prefect gives a run that was cancelled before it began a start time, too.
        began = run.status is not Status.CANCELLED or run.started_at != run.ended_at
        return cls(
            id=run.id,
            flow=flow,
            status=run.status,
            error=RunError.of(run) if run.status is Status.FAILED else None,
            machine=run.machine,
            snapshot_id=run.snapshot_id,
            created_at=run.created_at,
            started_at=run.started_at if began else None,
            ended_at=run.ended_at,
            **more,
        )
