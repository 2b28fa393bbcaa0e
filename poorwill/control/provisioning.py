"""Creating machines so that none ever bills unknown: an intent record is in the store before the machine exists.

An intent names the label its machine is created with. Whoever finds an open intent of the same wake adopts the
machine with that label instead of creating a second one; only such a machine, which nobody was told of, may be
destroyed without a verified snapshot of it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from poorwill.errors import NotFound, PoorwillError, Refused
from poorwill.providers.base import Instance, Provider, Wish
from poorwill.snapshot import documents, keys, limits
from poorwill.store.base import Store

DESTROY_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Intent:
    """A machine that is about to be created, or was, to wake `snapshot_id` as `machine`."""

    label: str
    machine: str
    snapshot_id: str
    provider: str  # as it describes itself
    created_at: str
    instance: str = ""
    woken: bool = False


def open_intents(store: Store, machine: str) -> list[Intent]:
    """Every intent of a machine that was not closed. Corrupt, Unsupported."""
    found = []
    for listed in store.list(keys.INTENTS):
        try:
            document = documents.unseal(store.get(listed.key), "intent", listed.key)
        except NotFound:
            continue  # closed since it was listed
        if document["machine"] == machine:
            found.append(Intent(**{name: document[name] for name in Intent.__slots__}))
    return found


def open_intent(store: Store, provider: Provider, machine: str, snapshot_id: str) -> Intent:
    """The open intent of this wake, or a new one, written now.

    Refused if another wake of this machine was begun and left one behind that may be billing.
    """
    for intent in open_intents(store, machine):
        here = intent.provider == provider.describe()
        if here and intent.snapshot_id == snapshot_id:
            return intent
        if here and not provider.list_by_label(intent.label):
            close_intent(store, intent.label)  # it was never created, or is gone
            continue
        raise Refused(
            f"waking {intent.snapshot_id} as {machine} was interrupted, and a machine labelled {intent.label} of "
            f"{intent.provider} may be billing: wake that snapshot again with that provider, or destroy the machine "
            f"and delete {keys.intent(intent.label)} from the store"
        )
    label = f"poorwill-{machine}-{secrets.token_hex(6)}"
    now = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
    intent = Intent(label, machine, snapshot_id, provider.describe(), now)
    _write(store, intent)
    return intent


def _write(store: Store, intent: Intent) -> None:
    fields = {name: getattr(intent, name) for name in Intent.__slots__}
    body = {"format": f"poorwill-intent/{limits.FORMAT_VERSION}", **fields}
    store.put(keys.intent(intent.label), documents.seal(body))


def provision(
    store: Store, provider: Provider, intent: Intent, wish: Wish, timeout_s: float
) -> tuple[Instance, Intent, bool]:
    """The intent's machine, running: adopted if it exists, else created. Returns (machine, intent, adopted)."""
    found = provider.list_by_label(intent.label)
    if len(found) > 1:
        names = ", ".join(instance.id for instance in found)
        raise Refused(f"{len(found)} machines are labelled {intent.label} and bill: {names}: destroy all but one")
    instance = found[0] if found else provider.create(intent.label, wish)
    intent = replace(intent, instance=instance.id, woken=intent.woken and bool(found))
    _write(store, intent)
    return provider.wait(instance.id, timeout_s), intent, bool(found)


def mark_woken(store: Store, intent: Intent) -> Intent:
    """From here on the machine may hold work of somebody: it is not discarded any more."""
    intent = replace(intent, woken=True)
    _write(store, intent)
    return intent


def close_intent(store: Store, label: str) -> None:
    """The machine is known elsewhere, or gone. Idempotent."""
    store.delete(keys.intent(label))


def discard(store: Store, provider: Provider, label: str) -> str:
    """Destroy the machine of an intent that was not woken, and close the intent. Returns what was done, for a message.

    Never raises a PoorwillError: it is called while another error is on its way, and says what still bills.
    """
    try:
        intent = _read(store, label)
        if intent is None:
            return ""
        if intent.woken:
            return f"instance {intent.instance} is awake and goes on billing"
        found = provider.list_by_label(label)
        for instance in found:
            provider.destroy(instance.id, DESTROY_TIMEOUT_S)
        close_intent(store, label)
        return "the machine that was created for it was destroyed again" if found else ""
    except PoorwillError as error:
        return (
            f"the machine labelled {label} of {provider.describe()} may still be billing ({error.message}): "
            "destroy it by hand"
        )


def _read(store: Store, label: str) -> Intent | None:
    key = keys.intent(label)
    try:
        document = documents.unseal(store.get(key), "intent", key)
    except NotFound:
        return None
    return Intent(**{name: document[name] for name in Intent.__slots__})
