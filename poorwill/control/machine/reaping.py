"""Which machines bill, and for whom: orphans, and machines that hold somebody's work.

A machine is destroyed only if everything was read that could give a reason to keep it, and gives none: no record in the
stores says that it was woken, no block names it, no run works on it, and it is older than the grace period. Machines
that the evidence does not cover, such as those of stores that were not read, are reported and left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from poorwill import timestamps
from poorwill.control.machine.provisioning import DESTROY_TIMEOUT_S
from poorwill.control.records import intents
from poorwill.control.records.intents import Intent
from poorwill.errors import EngineFailed, NotFound, PoorwillError, Refused, from_wire
from poorwill.providers.base import Instance, Provider
from poorwill.store.base import Store

State = Literal["awake", "awake, no block", "waking", "young", "foreign", "orphan", "gone"]
MACHINES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Named:
    """A machine block that names an instance. `status` is awake, asleep or waking."""

    block: str
    instance: str
    status: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """Reasons to keep machines. `unreadable` names what could not be read: then nothing may be destroyed."""

    tags: frozenset[str]  # of the stores that were read
    intents: tuple[Intent, ...]
    named: tuple[Named, ...] = ()
    held: frozenset[str] = frozenset()  # machines that a run works on now
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One machine, or one record without a machine (`gone`), as reap sees it. `age_s` is None if it is unknown."""

    state: State
    instance: str
    label: str
    machine: str
    age_s: float | None
    price_per_hour: float  # US dollars
    note: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A machine without a reason to keep it is an orphan once it is older than `grace_s`."""

    now_s: float
    grace_s: float


def read_evidence(stores: Iterable[Store]) -> Evidence:
    """What the stores hold. Raises no PoorwillError: a store that cannot be read is `unreadable`."""
    tags, found, unreadable = set[str](), list[Intent](), list[str]()
    for store in stores:
        try:
            found.extend(intents.every(store))
            tags.add(intents.store_tag(store))
        except PoorwillError as error:
            unreadable.append(f"{store.describe()}: {error.message}")
    return Evidence(frozenset(tags), tuple(found), unreadable=tuple(unreadable))


def survey(provider: Provider, evidence: Evidence, rule: Rule) -> list[Finding]:
    """Every machine of the provider whose label begins with `poorwill-`, and every record whose machine is gone.

    Raises the provider's errors; Refused beyond MACHINES_MAX machines.
    """
    listed = provider.list_by_prefix(intents.LABEL_PREFIX)
    if len(listed) > MACHINES_MAX:
        raise Refused(f"{provider.describe()} lists {len(listed)} machines, at most {MACHINES_MAX} were expected")
    known = {instance.id for instance in listed}
    found = [classify(instance, evidence, rule) for instance in listed]
    for intent in evidence.intents:
        if intent.provider != provider.describe() or intent.instance in known:
            continue
        if intent.instance and provider.exists(intent.instance):
            instance = Instance(intent.instance, intent.label, False, intent.created_at, intent.price or 0.0)
            found.append(classify(instance, evidence, rule))
        elif not any(instance.label == intent.label for instance in listed) and _is_over(intent, evidence, rule):
            found.append(_gone(intent, rule))
    return sorted(found, key=lambda each: (each.state, each.machine, each.instance))


def classify(instance: Instance, evidence: Evidence, rule: Rule) -> Finding:
    """What one machine is, by the evidence alone, without a request to the provider."""
    own = [each for each in evidence.intents if each.label == instance.label or each.instance == instance.id]
    named = [each for each in evidence.named if each.instance == instance.id]
    parsed = intents.parsed_label(instance.label)
    machine = own[0].machine if own else parsed[1] if parsed else ""
    age_s = _age_s([instance.created_at, *(each.created_at for each in own)], rule)
    about = Finding("young", instance.id, instance.label, machine, age_s, instance.price_per_hour)
    blocks = ", ".join(each.block for each in named)
    if any(each.woken for each in own):
        lost = f"no block names it: create one with instance={instance.id} and name={machine}, to hibernate it"
        return replace(about, state="awake" if named else "awake, no block", note=blocks or lost)
    if any(each.status != "waking" or not own for each in named):
        return replace(about, state="awake", note=blocks)
    if not own and (parsed is None or parsed[0] not in evidence.tags):
        return replace(about, state="foreign", note="belongs to a store that was not read, or to somebody else")
    if machine in evidence.held:
        return replace(about, state="waking", note="a run works on it")
    if age_s is None or age_s < rule.grace_s:
        note = "its age is not known" if age_s is None else f"for {own[0].snapshot_id}" if own else "no record of it"
        return replace(about, state="waking" if own else "young", note=note)
    if own:
        return replace(about, state="orphan", note=f"waking {own[0].snapshot_id} was never finished")
    return replace(about, state="orphan", note="no record, no block")


def reap_one(provider: Provider, stores: Sequence[Store], finding: Finding, evidence: Evidence, rule: Rule) -> None:
    """Destroy an orphan, or close a record whose machine is gone, if the evidence still allows it.

    `evidence` was read just now by the caller, who holds the machine's slot and leaves it out of `evidence.held`. Safe
    to repeat. Refused if it is not an orphan any more; any other error names the instance that may still be billing.
    """
    if evidence.unreadable:
        raise Refused(f"nothing is destroyed while this cannot be read: {'; '.join(evidence.unreadable)}")
    if finding.state == "orphan":
        _destroy(provider, finding, evidence, rule)
    elif finding.state != "gone":
        raise Refused(f"instance {finding.instance} is {finding.state}: only orphans are destroyed")
    for intent in evidence.intents:
        over = finding.state == "orphan" or _is_over(intent, evidence, rule)
        if intent.label == finding.label and over and _nothing_left(provider, intent):
            for store in stores:
                if intents.read(store, intent.label) is not None:
                    intents.close(store, intent.label)


def _destroy(provider: Provider, finding: Finding, evidence: Evidence, rule: Rule) -> None:
    try:
        seen = _seen(provider, finding, rule)
        if seen is None:
            return
        now = classify(seen, evidence, rule)
        fits = (now.state, now.label) == ("orphan", finding.label)
        if fits:
            provider.destroy(finding.instance, DESTROY_TIMEOUT_S)
        if fits and provider.exists(finding.instance):
            raise EngineFailed("the provider still lists it")
    except PoorwillError as error:
        bills = f"instance {finding.instance} of {provider.describe()} may still be billing: destroy it by hand"
        raise from_wire({**error.to_wire(), "message": f"{error.message}; {bills}"}) from None
    if not fits:
        raise Refused(f"instance {finding.instance} was not destroyed: it is {now.state} now ({now.note})")


def _seen(provider: Provider, finding: Finding, rule: Rule) -> Instance | None:
    """The machine as the provider describes it now, or as it was found if it only exists; None if it is gone."""
    try:
        return provider.get(finding.instance)
    except NotFound:
        if not provider.exists(finding.instance):
            return None
    created_at = timestamps.text_of(rule.now_s - (finding.age_s or 0.0))
    return Instance(finding.instance, finding.label, False, created_at, finding.price_per_hour)


def _nothing_left(provider: Provider, intent: Intent) -> bool:
    if intent.provider != provider.describe() or provider.list_by_label(intent.label):
        return False
    return not (intent.instance and provider.exists(intent.instance))


def _is_over(intent: Intent, evidence: Evidence, rule: Rule) -> bool:
    """Whether a record counts as one without a machine. An open record may be about to get one."""
    age_s = _age_s([intent.created_at], rule)
    old = age_s is not None and age_s >= rule.grace_s and intent.machine not in evidence.held
    return intent.woken or old


def _gone(intent: Intent, rule: Rule) -> Finding:
    note = f"a record of {intent.snapshot_id}; its machine does not exist, and nothing bills"
    age_s = _age_s([intent.created_at], rule)
    return Finding("gone", intent.instance, intent.label, intent.machine, age_s, 0.0, note)


def _age_s(times: Iterable[str], rule: Rule) -> float | None:
    """The age by the latest time that can be read."""
    read = [seconds for each in times if (seconds := timestamps.posix_s(each)) is not None]
    return rule.now_s - max(read) if read else None
