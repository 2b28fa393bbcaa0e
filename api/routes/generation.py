"""Videos from images, and runs of all flows."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import AfterValidator, AnyHttpUrl, BaseModel, ConfigDict, Field

from api.deps import IdempotencyKey, SharedGateway, caller
from api.http.problems import documented
from api.runs.run_view import RunView
from poorwill.runs import Status

router = APIRouter(tags=["generation"], dependencies=[Depends(caller)])
RUN_ID = "0b8f1a52-6c11-4f0e-9a3f-0a4f7f6b6a10"


def _without_nul(text: str) -> str:
    if "\0" in text:  # which PostgreSQL cannot store
        raise ValueError("must not hold the character U+0000")
    return text


Text = Annotated[str, AfterValidator(_without_nul)]


class GenerationRequest(BaseModel):
    """What a video is made from. Fields that are left out have the model's defaults."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"image_url": "https://example.com/cat.png", "prompt": "the cat turns its head, slow zoom", "seed": 7}
            ]
        },
    )

    image_url: Text = Field(
        min_length=1, description="http, https, s3 or data URL of a PNG, JPEG or WebP picture: the first frame."
    )
    prompt: Text = Field("", max_length=4000, description="What is to happen.")
    negative_prompt: Text | None = Field(None, max_length=4000, description="What is not to be seen.")
    model: Text | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9/-]{0,119}$", description="Name of a video model's block."
    )
    seed: int | None = Field(None, ge=0, lt=2**53)
    num_frames: int | None = Field(None, ge=1, le=10_000)
    height: int | None = Field(None, ge=16, le=16_384)
    width: int | None = Field(None, ge=16, le=16_384)
    steps: int | None = Field(None, ge=1, le=10_000)
    guidance: float | None = Field(None, ge=0, le=1000, allow_inf_nan=False)
    fps: float | None = Field(None, gt=0, le=120, allow_inf_nan=False)
    timeout_s: int | None = Field(None, ge=1, le=86_400, description="After this long the run stops at its next step.")
    webhook_url: AnyHttpUrl | None = Field(None, description="Is sent the run's end, signed.")


class Accepted(BaseModel):
    """A run that was created."""

    id: UUID = Field(examples=[RUN_ID])
    status: Status
    position: int | None = Field(None, examples=[1])


@router.post(
    "/run",
    status_code=202,
    response_model=Accepted,
    response_model_exclude_none=True,
    responses={200: {"model": Accepted, "description": "The run of an earlier request with this Idempotency-Key."},
               **documented(409)},
)  # fmt: skip
async def run(asked: GenerationRequest, key: IdempotencyKey, gateway: SharedGateway, response: Response) -> Any:
    """Make a video: creates a run of the flow `generate` and answers at once."""
    parameters = asked.model_dump(mode="json", exclude_none=True)
    parameters |= {"model": asked.model or gateway.settings.model, "media": gateway.settings.media}
    tags = ["webhook"] if asked.webhook_url is not None else []
    view, is_new = await gateway.runs.create("generate", parameters, idempotency_key=key, tags=tags)
    response.status_code = 202 if is_new else 200
    response.headers["Location"] = f"/status?id={view.id}"
    return view


@router.get("/status", response_model_exclude_none=True, responses=documented(404, 502))
async def status(
    gateway: SharedGateway, id: Annotated[UUID, Query(description="What `POST /run` answered.", examples=[RUN_ID])]
) -> RunView:
    """Where a run is: its position in the queue, its step and progress, its video, or why there is none."""
    return await gateway.runs.view(id)


class Processes(BaseModel):
    """A page of runs that are not over, in the order in which they were to begin."""

    processes: list[RunView]
    next_offset: int | None = Field(None, description="Where the next page begins; absent on the last one.")


@router.get("/processes", response_model_exclude_none=True, responses=documented(404, 502))
async def processes(
    gateway: SharedGateway,
    flow: Annotated[str, Query(pattern=r"^[a-z][a-z-]{0,39}$", description="Runs of this flow.")] = "generate",
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    offset: Annotated[int, Query(ge=0, le=100_000)] = 0,
) -> Processes:
    """What is queued and running."""
    found = await gateway.runs.active(flow, limit, offset)
    return Processes(processes=found, next_offset=offset + limit if len(found) == limit else None)


@router.delete("/processes/{id}", response_model_exclude_none=True, responses=documented(404, 502))
async def cancel(gateway: SharedGateway, id: Annotated[UUID, Path(examples=[RUN_ID])]) -> RunView:
    """Cancel a run: it never begins, or ends at its next step. Idempotent; a run that is over stays what it is."""
    return await gateway.runs.cancel(id)


@router.get("/runs/{id}", response_model_exclude_none=True, responses=documented(404, 502))
async def show(gateway: SharedGateway, id: Annotated[UUID, Path(examples=[RUN_ID])]) -> RunView:
    """A run of any flow: the same as `/status`."""
    return await gateway.runs.view(id)
