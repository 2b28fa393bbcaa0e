"""Whatever happens to a workspace, in whatever order: when the gate opens, nothing is lost with the machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.gate_world import GateWorld, attempt

NAMES = st.sampled_from(["a", "b", "c", "d/e", "d/f", "d/g/h", "mnt/i"])
NUMBERS = st.integers(0, 7)
BYTES = st.sampled_from([1, 4096, 5000, 70_000])
IN_MEMORY = Path("/dev/shm")
STEPS = 50


class GateStates(RuleBasedStateMachine):
    """Steps of people and programs, between the steps of hibernations."""

    steps = opened = 0

    @initialize(in_memory=st.booleans())
    def begin(self, in_memory: bool) -> None:
        self.folder = Path(
            tempfile.mkdtemp(prefix="gate-", dir=IN_MEMORY if in_memory and IN_MEMORY.is_dir() else None)
        )
        os.environ["POORWILL_STATE_DIR"] = str(self.folder / "state")
        self.world = GateWorld(self.folder)
        for name in ("a", "b", "d/e"):
            self.write(name, 5000, b"b")

    def teardown(self) -> None:
        self.world.close()
        type(self).opened += self.world.opened
        shutil.rmtree(self.folder)

    @invariant()
    def count(self) -> None:
        type(self).steps += 1

    def _path(self, name: str) -> Path:
        path = self.world.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _file(self, number: int) -> Path | None:
        files = self.world.files()
        return files[number % len(files)] if files else None

    def awake(self) -> bool:
        return self.world.awake

    @precondition(awake)
    @rule(name=NAMES, size=BYTES, what=st.sampled_from([b"x", b"y"]))
    def write(self, name: str, size: int, what: bytes) -> None:
        path = self._path(name)
        if not path.is_dir() and path not in self.world.mapper.mapped:
            path.unlink(missing_ok=True)
            path.write_bytes(what * size)

    @precondition(awake)
    @rule(number=NUMBERS, what=st.sampled_from([b"1", b"2"]))
    def overwrite(self, number: int, what: bytes) -> None:
        if path := self._file(number):
            with path.open("r+b") as file:
                file.write(what)

    @precondition(awake)
    @rule(number=NUMBERS, size=BYTES)
    def truncate(self, number: int, size: int) -> None:
        path = self._file(number)
        if path and path not in self.world.mapper.mapped:
            os.truncate(path, min(size, path.stat().st_size))

    @precondition(awake)
    @rule(number=NUMBERS, name=NAMES)
    def rename(self, number: int, name: str) -> None:
        path, other = self._file(number), self._path(name)
        if path and not other.is_dir() and not {path, other} & set(self.world.mapper.mapped):
            attempt_os(lambda: path.rename(other))

    @precondition(awake)
    @rule(number=NUMBERS, name=NAMES)
    def link(self, number: int, name: str) -> None:
        path, other = self._file(number), self._path(name)
        if path and not other.exists():
            attempt_os(lambda: other.hardlink_to(path))

    @precondition(awake)
    @rule(number=NUMBERS, mode=st.sampled_from([0o600, 0o644, 0o755]))
    def chmod(self, number: int, mode: int) -> None:
        if path := self._file(number):
            path.chmod(mode)

    @precondition(awake)
    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        path = self._file(number)
        if path and path not in self.world.mapper.mapped:
            path.unlink()

    @precondition(awake)
    @rule()
    def empty(self) -> None:
        """Half of the files are moved away."""
        files = self.world.files()
        for path in files[: len(files) // 2 + 1]:
            if path not in self.world.mapper.mapped:
                path.unlink()

    @precondition(awake)
    @rule(number=NUMBERS)
    def map(self, number: int) -> None:
        path = self._file(number)
        if path and path.stat().st_size and path not in self.world.mapper.mapped:
            self.world.mapper.map(path)

    @precondition(lambda self: self.world.mapper.mapped)
    @rule(number=NUMBERS, text=st.sampled_from(["p", "q"]))
    def poke(self, number: int, text: str) -> None:
        mapped = self.world.mapper.mapped
        self.world.mapper.poke(mapped[number % len(mapped)], text)

    @precondition(lambda self: self.world.mapper.mapped)
    @rule(number=NUMBERS)
    def unmap(self, number: int) -> None:
        mapped = self.world.mapper.mapped
        self.world.mapper.unmap(mapped[number % len(mapped)])

    @precondition(lambda self: self.world.awake and os.geteuid() == 0)
    @rule()
    def mount(self) -> None:
        path = self._path("mnt/i").parent
        if path not in self.world.mounts and not any(path in file.parents for file in self.world.mapper.mapped):
            self.world.mount(path)

    @precondition(lambda self: self.world.mounts)
    @rule()
    def unmount(self) -> None:
        if not any(self.world.mounts[-1] in path.parents for path in self.world.mapper.mapped):
            self.world.unmount()

    @rule(seconds=st.sampled_from([-3600, -1, 0, 1, 3600]))
    def set_clock(self, seconds: int) -> None:
        """Of the machine: its files' times are then ahead of it, or behind."""
        self.world.ahead_ns = seconds * 10**9

    @rule(seconds=st.sampled_from([-86400, 0, 86400]))
    def set_clock_of_store(self, seconds: int) -> None:
        self.world.store.ahead_s = seconds

    @precondition(lambda self: self.world.awake and self.world.running is None)
    @rule(allow_shrink=st.booleans(), writers=st.sampled_from(["refuse", "ignore"]))
    def begin_hibernation(self, allow_shrink: bool, writers: str) -> None:
        self.world.begin(allow_shrink=allow_shrink, writers=writers)

    @precondition(lambda self: self.world.running is not None)
    @rule(steps=st.integers(1, 4))
    def go_on(self, steps: int) -> None:
        self.world.go_on(steps)

    @precondition(lambda self: self.world.running is not None)
    @rule()
    def go_to_the_end(self) -> None:
        self.world.go_on(STEPS)

    @precondition(lambda self: self.world.awake and self.world.running is None)
    @rule(allow_shrink=st.booleans())
    def hibernate(self, allow_shrink: bool) -> None:
        self.world.begin(allow_shrink=allow_shrink, writers="ignore")
        self.world.go_on(STEPS)

    @precondition(lambda self: self.world.running is not None)
    @rule(again=st.booleans())
    def crash(self, again: bool) -> None:
        self.world.crash(again=again)

    @precondition(lambda self: self.world.running is not None and self.world.late is None)
    @rule()
    def stop_and_overtake(self) -> None:
        self.world.overtake()

    @precondition(lambda self: self.world.late is not None)
    @rule()
    def let_go(self) -> None:
        self.world.let_go()

    @precondition(lambda self: not self.world.awake)
    @rule()
    def wake(self) -> None:
        self.world.wake()

    @precondition(lambda self: not self.world.awake)
    @rule(include=st.sampled_from([("a*",), ("d/**",)]))
    def wake_a_part(self, include: tuple[str, ...]) -> None:
        attempt(lambda: self.world.wake(include))  # it may match nothing

    @rule(last=st.integers(1, 2))
    def retain(self, last: int) -> None:
        attempt(lambda: self.world.retain(last))

    @rule(number=NUMBERS)
    def trash_and_undelete(self, number: int) -> None:
        attempt(lambda: self.world.trash(number))


def attempt_os(step: Callable[[], object]) -> None:
    with suppress(OSError):  # across a mount, or onto a folder
        step()


@pytest.fixture
def machine(state_dir: Path) -> Iterator[type[GateStates]]:
    GateStates.steps = GateStates.opened = 0
    yield GateStates


def _run(machine: type[GateStates], steps: int) -> None:
    chosen = settings(
        max_examples=min(25, steps // STEPS), stateful_step_count=STEPS, deadline=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink], database=None,
    )  # fmt: skip
    while machine.steps < steps:
        # Time is real here: the same steps may find another workspace, which Hypothesis takes for a mistake of ours.
        with suppress(FlakyStrategyDefinition):
            run_state_machine_as_test(machine, settings=chosen)


@pytest.mark.timeout(300)
def test_whenever_the_gate_opens_what_comes_back_is_what_was_there(machine: type[GateStates]) -> None:
    """A few hundred steps."""
    _run(machine, 150)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_same_for_long(machine: type[GateStates]) -> None:
    """20,000 steps, over which the gate opens hundreds of times."""
    _run(machine, 20_000)
    assert machine.opened >= 100
