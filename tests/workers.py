"""How `pytest -n 2` shares the tests out: file by file, for their fixtures, and what takes longest first."""

from __future__ import annotations

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

ON_ONE_PREFECT_SERVER = ("tests/flows/", "tests/demo/test_prefect_server.py")
LONGEST_FIRST = (*ON_ONE_PREFECT_SERVER, "tests/demo/", "tests/cli/", "tests/faults/", "tests/conformance/", "tests/")


class ByFile(LoadFileScheduling):
    """All that needs the Prefect server goes to one worker, and every other file as a whole to one."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return "prefect" if nodeid.startswith(ON_ONE_PREFECT_SERVER) else str(super()._split_scope(nodeid))


def sort(items: list[pytest.Item]) -> None:
    """In the order in which workers are to begin them: what comes last is short, and fills what is left."""
    items.sort(key=lambda item: [item.nodeid.startswith(place) for place in LONGEST_FIRST].index(True))
