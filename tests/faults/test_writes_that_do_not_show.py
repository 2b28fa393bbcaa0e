"""Writes through mappings, and times that cannot be trusted: whatever is written, the snapshot or the gate sees it."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from poorwill.control.machine import last_look
from poorwill.control.machine.destruction import check_unchanged
from poorwill.control.records import manifests
from poorwill.control.snapshot.session import EngineSession
from poorwill.engine.pack.file_systems import Distrusted, FileSystems, now_ns
from poorwill.engine.pack.manifest import MAPPED_NS
from poorwill.engine.pack.mounts import MountLine
from poorwill.engine.protocol.answers import Blind, Changes
from poorwill.errors import Refused, WorkspaceError
from poorwill.snapshot.metadata import Metadata
from poorwill.store.base import Store
from poorwill.store.local import LocalStore
from tests.faults.test_changing_files import once
from tests.support.engines import ThreadHost
from tests.support.runs import Taken, order, restore, take
from tests.support.trees import differences
from tests.support.workspaces import aged, make_large
from tests.support.writers import MAPS, ext4_image, mounted, writer


def gate(store: Store, workspace: Path, taken: Taken, host: ThreadHost | None = None, **fields: str) -> None:
    session = EngineSession(host or ThreadHost())
    try:
        check_unchanged(store, session, order(workspace, taken.id, **fields), taken.metadata)
    finally:
        session.close()


def manifest_times(store: Store, metadata: Metadata) -> dict[str, int]:
    entries = manifests.read(store, metadata).entries
    return {os.fsdecode(entries.path(row)): int(entries.ctime_ns[row]) for row in range(len(entries))}


def make_mapped(workspace: Path) -> Path:
    make_large(workspace, 1)
    (workspace / "state.bin").write_bytes(bytes(1 << 20))
    return aged(workspace)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_write_to_a_mapped_page_that_was_dirty(local_store: LocalStore, tmp_path: Path, moment: str) -> None:
    """Before or after the file is read: it moves the times, as the page was written back before the scan."""
    workspace = make_mapped(tmp_path / "w")
    with writer(MAPS, workspace / "state.bin") as process:
        time.sleep(0.1)  # the page stays dirty, and the times of the file are no longer recent
        host = ThreadHost(**{moment: {"pack": once(lambda: process.write("later"))}})
        taken = take(local_store, workspace, host=host, writers="ignore")
    restore(local_store, taken.id, tmp_path / "back")
    assert (tmp_path / "back" / "state.bin").read_bytes()[:5] == b"later"
    again = take(local_store, workspace, parent=taken.id)
    assert restore(local_store, again.id, tmp_path / "again") and differences(workspace, tmp_path / "again") == []


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder in memory, where every host has some."""
    if not os.path.ismount("/dev/shm"):
        pytest.skip("this host has no /dev/shm")
    with tempfile.TemporaryDirectory(prefix="poorwill-test-", dir="/dev/shm") as name:
        yield Path(name)


def test_a_mapped_file_where_times_tell_nothing(local_store: LocalStore, tmp_path: Path, in_memory: Path) -> None:
    """It is read twice and accepted for a backup; the gate stays shut, whatever becomes of writers, and names the
    process; the next snapshot reads the file again, and once nobody maps it the gate opens."""
    workspace, rounds = make_mapped(in_memory / "w"), list[int]()
    host = ThreadHost(before={"settle": lambda request: rounds.append(1)})
    with writer(MAPS, workspace / "state.bin") as process:
        time.sleep(0.1)
        taken = take(local_store, workspace, host=host, at_settle=lambda: process.write("later"), writers="ignore")
        assert manifest_times(local_store, taken.metadata)["state.bin"] == MAPPED_NS and len(rounds) == 2
        for writers in ("refuse", "ignore"):
            with pytest.raises(Refused, match=rf"\(state.bin\).*\(pid {process.pid}: .*state.bin \(mapped\)"):
                gate(local_store, workspace, taken, writers=writers)
    again = take(local_store, workspace, parent=taken.id)
    restore(local_store, again.id, tmp_path / "back")
    assert (tmp_path / "back" / "state.bin").read_bytes()[:5] == b"later"
    assert MAPPED_NS not in manifest_times(local_store, again.metadata).values()
    gate(local_store, workspace, again, writers="ignore")


def test_a_file_that_is_mapped_no_longer(local_store: LocalStore, tmp_path: Path, in_memory: Path) -> None:
    """Its process ends while the snapshot is taken: it is read once more, and can be trusted from then on."""
    workspace = make_mapped(in_memory / "w")
    with writer(MAPS, workspace / "state.bin") as process:
        time.sleep(0.1)

        def end() -> None:
            if process.process.poll() is None:
                process.write("last")
                process.end()

        taken = take(local_store, workspace, at_settle=end, writers="ignore")
    restore(local_store, taken.id, tmp_path / "back")
    assert (tmp_path / "back" / "state.bin").read_bytes()[:4] == b"last"
    gate(local_store, workspace, taken, writers="ignore")


def test_an_overlay_that_flushes_nothing(local_store: LocalStore, tmp_path: Path) -> None:
    """`volatile`: syncfs answers that all is well there, and the probe finds that it is not."""
    folders = {name: tmp_path / name for name in ("lower", "upper", "work")}
    for folder in folders.values():
        folder.mkdir()
    layers = "lowerdir={lower},upperdir={upper},workdir={work}".format(**folders)
    with mounted(tmp_path / "w", "overlay", layers, "volatile") as workspace:
        make_mapped(workspace)
        with writer(MAPS, workspace / "state.bin") as process:
            time.sleep(0.1)
            taken = take(local_store, workspace, writers="ignore")
            process.write("later")
            with pytest.raises(Refused, match=r"state.bin \(mapped\)"):
                gate(local_store, workspace, taken, writers="ignore")
        again = take(local_store, workspace, parent=taken.id)
        restore(local_store, again.id, tmp_path / "back")
        assert (tmp_path / "back" / "state.bin").read_bytes()[:5] == b"later"


def test_a_flush_that_does_not_end(tmp_path: Path, local_store: LocalStore) -> None:
    """A server that is gone: the snapshot fails by the deadline and names the mount, and the gate stays shut."""
    workspace, for_ever = aged(make_large(tmp_path / "w", 1)), threading.Event()
    taken = take(local_store, workspace)
    hanging = FileSystems(sync=lambda fd: _ignored(for_ever.wait(30)), deadline_s=0.3)
    try:
        for attempt in (
            lambda: take(local_store, workspace, host=ThreadHost(file_systems=hanging)),
            lambda: gate(local_store, workspace, taken, ThreadHost(file_systems=hanging)),
        ):
            with pytest.raises(
                WorkspaceError, match=rf"{workspace} \(\w+\) did not bring what was written .*exclude it"
            ):
                attempt()
    finally:
        for_ever.set()


def _ignored(value: object) -> None:
    return None


def test_a_flush_that_fails(tmp_path: Path, local_store: LocalStore) -> None:
    """A disk that does not take what was written: said, by the file system's own words; nothing is committed."""

    def full_of_errors(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    workspace, host = make_large(tmp_path / "w", 1), ThreadHost(file_systems=FileSystems(sync=full_of_errors))
    with pytest.raises(WorkspaceError, match=r"what was written to it cannot be brought .*: Input/output error"):
        take(local_store, workspace, host=host)
    assert list(local_store.list("snapshots/")) == []


def test_what_is_excluded_is_not_flushed(local_store: LocalStore, tmp_path: Path) -> None:
    """A mount that hangs is left out by a pattern, and asked for nothing then."""
    workspace, flushed = make_large(tmp_path / "w", 1), list[str]()
    with mounted(workspace / "data" / "remote", "tmpfs"):
        host = ThreadHost(file_systems=FileSystems(sync=lambda fd: flushed.append(os.readlink(f"/proc/self/fd/{fd}"))))
        take(local_store, workspace, host=host, exclude=("data/**",))
    assert str(workspace) in flushed and not any("data" in path for path in flushed)


@pytest.mark.parametrize(
    ("kind", "options", "shared"),
    [("nfs4", "rw", True), ("fuse.sshfs", "ro", True), ("tmpfs", "rw", False), ("tmpfs", "ro", None)],
)
def test_which_file_systems_are_distrusted(in_memory: Path, kind: str, options: str, shared: bool | None) -> None:
    """Those that other hosts may write to, by their kinds; of all others, by trial, those that are written here."""
    systems, fd = FileSystems(), os.open(in_memory, os.O_RDONLY)
    line = MountLine(os.fsencode(in_memory), 7, b"/", kind, b"there:/", frozenset({options}))
    systems.judge(7, line, fd, ())
    os.close(fd)
    assert {device: found.shared for device, found in systems.distrusted.items()} == (
        {} if shared is None else {7: shared}
    )


def test_what_other_hosts_may_write(local_store: LocalStore, tmp_path: Path) -> None:
    """A share: the gate stays shut, and says where and how to insist."""
    workspace = aged(make_large(tmp_path / "w", 1))
    taken = take(local_store, workspace)
    share = Distrusted(os.fsencode(workspace), "nfs4: other hosts may write there", shared=True)
    host = ThreadHost(file_systems=FileSystems(distrusted={workspace.stat().st_dev: share}))
    with pytest.raises(
        Refused, match=r"m1 may be missed: .*/w \(nfs4: other hosts may write there\): .*exclude it, or insist"
    ):
        gate(local_store, workspace, taken, host)
    gate(local_store, workspace, taken, host, writers="ignore")


@pytest.mark.parametrize(("hidden", "blind", "opens"), [(0, True, True), (2, False, True), (2, True, False)])
def test_processes_that_cannot_be_looked_into(hidden: int, blind: bool, opens: bool) -> None:
    """One of them shuts the gate where times tell nothing; elsewhere what it writes shows."""
    found = Changes((), hidden=hidden, blind=(Blind("/w", "tmpfs: its times do not move", False),) * blind)
    if opens:
        last_look.check(found, order(Path("/w")))
        return
    with pytest.raises(
        Refused, match=r"2 processes could not be looked into, and the times of /w .*writers=\"ignore\""
    ):
        last_look.check(found, order(Path("/w")))
    last_look.check(found, order(Path("/w"), writers="ignore"))


def test_whole_second_times_inside_finer_ones(local_store: LocalStore, tmp_path: Path) -> None:
    """A file written twice within a second, on a disk mounted in the workspace: the second time is seen."""
    workspace = aged(make_large(tmp_path / "w", 1))
    image = ext4_image(tmp_path / "disk.img", "-I", "128")
    with mounted(workspace / "disk", "ext4", "loop", source=image) as disk:
        while not 0.1 < time.time() % 1 < 0.3:
            time.sleep(0.01)
        (disk / "file").write_bytes(b"old" * 1000)
        time.sleep(0.1)
        host = ThreadHost(after={"scan": once(lambda: (disk / "file").write_bytes(b"new" * 1000))})
        taken = take(local_store, workspace, host=host)
        assert restore(local_store, taken.id, tmp_path / "back")
        assert (tmp_path / "back" / "disk" / "file").read_bytes() == b"new" * 1000


def test_times_ahead_of_the_clock(local_store: LocalStore, tmp_path: Path) -> None:
    """The clock was stepped back, or a server's is ahead: a file at rest is taken, in one round, and the gate opens;
    one that changes meanwhile is read until it is at rest, and what is written later is seen."""
    workspace, rounds = aged(make_large(tmp_path / "w", 1)), list[int]()
    behind = FileSystems(clock=lambda: now_ns() - 3600_000_000_000)
    host = ThreadHost(file_systems=behind, before={"settle": lambda request: rounds.append(1)})
    taken = take(local_store, workspace, host=host)
    assert len(rounds) == 1
    gate(local_store, workspace, taken, ThreadHost(file_systems=behind))

    changing = ThreadHost(file_systems=behind, after={"pack": once(lambda: (workspace / "5.txt").write_text("new"))})
    taken = take(local_store, workspace, host=changing)
    restore(local_store, taken.id, tmp_path / "back")
    assert differences(workspace, tmp_path / "back") == []
    (workspace / "5.txt").write_text("wen")
    with pytest.raises(Refused, match=r"has changed since snapshot .* \(5.txt\)"):
        gate(local_store, workspace, taken, ThreadHost(file_systems=behind))
