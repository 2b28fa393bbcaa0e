"""A rented machine as a host: reached over SSH, its engine shipped, its session kept over cut connections."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable

from poorwill.errors import EngineLost, HostRefused
from poorwill.providers.base import SshEndpoint
from poorwill.remote.base import Stream
from poorwill.remote.host_key import PinnedKey
from poorwill.remote.identity import Identity
from poorwill.remote.install.probe import Installed
from poorwill.remote.install.ship import WITHOUT_GPU, Shipment, command
from poorwill.remote.link.link import DEAD_AFTER_S, PATIENCE_S, Link
from poorwill.remote.ssh_connection import SshConnection, described

RETRY_S = 2.0
SILENCE_S_MAX = 60.0
log = logging.getLogger(__name__)


class SshHost:
    """Starts engines on the machine behind `endpoint`; one SSH channel for each of them.

    boot_patience_s: for how long a machine that does not answer, or refuses the login, is tried again: a provider calls
    a machine running some time before it knows our key. patience_s: for how long a cut connection is mended; the engine
    goes on meanwhile. dead_after_s: after how long a silence a connection counts as cut.
    """

    here = False

    def __init__(
        self,
        endpoint: SshEndpoint,
        identity: Identity,
        pin: PinnedKey,
        *,
        boot_patience_s: float = 0.0,
        patience_s: float = PATIENCE_S,
        dead_after_s: float = DEAD_AFTER_S,
        shipment: Shipment | None = None,
        on_step: Callable[[str], None] = log.info,
    ) -> None:
        self._endpoint, self._identity, self._pin = endpoint, identity, pin
        self._boot_patience_s, self._patience_s = boot_patience_s, patience_s
        self._dead_after_s = dead_after_s
        self._shipment = shipment or Shipment()
        self._on_step = on_step
        self.silence_s_max = patience_s + SILENCE_S_MAX

    def describe(self) -> str:
        return described(self._endpoint)

    def start(self) -> Link:
        connection = self._reach()
        try:
            installed = self._shipment.ship(connection, on_step=self._on_step)
        except BaseException:
            connection.close()
            raise
        for line in installed.log:
            tell = log.warning if line.startswith(WITHOUT_GPU) else self._on_step
            tell(f"{self.describe()}: {line}")
        return self._link(installed, connection)

    def _link(self, installed: Installed, connection: SshConnection) -> Link:
        keeper, at_hand = secrets.token_hex(8), [connection]

        def dial(first: bool) -> Stream:
            opened = at_hand.pop() if at_hand else self._connect()
            arguments = [keeper, "--start"] if first else [keeper]
            try:
                return opened.stream(command(installed, "poorwill.remote.link.keeper", arguments))
            except BaseException:
                opened.close()
                raise

        return Link(
            dial,
            patience_s=self._patience_s,
            dead_after_s=self._dead_after_s,
            ping_s=self._dead_after_s / 4,
            describe=self.describe(),
        )

    def _connect(self) -> SshConnection:
        return SshConnection(self._endpoint, self._identity, self._pin)

    def _reach(self) -> SshConnection:
        ends = time.monotonic() + self._boot_patience_s
        while True:
            try:
                return self._connect()
            except (EngineLost, HostRefused) as error:
                changed = isinstance(error, HostRefused) and bool(self._pin.known)
                if changed or time.monotonic() + RETRY_S > ends:
                    raise
            self._on_step(f"waiting for {self.describe()} to let us in")
            time.sleep(RETRY_S)
