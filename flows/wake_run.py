"""The course of a wake: which snapshot onto which machine, what it would do, what becomes of a machine that fails."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from prefect.states import Completed

from blocks.lookup import bare, block_name_of, machine_block, machine_if_any
from blocks.machines import Machine
from blocks.providers import AnyProvider, LocalProvider
from flows.slots import machine_slot
from flows.stages import each, ending, openings
from poorwill.control.machine.provisioning import IMAGE_GB, MAY_BILL, disk_gb_for
from poorwill.control.records import catalog
from poorwill.control.snapshot import needs
from poorwill.engine.machine.nvidia_smi import gpus_and_driver
from poorwill.errors import NotFound, PoorwillError, Refused, UsageError
from poorwill.providers.base import Wish
from poorwill.snapshot import ids
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.order import RestoreOrder
from poorwill.store.base import Store
from poorwill.timestamps import timed
from tasks.events import STILL_BILLING, emit
from tasks.machine import open_machine, run_command
from tasks.progress import ProgressArtifacts, restoring
from tasks.provision import discard, note_awake, note_partial, provision, source_of
from tasks.reports.machine_report import publish_offers
from tasks.reports.wake_report import publish_wake
from tasks.restore import finish_restore, open_restore, restore_part
from tasks.sessions import sessions


@dataclass(frozen=True, slots=True)
class Request:
    """How to wake."""

    store: str
    provider: str | None
    wish: Wish
    order: RestoreOrder
    start_command: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """What to wake, and as which machine. `instance` is empty if a machine is to be created, by `source`."""

    snapshot_id: str
    metadata: Metadata
    name: str  # of the machine's block
    machine: str  # the name its snapshots are kept under
    instance: str
    source: AnyProvider
    awake_from: str = ""  # the snapshot that this instance was woken from, if it is awake

    @property
    def run(self) -> str:
        """The id that the connection to its machine has in this process."""
        return f"{self.machine}/{self.snapshot_id}"

    def suited(self, wish: Wish) -> Wish:
        """The wish for a machine that the snapshot can be woken on: with what it needs, and a disk that holds it.

        A disk that was asked for stays; holes in files need none. A machine of the local provider is this host, which
        `check_host` looks at: it has no image of its own to hold, and nothing to choose from.
        """
        local = isinstance(self.source, LocalProvider)
        if not local:
            wish = needs.wished(needs.of(self.metadata), wish)
        least_gb = max(1, disk_gb_for(self.metadata.totals.data_bytes, 0 if local else IMAGE_GB))
        return wish if wish.disk_gb is not None else replace(wish, disk_gb=least_gb)

    def needed(self) -> str:
        """What the machine must have beyond a CPU, for messages; "" if nothing."""
        return "; ".join(need.describe() for need in needs.of(self.metadata))


def resolve(store: Store, snapshot: str, machine: str | None, provider: str | None) -> Target:
    """Find snapshot and machine, as `resolve_as` and `check_host`; nothing is created."""
    block = machine_block(machine) if machine is not None else None
    snapshot_id = snapshot_id_of(store, snapshot, block.name if block is not None else None, block)
    metadata = catalog.find(store, snapshot_id)
    name = bare(machine) if machine is not None else block_name_of(metadata.machine)
    awake = block is not None and block.status == "awake" and bool(block.instance)
    if awake and provider is not None:
        raise UsageError(f"machine {name} is awake: leave out the provider to restore onto it")
    own = block.name if block is not None else metadata.machine
    target = resolve_as(metadata, name, own, provider)
    check_host([target])
    return (
        replace(target, instance=block.instance, awake_from=block.snapshot) if awake and block is not None else target
    )


def resolve_as(metadata: Metadata, name: str, machine: str, provider: str | None) -> Target:
    """The same for a new machine, whose block is or will be `name`. UsageError, NotFound, Unsupported."""
    needs.of(metadata)  # Unsupported, before a machine is rented
    source = source_of(name, machine_if_any(name), provider)
    return Target(metadata.snapshot_id, metadata, name, machine, "", source)


def check_host(targets: Iterable[Target]) -> None:
    """UsageError if one of them is to be a machine of the local provider, and this host lacks the GPU that it needs."""
    for target in targets:
        wanted = needs.of(target.metadata) if isinstance(target.source, LocalProvider) else ()
        if not wanted:
            continue
        gpus, driver = gpus_and_driver()
        lack = next(filter(None, (need.lacking_gpu(gpus, driver) for need in wanted)), "")
        if lack:
            raise UsageError(
                f"snapshot {target.snapshot_id} needs {target.needed()}; a machine of the local provider is this host, "
                f"which {lack}: wake it with another provider"
            )
        return  # they are all of one snapshot


def snapshot_id_of(store: Store, snapshot: str, machine: str | None, block: Machine | None = None) -> str:
    """From what a user writes: an id, `latest`, or `latest:` and a machine's name. UsageError, NotFound.

    machine: the name its snapshots are kept under; block: its block, if that was read already.
    """
    word, _, named = snapshot.partition(":")
    if word != "latest":
        return ids.checked_snapshot_id(snapshot)
    owner = named or machine
    if owner is None:
        raise UsageError("snapshot='latest' needs a machine: give machine=, or write latest:<machine>")
    if block is None or block.name != owner:
        block = machine_if_any(block_name_of(ids.checked_machine_name(owner)))
    found = latest_of(store, owner, block)
    if found is None:
        raise NotFound(f"{store.describe()} holds no snapshot of machine {owner}")
    return found


def latest_of(store: Store, owner: str, machine: Machine | None) -> str | None:
    """The snapshot that the machine sleeps in, if its block names one that this store has; else the newest.

    Ids tell when a snapshot was asked for: a hibernation that waited can be of a later state than what was asked for
    after it and taken before.
    """
    if machine is not None and machine.name == owner and machine.status == "asleep" and machine.snapshot:
        try:
            catalog.read(store, owner, machine.snapshot)
            return machine.snapshot
        except NotFound:
            pass  # of another store, or removed by hand
    return catalog.latest(store, owner)


def plan(request: Request, target: Target, count: int = 1) -> dict[str, Any]:
    """What waking `count` machines would do, as artifacts and a result; nothing is created.

    `choice` is what would be rented: the cheapest offer. `price_per_hour` is of all machines, if all could be had like
    it: they cost that or more. Errors of the provider.
    """
    opened = target.source.open()
    wish = target.suited(request.wish)
    offers = [] if target.instance else opened.offers(wish)
    choice = offers[0] if offers else None
    planned = {
        "snapshot_id": target.snapshot_id,
        "machine": target.name,
        "would": _would(target, opened.describe(), len(offers), count),
        "workspace": request.order.workspace,
        "disk_gb": wish.disk_gb,
        "files": target.metadata.totals.files,
        "raw_bytes": target.metadata.totals.raw_bytes,
        "stored_bytes": target.metadata.totals.stored_bytes,
        "parts": len(target.metadata.parts),
        "needs": [need.text for need in needs.of(target.metadata)],
        "start_command": request.start_command,
        "price_per_hour": choice.price_per_hour * count if choice is not None else 0.0,
    }
    rows = [{"what": name, "value": str(value)} for name, value in planned.items()]
    create_table_artifact(table=rows, key="wake-plan", description=f"Dry run: waking {target.snapshot_id}")
    if not target.instance:
        publish_offers(opened.describe(), offers)
    return {
        **planned,
        "choice": asdict(choice) if choice is not None else None,
        "offers": [asdict(offer) for offer in offers],
        "dry_run": True,
    }


def _would(target: Target, source: str, offers: int, count: int) -> str:
    if target.instance:
        return f"restore onto {target.instance}" + (f", if it has {target.needed()}" if target.needed() else "")
    machines = "a machine" if count == 1 else f"{count} machines"
    having = f" with {target.needed()}" if target.needed() else ""
    return f"create {machines} at {source}{having}" + ("" if offers else ", which offers none that fulfils the wish")


def wake_target(request: Request, target: Target) -> dict[str, Any]:
    """The whole of it, while no other run works on the machine. Returns ids, counts and milliseconds per stage."""
    timings_ms = dict[str, int]()
    with machine_slot(target.machine):
        try:
            if target.instance:
                with _told_if_awake(request, target):
                    result = _restore(request, target, timings_ms, target.instance)
            else:
                result = _provision_and_restore(request, target, timings_ms)
            if request.start_command:
                _start(request, target, timings_ms)
            done = {"snapshot_id": target.snapshot_id, "machine": target.name, **result}
            done.update(provisioned=not target.instance, timings_ms=timings_ms)
            if done["already_done"]:
                get_run_logger().info("%s", _already_awake(done))
            publish_wake(done, sessions.samples(target.run))
            return done
        finally:
            sessions.close(target.run)


def outcome(done: dict[str, Any]) -> dict[str, Any]:
    """The result of a wake, with words for a state that says more than that it is completed."""
    return ending(Completed(message=_already_awake(done), data=done)) if done["already_done"] else done


def _already_awake(done: dict[str, Any]) -> str:
    return (
        f"already awake: machine {done['machine']} was woken from snapshot {done['snapshot_id']} before, into "
        f"{done['workspace']}; nothing was restored, and what was changed there since is as it was"
    )


@contextmanager
def _told_if_awake(request: Request, target: Target) -> Iterator[None]:
    """Say so where a machine holds the work that was done since it was woken from this very snapshot.

    Its engine tells that itself, unless the machine was started anew since, or is not the one that was woken.
    """
    try:
        yield
    except Refused as error:
        if target.awake_from != target.snapshot_id or error.facts.get("occupied") is None:
            raise
        raise Refused(
            f"machine {target.name} is awake from snapshot {target.snapshot_id} already, and {request.order.workspace} "
            "holds something: nothing was restored, and what was changed there is as it was; to roll it back to the "
            "snapshot all the same, set overwrite",
            **error.facts,
        ) from None


def _provision_and_restore(request: Request, target: Target, timings_ms: dict[str, int]) -> dict[str, Any]:
    own = (target.name, target.machine, request.store, request.provider, target.snapshot_id)
    try:
        with timed(timings_ms, "provision"):
            placed = _provisioned(own, request, target)
        if placed["adopted"]:
            get_run_logger().info("an earlier wake had created instance %s: it is adopted", placed["instance"])
        # Nobody works on this machine yet: it holds only what its image or an earlier try put there.
        fresh = replace(request, order=replace(request.order, overwrite=True))
        result = _restore(fresh, target, timings_ms, placed["instance"], woken=placed["woken"])
        note_awake(target.name, request.store, placed["label"])
        return {**result, "price_per_hour": placed["price_per_hour"]}
    except BaseException as error:
        sessions.close(target.run)
        left = discard(*own)
        if MAY_BILL in left:
            emit(STILL_BILLING, "machine", target.name, f"the wake of {target.name} failed, and {left}")
        if left and isinstance(error, PoorwillError):
            raise type(error)(f"{error.message}; {left}", **error.facts) from None
        if left:
            get_run_logger().warning("%s", left)
        raise


def _provisioned(own: tuple[str, str, str, str | None, str], request: Request, target: Target) -> dict[str, Any]:
    try:
        placed: dict[str, Any] = provision(*own, target.suited(request.wish))
        return placed
    except Refused as error:
        if not target.needed():
            raise
        message = f"{error.message}; snapshot {target.snapshot_id} needs {target.needed()}"
        raise type(error)(message, **error.facts) from None


def _restore(
    request: Request, target: Target, timings_ms: dict[str, int], instance: str, woken: bool = False
) -> dict[str, Any]:
    """Restore, beginning again when the engine is lost: what was written is kept. woken: it was done before."""
    result = {
        "instance": instance,
        "workspace": request.order.workspace,
        **dict.fromkeys(("raw_bytes", "left_out_count", "kept_bytes", "cached_bytes", "fetched_bytes"), 0),
        "resumed": False,
        "already_done": woken,
        "restored": {},
    }
    if woken:
        return result
    partial_ = bool(request.order.include)
    if partial_:
        note_partial(target.machine, request.store, instance, True)
    for opening in openings():
        with opening:
            result.update(_restore_once(request, target, timings_ms))
    if not partial_:
        note_partial(target.machine, request.store, instance, False)
    return result


def _restore_once(request: Request, target: Target, timings_ms: dict[str, int]) -> dict[str, Any]:
    run = target.run
    with timed(timings_ms, "open"):
        open_machine(run, target.name, request.store, request.order.workspace)
        opened = open_restore(run, target.snapshot_id, request.order)
    measure = partial(restoring, opened["fetch_bytes_max"], opened["raw_bytes"])
    with ProgressArtifacts(partial(sessions.counters, run), measure), timed(timings_ms, "restore"):
        each(restore_part, run, opened["parts"])
    with timed(timings_ms, "finish"):
        finished = finish_restore(run)
    for warning in finished["warnings"]:
        get_run_logger().warning("%s", warning)
    figures = ("restored", "left_out_count", "kept_bytes", "cached_bytes", "fetched_bytes")
    return {
        "raw_bytes": opened["raw_bytes"],
        "resumed": opened["resumed"],
        "already_done": opened["already_done"],
        **{name: finished[name] for name in figures},
    }


def _start(request: Request, target: Target, timings_ms: dict[str, int]) -> None:
    """The start command, once the machine is awake: if it fails, the machine stays, and the error says so."""
    try:
        with timed(timings_ms, "start command"):
            open_machine(target.run, target.name, request.store, request.order.workspace)
            run_command(target.run, str(request.start_command))
    except PoorwillError as error:
        message = f"machine {target.name} is awake and bills, but its start command failed: {error.message}"
        raise type(error)(message, **error.facts) from None
