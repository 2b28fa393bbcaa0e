"""Whatever happens to a store, and in whichever order, every chunk that a committed snapshot needs is there."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.removal_world import GRACE_S, MACHINES, Op, RemovalWorld

pytestmark = pytest.mark.long

small = st.integers(0, 7)
pieces = st.frozensets(st.integers(0, 4), min_size=1, max_size=3)
machines = st.sampled_from([*MACHINES[:1] * 4, *MACHINES])
take = st.tuples(st.just("whole"), machines, pieces)
retain = st.tuples(st.just("retain"), st.just(1), st.sampled_from([GRACE_S, GRACE_S, 0.0]))
OPS: st.SearchStrategy[Op] = st.one_of(  # what makes snapshots, and what removes them, more often than the rest
    take,
    take,
    retain,
    retain,
    st.tuples(st.just("begin"), machines, pieces, st.none() | small),
    st.tuples(st.just("advance"), small),
    st.tuples(st.just("finish"), small),
    st.tuples(st.just("die"), small),
    st.tuples(st.just("resume"), small),
    st.tuples(st.just("forget"), small),
    st.tuples(st.just("give_up"), small),
    st.tuples(st.just("delete"), small),
    st.tuples(st.just("undelete"), small),
    st.tuples(st.just("wait"), st.sampled_from([1, 30, 50])),
)


class Removals(RuleBasedStateMachine):
    """See RemovalWorld."""

    def __init__(self) -> None:
        super().__init__()
        self.world = RemovalWorld()

    @rule(op=OPS, dies_at=st.none() | st.integers(1, 12), between=st.none() | st.tuples(st.integers(1, 60), OPS))
    def act(self, op: Op, dies_at: int | None, between: tuple[int, Op] | None) -> None:
        self.world.act(op, dies_at, between)

    @invariant()
    def nothing_needed_is_lost(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        """When every run has ended, the garbage goes."""
        self.world.end()


TestRemovals = Removals.TestCase
TestRemovals.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
