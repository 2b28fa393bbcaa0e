"""A network for requests to strangers' URLs: public addresses only, and one deadline for everything.

A host is resolved once for each connection, all of its addresses are checked, and one of these is dialled: a name
server has no chance to answer differently the second time. httpcore still knows the host by its name, for Host, SNI and
the certificate.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from ipaddress import ip_address

import httpcore

from poorwill.errors import DeadlineExceeded, NotFound, Refused, SourceUnavailable
from poorwill.web.addresses import Address, AllowRule, refusal

CHECK_S = 0.25  # how long to wait for bytes or names before `check` is called again
CONNECT_S_MAX = 5.0  # for one address of several
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}

Resolve = Callable[[str, int], Sequence[str]]  # host and port -> IP addresses; raises OSError as getaddrinfo does


def system_addresses(host: str, port: int) -> list[str]:
    """A host's addresses by the system's resolver, in its order of preference."""
    return [str(where[0]) for *_, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Deadline:
    """The time limit of work in many steps, and a check that may end it earlier."""

    def __init__(self, timeout_s: float, what: str, check: Callable[[], None]) -> None:
        """Begins now. `what` names the work in the message; `check` raises to stop it."""
        self._ends_s = time.monotonic() + timeout_s
        self._late = f"{what} did not end in {timeout_s:g} s; try again, or use a faster server"
        self._check = check

    def left_s(self) -> float:
        """Seconds left, more than 0. DeadlineExceeded, or whatever `check` raises."""
        self._check()
        left_s = self._ends_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded(self._late)
        return left_s

    def wait_s(self) -> float:
        """How long to wait at most before asking again; raises as `left_s` does."""
        return min(CHECK_S, self.left_s())


class GuardedNetwork(httpcore.NetworkBackend):
    """Connects for httpcore, if the address may be reached. The deadline bounds every wait, in place of its timeouts.

    Raises Refused for an address or a certificate, NotFound for a name that does not exist, SourceUnavailable for one
    that cannot be resolved now, DeadlineExceeded, and httpcore's errors for connections.
    """

    def __init__(self, deadline: Deadline, allow: Iterable[AllowRule] = (), resolve: Resolve = system_addresses):
        self.deadline = deadline
        self._allow = tuple(allow)
        self._resolve = resolve

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._addresses(host, port)
        for address in addresses:
            why = refusal(address, port, self._allow)
            if why is not None:
                # Without the address: it would tell a stranger where internal names lead.
                raise Refused(f"{host}, port {port}, may not be reached: it is {why}; use a public server", host=host)
        return DeadlineStream(self._dial(addresses, port), self.deadline)

    def _addresses(self, host: str, port: int) -> list[Address]:
        try:
            return [ip_address(host)]
        except ValueError:
            return [ip_address(text) for text in dict.fromkeys(self._resolved(host, port))]

    def _resolved(self, host: str, port: int) -> Sequence[str]:
        """In a thread, since the system's resolver takes no timeout; an abandoned thread ends with the resolver's."""
        answer: Future[Sequence[str]] = Future()

        def ask() -> None:
            try:
                answer.set_result(self._resolve(host, port))
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
        while not wait([answer], timeout=self.deadline.wait_s()).done:
            pass
        try:
            addresses = answer.result()
        except OSError as error:
            if isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME:
                raise NotFound(f"there is no server {host}: check the URL", host=host) from None
            raise SourceUnavailable(f"the name {host} cannot be resolved now: {error}", host=host) from None
        if not addresses:
            raise NotFound(f"{host} has no address: check the URL", host=host)
        return addresses

    def _dial(self, addresses: Sequence[Address], port: int) -> httpcore.NetworkStream:
        """A connection to the first address that answers, or the last one's error. Each gets its share of the time."""
        for left in range(len(addresses), 0, -1):
            timeout_s = min(CONNECT_S_MAX, self.deadline.left_s() / left)
            try:
                # A numeric address is dialled as it is: nothing is resolved below.
                return httpcore.SyncBackend().connect_tcp(str(addresses[-left]), port, timeout=timeout_s)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if left == 1:
                    raise
        raise AssertionError("unreachable")


class DeadlineStream(httpcore.NetworkStream):
    """A connection whose waits end at the deadline, however slowly the other side sends."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            try:
                return self._stream.read(max_bytes, self._deadline.wait_s())
            except httpcore.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Not by httpcore, whose timeout holds for each of the sends, of which a slow reader needs many."""
        connection, left = self._stream.get_extra_info("socket"), memoryview(buffer)
        while left:
            connection.settimeout(self._deadline.wait_s())
            try:
                left = left[connection.send(left[: 64 << 10]) :]
            except TimeoutError:
                continue
            except OSError as error:
                raise httpcore.WriteError(str(error)) from error

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Refused if the certificate is not valid for that host."""
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left_s())
        except httpcore.ConnectError as error:
            cause = error.__cause__
            if not isinstance(cause, ssl.SSLCertVerificationError):
                raise
            raise Refused(f"{server_hostname} has no valid certificate: {cause.verify_message}") from error
        return DeadlineStream(stream, self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)
