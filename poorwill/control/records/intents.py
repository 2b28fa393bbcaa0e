"""Intent records: which machine is about to be created, or was, for whom, and whether somebody works on it.

`intents/<label>.json` is written before its machine is created and removed after the provider confirmed that the
machine is gone. So the store knows of every machine that may bill, whatever becomes of the process that created
it, and of Prefect's database.

The label is `poorwill-<tag>-<machine>-<12 random hex>`. The tag is that of the store the intent lies in, so that
two teams that share a provider's account, but no bucket, never take each other's machines for orphans.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

from blake3 import blake3

from poorwill.errors import Corrupt, NotFound
from poorwill.providers.base import Wish, checked_label
from poorwill.snapshot import ids, keys
from poorwill.snapshot.fields import SPARSE
from poorwill.snapshot.record import SealedRecord
from poorwill.store.base import Store

LABEL_PREFIX = "poorwill-"
INTENTS_MAX = 100_000
_LABEL = re.compile(r"poorwill-([0-9a-f]{8})-(.+)-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Intent(SealedRecord):
    """A machine that is about to be created, or was, to wake `snapshot_id` as `machine`: the kind `intent`.

    `woken`: somebody was told of it, and it may hold work from then on. Documents of before `wish`, `flow_run` and
    `price_per_hour` existed lack them, and are read.
    """

    KIND: ClassVar[str] = "intent"

    label: str
    machine: str
    snapshot_id: str
    provider: str  # as it describes itself
    created_at: str  # UTC; renewed before every further try to create its machine
    instance: str  # empty until the provider has answered
    woken: bool
    wish: Mapping[str, str] = field(default_factory=dict)  # what was asked for, and its values as text
    flow_run: str = ""  # Prefect's id of the run that wrote it; empty outside of one
    price_per_hour: str = ""  # US dollars, when it was created, as text: sealed documents hold no floats
    partial: bool = field(default=False, metadata=SPARSE)  # only what `include` named was woken

    @property
    def price(self) -> float | None:
        """US dollars per hour; None if they are not known."""
        return float(self.price_per_hour) if self.price_per_hour else None

    def fault(self, key: str) -> str | None:
        if key != keys.intent(self.label):
            return f"is of label {self.label[:200]!r}"
        try:
            is_price = 0 <= (self.price or 0.0) < math.inf
        except ValueError:
            is_price = False
        return None if is_price else f"field 'price_per_hour' is {self.price_per_hour[:80]!r}, expected a number from 0"


def store_tag(store: Store) -> str:
    """8 hex digits that stand for a store in labels: of the BLAKE3 of its `describe()` in UTF-8.

    The same bucket written in another way (another endpoint's name) has another tag: its machines are then
    reported as somebody else's, and not touched.
    """
    return blake3(store.describe().encode()).hexdigest()[:8]


def new_label(store: Store, machine: str) -> str:
    """A label that no machine has. UsageError for a name that cannot be a machine's."""
    name = ids.checked_machine_name(machine)
    return checked_label(f"{LABEL_PREFIX}{store_tag(store)}-{name}-{secrets.token_hex(6)}")


def parsed_label(label: str) -> tuple[str, str] | None:
    """(store tag, machine) of a label that `new_label` gave; None for any other."""
    found = _LABEL.fullmatch(label)
    return (found[1], found[2]) if found is not None and ids.is_machine_name(found[2]) else None


def as_fields(wish: Wish) -> dict[str, str]:
    """What a wish asks for, as text: sealed documents hold no floats."""
    given = ((each.name, getattr(wish, each.name)) for each in fields(wish))
    return {name: str(value) for name, value in given if value not in (None, False)}


def write(store: Store, intent: Intent) -> None:
    """Atomic, durable when it returns; repeating it changes nothing."""
    store.put(keys.intent(intent.label), intent.seal())


def read(store: Store, label: str) -> Intent | None:
    """The intent of that label; None if there is none. Corrupt, Unsupported."""
    key = keys.intent(label)
    try:
        return Intent.unseal(store.get(key), key)
    except NotFound:
        return None


def every(store: Store) -> Iterator[Intent]:
    """Every intent of a store. Corrupt, Unsupported: a damaged one may be the only trace of a machine that bills."""
    return _read_all(store, lambda label: True)


def of_machine(store: Store, machine: str) -> list[Intent]:
    """Every intent of a machine. Corrupt, Unsupported."""
    # A label ends in the machine's name, a dash and 12 digits: the records of other machines are not even read.
    ending = f"-{machine}"
    named = _read_all(store, lambda label: label[:-13].endswith(ending))
    return [intent for intent in named if intent.machine == machine]


def note_partial(store: Store, machine: str, instance: str, partial: bool) -> None:
    """Whether the last wake of a machine's instance was one in part. Idempotent."""
    for intent in of_machine(store, machine):
        if intent.instance == instance and intent.partial != partial:
            write(store, replace(intent, partial=partial))


def close(store: Store, label: str) -> None:
    """The machine is gone, or was never created. Idempotent."""
    store.delete(keys.intent(label))


def close_of_instance(store: Store, machine: str, provider: str, instance: str) -> None:
    """Remove what is on record of a machine's instance, once its provider has confirmed that it is gone. Idempotent."""
    for intent in of_machine(store, machine):
        if (intent.provider, intent.instance) == (provider, instance):
            close(store, intent.label)


def _read_all(store: Store, wanted: Callable[[str], bool]) -> Iterator[Intent]:
    for number, listed in enumerate(store.list(keys.INTENTS)):
        if number >= INTENTS_MAX:
            raise Corrupt(f"{store.describe()} holds more than {INTENTS_MAX} intents: something writes them in a loop")
        label = listed.key.removeprefix(keys.INTENTS).removesuffix(".json")
        found = read(store, label) if wanted(label) and keys.intent(label) == listed.key else None
        if found is not None:  # else it was closed since it was listed, or is no intent
            yield found
