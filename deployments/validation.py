"""What pydantic says of a value it refuses, in one line for a person."""

from __future__ import annotations

from pydantic import ValidationError


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Where it is (names with dots between, empty for the whole) and what was expected; without the value itself."""
    first = error.errors(include_input=False, include_url=False)[0]
    problem = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    return ".".join(str(part) for part in first["loc"]), problem
