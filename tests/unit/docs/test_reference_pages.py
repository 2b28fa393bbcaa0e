"""The pages that specify format and protocol list what the code has, no more and no less."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from poorwill.codecs import registry
from poorwill.control.records.intents import Intent
from poorwill.control.records.pending import Pending
from poorwill.control.records.verified import Verified
from poorwill.engine.meter import COUNTERS
from poorwill.engine.operations import Operations
from poorwill.engine.protocol.asking import answer_to
from poorwill.engine.protocol.lines import Call, Cancel, Event, EventKind, Reply
from poorwill.engine.protocol.questions import QUESTIONS
from poorwill.engine.protocol.requests import REQUESTS
from poorwill.snapshot import versions
from poorwill.snapshot.metadata import Metadata
from poorwill.snapshot.part_index import IndexRows
from poorwill.snapshot.tables import Chunks, Entries, Parts, Segments, Targets, XattrSets

DOCS = Path(__file__).parents[3] / "docs"


def section(page: str, title: str) -> str:
    """The text under a heading, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no section {title}"
    return found[1]


def names(text: str) -> set[str]:
    """What stands in the first cell of each row of the tables in `text`."""
    cells = re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def cells(text: str) -> dict[str, list[str]]:
    """The rows of a table of which each has a name in its first cell, by this name."""
    below_header = text.partition("\n|---")[2].splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in below_header if line.startswith("| `")]
    return {row[0].strip(" `"): row for row in rows}


def quoted(text: str) -> set[str]:
    """The names in backquotes, of objects of JSON too."""
    return {name for quote in re.findall(r"`([^`]+)`", text) for name in re.findall(r"\w+", quote)}


def fields_of(kind: type) -> set[str]:
    """Of a record's JSON object; none of what is not a record."""
    if not dataclasses.is_dataclass(kind):
        return set(getattr(kind, "_fields", ()))
    hints = get_type_hints(kind)
    inline = [hints[each.name] for each in dataclasses.fields(kind) if "inline" in each.metadata]
    own = {each.name for each in dataclasses.fields(kind) if "inline" not in each.metadata}
    return own.union(*map(fields_of, inline))


def test_every_request() -> None:
    """Of the engine, with the fields of each and of its answer, and an operation that does it."""
    rows = cells(section("engine-protocol.md", "Requests"))
    operations = {name.removeprefix("op_") for name in dir(Operations) if name.startswith("op_")}
    assert rows.keys() == REQUESTS.keys() == operations
    for name, request in REQUESTS.items():
        fields, result = (quoted(cell) for cell in rows[name][1:3])
        assert fields_of(request) <= fields, name
        for other in re.findall(r"as `(\w+)`", rows[name][2]):
            result |= quoted(rows[other][2])
        assert fields_of(answer_to(request)) <= result, name


def test_every_question() -> None:
    """Of the engine, with its facts and what is answered."""
    rows = cells(section("engine-protocol.md", "Questions"))
    assert rows.keys() == QUESTIONS.keys()
    for name, question in QUESTIONS.items():
        assert fields_of(question) <= quoted(rows[name][1]), name
        assert fields_of(answer_to(question)) <= quoted(rows[name][2]), name


def test_every_line() -> None:
    """Between the control side and the engine."""
    said = quoted(section("engine-protocol.md", "From control to engine"))
    assert {"cancel", "answer"} | fields_of(Call) | fields_of(Cancel) | fields_of(Reply) <= said
    text = section("engine-protocol.md", "From engine to control")
    assert cells(text).keys() == set(get_args(EventKind))
    assert fields_of(Event) <= quoted(text)


def test_every_counter() -> None:
    """Of the engine's progress."""
    text = section("engine-protocol.md", "From engine to control")
    assert all(f"`{counter}`" in text for counter in COUNTERS)


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        (Metadata, "`poorwill-snapshot/1`: metadata"),
        (Pending, "`poorwill-pending/1`"),
        (Verified, "`poorwill-verified/1`"),
        (Intent, "`poorwill-intent/1`"),
    ],
)
def test_every_field(kind: type, title: str) -> None:
    """Of every sealed document, and which of them it need not have."""
    text = section("snapshot-format.md", title)
    fields = [field for field in dataclasses.fields(kind) if field.name != "further"]
    assert names(text) == {field.name for field in fields}
    optional = "\n".join(line for line in text.splitlines() if ", optional |" in line)
    assert names(optional) == {
        field.name
        for field in fields
        if not (field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING)
    }


@pytest.mark.parametrize(
    ("table", "title"),
    [(Parts, "`parts`"), (Chunks, "`chunks`"), (Entries, "`entries`"), (Segments, "`segments`")],
)
def test_every_column(table: type, title: str) -> None:
    """Of every table, in its order."""
    text = section("snapshot-format.md", title)
    cells = [cell for cell in re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE) if "`" in cell]
    assert [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)] == [c.name for c in table.SCHEMA]


def test_the_other_columns() -> None:
    """Of the tables that are described together, and of a part's index."""
    text = section("snapshot-format.md", "`targets` and `xattr_sets`")
    assert {c.name for t in (Targets, XattrSets) for c in t.SCHEMA} <= set(re.findall(r"`([^`]+)`", text))
    listed = re.findall(r"^\| (`source`|`offset`.*?) \|", section("snapshot-format.md", "Parts"), re.MULTILINE)
    assert re.findall(r"`([^`]+)`", " ".join(listed)) == [c.name for c in IndexRows.SCHEMA]


def test_every_kind_and_its_versions() -> None:
    """Which versions of it are read, and which one is written."""
    rows = re.findall(
        r"^\| `([^`]+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|", section("snapshot-format.md", "Versions"), re.MULTILINE
    )
    assert {kind: (reads, writes) for kind, reads, writes in rows} == {
        kind: (str(each.oldest) if each.oldest == each.newest else f"{each.oldest} to {each.newest}", str(each.written))
        for kind, each in versions.BY_KIND.items()
    }


def test_every_codec() -> None:
    """Has its id and name in the page on codecs."""
    text = (DOCS / "codecs.md").read_text()
    for name, number in registry.ID_BY_NAME.items():
        assert re.search(rf"\b{number}\b[^\n]*{re.escape(name)}", text), name
