"""The kernel's list of mounts is read as proc_pid_mountinfo(5) says."""

import os
from pathlib import Path

from poorwill.engine.pack import mounts
from poorwill.snapshot.globs import Globs

TABLE = rb"""21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 21 0:45 / /ws rw - tmpfs none rw,size=1g
31 30 8:17 /data /ws/my\040data ro,nosuid master:7 shared:9 - xfs /dev/sdb1 rw
32 30 0:50 / /ws/cache rw - fuse.sshfs host:/x rw
33 32 0:51 / /ws/cache rw - tmpfs over rw
34 21 0:52 / /wsx rw - tmpfs none rw
not a line
35 21 0:53 / /short rw
"""


def table(tmp_path: Path) -> list[mounts.MountLine]:
    path = tmp_path / "mountinfo"
    path.write_bytes(TABLE)
    return mounts.mount_table(str(path))


def test_lines_are_read_with_escapes_and_optional_fields(tmp_path: Path) -> None:
    """Spaces in names, any number of optional fields, and lines that are none."""
    found = table(tmp_path)
    assert [line.path for line in found] == [b"/", b"/ws", b"/ws/my data", b"/ws/cache", b"/ws/cache", b"/wsx"]
    data = found[2]
    assert (data.device, data.subtree, data.kind, data.source) == (os.makedev(8, 17), b"/data", "xfs", b"/dev/sdb1")
    assert data.options == {"ro", "nosuid", "rw"}
    assert mounts.mount_table(str(tmp_path / "missing")) == []


def test_what_is_mounted_below_a_workspace(tmp_path: Path) -> None:
    """Not what only begins alike; of two on one point the one on top; not what the caller does not look at."""
    found = mounts.mounts_below(b"/ws", table(tmp_path))
    assert {path: line.kind for path, line in found.items()} == {b"my data": "xfs", b"cache": "tmpfs"}
    assert list(mounts.mounts_below(b"/ws", table(tmp_path), Globs(["cache"]).covers)) == [b"my data"]
    assert len(mounts.mounts_below(b"/", table(tmp_path))) == 4


def test_the_mount_that_a_path_lies_on(tmp_path: Path) -> None:
    """The longest mount point, and the last of equal ones."""
    found = table(tmp_path)
    on = {path: mounts.mount_of(path, found) for path in (b"/ws/cache/a", b"/ws", b"/wsx/b", b"/other", b"/wsy")}
    assert {path: line and (line.path, line.kind) for path, line in on.items()} == {
        b"/ws/cache/a": (b"/ws/cache", "tmpfs"), b"/ws": (b"/ws", "tmpfs"), b"/wsx/b": (b"/wsx", "tmpfs"),
        b"/other": (b"/", "ext4"), b"/wsy": (b"/", "ext4"),
    }  # fmt: skip
    assert mounts.mount_of(b"/ws", []) is None


def test_this_process_sees_a_root_mount() -> None:
    """On a real kernel the table is not empty, and the root's mount is in it."""
    real = mounts.mount_table()
    assert (mounts.mount_of(b"/", real) is not None) == Path(mounts.MOUNTINFO).exists()


def test_a_pattern_covers_what_is_below_what_it_matches() -> None:
    """`covers` is for paths whose ancestors nobody has looked at."""
    globs = Globs(["cache", "a/*.tmp"])
    assert globs.covers(b"x/cache/y/z") and globs.covers(b"cache") and globs.covers(b"a/b.tmp/c")
    assert not globs.covers(b"a/b/c.tmp") and not globs.covers(b"cached") and not Globs([]).covers(b"a/b")


def test_what_is_mounted_beside_a_workspace(tmp_path: Path) -> None:
    """Disks, where they are directories, and shares; not what the workspace itself lies on, nor what is in memory."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "hostname").write_text("")
    table = TABLE.split(b"not a line")[0].replace(b"/ws/cache rw - fuse", b"/share rw - fuse")
    for number, name in enumerate(("disk", "hostname")):
        table += f"4{number} 1 8:33 /{name} {tmp_path}/{name} rw - ext4 /dev/sdc1 rw\n".encode()
    (tmp_path / "table").write_bytes(table)
    found = mounts.mount_table(str(tmp_path / "table"))
    assert mounts.mounts_beside(b"/ws", found) == ("/share (fuse.sshfs)", f"{tmp_path}/disk (ext4)")
