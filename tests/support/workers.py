"""How `pytest -n 3` shares the tests out: file by file, for their fixtures, and what takes longest first."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

TOGETHER = {
    # A Prefect server each, and torch, which takes seconds to import, in one process only.
    "generate": ("tests/flows/test_generate.py", "tests/worker/", "tests/unit/media/pipelines/"),
    "prefect": ("tests/flows/", "tests/demo/test_prefect_server.py"),
    "gateway": (
        "tests/api/",
        "tests/cli/test_server_commands.py",
        "tests/demo/test_automations.py",
        "tests/demo/test_ui.py",
    ),
}
LONGEST_FIRST = (
    *TOGETHER["generate"],
    *TOGETHER["prefect"],
    *TOGETHER["gateway"],
    "tests/demo/",
    "tests/cli/",
    "tests/faults/",
    "tests/conformance/",
    "tests/",
)


class ByFile(LoadFileScheduling):
    """What is TOGETHER goes to one worker, and every other file as a whole to one."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        for scope, places in TOGETHER.items():
            if nodeid.startswith(places):
                return scope
        return str(super()._split_scope(nodeid))


def sort(items: list[pytest.Item]) -> None:
    """In the order in which workers are to begin them: what comes last is short, and fills what is left."""
    items.sort(key=lambda item: [item.nodeid.startswith(place) for place in LONGEST_FIRST].index(True))
