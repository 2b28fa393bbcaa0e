"""What is answered when a request cannot be done: RFC 9457 problems, whose `type` says whose turn it is.

https://poorwill.dev/problems/<kind>
user's       invalid-request  unauthorized  not-found  conflict  too-large  too-many-requests  refused
transient    unavailable  queue-full  timeout          the same request may succeed after Retry-After
ours         internal
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from poorwill import errors
from poorwill.errors import PoorwillError, masked, one_line

TYPE_PREFIX = "https://poorwill.dev/problems/"
MEDIA_TYPE = "application/problem+json"
DETAIL_CHARACTERS_MAX = 2000
ERRORS_MAX = 20
RETRY_AFTER_S = 5

TITLES = {
    "invalid-request": "The request is not valid",
    "unauthorized": "A valid token is needed",
    "not-found": "There is no such thing",
    "conflict": "The request contradicts an earlier one",
    "too-large": "The request is too large",
    "too-many-requests": "Too many requests",
    "refused": "It was refused, so that nothing is lost",
    "unavailable": "Something needed does not answer",
    "queue-full": "The queue is full",
    "timeout": "It did not end in time",
    "internal": "The gateway failed",
}
_OF_ERRORS: tuple[tuple[type[PoorwillError], int, str], ...] = (
    (errors.DeadlineExceeded, 504, "timeout"),
    (errors.TransientError, 503, "unavailable"),
    (errors.UsageError, 422, "invalid-request"),
    (errors.NotFound, 404, "not-found"),
    (errors.Refused, 409, "refused"),
    (errors.HostRefused, 409, "refused"),
    (errors.HostUnfit, 409, "refused"),
    (errors.WorkspaceError, 409, "refused"),
    (errors.Unsupported, 409, "refused"),
    (errors.OutOfMemory, 409, "refused"),
    (errors.Cancelled, 409, "refused"),
    # Keys and settings of the operator, and damage: nothing that the caller could change.
    (PoorwillError, 502, "internal"),
)
_OF_STATUS = {401: "unauthorized", 404: "not-found", 409: "conflict", 413: "too-large", 429: "too-many-requests",
              503: "unavailable", 504: "timeout"}  # fmt: skip


class Problem(Exception):
    """Raised anywhere below a request, and answered as problem+json. `detail` is one line for a person, without a
    secret; `extra` are further members of the answer. `retry_after_s` becomes the header Retry-After."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str | None = None,
        detail: str = "",
        *,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.title = status, kind, title or TITLES[kind]
        self.detail, self.extra = one_line(masked(detail))[:DETAIL_CHARACTERS_MAX], extra
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))

    def document(self) -> dict[str, Any]:
        """The answer's body."""
        return {
            "type": TYPE_PREFIX + self.kind,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }

    def response(self, request_id: str | None = None) -> JSONResponse:
        document = self.document() | ({"request_id": request_id} if request_id else {})
        return JSONResponse(document, self.status, self.headers, MEDIA_TYPE)


def unavailable(detail: str, retry_after_s: float = RETRY_AFTER_S) -> Problem:
    """Something that the gateway needs does not answer: the caller is to try again."""
    return Problem(503, "unavailable", detail=detail, retry_after_s=retry_after_s)


def problem_of(error: PoorwillError) -> Problem:
    """The answer for an error of Poorwill's tree."""
    status, kind = next((status, kind) for root, status, kind in _OF_ERRORS if isinstance(error, root))
    later = RETRY_AFTER_S if status in (503, 504) else None
    return Problem(status, kind, detail=error.message, retry_after_s=later, error=type(error).__name__)


def kind_of(error_type: str) -> str:
    """The kind of problem that an error's type name stands for: how a failed run's error is classed."""
    named = errors.error_type(error_type)
    return problem_of(named("")).kind if named is not None else "internal"


class InvalidField(BaseModel):
    """One field of a request that is not valid."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """An RFC 9457 problem."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=[TYPE_PREFIX + "not-found"])
    title: str = Field(examples=[TITLES["not-found"]])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["there is no run 5f0e..."])
    request_id: str | None = None
    errors: list[InvalidField] | None = Field(default=None, description="With invalid-request: which fields.")


_DOCUMENTED = {
    401: "No valid token.",
    404: "There is no such thing.",
    409: "It contradicts an earlier request, or would lose something.",
    413: "The request is too large.",
    422: "The request is not valid.",
    429: "Too many requests, or the queue is full. See Retry-After.",
    502: "The gateway, or what its operator configured, failed.",
    503: "Something needed does not answer. See Retry-After.",
    504: "It did not end in time. See Retry-After.",
}


EVERYWHERE = (401, 413, 422, 429, 503)


def documented(*statuses: int, everywhere: tuple[int, ...] = EVERYWHERE) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route: its problems, beside those of every route that needs a token."""
    return {
        status: {
            "model": ProblemDocument,
            "description": _DOCUMENTED[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
        for status in sorted({*everywhere, *statuses})
    }


def install(app: FastAPI) -> None:
    """Every error becomes a problem; what nobody expected, in `api.http.middleware`."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(PoorwillError, _on_poorwill_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)


def request_id_of(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return error.response(request_id_of(request))


async def _on_poorwill_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, PoorwillError)
    return problem_of(error).response(request_id_of(request))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    """What was given is not repeated: it may be a secret, or megabytes."""
    assert isinstance(error, RequestValidationError)
    found = [
        {
            "field": ".".join(str(part) for part in one["loc"][1:])[:200] or str(one["loc"][0]),
            "message": one["msg"][:500],
        }
        for one in error.errors()[:ERRORS_MAX]
    ]
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in found)
    return Problem(422, "invalid-request", detail=detail, errors=found).response(request_id_of(request))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself answers: no such path, another method."""
    assert isinstance(error, HTTPException)
    ours = "internal" if error.status_code >= 500 else "invalid-request"
    kind = _OF_STATUS.get(error.status_code, ours)
    title = None if kind in _OF_STATUS.values() else HTTPStatus(error.status_code).phrase
    problem = Problem(error.status_code, kind, title, str(error.detail), headers=error.headers)
    return problem.response(request_id_of(request))
