"""Whether two folders hold the same: every name, byte, attribute, link and hole."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from deployments.demo.tree_listing import differences as listing_differences
from deployments.demo.tree_listing import list_tree


def differences(left: Path, right: Path, *, without: Iterable[str | bytes] = ()) -> list[str]:
    """What differs, a line each; empty if the trees are equal, the roots themselves included.

    `without` names paths of `left` that `right` must not have, with everything below them.
    """
    expected, found = list_tree(left), list_tree(right)
    for path in map(os.fsencode, without):
        expected = {p: entry for p, entry in expected.items() if p != path and not p.startswith(path + b"/")}
    return listing_differences(expected, found)
