"""python -m tests.chaos.flow_process FLOW PARAMETERS: one run of a flow, with the exit codes of the program."""

from __future__ import annotations

import importlib
import json
import sys

from poorwill.errors import PoorwillError


def main(flow: str, parameters: str) -> int:
    """0 if the run completed, the code of its error if that is one of ours, else 1."""
    state = getattr(importlib.import_module(f"flows.{flow}"), flow)(**json.loads(parameters), return_state=True)
    print(f"{state.name}: {state.message}")
    found = state.result(raise_on_failure=False)
    if isinstance(found, PoorwillError):
        return found.exit_code
    return int(not state.is_completed())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
