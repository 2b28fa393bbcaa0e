"""What a provider of machines promises.

Every implementation passes tests/conformance/provider_suite.py. All calls are thread-safe and have a timeout. Errors,
the same for all: NotFound (no such instance), Refused (the provider does not have what was asked for),
ProviderUnavailable (no answer, or a request to slow down that outlasted the attempts), ProviderRefused (credentials,
credit, quota). No message holds a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from poorwill.errors import UsageError

_PUBLIC_KEY = re.compile(r"(ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/=]+( [\x20-\x7e]*)?")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_OF_CUDA = ("cuda_min", "compute_capability_min")


@dataclass(frozen=True, slots=True)
class Wish:
    """What a machine must have. None: anything will do. A provider refuses what it cannot promise."""

    gpu: str | None = None
    gpu_count: int | None = None
    region: str | None = None
    price_per_hour_max: float | None = None  # US dollars, for the whole machine
    disk_gb: int | None = None
    download_mbps_min: float | None = None  # megabits per second
    reliability_min: float | None = None  # 0 to 1, as the provider counts it
    spot: bool = False  # a machine that the provider may take away, for less money
    cuda_min: float | None = None  # of an NVIDIA GPU's driver, as 12.0; an image may bring another driver
    compute_capability_min: float | None = None  # of an NVIDIA GPU, as 7.0

    def check(self) -> Wish:
        """Itself, or UsageError."""
        for name in ("gpu_count", "price_per_hour_max", "disk_gb", "download_mbps_min", *_OF_CUDA):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1_000_000:
                raise UsageError(f"{name} {value}: expected a number above 0")
        if self.reliability_min is not None and not 0 <= self.reliability_min <= 1:
            raise UsageError(f"reliability_min {self.reliability_min}: expected a number from 0 to 1")
        return self


@dataclass(frozen=True, slots=True)
class Offer:
    """A machine that can be rented now. None: the provider does not say."""

    id: str
    gpu: str  # "" without GPUs
    gpu_count: int
    cores: int
    memory_gb: float
    disk_gb: float  # the most that can be rented with it
    region: str
    price_per_hour: float  # US dollars, with the disk that was wished for
    download_mbps: float | None = None
    reliability: float | None = None
    spot: bool = False
    cuda_max: float | None = None  # the newest CUDA that the GPU's driver supports
    compute_capability: float | None = None  # of an NVIDIA GPU


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine as its provider describes it. It bills as long as `Provider.exists` is True."""

    id: str
    label: str
    running: bool
    created_at: str  # UTC, YYYY-MM-DDTHH:MM:SSZ
    price_per_hour: float  # US dollars; NaN where the provider does not say


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """A machine that is a directory of this host: `root` is its '/', and its engine runs with `environment`."""

    root: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def path(self, path: str) -> str:
        """Where a path of the machine is on this host. UsageError for one outside, or one of the provider's own."""
        named = [part for part in checked_path(path).split("/") if part not in ("", ".")]
        if named[0] in ("state", "instance.json"):
            raise UsageError(f"'{path}' of a local machine belongs to the provider: use a path like /workspace")
        return "/".join([self.root, *named])


@dataclass(frozen=True, slots=True)
class SshEndpoint:
    """A machine that runs an SSH server. `user` is empty where the provider does not say."""

    host: str
    port: int = 22
    user: str = ""

    def path(self, path: str) -> str:
        """The same path. UsageError for a malformed one."""
        return checked_path(path)


Endpoint = LocalEndpoint | SshEndpoint
"""How a machine is reached."""

OFFERS_MAX = 20


class Provider(Protocol):
    """Machines of one account or host."""

    def describe(self) -> str:
        """The account, for messages and records: different for every account. No secret."""

    def offers(self, wish: Wish) -> list[Offer]:
        """What fulfils the wish now, cheapest first, at most OFFERS_MAX. Empty if there is nothing."""

    def create(self, label: str, wish: Wish) -> Instance:
        """Create a machine: the cheapest offer that is still there. Refused if nothing fulfils the wish.

        Not idempotent: look with `list_by_label` before, or there may be two. A request that may have succeeded is
        never repeated: it is ProviderUnavailable. After any other error nothing was created.
        """

    def get(self, instance_id: str) -> Instance:
        """NotFound when it does not exist."""

    def list_by_label(self, label: str) -> list[Instance]:
        """Every machine with exactly this label, including those that do not run yet."""

    def list_by_prefix(self, prefix: str) -> list[Instance]:
        """Every machine whose label begins with `prefix`."""

    def wait(self, instance_id: str, timeout_s: float) -> Instance:
        """The machine once it runs and has an endpoint. DeadlineExceeded; NotFound if it vanished."""

    def endpoint(self, instance_id: str) -> Endpoint:
        """How to reach a running machine. NotFound."""

    def exists(self, instance_id: str) -> bool:
        """Whether it may still bill: True until the provider confirms that nothing of it is left."""

    def destroy(self, instance_id: str, timeout_s: float) -> None:
        """Destroy, and ask until it is gone. Idempotent: destroying a missing machine succeeds.

        DeadlineExceeded or PermanentError if it is not gone then; the message names what still bills.
        """


def checked_path(path: str) -> str:
    """`path`, or UsageError if it is not an absolute path on a machine, below its root."""
    components = path.split("/")
    if not path.startswith("/") or ".." in components or "\0" in path or not set(components) - {"", "."}:
        raise UsageError(
            f"'{path[:200]}': expected an absolute path below the root of the machine, without '..', like /workspace"
        )
    return path


def checked_label(label: str) -> str:
    """`label`, or UsageError."""
    if _LABEL.fullmatch(label) is None:
        raise UsageError(f"'{label[:80]}' cannot label a machine: up to 200 letters, digits, '.', '_' or '-'")
    return label


def checked_public_keys(lines: Iterable[str]) -> tuple[str, ...]:
    """OpenSSH's lines without white space around them, or UsageError. No message repeats one: it may be private."""
    found = tuple(line.strip() for line in lines)
    if not all(map(_PUBLIC_KEY.fullmatch, found)):
        raise UsageError(
            "not a public key: expected one line like 'ssh-ed25519 AAAA... name', as in ~/.ssh/id_ed25519.pub"
        )
    return found
