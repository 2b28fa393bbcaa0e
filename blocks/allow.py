"""The field of media and webhook blocks that opens addresses which are not public."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from poorwill.errors import UsageError
from poorwill.web.addresses import AllowRule


def parsed(rules: list[str]) -> tuple[AllowRule, ...]:
    """UsageError, naming the rule, if one cannot be read."""
    return tuple(AllowRule.parse(rule) for rule in rules)


def _checked(rules: list[str]) -> list[str]:
    try:
        parsed(rules)
    except UsageError as error:
        raise ValueError(error.message) from error  # as pydantic wants it
    return rules


AllowRules = Annotated[list[str], AfterValidator(_checked)]
