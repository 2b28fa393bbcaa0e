"""One engine that restores twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from poorwill.engine.operations import Operations
from poorwill.engine.protocol import answers, asking, questions, requests
from poorwill.engine.protocol.context import Context
from poorwill.errors import Cancelled
from poorwill.snapshot.order import RestoreOrder
from poorwill.store.base import Grant
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

    def answer(question: questions.Read) -> Grant:
        if question.key.startswith("parts/") and not opened.is_set():
            reading.set()
            opened.wait(30)
        return local_store.grant_read(question.key, expires_s=60)

    operations, context = Operations(), Context("test", 60.0, answer)

    def answer_to(request: asking.Request[Any]) -> Any:
        return operations.of(request)(request, context)

    def open_restore(name: str) -> answers.RestoreOpened:
        return answer_to(requests.OpenRestore(metadata.manifest, RestoreOrder(str(tmp_path / name))))

    with ThreadPoolExecutor(1) as thread:
        first = open_restore("one")
        given_up = operations._restore
        assert first.parts and given_up is not None
        late = thread.submit(answer_to, requests.Restore(0))
        assert reading.wait(30)
        open_restore("two")
        opened.set()
        with pytest.raises(Cancelled):
            late.result(30)
    answer_to(requests.Restore(0))
    answer_to(requests.FinishRestore())
    operations.close()
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in source.iterdir())
    assert all((tmp_path / "two" / p.name).read_bytes() == p.read_bytes() for p in source.iterdir())
