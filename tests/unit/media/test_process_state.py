"""What the generations of one process share."""

from __future__ import annotations

import contextvars

from poorwill.media import process_state
from poorwill.media.process_state import ProcessState


def test_the_entry_points_state_is_found_until_it_ends() -> None:
    """By everything that runs inside it; others have a state of their own each time."""
    with process_state.using(ProcessState()) as state:
        assert process_state.current() is state
        state.stop.check()
        assert contextvars.copy_context().run(process_state.current) is state
    assert process_state.current() is not state
    assert process_state.current() is not process_state.current()
