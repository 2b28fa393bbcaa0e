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
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from blake3 import blake3

from poorwill.errors import Corrupt, NotFound
from poorwill.providers.base import Wish, checked_label
from poorwill.snapshot import documents, ids, keys, versions
from poorwill.snapshot.documents import Document
from poorwill.store.base import Store

LABEL_PREFIX = "poorwill-"
INTENTS_MAX = 100_000
_LABEL = re.compile(r"poorwill-([0-9a-f]{8})-(.+)-[0-9a-f]{12}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Intent:
    """A machine that is about to be created, or was, to wake `snapshot_id` as `machine`.

    `woken`: it was told to somebody, and may hold work from then on. Documents of before `wish`, `flow_run` and
    `price_per_hour` existed lack them, and are read.
    """

    label: str
    machine: str
    snapshot_id: str
    provider: str  # as it describes itself
    created_at: str  # UTC; renewed before every further try to create its machine
    instance: str = ""  # empty until the provider has answered
    woken: bool = False
    wish: Mapping[str, str] = field(default_factory=dict)  # what was asked for, and its values as text
    flow_run: str = ""  # Prefect's id of the run that wrote it; empty outside of one
    price_per_hour: float | None = None  # US dollars, when it was created


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


def written_time(seconds: float) -> str:
    """POSIX seconds as `YYYY-MM-DDTHH:MM:SSZ`."""
    return f"{datetime.fromtimestamp(seconds, timezone.utc):{_TIME}}"


def read_time(text: str) -> float | None:
    """POSIX seconds of such a time; None for anything else: what a provider says of its machines may be anything."""
    try:
        return datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def as_fields(wish: Wish) -> dict[str, str]:
    """What a wish asks for, as text: sealed documents hold no floats."""
    given = ((each.name, getattr(wish, each.name)) for each in fields(wish))
    return {name: str(value) for name, value in given if value not in (None, False)}


def write(store: Store, intent: Intent) -> None:
    """Atomic, durable when it returns; repeating it changes nothing."""
    price = intent.price_per_hour
    body: Document = {
        "format": versions.written_format("intent"),
        **{each.name: getattr(intent, each.name) for each in fields(intent)},
        "wish": dict(intent.wish),
        "price_per_hour": "" if price is None else repr(price),
    }
    store.put(keys.intent(intent.label), documents.seal(body))


def read(store: Store, label: str) -> Intent | None:
    """The intent of that label; None if there is none. Corrupt, Unsupported."""
    key = keys.intent(label)
    try:
        return _parsed(documents.unseal(store.get(key), "intent", key), label, key)
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


def _parsed(document: Document, label: str, key: str) -> Intent:
    values: dict[str, Any] = {}
    for each in fields(Intent):
        kind = {"woken": bool, "wish": dict}.get(each.name, str)
        optional = each.name in ("wish", "flow_run", "price_per_hour")
        if optional and each.name not in document:
            continue
        if not isinstance(document.get(each.name), kind):
            raise Corrupt(f"{key}: field '{each.name}' is missing or of the wrong type")
        values[each.name] = document[each.name]
    if values["label"] != label:
        raise Corrupt(f"{key}: is of label {values['label'][:200]!r}")
    if "price_per_hour" in values:
        values["price_per_hour"] = _price(values["price_per_hour"], key)
    return Intent(**values)


def _price(text: str, key: str) -> float | None:
    try:
        price = float(text) if text else None
    except ValueError:
        price = math.nan
    if price is not None and not 0 <= price < math.inf:
        raise Corrupt(f"{key}: field 'price_per_hour' is no price")
    return price
