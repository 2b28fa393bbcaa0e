"""Answers to requests that cannot be done: RFC 9457 problems. Their `type` says what helps:

https://poorwill.dev/problems/<kind>
another request    invalid-request  unauthorized  not-found  conflict  too-large  too-many-requests  refused
the same, later    unavailable  queue-full  timeout          after Retry-After
the operator       internal
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
RETRY_AFTER_S = 5

KINDS: dict[str, tuple[int, str]] = {
    "invalid-request": (422, "The request is not valid"),
    "unauthorized": (401, "A valid token is needed"),
    "not-found": (404, "There is no such thing"),
    "conflict": (409, "The request contradicts an earlier one"),
    "too-large": (413, "The request is too large"),
    "too-many-requests": (429, "Too many requests"),
    "refused": (409, "It was refused, so that nothing is lost"),
    "unavailable": (503, "Something needed does not answer"),
    "queue-full": (429, "The queue is full"),
    "timeout": (504, "It did not end in time"),
    "internal": (502, "The gateway failed"),
}
"""The usual status of each kind of problem, and its title."""
_REFUSED = (errors.Refused, errors.HostRefused, errors.HostUnfit, errors.WorkspaceError, errors.Unsupported,
            errors.OutOfMemory, errors.Cancelled)  # fmt: skip
_KIND_OF_ERROR: tuple[tuple[type[PoorwillError] | tuple[type[PoorwillError], ...], str], ...] = (
    (errors.DeadlineExceeded, "timeout"),
    (errors.TransientError, "unavailable"),
    (errors.UsageError, "invalid-request"),
    (errors.NotFound, "not-found"),
    (_REFUSED, "refused"),
    (PoorwillError, "internal"),  # keys and settings of the operator, and damage: the caller can change none of them
)
_KIND_OF_STATUS = {401: "unauthorized", 404: "not-found", 409: "conflict", 413: "too-large", 429: "too-many-requests",
                   503: "unavailable", 504: "timeout"}  # fmt: skip


class Problem(Exception):
    """Raised anywhere below a request, and answered as problem+json. `detail` is one line for a person, without a
    secret; `extra` are further members of the answer. `retry_after_s` becomes the header Retry-After. Status and title
    are those of the kind unless others are given."""

    def __init__(
        self,
        kind: str,
        detail: str = "",
        *,
        status: int | None = None,
        title: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.kind, self.status, self.title = kind, status or KINDS[kind][0], title or KINDS[kind][1]
        self.detail, self.extra = one_line(masked(detail))[:2000], extra
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))

    def response(self, request_id: str | None = None) -> JSONResponse:
        document = {"type": TYPE_PREFIX + self.kind, "title": self.title, "status": self.status, "detail": self.detail}
        document |= self.extra | ({"request_id": request_id} if request_id else {})
        return JSONResponse(document, self.status, self.headers, MEDIA_TYPE)


def unavailable(detail: str, retry_after_s: float = RETRY_AFTER_S) -> Problem:
    """Something that the gateway needs does not answer: the caller is to try again."""
    return Problem("unavailable", detail, retry_after_s=retry_after_s)


def problem_of(error: Exception) -> Problem:
    """The answer for a Problem, an error of Poorwill's tree, or what the framework raises."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, PoorwillError):
        kind = _kind_of(type(error))
        later = RETRY_AFTER_S if kind in ("unavailable", "timeout") else None
        return Problem(kind, error.message, retry_after_s=later, error=type(error).__name__)
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    assert isinstance(error, HTTPException)
    return _of_framework(error)


def kind_of(error_type: str) -> str:
    """The kind of problem that an error's type name stands for: how a failed run's error is classed."""
    named = errors.error_type(error_type)
    return _kind_of(named) if named is not None else "internal"


def _kind_of(error: type[PoorwillError]) -> str:
    return next(kind for root, kind in _KIND_OF_ERROR if issubclass(error, root))


class InvalidField(BaseModel):
    """One field of a request that is not valid."""

    field: str
    message: str


class ProblemDocument(BaseModel):
    """An RFC 9457 problem."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=[TYPE_PREFIX + "not-found"])
    title: str = Field(examples=[KINDS["not-found"][1]])
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


def documented(
    *statuses: int, everywhere: tuple[int, ...] = (401, 413, 422, 429, 503)
) -> dict[int | str, dict[str, Any]]:
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
    """Every error becomes a problem; the unexpected ones in `api.http.middleware`."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        return problem_of(error).response(getattr(request.state, "request_id", None))

    for kind in (Problem, PoorwillError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


def _invalid(error: RequestValidationError) -> Problem:
    """What was given is not repeated: it may be a secret, or megabytes."""
    found = [
        {
            "field": ".".join(str(part) for part in one["loc"][1:])[:200] or str(one["loc"][0]),
            "message": one["msg"][:500],
        }
        for one in error.errors()[:20]
    ]
    return Problem("invalid-request", "; ".join(f"{one['field']}: {one['message']}" for one in found), errors=found)


def _of_framework(error: HTTPException) -> Problem:
    """No such path, another method."""
    usual = "internal" if error.status_code >= 500 else "invalid-request"
    kind = _KIND_OF_STATUS.get(error.status_code, usual)
    title = None if kind in _KIND_OF_STATUS.values() else HTTPStatus(error.status_code).phrase
    return Problem(kind, str(error.detail), status=error.status_code, title=title, headers=error.headers)
