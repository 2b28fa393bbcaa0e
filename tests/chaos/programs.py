"""Programs that are signalled while they run, and run again until they end well."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import psutil

from deployments.demo.tree_listing import Listing, differences, list_tree
from deployments.servers.server_process import LoopbackServer

ENDS_S_MAX = 180.0
TRIES_MAX = 8
PAUSE_S_MAX = 0.5
REFUSED = 6
_KINDS = ("snapshot", "restore", "verify", "ls", "delete", "hibernate", "wake")
_ENDED_BEFORE = "exists already"
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)|Exception ignored|Fatal Python error")


class Fault(Exception):
    """What must not happen."""


@dataclass(frozen=True, eq=False)
class Program:
    """A command that was started, and the file that takes what it says."""

    command: Sequence[str]
    process: subprocess.Popen[bytes]
    output: Path
    began_s: float


@dataclass
class Programs:
    """Runs commands of one round. lasts_s: how long each kind of them took at most, from round to round; servers: what
    they talk to; done: what was run and signalled, in order; stopped: who waits to be continued."""

    random: Random
    log: Path
    environment: Mapping[str, str]
    lasts_s: dict[str, float]
    servers: Sequence[LoopbackServer] = ()
    done: list[str] = field(default_factory=list)
    stopped: list[psutil.Process] = field(default_factory=list)
    _running: list[Program] = field(default_factory=list)

    def strike(self, command: Sequence[str]) -> None:
        """Start a command and signal it, or what it started, somewhere in the time it took before; it may be left
        stopped. The first of its kind is left alone, to see how long it takes."""
        program = self._start(command)
        try:
            program.process.wait(self.random.uniform(0.0, self.lasts_s.get(_kind(command), ENDS_S_MAX)))
            self._ended(program)
            return
        except subprocess.TimeoutExpired:
            pass
        first = psutil.Process(program.process.pid)
        tree = [first, *first.children(recursive=True)]
        if self.servers and self.random.random() < 0.1:
            self._restart(self.random.choice(self.servers))
        else:
            self.random.choice((self._one, self._one, self._overtaken, self._orphaned, self._frozen))(tree)
        if self.stopped and self.random.random() < 0.3:
            time.sleep(self.random.uniform(0.0, PAUSE_S_MAX))
            self._continue()
        if not self.stopped:
            self._wait(program)

    def finish(self, command: Sequence[str]) -> str:
        """Run a command until it ends well; what it said last. Whoever is stopped is let go once it is in the way."""
        for _ in range(TRIES_MAX):
            program = self._start(command)
            code, said = self._wait(program)
            if code == 0 or (code == REFUSED and _ENDED_BEFORE in said):
                return said
            if code == REFUSED and self.stopped:
                self.let_go()
        raise Fault(f"{shlex.join(command)}: did not end well in {TRIES_MAX} tries: {said[-2000:]}")

    def let_go(self) -> None:
        """Continue all that were stopped, and see everything end."""
        self._continue()
        for program in list(self._running):
            self._wait(program)

    def end(self) -> None:
        """Nothing of this round goes on."""
        for process in (
            *self.stopped,
            *(psutil.Process(p.process.pid) for p in self._running if p.process.poll() is None),
        ):
            if process.is_running():
                for one in (*process.children(recursive=True), process):
                    self._signal(one, SIGKILL)
        for program in self._running:
            program.process.wait(ENDS_S_MAX)

    def _start(self, command: Sequence[str]) -> Program:
        self.done.append(shlex.join(command))
        output = self.log.with_suffix(f".{len(self.done)}")
        with output.open("wb") as out:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(self.environment),
                start_new_session=True,
            )  # fmt: skip
        self._running.append(Program(command, process, output, time.monotonic()))
        return self._running[-1]

    def _wait(self, program: Program) -> tuple[int, str]:
        try:
            program.process.wait(ENDS_S_MAX)
        except subprocess.TimeoutExpired:
            raise Fault(f"{shlex.join(program.command)}: still runs after {ENDS_S_MAX:.0f} s") from None
        return self._ended(program)

    def _ended(self, program: Program) -> tuple[int, str]:
        self._running.remove(program)
        code, said = program.process.returncode, program.output.read_text(errors="replace")
        self.done.append(f"  exit {code}: {''.join(said.strip().splitlines()[-1:])}")
        if code == 0:
            kind, took_s = _kind(program.command), time.monotonic() - program.began_s
            self.lasts_s[kind] = min(took_s, self.lasts_s.get(kind, took_s))
        if _TRACEBACK.search(said):
            raise Fault(f"a traceback: {said[-3000:]}")
        return code, said

    def _restart(self, server: LoopbackServer) -> None:
        self.done.append(f"  {type(server).__name__} was killed and started again")
        server.kill()
        time.sleep(self.random.uniform(0.0, PAUSE_S_MAX))
        server.restart()

    def _one(self, tree: list[psutil.Process]) -> None:
        signal = self.random.choice((SIGKILL, SIGKILL, SIGTERM, SIGSTOP))
        self._signal(self.random.choice(tree), signal)

    def _overtaken(self, tree: list[psutil.Process]) -> None:
        """The program sleeps, and what it worked with is gone: the next one takes its place."""
        self._signal(tree[0], SIGSTOP)
        for child in tree[1:]:
            self._signal(child, SIGKILL)

    def _orphaned(self, tree: list[psutil.Process]) -> None:
        for child in tree[1:]:
            self._signal(child, SIGSTOP)
        self._signal(tree[0], SIGKILL)

    def _frozen(self, tree: list[psutil.Process]) -> None:
        for process in tree:
            self._signal(process, SIGSTOP)

    def _signal(self, process: psutil.Process, signal: int) -> None:
        try:
            name = os.path.basename(" ".join(process.cmdline()[:4]))
            process.send_signal(signal)
        except psutil.NoSuchProcess:
            return
        self.done.append(f"  signal {signal} to {process.pid} ({name})")
        if signal == SIGSTOP:
            self.stopped.append(process)

    def _continue(self) -> None:
        for process in self.stopped:
            self._signal(process, SIGCONT)
        self.stopped.clear()


def same(expected: Listing, tree: Path) -> None:
    """Fault if a tree is not what was listed."""
    lines = differences(expected, list_tree(tree))
    if lines:
        raise Fault(f"{tree} is not the same: {'; '.join(lines[:5])}")


def _kind(command: Sequence[str]) -> str:
    return next(word for word in command[1:] if word in _KINDS)
