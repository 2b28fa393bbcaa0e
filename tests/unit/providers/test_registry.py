"""The list of providers is complete and correct."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from blocks import providers as blocks
from poorwill.providers.base import Provider
from poorwill.providers.registry import LOCAL, OWN, PROVIDERS, Entry

ROOT = Path(__file__).parents[3]
CLASSES = {entry: entry.factory.partition(".")[0] for entry in PROVIDERS}
METHODS = [name for name in vars(Provider) if not name.startswith("_")]


@pytest.mark.parametrize("entry", PROVIDERS, ids=lambda entry: entry.slug)
def test_an_entry_names_a_provider_and_its_page(entry: Entry) -> None:
    """The class has every method of a provider, and the page of docs/ shows its block."""
    provider = getattr(importlib.import_module(f"poorwill.providers.{entry.module}"), CLASSES[entry])
    assert all(callable(getattr(provider, method)) for method in METHODS)
    assert CLASSES[entry] in (ROOT / "docs" / entry.page).read_text()


def test_each_has_a_block() -> None:
    """No more and no less; only vast.ai and EC2 cost money."""
    slugs = [entry.slug for entry in PROVIDERS]
    assert [block.get_block_type_slug() for block in blocks.PROVIDERS] == slugs and len(set(slugs)) == len(slugs)
    assert [entry for entry in PROVIDERS if not entry.bills] == [LOCAL, OWN]


def test_each_provider_that_creates_machines_passes_the_suite() -> None:
    """Each has a class of tests there."""
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "conformance").glob("test_*.py"))
    suites = set(re.findall(r"class Test(\w+)\(ProviderSuite\)", tests))
    assert suites == set(CLASSES.values()) - {CLASSES[OWN]}


def test_the_list_imports_no_provider() -> None:
    """Nor a library of one."""
    code = (
        "import sys, poorwill.providers.registry;"
        "print([name for name in sys.modules if name.startswith(('poorwill.providers.', 'boto', 'urllib3'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "['poorwill.providers.base', 'poorwill.providers.registry']"
