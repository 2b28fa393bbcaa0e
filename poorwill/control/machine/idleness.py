"""Whether a machine is idle, since when, and why not: pure rules over what its engine reports.

What is unknown counts as activity: a machine that is left awake costs money, one that falls asleep while somebody uses
it costs work. The report is typed and bounded here before it is used anywhere. A machine that lies can keep itself
awake, or have itself put to sleep, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from poorwill.errors import one_line
from poorwill.snapshot import durations

ROWS_MAX = 100
TEXT_MAX = 200
WHY_MAX = 6
NUMBER_MAX = 1e18
HELD_MIB = 1024.0
"""A GPU with more memory in use counts as held, even if its processes cannot be seen."""
GAP_S_MIN = 3600.0
"""A machine that was not looked at for longer, and longer than it may be idle, is watched from the beginning."""
NETWORK, CPU, GPU, LOGINS, TERMINALS, CLIENTS = "network", "CPU", "GPU", "logins", "terminals", "clients"


@dataclass(frozen=True, slots=True)
class Limits:
    """What an idle machine may show at most. Rates hold for the window, and for the time since the look before."""

    gpu_percent_max: float = 5.0
    gpus_held_max: int = 0  # with processes, or with more than HELD_MIB in use
    logins_max: int = 0
    clients_max: int = 0
    terminal_quiet_s_min: float = 600.0
    network_kib_per_s_max: float = 100.0
    cpu_cores_max: float = 0.5


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU's load. None: unknown."""

    utilisation_percent: float | None
    memory_used_mib: float | None
    processes: int | None

    @property
    def held(self) -> bool:
        return bool(self.processes) or (self.memory_used_mib or 0.0) > HELD_MIB


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a machine. `unknown` names what could not be read, and why."""

    boot: str = ""
    gpus: tuple[Gpu, ...] = ()
    logins: tuple[str, ...] = ()
    terminals: tuple[tuple[str, float], ...] = ()  # name, seconds since it was used
    clients: tuple[tuple[int, int], ...] = ()  # port, connections
    network_bytes: float | None = None
    network_bytes_per_s: float | None = None
    cpu_s: float | None = None
    cpu_cores: float | None = None
    unknown: tuple[str, ...] = ()

    @classmethod
    def read(cls, report: Mapping[str, Any]) -> Observation:
        """From the result of the engine's request `activity`, which may hold anything. Raises nothing."""
        unknown = [_text(line) for line in _rows(report.get("unreadable")) or []]
        lists = {name: _rows(report.get(name)) for name in ("gpus", "logins", "terminals", "clients")}
        numbers = {
            name: _number(report.get(name)) for name in ("network_bytes", "network_bytes_per_s", "cpu_s", "cpu_cores")
        }
        long = (name for name in lists if lists[name] is not None and len(report[name]) > ROWS_MAX)
        unknown += [f"{name}: more than {ROWS_MAX}" for name in long]
        absent = {"gpus": GPU, "logins": LOGINS, "terminals": TERMINALS, "clients": CLIENTS, "network_bytes": NETWORK,
                  "network_bytes_per_s": NETWORK, "cpu_s": CPU, "cpu_cores": CPU}  # fmt: skip
        for name, kind in absent.items():
            missing = lists[name] is None if name in lists else numbers[name] is None
            if missing and not any(line.startswith(kind) for line in unknown):
                unknown.append(kind)
        return cls(
            boot=_text(report.get("boot")),
            gpus=tuple(_gpu(row) for row in lists["gpus"] or []),
            logins=tuple(_text(_cell(row, "who")) or "somebody" for row in lists["logins"] or []),
            terminals=tuple(
                # A malformed time counts as now.
                (_text(_cell(row, "name")), _number(_cell(row, "idle_s")) or 0.0)
                for row in lists["terminals"] or []
            ),
            clients=tuple(
                (int(_number(_cell(row, "port")) or 0), max(1, int(_number(_cell(row, "count")) or 1)))
                for row in lists["clients"] or []
            ),
            unknown=tuple(dict.fromkeys(unknown))[:ROWS_MAX],
            **numbers,
        )


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of a machine from one look to the next. Times are POSIX seconds of the control side.

    idle_since_s: None while it is active. run: the hibernation that was started for it. told: whether an event was sent
    that it has been idle for longer than it may. refused: and one that its hibernation was refused.
    """

    instance: str
    seen_s: float
    idle_since_s: float | None = None
    boot: str = ""
    network_bytes: float | None = None
    cpu_s: float | None = None
    run: str = ""
    told: bool = False
    refused: bool = False

    @classmethod
    def read(cls, kept: Any) -> Watch | None:
        """What `asdict` gave; None for anything else, and the machine is watched from the beginning."""
        if not isinstance(kept, dict) or not isinstance(kept.get("instance"), str):
            return None
        seen_s, since_s = _number(kept.get("seen_s")), _number(kept.get("idle_since_s"))
        if seen_s is None:
            return None
        return cls(
            instance=kept["instance"],
            seen_s=seen_s,
            idle_since_s=None if since_s is None else min(since_s, seen_s),
            boot=_text(kept.get("boot")),
            network_bytes=_number(kept.get("network_bytes")),
            cpu_s=_number(kept.get("cpu_s")),
            run=_text(kept.get("run")),
            told=kept.get("told") is True,
            refused=kept.get("refused") is True,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """`idle_s` is 0 while active. `due`: idle for as long as it may be. `watch` is for the next look."""

    active: bool
    why: str
    idle_s: float
    due: bool
    watch: Watch


def judge(
    before: Watch | None, instance: str, seen: Observation, now_s: float, idle_after_s: float, limits: Limits
) -> Verdict:
    """The verdict of one more look at a machine.

    A new instance starts from zero; so does a machine that was not looked at for longer than GAP_S_MIN and
    `idle_after_s`, and one whose last look lies in the future.
    """
    past = before if before is not None and before.instance == instance else None
    if past is not None and not 0 <= now_s - past.seen_s <= max(GAP_S_MIN, idle_after_s):
        past = None
    signs = signs_of(seen, past, now_s, limits)
    watch = Watch(instance, now_s, boot=seen.boot, network_bytes=seen.network_bytes, cpu_s=seen.cpu_s)
    if past is not None:
        # While a hibernation is under way, what is seen of use may be its own.
        watch = replace(watch, run=past.run, refused=past.refused and (not signs or bool(past.run)))
    if signs:
        return Verdict(True, _sentence(signs), 0.0, False, watch)
    since_s = now_s if past is None or past.idle_since_s is None else past.idle_since_s
    told = past is not None and past.told and past.idle_since_s is not None
    watch, idle_s = replace(watch, idle_since_s=since_s, told=told), now_s - since_s
    return Verdict(False, _idle_sentence(seen), idle_s, idle_s >= idle_after_s, watch)


def unreachable(before: Watch | None, instance: str, now_s: float) -> Watch:
    """The watch of a machine that cannot be reached: what it does is unknown, so it starts from zero."""
    run = before.run if before is not None and before.instance == instance else ""
    return Watch(instance, now_s, run=run)


def begun_anew(watch: Watch, *, refused: bool = False) -> Watch:
    """The watch after a failed hibernation: the machine has to be idle again before the next one. One that was refused
    is told once, until the machine is used."""
    since_s = None if watch.idle_since_s is None else watch.seen_s
    return replace(watch, run="", told=False, refused=refused, idle_since_s=since_s)


def signs_of(seen: Observation, before: Watch | None, now_s: float, limits: Limits) -> tuple[str, ...]:
    """The signs that the machine is in use; empty if it is idle."""
    return (
        *(f"{line} (not known)" for line in seen.unknown),
        *_gpu_signs(seen.gpus, limits),
        *_people(seen, limits),
        *_rates("in the window", seen.network_bytes_per_s, seen.cpu_cores, limits),
        *_since(seen, before, now_s, limits),
    )


def _gpu_signs(gpus: tuple[Gpu, ...], limits: Limits) -> Iterable[str]:
    for number, gpu in enumerate(gpus):
        if gpu.utilisation_percent is None:
            yield f"GPU {number}: its utilisation is not known"
        elif gpu.utilisation_percent > limits.gpu_percent_max:
            yield f"GPU {number} at {gpu.utilisation_percent:.0f}%"
    held = [number for number, gpu in enumerate(gpus) if gpu.held]
    if len(held) > limits.gpus_held_max:
        yield f"{_count(len(held), 'GPU')} held by processes"


def _people(seen: Observation, limits: Limits) -> Iterable[str]:
    if len(seen.logins) > limits.logins_max:
        yield f"{_count(len(seen.logins), 'login')} ({', '.join(seen.logins[:3])})"
    for name, idle_s in seen.terminals:
        if idle_s < limits.terminal_quiet_s_min:
            yield f"terminal {name} used {durations.rough(idle_s)} ago"
    connections = sum(count for _, count in seen.clients)
    if connections > limits.clients_max:
        ports = ", ".join(str(port) for port, _ in seen.clients[:3])
        yield f"{_count(connections, 'client')} of port {ports}"


def _rates(when: str, network_bytes_per_s: float | None, cores: float | None, limits: Limits) -> Iterable[str]:
    if network_bytes_per_s is not None and network_bytes_per_s / 1024 > limits.network_kib_per_s_max:
        yield f"network at {network_bytes_per_s / 1024:,.0f} KiB/s {when}"
    if cores is not None and cores > limits.cpu_cores_max:
        yield f"{cores:.2f} cores busy {when}"


def _since(seen: Observation, before: Watch | None, now_s: float, limits: Limits) -> Iterable[str]:
    """A window of seconds misses most of what happens: the counters show what happened between two looks."""
    if before is None or before.network_bytes is None or before.cpu_s is None or now_s <= before.seen_s:
        return
    if seen.network_bytes is None or seen.cpu_s is None:
        return  # already among the unknown
    ago = f"since the look {durations.rough(now_s - before.seen_s)} ago"
    if before.boot != seen.boot or seen.network_bytes < before.network_bytes or seen.cpu_s < before.cpu_s:
        yield f"restarted {ago}"
        return
    elapsed_s = now_s - before.seen_s
    network, cores = (seen.network_bytes - before.network_bytes) / elapsed_s, (seen.cpu_s - before.cpu_s) / elapsed_s
    yield from _rates(ago, network, cores, limits)


def _sentence(signs: tuple[str, ...]) -> str:
    more = f"; {len(signs) - WHY_MAX} more" if len(signs) > WHY_MAX else ""
    return "; ".join(signs[:WHY_MAX]) + more


def _idle_sentence(seen: Observation) -> str:
    busiest = max((gpu.utilisation_percent or 0.0 for gpu in seen.gpus), default=None)
    gpus = "no GPU" if busiest is None else f"{_count(len(seen.gpus), 'GPU')} at {busiest:.0f}% at most"
    network, cores = (seen.network_bytes_per_s or 0.0) / 1024, seen.cpu_cores or 0.0
    return f"{gpus}, {_count(len(seen.logins), 'login')}, network at {network:,.0f} KiB/s, {cores:.2f} cores busy"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _gpu(row: Any) -> Gpu:
    used, processes = _number(_cell(row, "memory_used_mib")), _number(_cell(row, "processes"))
    # Without either it is unknown whether the GPU is held: it counts as held.
    held = 1 if used is None and processes is None else None
    return Gpu(_number(_cell(row, "utilisation_percent")), used, held if processes is None else int(processes))


def _rows(value: Any) -> list[Any] | None:
    return value[:ROWS_MAX] if isinstance(value, list) else None


def _cell(row: Any, name: str) -> Any:
    return row.get(name) if isinstance(row, dict) else None


def _text(value: Any) -> str:
    """A string in ASCII: a machine's own may hold marks that reorder a line, or halves of characters."""
    if not isinstance(value, str):
        return ""
    return one_line(value[:TEXT_MAX].encode("ascii", "backslashreplace").decode())[:TEXT_MAX]


def _number(value: Any) -> float | None:
    """A finite number from 0 to NUMBER_MAX; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= NUMBER_MAX else None
