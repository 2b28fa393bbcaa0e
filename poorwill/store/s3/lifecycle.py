"""What a bucket says about the days to come: archived objects, announced deletions, the rules for both.

Sources: the S3 API reference, HeadObject and GetBucketLifecycleConfiguration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from poorwill.store.base import LifecycleRule

ARCHIVES = frozenset(("GLACIER", "DEEP_ARCHIVE", "COLD_ARCHIVE", "DEEP_COLD_ARCHIVE"))
"""Storage classes whose objects nobody can read before they are brought back. GLACIER_IR is read like any other."""
_EXPIRY = re.compile(r'expiry-date="([^"]*)"')
_RULE = re.compile(r'rule-id="([^"]*)"')
_TEXT_MAX = 200


def prospects(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an ObjectInfo that tell it, from an answer to HeadObject."""
    storage_class = str(answer.get("StorageClass") or "")
    archive = str(answer.get("ArchiveStatus") or "") or (storage_class if storage_class in ARCHIVES else "")
    expiration = str(answer.get("Expiration") or "")
    return {
        "storage_class": storage_class,
        "archive": archive,
        "brought_back": 'ongoing-request="false"' in str(answer.get("Restore") or ""),
        "deletion": _deletion(expiration) if expiration else "",
    }


def _deletion(expiration: str) -> str:
    date, rule = _EXPIRY.search(expiration), _RULE.search(expiration)
    if date is None and rule is None:
        return f"the store announces its deletion ({expiration[:_TEXT_MAX]})"
    named = f"the bucket's rule '{unquote(rule[1])[:_TEXT_MAX]}'" if rule is not None else "a rule of the bucket"
    return f"{named} deletes it on {date[1][:_TEXT_MAX]}" if date is not None else f"{named} deletes it"


def rules(configuration: Mapping[str, Any], prefix: str) -> Iterator[LifecycleRule]:
    """The rules of an answer to GetBucketLifecycleConfiguration that reach objects below `prefix` in the bucket.

    Rules for tagged objects do not: Poorwill's have no tags.
    """
    for number, rule in enumerate(configuration.get("Rules") or (), 1):
        below, tagged = _filter(rule)
        if rule.get("Status") != "Enabled" or tagged or not (prefix.startswith(below) or below.startswith(prefix)):
            continue
        expiration = rule.get("Expiration") or {}
        moved = [str(one.get("StorageClass") or "") for one in rule.get("Transitions") or ()]
        archive = next((one for one in moved if one in ARCHIVES), "")
        deletes = bool(expiration.get("Days") or expiration.get("Date"))
        if deletes or archive:
            name = str(rule.get("ID") or f"number {number}")[:_TEXT_MAX]
            yield LifecycleRule(name, below[len(prefix) :], deletes, archive)


def _filter(rule: Mapping[str, Any]) -> tuple[str, bool]:
    """The prefix that a rule is for, and whether it is for tagged objects alone."""
    given = rule.get("Filter") or {}
    both = given.get("And") or {}
    prefix = given.get("Prefix") or both.get("Prefix") or rule.get("Prefix") or ""
    return str(prefix), bool(given.get("Tag") or both.get("Tags"))
