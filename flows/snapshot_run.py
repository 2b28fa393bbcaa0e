"""What `hibernate` and `snapshot` do alike: pack, prove, and, for one of them, destroy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from blocks.lookup import machine_block, store_block
from blocks.machines import Machine
from blocks.providers import OwnMachines
from flows.slots import machine_slot
from flows.stages import each, openings
from poorwill.control.machine.costs import Cost
from poorwill.control.machine.last_look import hidden_said
from poorwill.control.records import catalog
from poorwill.control.records.pending import PendingRecord
from poorwill.errors import Corrupt, NotFound, PoorwillError, Refused
from poorwill.snapshot import ids
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.order import SnapshotOrder
from poorwill.timestamps import timed
from tasks.destroy_instance import destroy_instance
from tasks.events import PACKS_IN_FULL, STILL_BILLING, emit
from tasks.machine import open_machine, run_command
from tasks.progress import ProgressArtifacts, packing
from tasks.reports.snapshot_report import publish_not_kept, publish_snapshot
from tasks.sessions import sessions
from tasks.snapshot import pack_part, scan_workspace, settle, verify_snapshot, write_metadata


@dataclass(frozen=True, slots=True)
class Request:
    """What a flow was asked for. machine, store: names of blocks."""

    machine: str
    store: str
    order: SnapshotOrder
    destroy: bool
    stop_command: str | None
    instance: str | None = None  # the only one that is meant; None: whatever the machine is

    @property
    def snapshot_id(self) -> str:
        return self.order.snapshot_id

    def check(self, block: Machine) -> None:
        """Refused: before anything is touched."""
        if self.destroy and self.order.verify == "sample":
            raise Refused(
                "verify='sample' is not enough to destroy a machine: use 'stored' or 'full', or destroy=False"
            )
        if self.destroy and isinstance(block.provider, OwnMachines):
            raise Refused(f"machine {self.machine} is one of your own and cannot be destroyed: use destroy=False")
        if block.status == "waking":
            raise Refused(f"machine {self.machine} is being woken: wait for that, or wake it again")

    def check_instance(self, block: Machine) -> None:
        """Refused if the machine has become another instance since the run was asked for: it may have waited long."""
        if self.instance and block.instance and block.instance != self.instance:
            raise Refused(f"machine {self.machine} is instance {block.instance} now, and {self.instance} was meant")


def own_snapshot_id() -> str:
    """The id of the snapshot of the current flow run: the same again when Prefect retries the run."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.created is None:
        return ids.new_snapshot_id()
    began, run = context.flow_run.created, context.flow_run.id
    return f"{ids.new_snapshot_id(began)[:16]}-{run.hex[-8:]}"


@dataclass(slots=True)
class _Packing:
    """What a run has got done, over all its engines, and how long each stage took."""

    packed: dict[int, dict[str, Any]] = field(default_factory=dict)
    stopped: bool = False
    packs_in_full: str | None = None
    timings_ms: dict[str, int] = field(default_factory=dict)


def take(request: Request, block: Machine) -> dict[str, Any]:
    """The whole of it, while no other run works on the machine. Returns ids, totals and milliseconds per stage."""
    done = _Packing()
    with _alone_on(request, block) as block:
        instance, metadata = block.instance, _committed(request, block)
        if not instance or not block.provider.open().exists(instance):
            return _already_gone(request, block, metadata)
        if metadata is None:
            for opening in openings():
                with opening:
                    _pack(request, done)
        with timed(done.timings_ms, "verify"), _way_out(request, instance):
            proof = verify_snapshot(request.machine, request.store, request.order)
        metadata = _committed(request, block)
        assert metadata is not None
        publish_not_kept(metadata)
        price_per_hour = _price_per_hour(block)  # now: a machine that is gone has none
        samples, hidden = sessions.samples(request.snapshot_id), 0
        if request.destroy:
            with timed(done.timings_ms, "destroy"), _alert_if_it_bills(request, instance):
                hidden = destroy_instance(request.machine, request.store, request.order)["hidden_processes"]
        else:
            _remove_pending(request, block)
        cost = _cost(request, metadata, price_per_hour)
        sentence = cost.sentence(request.destroy) if cost is not None else "Cost: the provider did not tell the price."
        if hidden:
            get_run_logger().warning("of the processes on %s, %s before it went", block.name, hidden_said(hidden))
            sentence += f" Of the processes on the machine, {hidden_said(hidden)} before it went."
        parts = [done.packed[number] for number in sorted(done.packed)]
        publish_snapshot(
            request.store, request.snapshot_id, parts, samples, done.timings_ms, sentence, done.packs_in_full
        )
        return _result(
            request, block, metadata, instance, cost=cost.to_result() if cost is not None else None, verified=proof,
            destroyed=request.destroy, already_done=False, parts_sent=len(parts), packs_in_full=done.packs_in_full,
            timings_ms=done.timings_ms,
        )  # fmt: skip


@contextmanager
def _alone_on(request: Request, block: Machine) -> Iterator[Machine]:
    """Hold the machine's slot; gives its block as it is by then, and closes the run's session in the end."""
    request.check(block)
    get_run_logger().info(
        "snapshot %s of machine %s; if this run is cut off, give snapshot_id='%s' to continue it",
        request.snapshot_id, block.name, request.snapshot_id,
    )  # fmt: skip
    with machine_slot(block.name):
        try:
            block = machine_block(request.machine)  # another run may have changed it meanwhile
            request.check(block)
            request.check_instance(block)
            yield block
        finally:
            sessions.close(request.snapshot_id)


@contextmanager
def _way_out(request: Request, instance: str) -> Iterator[None]:
    """Have an error that says that the snapshot is damaged say what to do, too."""
    try:
        yield
    except (Corrupt, NotFound) as error:
        raise type(error)(
            f"snapshot {request.snapshot_id} cannot be read back: {error.message}: instance {instance} of "
            f"{request.machine} was not destroyed and goes on billing; do the same again with another snapshot_id or "
            "none, which borrows nothing from this one, and delete this one after that",
            **error.facts,
        ) from error


@contextmanager
def _alert_if_it_bills(request: Request, instance: str) -> Iterator[None]:
    """Emit an event for an error inside: nothing is lost, but an operator has to destroy the machine."""
    try:
        yield
    except Exception as error:
        why = error.message if isinstance(error, PoorwillError) else type(error).__name__
        message = (
            f"snapshot {request.snapshot_id} of {request.machine} is verified, but instance {instance} was not "
            f"destroyed and goes on billing: {why}"
        )
        emit(STILL_BILLING, "machine", request.machine, message, snapshot_id=request.snapshot_id, instance=instance)
        raise


def _price_per_hour(block: Machine) -> float | None:
    try:
        return block.price_per_hour()
    except PoorwillError as error:
        get_run_logger().warning("the price of %s is not known: %s", block.instance, error.message)
        return None


def _cost(request: Request, metadata: Metadata, price_per_hour: float | None) -> Cost | None:
    if price_per_hour is None:
        return None
    return Cost(price_per_hour, metadata.totals.stored_bytes, store_block(request.store).price_per_gb_month)


def _committed(request: Request, block: Machine) -> Metadata | None:
    with closing(store_block(request.store).open()) as store:
        return catalog.committed(store, block.name, request.snapshot_id)


def _already_gone(request: Request, block: Machine, metadata: Metadata | None) -> dict[str, Any]:
    """The machine does not exist: done before, as far as this snapshot goes, or nothing to take one of."""
    if metadata is None or not request.destroy:
        asleep = (
            f"is asleep in snapshot {block.snapshot}"
            if not block.instance
            else f"has no instance {block.instance} any more"
        )
        raise NotFound(f"machine {request.machine} {asleep}: wake it, or correct its block")
    if block.instance:
        destroy_instance(request.machine, request.store, request.order)
    get_run_logger().info("snapshot %s is complete and the machine is gone: nothing to do", request.snapshot_id)
    return _result(
        request, block, metadata, metadata.instance, cost=None, verified=None, destroyed=True, already_done=True,
        parts_sent=0, packs_in_full=None, timings_ms={},
    )  # fmt: skip


def _result(request: Request, block: Machine, metadata: Metadata, instance: str, **end: Any) -> dict[str, Any]:
    return {
        "snapshot_id": request.snapshot_id,
        "machine": block.name,
        "instance": instance,
        "parent": metadata.parent,
        "totals": metadata.totals.document(),
        "left_out_count": metadata.left_out_count,
        **end,
    }


def _pack(request: Request, done: _Packing) -> None:
    """Open, scan, pack, commit. Called again when the engine was lost: then finished parts are adopted."""
    run, timings_ms = request.snapshot_id, done.timings_ms
    with timed(timings_ms, "open"):
        open_machine(run, request.machine, request.store, request.order.workspace)
    if request.stop_command and not done.stopped:
        with timed(timings_ms, "stop command"):
            run_command(run, request.stop_command)
        done.stopped = True
    with timed(timings_ms, "scan"):
        scanned = scan_workspace(run, request.order)
    if scanned["committed"]:
        return  # the answer to an earlier write of the metadata was lost
    done.packs_in_full = scanned["packs_in_full"]
    if done.packs_in_full:
        get_run_logger().warning("%s", done.packs_in_full)
        emit(PACKS_IN_FULL, "snapshot", run, f"snapshot {run} of {request.machine} {done.packs_in_full}")
    if scanned["adopted"]:
        get_run_logger().info("%d parts are in the store already", scanned["adopted"])
    numbers = scanned["parts"]
    with ProgressArtifacts(partial(sessions.counters, run), partial(packing, scanned["pack_bytes"])):
        while numbers:
            with timed(timings_ms, "pack"):
                done.packed.update((part["number"], part) for part in each(pack_part, run, numbers))
            with timed(timings_ms, "settle"):
                numbers = settle(run)
    with timed(timings_ms, "metadata"):
        write_metadata(run)


def _remove_pending(request: Request, block: Machine) -> None:
    with closing(store_block(request.store).open()) as store:
        PendingRecord(store, block.name, request.snapshot_id, sessions.attempt(request.snapshot_id)).remove()
