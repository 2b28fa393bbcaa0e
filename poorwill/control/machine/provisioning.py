"""Creating machines so that none ever bills unnoticed: an intent record is in the store before the machine exists.

A wake that finds an open intent of its own adopts the machine with that label instead of creating a second one. Only a
machine whose intent is not woken, so that nobody knows of it yet, may be destroyed without a verified snapshot. Callers
hold the machine's slot: two wakes of one machine at the same time look like one here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from poorwill import timestamps
from poorwill.control.records import intents
from poorwill.control.records.intents import Intent
from poorwill.errors import PermanentError, PoorwillError, Refused, TransientError
from poorwill.providers.base import Instance, Provider, Wish
from poorwill.snapshot import keys
from poorwill.store.base import Store

MAY_BILL = "may still be billing"
"""Part of what `discard` returns if an operator has to look after that machine."""
DESTROY_TIMEOUT_S = 900.0
LOOKS_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Pauses between looks for a machine that may have been created: providers list a new one some seconds late."""
LISTED_AFTER_S = 300.0
"""A machine that is not listed this long after it may have been created was not created."""
CREATIONS_MAX = 2
"""How often one call tries to create a machine, each time after a look for it; the caller may call again."""
DISK_FACTOR = 1.2
IMAGE_GB = 10


@dataclass(frozen=True, slots=True)
class Clock:
    """POSIX time, and how to wait."""

    now_s: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class Noted:
    """The instance in a machine's block. `status` is awake, asleep or waking."""

    instance: str
    status: str
    provider: Provider


@dataclass(frozen=True, slots=True)
class Begun:
    """An intent, and whether it is new: then no machine can have its label yet."""

    intent: Intent
    fresh: bool


def disk_gb_for(data_bytes: int, image_gb: int = IMAGE_GB) -> int:
    """The disk for a wake that names none: the data and a fifth more for work, and the image."""
    return math.ceil(data_bytes * DISK_FACTOR / 1e9) + image_gb


def begin(
    store: Store,
    provider: Provider,
    machine: str,
    snapshot_id: str,
    *,
    wish: Wish | None = None,
    noted: Noted | None = None,
    flow_run: str = "",
    clock: Clock = CLOCK,
) -> Begun:
    """The open intent of this wake, or a new one, which is written. Safe to repeat.

    Closes intents whose machines are gone. Returns a woken intent only if the machine's block (`noted`) shows that this
    very wake was interrupted in its bookkeeping; its machine is not restored again.

    Refused, naming what bills, if the machine is awake, or if another wake of it was begun and may have left one.
    """
    asked = {each.describe(): each for each in (provider, *([noted.provider] if noted else []))}
    own = []
    for intent in intents.of_machine(store, machine):
        if intent.provider in asked and _is_over(asked[intent.provider], intent, snapshot_id, provider, clock):
            intents.close(store, intent.label)
            continue
        _refuse_other(intent, machine, snapshot_id, provider, noted)
        own.append(intent)
    if len(own) > 1:
        labels = ", ".join(intent.label for intent in own)
        raise Refused(
            f"several wakes of {machine} were begun, and machines labelled {labels} of {provider.describe()} may be "
            "billing: destroy all but one of them by hand"
        )
    _refuse_awake(machine, noted, {intent.instance for intent in own})
    if own:
        return Begun(own[0], fresh=False)
    intent = Intent(
        intents.new_label(store, machine), machine, snapshot_id, provider.describe(),
        timestamps.text_of(clock.now_s()), "", False, wish=intents.as_fields(wish or Wish()), flow_run=flow_run,
    )  # fmt: skip
    intents.write(store, intent)
    return Begun(intent, fresh=True)


def _is_over(asked: Provider, intent: Intent, snapshot_id: str, provider: Provider, clock: Clock) -> bool:
    """Whether nothing is left of an intent's machine. An open intent of this very wake is never over."""
    if (intent.snapshot_id, intent.provider, intent.woken) == (snapshot_id, provider.describe(), False):
        return False
    if intent.instance and asked.exists(intent.instance):
        return False
    return not (asked.list_by_label(intent.label) if intent.woken else looked_for(asked, intent, clock))


def _refuse_other(intent: Intent, machine: str, snapshot_id: str, provider: Provider, noted: Noted | None) -> None:
    """Refused unless this wake may go on with the intent."""
    same = (intent.snapshot_id, intent.provider) == (snapshot_id, provider.describe())
    cut_off = noted is not None and (noted.status, noted.instance) == ("waking", intent.instance)
    if same and (cut_off or not intent.woken):
        return
    record = keys.intent(intent.label)
    if not intent.woken:
        raise Refused(
            f"waking {intent.snapshot_id} as {machine} was interrupted, and a machine labelled {intent.label} of "
            f"{intent.provider} may be billing: wake that snapshot again with that provider, or destroy the machine "
            f"and delete {record} from the store"
        )
    raise Refused(
        f"machine {machine} is awake already as {intent.instance} of {intent.provider}, woken from "
        f"{intent.snapshot_id}: "
        + ("wake that one again to complete its block" if cut_off else _known_how(intent, noted))
        + f"; if it does not exist any more, reap with destroy=True removes {record}"
    )


def _known_how(intent: Intent, noted: Noted | None) -> str:
    if noted is not None and noted.instance == intent.instance:
        return "hibernate it first"
    return f"give a machine block that instance, {intent.instance}, and hibernate it first"


def _refuse_awake(machine: str, noted: Noted | None, own: Iterable[str]) -> None:
    if noted is None or not noted.instance or noted.instance in own or not noted.provider.exists(noted.instance):
        return
    if noted.status == "waking":
        raise Refused(
            f"machine {machine} is being woken as instance {noted.instance}, of which this store has no record: "
            "wake it from the store that it was begun with"
        )
    raise Refused(
        f"machine {machine} is awake as instance {noted.instance}: hibernate it first, "
        f"or give machine='{machine}' to restore onto it"
    )


def provision(
    store: Store, provider: Provider, begun: Begun, wish: Wish, timeout_s: float, clock: Clock = CLOCK
) -> tuple[Instance, Intent, bool]:
    """The intent's machine, running: adopted if it exists, else created. Returns (machine, intent, adopted).

    Before every creation that may be the second, it looks for the machine several times. Safe to repeat after any error
    or kill, with the intent that `begin` then returns. Refused if two machines have the label.
    """
    found = [] if begun.fresh else _one(looked_for(provider, begun.intent, clock), begun.intent)
    intent, instance = (begun.intent, found[0]) if found else _created(store, provider, begun, wish, clock)
    woken = intent.woken and intent.instance == instance.id
    intent = replace(intent, instance=instance.id, woken=woken, price_per_hour=repr(instance.price_per_hour))
    intents.write(store, intent)
    return provider.wait(instance.id, timeout_s), intent, bool(found)


def _created(store: Store, provider: Provider, begun: Begun, wish: Wish, clock: Clock) -> tuple[Intent, Instance]:
    intent = begun.intent
    for creation in range(1, CREATIONS_MAX + 1):
        if creation > 1 or not begun.fresh:
            # The machine that it names is gone: from here on the record is about a new one.
            intent = replace(intent, created_at=timestamps.text_of(clock.now_s()), instance="", woken=False)
            intents.write(store, intent)
        try:
            return intent, provider.create(intent.label, wish)
        except TransientError:
            if creation == CREATIONS_MAX:
                raise  # the next call looks for it first, and so does `discard`
            found = _one(looked_for(provider, intent, clock), intent)
            if found:
                return intent, found[0]
        except PermanentError:
            if not provider.list_by_label(intent.label):
                intents.close(store, intent.label)  # the provider refused: nothing was created
            raise
    raise AssertionError("unreachable")


def looked_for(provider: Provider, intent: Intent, clock: Clock) -> list[Instance]:
    """The machines of an intent. If none is listed and one may be new, it looks again for a minute."""
    began = timestamps.posix_s(intent.created_at)
    recent = began is None or clock.now_s() - began < LISTED_AFTER_S
    for wait_s in (*(LOOKS_S if recent else ()), None):
        found = provider.list_by_label(intent.label)
        if found or wait_s is None:
            break
        clock.sleep(wait_s)
    return found


def _one(found: list[Instance], intent: Intent) -> list[Instance]:
    if len(found) > 1:
        names = ", ".join(instance.id for instance in found)
        raise Refused(f"{len(found)} machines are labelled {intent.label} and bill: {names}: destroy all but one")
    return found


def mark_woken(store: Store, label: str) -> None:
    """From here on the machine may hold somebody's work: it is not destroyed without a snapshot. Idempotent."""
    intent = intents.read(store, label)
    if intent is None:
        raise Refused(
            f"{keys.intent(label)} was removed from the store while its machine was being woken, and the machine "
            "with that label goes on billing: destroy it by hand"
        )
    if not intent.woken:
        intents.write(store, replace(intent, woken=True))


def discard(store: Store, provider: Provider, label: str, clock: Clock = CLOCK) -> str:
    """Destroy the machine of an intent that is not woken, and close the intent. Returns a message about what was done.

    Raises no PoorwillError, as it is called while another error is handled: the message says what still bills.
    """
    try:
        intent = intents.read(store, label)
        if intent is None:
            return ""
        if intent.woken:
            return f"instance {intent.instance} is awake and goes on billing"
        return _discard(store, provider, intent, clock)
    except PoorwillError as error:
        return (
            f"the machine labelled {label} of {provider.describe()} {MAY_BILL} ({error.message}): "
            "destroy it by hand, or reap"
        )


def _discard(store: Store, provider: Provider, intent: Intent, clock: Clock) -> str:
    listed = provider.list_by_label(intent.label) if intent.instance else looked_for(provider, intent, clock)
    found = {instance.id for instance in listed} | ({intent.instance} - {""})
    stuck = list(filter(None, (destroyed(provider, instance) for instance in sorted(found))))
    if stuck:
        return f"{'; '.join(stuck)}: destroy it by hand, or reap"
    if not found:
        return (
            f"whether a machine labelled {intent.label} was created is not known, and none is listed now: "
            "the next wake, or reap, looks for it"
        )
    intents.close(store, intent.label)
    return "the machine that was created for it was destroyed again"


def destroyed(provider: Provider, instance: str) -> str:
    """Destroy an instance. Returns "", or what still bills and why. Raises no PoorwillError."""
    try:
        provider.destroy(instance, DESTROY_TIMEOUT_S)
        if not provider.exists(instance):
            return ""
        why = "it still exists"
    except PoorwillError as error:
        why = error.message
    return f"instance {instance} of {provider.describe()} {MAY_BILL} ({why})"
