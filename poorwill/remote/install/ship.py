"""Brings the engine to a machine: the package `poorwill` and its pinned packages, in a virtual environment.

It lies at ~/.poorwill/engine/<version>-<digest>/ and is used again as long as the digest is the same: the second
contact is one command. Nothing secret is sent. The machine needs Python and nothing else, neither pip nor python3-venv;
if it cannot reach a package index, this side fetches the packages and sends them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poorwill import __version__
from poorwill.errors import EngineLost, HostUnfit, PermanentError, one_line
from poorwill.remote.base import Finished, Shell
from poorwill.remote.install import bundle, wheels
from poorwill.remote.install.probe import PYTHONS, Found, Installed, Survey, look, marked, path, said

PYTHON_MIN = (3, 10)
WITHOUT_GPU = "without GPU packages: "
"""The beginning of a line of `Installed.log` that says why the engine cannot use the machine's GPU."""
PIECE_BYTES = 256 << 10
PROOF = (
    "poorwill.engine.operations",
    "poorwill.engine.transfer.http",
    "poorwill.remote.link.keeper",
)
"""What must import on the machine before its engine counts as installed."""
# Reads the script from stdin: the command line stays short, and does not depend on the login's shell.
_BOOT = "import sys; n = int(sys.stdin.buffer.readline(16)); exec(compile(sys.stdin.buffer.read(n), 'install', 'exec'))"

Files = Sequence[tuple[str, bytes | Path]]


def command(installed: Installed, module: str, args: Sequence[str] = ()) -> str:
    """The command line that runs a module of the engine, for any shell of POSIX.

    Neither the machine's Python settings nor its current directory affect it: a home may hold a folder `poorwill`.
    """
    environment = [f"POORWILL_STATE_DIR={installed.home}", "OPENBLAS_NUM_THREADS=1"]
    return shlex.join(["exec", "env", *environment, installed.python, "-I", "-m", module, *args])


@dataclass(frozen=True, slots=True)
class Shipment:
    """What is installed, and how. It has no state: one serves many machines at once.

    wheels_dir: a folder of wheels to install from, instead of any package index; they may be of your own making.
    cache_dir: where wheels fetched for machines without an index are kept; default ~/.cache/poorwill/wheels.
    requirements, gpu_requirements: exact pins, complete; the latter where `nvidia-smi -L` lists a GPU. What comes from
    an index has to have a hash that they name, if they name any.
    gpu_free_bytes_min: such an engine takes 0.7 GB, and 1 GB while it is installed; the rest is for the workspace.
    """

    requirements: Sequence[str] = field(default_factory=lambda: bundle.requirements("requirements.txt"))
    gpu_requirements: Sequence[str] = field(default_factory=lambda: bundle.requirements("requirements-gpu.txt"))
    wheels_dir: Path | None = None
    cache_dir: Path | None = None
    pythons: Sequence[str] = PYTHONS
    proof: Sequence[str] = PROOF
    free_bytes_min: int = 1_000_000_000
    gpu_free_bytes_min: int = 4_000_000_000

    def digest(self, gpu: bool) -> str:
        return bundle.digest([*self.requirements, *(["gpu:", *self.gpu_requirements] if gpu else [])])

    def name(self, gpu: bool) -> str:
        """The engine's directory below ~/.poorwill/engine."""
        return f"{__version__}-{self.digest(gpu)[:12]}"

    def ready(self, shell: Shell) -> Installed | Survey:
        """The engine if it is installed, else what the machine has. One command, which changes nothing."""
        seen = look(shell, self.name(gpu=True), self.name(gpu=False), self.pythons)
        if isinstance(seen, Installed) and seen.digest not in (self.digest(gpu=True), self.digest(gpu=False)):
            raise HostUnfit(f"{shell.describe()} gave a malformed answer (an engine that was not asked for)")
        return seen

    def ship(self, shell: Shell, on_step: Callable[[str], None] = lambda step: None) -> Installed:
        """The engine on that machine, installed if it is missing or damaged. Idempotent; many may do so at once.

        Atomic: there is a whole engine or none, and the next installation removes what this one left. HostUnfit names
        what the machine lacks; EngineLost and DeadlineExceeded come from the shell.
        """
        on_step(f"looking for the engine on {shell.describe()}")
        seen = self.ready(shell)
        if isinstance(seen, Installed):
            return seen
        python = seen.python(PYTHON_MIN, any_platform=self.wheels_dir is not None)
        return _Installation(self, shell, seen, python, on_step).run()


@dataclass(frozen=True, slots=True)
class _Installation:
    """One installation on one machine."""

    what: Shipment
    shell: Shell
    seen: Survey
    python: Found
    on_step: Callable[[str], None]

    def run(self) -> Installed:
        pins = wheels.resolved(self.what.requirements, self.python.target)
        gpu = wheels.resolved(self.what.gpu_requirements, self.python.target) if self.seen.gpu else []
        if self.what.wheels_dir is not None:
            return self._offline(wheels.without_hashes(pins), wheels.without_hashes(gpu), None)
        count = f"{len(pins) + len(gpu)} packages"
        step = f"installing {count} from the machine's package index"
        answer = self._send(pins, gpu, [], step, deadline_s=300.0)
        if answer.get("failed") == "packages":
            return self._offline(pins, gpu, wheels.last_words(str(answer.get("words"))))
        return self._installed(answer)

    def _offline(self, pins: list[str], gpu: list[str], online_words: str | None) -> Installed:
        found, log = self._wheels(pins, online_words), []
        try:
            found_gpu = self._wheels(gpu, online_words) if gpu else []
        except PermanentError as error:
            gpu, found_gpu = [], []
            log.append(f"{WITHOUT_GPU}{error}")
        sent = [*found, *found_gpu]
        answer = self._send(pins, gpu, sent, f"installing {len(sent)} packages from here", deadline_s=600.0)
        return self._installed(answer, log)

    def _wheels(self, pins: list[str], online_words: str | None) -> list[Path]:
        target = self.python.target
        if self.what.wheels_dir is not None:
            return wheels.choose(self.what.wheels_dir, pins, target)
        self.on_step(f"fetching {len(pins)} packages for a machine without a package index")
        try:
            return wheels.download(pins, target, self.what.cache_dir)
        except HostUnfit as error:
            raise HostUnfit(
                f"the engine's packages reach {self.seen.where} neither from its own package index ({online_words}) "
                f"nor through this side ({error}); give one of them an index, or this side a folder of wheels"
            ) from None

    def _send(
        self, pins: list[str], gpu: list[str], sent_wheels: list[Path], step: str, *, deadline_s: float
    ) -> dict[str, Any]:
        files: Files = [
            ("engine.zip", bundle.package()),
            ("pip.zip", bundle.pip()),
            *((wheel.name, wheel) for wheel in sent_wheels),
        ]
        order = {
            "name": self.what.name(self.seen.gpu), "digest": self.what.digest(self.seen.gpu), "version": __version__,
            "packages": pins, "gpu_packages": gpu, "online": not sent_wheels, "proof": list(self.what.proof),
            "deadline_s": deadline_s, "free_bytes_min": self.what.free_bytes_min,
            "gpu_free_bytes_min": self.what.gpu_free_bytes_min,
            "files": [(name, _size(content)) for name, content in files],
        }  # fmt: skip
        total = sum(_size(content) for _, content in files)
        self.on_step(f"sending the engine ({total / 1e6:.1f} MB)")
        boot, stdin = shlex.join(["exec", self.python.path, "-I", "-c", _BOOT]), self._pieces(order, files, step)
        # After its own deadline the installation ends and tidies up.
        return self._answer(self.shell.run(boot, stdin=stdin, timeout_s=deadline_s + 150.0))

    def _pieces(self, order: dict[str, Any], files: Files, step: str) -> Iterator[bytes]:
        script = bundle.script("installer.py")
        yield f"{len(script)}\n".encode() + script + json.dumps(order).encode() + b"\n"
        for _, content in files:
            if isinstance(content, bytes):
                yield from (content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES))
            else:
                with content.open("rb") as file:
                    yield from iter(lambda: file.read(PIECE_BYTES), b"")
        self.on_step(step)

    def _answer(self, done: Finished) -> dict[str, Any]:
        for key, value in marked(done):
            if key == "answer":
                try:
                    answer = json.loads(value)
                except (ValueError, RecursionError):
                    break
                if isinstance(answer, dict):
                    return answer
        raise EngineLost(f"installing the engine on {self.seen.where} was cut off ({said(done)})")

    def _installed(self, answer: dict[str, Any], log: Sequence[str] = ()) -> Installed:
        if "failed" in answer:
            words = wheels.last_words(str(answer.get("words")))
            if answer["failed"] == "transfer":
                raise EngineLost(f"installing the engine on {self.seen.where}: {words}")
            raise HostUnfit(f"the engine cannot be installed on {self.seen.where}: {words}")
        try:
            lines = [one_line(str(line))[:1000] for line in answer["log"][:32]]
            return Installed(
                path(answer["python"]), path(answer["home"]), self.what.digest(self.seen.gpu),
                answer["reused"] is True, (*log, *lines),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):
            raise HostUnfit(f"{self.seen.where} gave a malformed answer to the installation") from None


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size
