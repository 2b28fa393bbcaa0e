"""python -m tests.chaos [--rounds N] [--seed N]: programs and servers are signalled at random; nothing may be lost,
wrong, left over, or end in a traceback. One round in six is of the flows, the others are of the command line."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deployments.servers.prefect_server import PrefectServer
from deployments.servers.s3_server import S3Server
from deployments.servers.server_process import LoopbackServer
from poorwill.store.local import LocalStore
from tests.chaos.command_line import CommandLine
from tests.chaos.flows import Flows
from tests.chaos.programs import Fault, Programs
from tests.support.program import environment
from tests.support.s3_connection import connect

FLOWS_EVERY = 6
REMOVED_EVERY = 10


@dataclass
class Side:
    """What rounds go through, the environment of its programs and the servers that they talk to."""

    rounds: CommandLine | Flows
    environment: dict[str, str]
    servers: tuple[LoopbackServer, ...] = ()
    lasts_s: dict[str, float] = field(default_factory=dict)
    done: int = 0


def main() -> int:
    """0 if every round ended as it must, else 1; what was done is told, and its folder kept."""
    asked = _arguments()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"{asked.rounds} rounds, seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="poorwill-chaos-"))
    faults = 0
    with _sides(folder) as (directory, s3, flows):
        for number in range(asked.rounds):
            side = flows if number % FLOWS_EVERY == FLOWS_EVERY - 1 else (directory, s3)[number % 2]
            chance = random.Random(f"{seed}-{number}")
            programs = Programs(chance, folder / f"round-{number}", side.environment, side.lasts_s, side.servers)
            faults += not _went_well(number, side, programs)
    print(f"{asked.rounds} rounds, {faults} faults" + (f"; see {folder}" if faults else ""))
    if not faults:
        shutil.rmtree(folder)
    return int(faults > 0)


def _went_well(number: int, side: Side, programs: Programs) -> bool:
    side.done += 1
    try:
        side.rounds.round(programs)
        if side.done % REMOVED_EVERY == 0:
            side.rounds.remove_all(programs)
        print(f"round {number}: well, {len(programs.done)} steps", flush=True)
        return True
    except Fault as fault:
        print(f"round {number}: FAULT: {fault}", *programs.done, sep="\n    ", flush=True)
        return False
    finally:
        programs.end()


@contextmanager
def _sides(folder: Path) -> Iterator[tuple[Side, Side, Side]]:
    home = {"HOME": str(folder / "home"), "PYTHONUNBUFFERED": "1"}
    (folder / "home").mkdir()
    with ExitStack() as stack:
        s3 = stack.enter_context(S3Server(folder / "s3"))
        prefect = stack.enter_context(PrefectServer(folder / "prefect"))
        stack.enter_context(prefect.settings())
        by_directory = CommandLine(folder / "by-directory", f"file://{folder}/store", LocalStore(folder / "store"))
        by_s3 = CommandLine(folder / "by-s3", s3.url(), connect(s3))
        (folder / "by-flows").mkdir()
        by_flows = Flows(folder / "by-flows", prefect)
        yield (
            Side(by_directory, environment(home)),
            Side(by_s3, environment({**home, **s3.env()}), (s3,)),
            Side(by_flows, environment({**home, **prefect.env()}), (prefect,)),
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, help="to do the same again, as far as the machine is as fast")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
