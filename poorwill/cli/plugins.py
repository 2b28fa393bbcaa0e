"""Commands of other packages: entry points `poorwill.commands`, callables from arguments to an exit code."""

from __future__ import annotations

import sys

from poorwill.errors import UsageError

GROUP = "poorwill.commands"
COMMANDS = {
    "up": "start a local stack: Prefect server, store, worker, all flows deployed",
    "down": "stop it; what it holds stays",
    "status": "what of it is running, and where",
}


def run(command: str, arguments: list[str]) -> int:
    """Run such a command, which reads its arguments itself; its exit code. UsageError says what to install."""
    from importlib.metadata import entry_points  # every other command is quicker without it

    found = next(iter(entry_points(group=GROUP, name=command)), None)
    if found is None:
        raise UsageError(f"`poorwill {command}` is not installed: pip install 'poorwill[control]'")
    try:
        called = found.load()
    except ImportError as error:
        needs = error.name or found.value
        raise UsageError(
            f"`poorwill {command}` needs more than is installed ({needs}): pip install 'poorwill[control]'"
        ) from None
    sys.stdout.flush()
    return int(called(arguments) or 0)
