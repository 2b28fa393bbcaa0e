"""One engine that restores twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from poorwill.engine.context import Context
from poorwill.engine.operations import Operations
from poorwill.errors import Cancelled
from poorwill.store.local import LocalStore
from tests.support.runs import take
from tests.support.workspaces import aged


def test_a_restore_given_up_writes_nothing_into_the_next(local_store: LocalStore, tmp_path: Path) -> None:
    """A part that is still being written when the next restore opens keeps its own files; later parts are refused."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"{number:02}").write_bytes(bytes([number]) * 5000)
    metadata = take(local_store, aged(source)).metadata
    reading, opened = threading.Event(), threading.Event()

    def answer(question: str, facts: dict[str, str]) -> dict[str, str]:
        if facts["key"].startswith("parts/") and not opened.is_set():
            reading.set()
            opened.wait(30)
        return local_store.grant_read(facts["key"], expires_s=60).to_wire()

    operations, context = Operations(), Context("test", 60.0, answer)

    def request(op: str, **fields: object) -> dict[str, object]:
        return operations.handle({"op": op, **fields}, context, lambda event: None)

    with ThreadPoolExecutor(1) as thread:
        first = request("open_restore", manifest=metadata.manifest.document(), workspace=str(tmp_path / "one"))
        given_up = operations._restore
        assert first["parts"] and given_up is not None
        late = thread.submit(request, "restore", part_row=0)
        assert reading.wait(30)
        request("open_restore", manifest=metadata.manifest.document(), workspace=str(tmp_path / "two"))
        opened.set()
        with pytest.raises(Cancelled):
            late.result(30)
    request("restore", part_row=0)
    request("finish_restore")
    operations.close()
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in source.iterdir())
    assert all((tmp_path / "two" / p.name).read_bytes() == p.read_bytes() for p in source.iterdir())
