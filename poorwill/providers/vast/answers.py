"""vast.ai's answers in Poorwill's types. They are not trusted: some of it comes from the hosts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from poorwill import timestamps
from poorwill.errors import ProviderUnavailable
from poorwill.providers.base import Instance, Offer, SshEndpoint

Row = Mapping[str, Any]

_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,252}")
_TEXT_MAX = 300
_ID_MAX = 10**18
CAPABILITY_UNIT = 100
"""vast.ai says 860 for a compute capability of 8.6."""
# A container that exited, and a machine that left the network, do not run again by themselves.
_FAILED = {"exited": "its container has exited", "offline": "its host is offline"}
_FAILURE = re.compile(r"error|fail|denied|oci runtime|manifest unknown|no such image|no space left", re.IGNORECASE)


def number(row: Row, name: str) -> float | None:
    """A finite number of 0 or more; None for anything else."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and found >= 0 else None


def text(row: Row, name: str) -> str:
    """A string, stripped (addresses come with line ends) and bounded; "" for anything else."""
    value = row.get(name)
    return value.strip()[:_TEXT_MAX] if isinstance(value, str) else ""


def id_of(row: Row, name: str = "id") -> str | None:
    """A machine's or an offer's number."""
    value = row.get(name)
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 < value < _ID_MAX
    return str(value) if valid else None


def offer_of(row: Row, spot: bool) -> Offer | None:
    """An offer, or None if id, price or disk are missing."""
    offer_id, price, disk = id_of(row), number(row, "dph_total"), number(row, "disk_space")
    if offer_id is None or price is None or disk is None:
        return None
    reliability, capability = number(row, "reliability"), number(row, "compute_cap")
    return Offer(
        id=offer_id,
        gpu=text(row, "gpu_name"),
        gpu_count=int(number(row, "num_gpus") or 0),
        cores=int(number(row, "cpu_cores_effective") or number(row, "cpu_cores") or 0),
        memory_gb=(number(row, "cpu_ram") or 0) / 1000,  # MB
        disk_gb=disk,
        region=text(row, "geolocation"),
        price_per_hour=price,
        download_mbps=number(row, "inet_down"),
        reliability=number(row, "reliability2") if reliability is None else reliability,
        spot=spot,
        cuda_max=number(row, "cuda_max_good"),
        compute_capability=None if capability is None else capability / CAPABILITY_UNIT,
    )


def instance_of(row: Row) -> Instance:
    """An instance. ProviderUnavailable if it has no id: to leave it out could hide a machine that bills."""
    instance_id = id_of(row)
    if instance_id is None:
        raise ProviderUnavailable("vast.ai described an instance without an id: try again later")
    return Instance(
        id=instance_id,
        label=text(row, "label"),
        running=status_of(row) == "running" and address_of(row) is not None,
        created_at=_utc(number(row, "start_date")),
        price_per_hour=number(row, "dph_total") or 0.0,
    )


def _utc(posix_s: float | None) -> str:
    # A machine of unknown age counts as new, so that it is not destroyed for being old.
    return timestamps.text_of(posix_s) if posix_s is not None and 0 < posix_s < 4e9 else timestamps.now()


def status_of(row: Row) -> str:
    """The container's status: "" while it is provisioned, then loading, running, exited, offline, and others."""
    return text(row, "actual_status")


def address_of(row: Row) -> SshEndpoint | None:
    """Where its SSH server is: the machine's own port if it is mapped, else vast.ai's proxy; None without either."""
    direct = _endpoint(text(row, "public_ipaddr"), _mapped_port(row.get("ports")))
    if direct is not None:
        return direct
    port = _port(row.get("ssh_port"))
    if port is not None and "jupyter" in text(row, "image_runtype"):
        port += 1  # as vast.ai's own client does: the port itself is then Jupyter's
    return _endpoint(text(row, "ssh_host"), port)


def _mapped_port(ports: Any) -> int | None:
    """The host's port for port 22, from {"22/tcp": [{"HostIp", "HostPort"}]}; None for any other value."""
    mappings = ports.get("22/tcp") if isinstance(ports, dict) else None
    for mapping in mappings if isinstance(mappings, list) else ():
        port = _port(mapping.get("HostPort")) if isinstance(mapping, dict) else None
        if port is not None:
            return port
    return None


def _port(value: Any) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536 else None


def _endpoint(host: str, port: int | None) -> SshEndpoint | None:
    if port is None or port > 65535 or _HOST.fullmatch(host) is None:
        return None
    return SshEndpoint(host, port, "root")


def failure_of(row: Row) -> str | None:
    """Why it will never run, in the host's words, or None."""
    status, said = status_of(row), text(row, "status_msg")
    if status == "running":
        return None
    failed = _FAILED.get(status)
    if failed is None and text(row, "intended_status") == "stopped":
        failed = "it was stopped"
    if failed is None and _FAILURE.search(said):
        failed = "it cannot start"
    return f"{failed}: {said}".rstrip(": ") if failed else None
