"""What autosleep keeps of each machine from one of its runs to the next: since when it is idle.

It is a Prefect variable for each machine, `poorwill-idle-<block>`. Runs are scheduled, come to any worker and share
nothing but Prefect. A field of the machine's block would be written at the same time as `hibernate` and `wake` write
theirs; an object in the store would cost requests every few minutes and need a store for machines that have none yet.
A variable can be seen in the UI. A machine whose variable is deleted, or cannot be read, starts from zero.
"""

from __future__ import annotations

from dataclasses import asdict

from prefect.exceptions import ObjectAlreadyExists
from prefect.variables import Variable

from poorwill.control.machine.idleness import Watch

TAG = "poorwill-autosleep"


def variable_name(machine: str) -> str:
    """Of the variable; block names have only letters, digits and dashes."""
    return f"poorwill-idle-{machine}"


def read(machine: str) -> Watch | None:
    """What was kept, or None."""
    return Watch.read(Variable.get(variable_name(machine)))


def write(machine: str, watch: Watch) -> None:
    """Keep it. Of two runs at once the last one is kept, and both saw the machine at about the same time."""
    for attempt in (1, 2):
        try:
            Variable.set(variable_name(machine), asdict(watch), tags=[TAG], overwrite=True)
            return
        except ObjectAlreadyExists:  # made by another run between look and write
            if attempt == 2:
                raise
