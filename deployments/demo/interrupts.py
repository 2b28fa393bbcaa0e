"""SIGINT, SIGTERM and SIGHUP end the demo, in whatever code they arrive."""

from __future__ import annotations

import os
import signal
import sys
import threading

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_S = 0.05


class Interrupts:
    """Each of these signals raises KeyboardInterrupt, and is remembered: Prefect may catch the exception and go on."""

    def __init__(self) -> None:
        self.received = False
        for name in SIGNALS:
            if signal.getsignal(name) != signal.SIG_IGN:
                signal.signal(name, self._interrupt)
        sys.unraisablehook = _repeat

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come."""
        if self.received:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """Ignore the signals from now on."""
        for name in SIGNALS:
            signal.signal(name, signal.SIG_IGN)

    def _interrupt(self, signum: int, frame: object) -> None:
        # While a flow runs, Prefect has its own for SIGTERM, which raises too.
        self.received = True
        raise KeyboardInterrupt


def _repeat(ignored: sys.UnraisableHookArgs) -> None:
    """A KeyboardInterrupt that hit a destructor is lost: the signal comes again."""
    if issubclass(ignored.exc_type, KeyboardInterrupt):
        threading.Timer(AGAIN_S, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(ignored)
