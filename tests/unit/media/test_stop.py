"""Asking work to stop."""

from __future__ import annotations

import threading

import pytest

from poorwill.errors import Cancelled
from poorwill.media.stop import Stop


def test_it_stops_with_the_reason_until_it_is_cleared() -> None:
    """And the next run is not stopped by what the last one was told."""
    stop = Stop()
    stop.check()
    stop.request("the client went away")
    for _ in range(2):
        with pytest.raises(Cancelled, match="the client went away"):
            stop.check()
    stop.clear()
    stop.check()


def test_the_first_reason_stays() -> None:
    """It is the cause; what is said later follows from it."""
    stop = Stop()
    stop.request("cancelled by a person")
    stop.request("the worker ends")
    with pytest.raises(Cancelled, match="cancelled by a person"):
        stop.check()


def test_another_thread_is_heard() -> None:
    """As the resident process does it: one thread reads, one works."""
    stop, working, heard = Stop(), threading.Event(), []

    def work() -> None:
        try:
            while True:
                working.set()
                stop.check()
        except Cancelled as error:
            heard.append(error.message)

    worker = threading.Thread(target=work)
    worker.start()
    assert working.wait(10)
    stop.request("enough")
    worker.join(10)
    assert heard == ["enough"]
