"""Files of automations, in the format of `prefect automation create --from-file`, with placeholders filled in.

    ${NAME}                        a variable of the environment; one in a list may hold several, with commas
    ${deployment:<flow>/<name>}    the id of that deployment
    ${block:<type slug>/<name>}    the id of that block
    ${block-name:<type slug>/<name>}   its name, if there is such a block

What a placeholder stands for may not be there. Then an action that needs it is left out, an automation that needs it
elsewhere or has no action left is skipped, and so is a whole file of which a `needs` is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect.events.actions import UnknownAction
from prefect.events.schemas.automations import AutomationCore
from pydantic import ValidationError

from deployments.validation import first_problem
from poorwill.errors import UsageError

FILE_BYTES_MAX = 256 << 10
_PLACEHOLDER = re.compile(r"\$\{([A-Za-z][A-Za-z0-9_-]*(?::[a-z0-9_./-]+)?)\}", re.IGNORECASE)

Find = Callable[[str], str | None]
"""What a placeholder stands for, by the text between its braces; None if it is not there."""


@dataclass(frozen=True, slots=True)
class Planned:
    """An automation as a file describes it. `core` is None if it is skipped, because `missing` are not there."""

    name: str
    core: AutomationCore | None
    missing: tuple[str, ...] = ()


def read(path: Path, find: Find) -> list[Planned]:
    """The automations of a file. UsageError."""
    try:
        with path.open("rb") as opened:
            text = opened.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise UsageError(f"{path.name} has more than {FILE_BYTES_MAX} bytes")
        document = yaml.safe_load(text)
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path.name} cannot be read: {' '.join(str(error).split())[:300]}") from None
    listed = document.get("automations") if isinstance(document, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) and "name" in each for each in listed):
        raise UsageError(f"{path.name}: expected automations with names, listed below `automations:`")
    missing: list[str] = []
    _filled(document.get("needs", []), find, missing)
    if missing:
        return [Planned(str(each["name"]), None, tuple(missing)) for each in listed]
    return [_planned(path, each, find) for each in listed]


def _planned(path: Path, given: dict[str, Any], find: Find) -> Planned:
    name = str(given["name"])
    actions = {key: value for key, value in given.items() if key.startswith("actions")}
    missing: list[str] = []
    filled = _filled({key: value for key, value in given.items() if key not in actions}, find, missing)
    if missing:
        return Planned(name, None, tuple(missing))
    for key, listed in actions.items():
        filled[key] = _possible(listed, find, missing)
    if not any(filled[key] for key in actions):
        return Planned(name, None, tuple(dict.fromkeys(missing)))
    try:
        core = AutomationCore.model_validate(filled)
    except ValidationError as error:
        where, problem = first_problem(error)
        raise UsageError(f"{path.name}: automation '{name}', {where}: {problem}") from None
    for key in actions:
        for number, action in enumerate(getattr(core, key, ())):
            if isinstance(action, UnknownAction):  # which Prefect keeps as it is, and never does
                raise UsageError(f"{path.name}: automation '{name}', {key}.{number}: unknown type '{action.type}'")
    return Planned(name, core)


def _possible(actions: list[Any], find: Find, missing: list[str]) -> list[Any]:
    """Those of which everything is there."""
    possible = []
    for action in actions:
        lacks: list[str] = []
        filled = _filled(action, find, lacks)
        missing += lacks
        possible += [] if lacks else [filled]
    return possible


def _filled(value: Any, find: Find, missing: list[str]) -> Any:
    """The same with all placeholders replaced; the names of those that stand for nothing are added to `missing`.

    Done after YAML was read: a value cannot change what the file says.
    """

    def replaced(match: re.Match[str]) -> str:
        if found := find(match[1]):
            return found
        missing.append(match[1])
        return ""

    if isinstance(value, dict):
        return {key: _filled(each, find, missing) for key, each in value.items()}
    if isinstance(value, list):
        return [item for each in value for item in _items(each, find, missing)]
    return _PLACEHOLDER.sub(replaced, value) if isinstance(value, str) else value


def _items(value: Any, find: Find, missing: list[str]) -> list[Any]:
    filled = _filled(value, find, missing)
    if isinstance(value, str) and _PLACEHOLDER.fullmatch(value):
        return [part.strip() for part in str(filled).split(",") if part.strip()]
    return [filled]
