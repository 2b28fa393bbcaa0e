"""Whether what a store holds now can be read in the days to come: archived objects, announced deletions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from poorwill.errors import Unsupported
from poorwill.store.base import LifecycleRule, ObjectInfo, Store, TellsRules


def archived(info: ObjectInfo) -> str | None:
    """That an object lies in an archive, in words; None if it does not."""
    if not info.archive:
        return None
    return f"{info.key} is in the archive class {info.archive}, from which it has to be brought back before it is read"


def deleted(info: ObjectInfo) -> str | None:
    """That the deletion of an object is announced, and by what, in words; None if it is not."""
    return f"{info.key}: {info.deletion}" if info.deletion else None


def check_readable(info: ObjectInfo) -> None:
    """Unsupported if the store would not give out the object."""
    said = archived(info)
    if said is not None and not info.brought_back:
        raise Unsupported(f"{said}: have the store do that (restore-object), then verify again", object=info.key)


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a bucket by which objects of a store are deleted or archived, as far as it tells them."""

    found: tuple[LifecycleRule, ...]

    @classmethod
    def of(cls, store: Store) -> Rules:
        return cls(store.lifecycle() if isinstance(store, TellsRules) else ())

    def deleting(self, keys: Iterable[str]) -> list[str]:
        """Those that delete one of the objects, in words."""
        return [
            f"the bucket's rule '{rule.name}' deletes {_what(rule)}" for rule in self._reaching(keys) if rule.deletes
        ]

    def archiving(self, keys: Iterable[str]) -> list[str]:
        """Those that move one of the objects to an archive, in words."""
        return [
            f"the bucket's rule '{rule.name}' moves {_what(rule)} to {rule.archive}, from which it has to be "
            "brought back before it is read"
            for rule in self._reaching(keys)
            if rule.archive
        ]

    def _reaching(self, keys: Iterable[str]) -> list[LifecycleRule]:
        names = tuple(keys)
        return [rule for rule in self.found if any(name.startswith(rule.prefix) for name in names)]


def _what(rule: LifecycleRule) -> str:
    return f"what begins with {rule.prefix}" if rule.prefix else "all objects of the store"
