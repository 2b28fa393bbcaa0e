"""`python -m poorwill.engine`: serves the engine protocol on stdin and stdout until stdin ends."""

from __future__ import annotations

import logging
import os
import sys

from poorwill.codecs.toolset import Toolset, gpus_of_this_machine
from poorwill.engine.operations import Operations
from poorwill.engine.pool import threads_of_this_machine
from poorwill.engine.protocol.server import Server, own_streams


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="engine: %(levelname)s %(message)s")
    command_umask = os.umask(0)  # a restore creates files with the modes of its manifest
    # Codec threads live in C code and one that returns should not wait 5 ms for one that lists files.
    sys.setswitchinterval(0.0005)
    requests, events = own_streams()
    operations = Operations(Toolset(gpus_of_this_machine, threads_of_this_machine()), command_umask)
    try:
        Server(requests, events, operations.of, operations.meter).run()
    finally:
        # Threads may still be in a transfer that no longer matters.
        os._exit(0)


if __name__ == "__main__":
    main()
