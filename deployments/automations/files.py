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

from poorwill.errors import UsageError

FILE_BYTES_MAX = 256 << 10
_PLACEHOLDER = re.compile(r"\$\{([A-Za-z][A-Za-z0-9_-]*(?::[a-z0-9_./-]+)?)\}", re.IGNORECASE)

Find = Callable[[str], str | None]
"""What a placeholder stands for, by what is between its braces; None if that is not there."""


@dataclass(frozen=True, slots=True)
class Planned:
    """An automation as a file wants it. `core` is None if it is skipped, and `missing` says for want of what."""

    name: str
    core: AutomationCore | None
    missing: tuple[str, ...] = ()


class _Missing(Exception):
    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)


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
    wanted = document.get("needs", [])
    missing = tuple(what for need in wanted if (what := _missing_in(need, find)) is not None)
    return [_planned(path, each, missing, find) for each in listed]


def _planned(path: Path, given: dict[str, Any], missing: tuple[str, ...], find: Find) -> Planned:
    name = str(given["name"])
    if missing:
        return Planned(name, None, missing)
    absent: list[str] = []
    filled: dict[str, Any] = {}
    for key, value in given.items():
        if key.startswith("actions"):
            kept = []
            for action in value:
                what = _missing_in(action, find)
                kept += [_filled(action, find)] if what is None else []
                absent += [what] if what is not None else []
            filled[key] = kept
            continue
        try:
            filled[key] = _filled(value, find)
        except _Missing as needed:
            return Planned(name, None, (needed.what,))
    if not any(value for key, value in filled.items() if key.startswith("actions")):
        return Planned(name, None, tuple(dict.fromkeys(absent)))
    try:
        core = AutomationCore.model_validate(filled)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path.name}: automation '{name}', {where}: {first['msg']}") from None
    for key in (key for key in filled if key.startswith("actions")):
        for number, action in enumerate(getattr(core, key, ())):
            if isinstance(action, UnknownAction):  # which Prefect keeps as it is, and never does
                raise UsageError(f"{path.name}: automation '{name}', {key}.{number}: unknown type '{action.type}'")
    return Planned(name, core)


def _missing_in(value: Any, find: Find) -> str | None:
    try:
        _filled(value, find)
    except _Missing as needed:
        return needed.what
    return None


def _filled(value: Any, find: Find) -> Any:
    """Placeholders in all texts replaced, after YAML was read: a value cannot change what the file says."""
    if isinstance(value, dict):
        return {key: _filled(each, find) for key, each in value.items()}
    if isinstance(value, list):
        return [filled for each in value for filled in _items(each, find)]
    return _PLACEHOLDER.sub(lambda found: _found(found[1], find), value) if isinstance(value, str) else value


def _items(value: Any, find: Find) -> list[Any]:
    filled = _filled(value, find)
    if isinstance(value, str) and _PLACEHOLDER.fullmatch(value):
        return [part.strip() for part in str(filled).split(",") if part.strip()]
    return [filled]


def _found(what: str, find: Find) -> str:
    found = find(what)
    if not found:
        raise _Missing(what)
    return found
