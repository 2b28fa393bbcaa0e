"""`python -m poorwill.engine [WORK]`: serves the engine protocol on stdin and stdout until stdin ends."""

from __future__ import annotations

import importlib
import logging
import os
import sys

from poorwill.codecs.toolset import Toolset, gpus_of_this_machine
from poorwill.engine.machine.control_side import ControlSide
from poorwill.engine.operations import Operations
from poorwill.engine.pool import threads_of_this_machine
from poorwill.engine.protocol.server import Server, own_streams

AHEAD = {
    "restore": "poorwill.engine.restore.restore_run",
    "verify": "poorwill.engine.transfer.verify_run",
    "convert": "poorwill.engine.pack.convert_run",
}
"""What each kind of work needs beyond what is imported here."""


def main() -> None:
    parent = os.getppid()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="engine: %(levelname)s %(message)s")
    command_umask = os.umask(0)  # a restore creates files with the modes of its manifest
    # Codec threads live in C code and one that returns should not wait 5 ms for one that lists files.
    sys.setswitchinterval(0.0005)
    requests, events = own_streams()
    for work in sys.argv[1:]:
        if work in AHEAD:
            importlib.import_module(AHEAD[work])
    control = ControlSide(requests.fileno(), parent)
    operations = Operations(Toolset(gpus_of_this_machine, threads_of_this_machine()), command_umask, control)
    try:
        Server(requests, events, operations.of, operations.meter).run()
    finally:
        # Threads may still be in a transfer that no longer matters.
        os._exit(0)


if __name__ == "__main__":
    main()
