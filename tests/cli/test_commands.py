"""The installed program: what its commands do, print and answer, with every kind of store."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from deployments.servers.s3_server import S3Server
from poorwill.snapshot import keys
from poorwill.store.local import LocalStore
from tests.support.program import Ran, poorwill, start
from tests.support.runs import MACHINE, take
from tests.support.trees import differences
from tests.support.workspaces import SET_ID, SKIPPED, aged, make_everything, make_large

ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
NO_SNAPSHOT = "20990101T000000Z-00000000"


def one_line(ran: Ran) -> str:
    """A failed command's only line."""
    assert "Traceback" not in ran.err and ran.out == ""
    (line,) = ran.err.splitlines()
    assert line.startswith("poorwill: ")
    return line


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_there_and_back(tmp_path: Path, s3_server: S3Server, kind: str) -> None:
    """All commands in a row, as programs use them: one JSON object a line, the last with the totals."""
    workspace = aged(make_everything(tmp_path / "w"))
    url = (tmp_path / "s o").as_uri() if kind == "file" else s3_server.url("cli")
    env = s3_server.env() if kind == "s3" else None
    given = ("--store", url, "--json")
    ran = poorwill("snapshot", workspace, *given, "--machine", MACHINE, "--portable", env=env)
    assert ran.code == 3, ran  # the socket was left out
    done = ran.done
    snapshot_id = done["snapshot_id"]
    assert ID.fullmatch(snapshot_id) and done["left_out_count"] == 1
    assert done["totals"]["raw_bytes"] == done["raw_bytes"] > done["stored_bytes"] > 0
    assert {"event": "begun", "snapshot_id": snapshot_id, "machine": MACHINE} in ran.events
    listed = poorwill("ls", *given, env=env)
    assert [row["snapshot_id"] for row in listed.events[:-1]] == [snapshot_id]
    assert listed.done["totals"] == {"snapshots": 1}
    shown = poorwill("show", snapshot_id, *given, env=env).done
    assert shown["portable"] and shown["needs"] == [] and shown["coding"] == done["coding"]
    assert shown["totals"] == done["totals"] and shown["left_out"][0]["path"] == "links/socket"
    verified = poorwill("verify", snapshot_id, "--full", *given, env=env)
    assert verified.code == 0 and verified.done["totals"]["bytes_read"] > 0
    back = poorwill("restore", snapshot_id, tmp_path / "back", "--privileged", *given, env=env)
    assert back.code == 0 and back.done["restored"]["file"] > 30
    assert differences(workspace, tmp_path / "back", without=SKIPPED) == []
    gone = poorwill("delete", snapshot_id, *given, env=env)
    assert gone.code == 0 and gone.done["totals"]["freed_bytes"] == done["totals"]["sent_bytes"]
    assert poorwill("ls", *given, env=env).events == [{"snapshots": 0, "totals": {"snapshots": 0}, "event": "done"}]


def test_kept_removed_and_brought_back(tmp_path: Path, local_store: LocalStore) -> None:
    """Names and tags are listed; a policy keeps by them; what went to the trash comes back, whole."""
    workspace, given = aged(make_large(tmp_path / "w", 1)), ("--store", local_store.url)
    first = take(local_store, workspace, "20260101T000000Z-00000001", name="the first", tags=("keep",)).id
    for number in (2, 3):
        labels = ("--name", f"number {number}", "--tag", "t", "--id", f"2026010{number}T000000Z-00000000")
        assert poorwill("snapshot", workspace, *given, "--machine", MACHINE, *labels).code == 0
    *_, newest = poorwill("ls", *given, "--json").events[:-1]
    assert (newest["name"], newest["tags"]) == ("number 3", ["t"])
    listed = poorwill("ls", *given).out
    assert "the first [keep]" in listed and "number 2 [t]" in listed
    policy = ("retention", *given, "--keep-last", "1", "--keep-tag", "keep")
    dry = poorwill(*policy, "--dry-run")
    assert f"{first:26} {MACHINE:20} kept: tag keep  (the first)" in dry.out
    assert "1 of 3 snapshots would go to the trash" in dry.out
    done = poorwill(*policy, "--json").done
    assert done["totals"]["going"] == 1 and len(poorwill("ls", *given, "--json").events) == 3
    (went,) = (found.key.split("/")[2].removesuffix(".json") for found in local_store.list(keys.TRASH))
    assert poorwill("undelete", went, *given).out == f"snapshot {went} of {MACHINE} is back\n"
    assert poorwill("verify", went, *given).code == 0 and poorwill("delete", went, *given).code == 0


def test_for_people(tmp_path: Path, local_store: LocalStore) -> None:
    """Results on stdout, what was left out on stderr; set-id bits are kept only when asked for, exit code 3."""
    workspace = aged(make_everything(tmp_path / "w"))
    ran = poorwill("snapshot", workspace, "--store", local_store.url, "--machine", MACHINE, "--codec", "zstd")
    assert ran.code == 3 and ran.err == (
        "poorwill: links lead out of the workspace, and what they lead to is not kept: "
        "links/absolute -> /etc/hostname, links/outside -> ../../..\n"
        "left out: links/socket: socket: not kept in snapshots\n"
    )
    size = r"[\d.]+ MB"
    assert re.search(rf"^snapshot \S+ of m1: {size} raw, {size} stored, ratio [\d.]+, {size} sent$", ran.out)
    found = ID.search(ran.out)
    assert found and found[0] in poorwill("ls", "--store", local_store.url).out
    assert json.loads(poorwill("show", found[0], "--store", local_store.url).out)["snapshot_id"] == found[0]
    back = poorwill("restore", found[0], tmp_path / "back", "--store", local_store.url)
    assert back.code == 3
    assert sorted(back.err.splitlines()) == sorted(
        f"left out: {os.fsdecode(path)}: set-id bits: needs --privileged" for path in SET_ID
    )


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["restore", NO_SNAPSHOT, "{tmp}/back"], 5, f"snapshot {NO_SNAPSHOT} does not exist in file://"),
        (["show", NO_SNAPSHOT], 5, "does not exist"),
        (["verify", "nonsense"], 2, "'nonsense' is not a snapshot id"),
        (["delete", "../.."], 2, "is not a snapshot id"),
        (["snapshot", "{tmp}/none"], 1, "No such file or directory: nothing was read"),
        (["snapshot", "{tmp}/none", "--parent", NO_SNAPSHOT], 5, NO_SNAPSHOT),
        (["snapshot", "{tmp}/.."], 2, "lies inside the workspace"),
        (["snapshot", "/"], 2, "is the whole machine: name a directory on it"),
        (["snapshot", "{tmp}", "--parts", "33"], 2, "parts 33: expected 1 to 32"),
        (["snapshot", "{tmp}", "--machine", "../up"], 2, "'../up' cannot name a machine"),
        (["snapshot", "{tmp}", "--exclude", "../x"], 2, "leaves the workspace"),
        (["retention"], 2, "would keep nothing"),
        (["retention", "--keep-last", "1", "--grace", "soon"], 2, "'soon' is not a duration"),
        (["undelete", NO_SNAPSHOT], 5, f"snapshot {NO_SNAPSHOT} does not exist"),
        (["snapshot", "{tmp}", "--tag", "a b"], 2, "'a b' is not a tag"),
        (["ls", "--store", "http://user:password@host/x"], 2, "not a store address"),
        (["ls", "--store", "s3://key:password@bucket/x"], 2, "not an S3 store address"),
        (["ls", "--store", "file://relative"], 2, "not a store address"),
        (["ls", "--store", ""], 2, "not a store address"),
        (["ls", "--store", "file:///dev/null"], 7, "/dev/null"),
    ],
)
def test_exit_codes_of_mistakes(
    tmp_path: Path, local_store: LocalStore, arguments: list[str], code: int, says: str
) -> None:
    """One line that says what, no password in it, and nothing left behind in the store."""
    (tmp_path / "w").mkdir()
    filled = [argument.format(tmp=tmp_path / "w") for argument in arguments]
    if "--store" not in filled:
        filled += ["--store", local_store.url]
    ran = poorwill(*filled)
    assert ran.code == code, ran
    line = one_line(ran)
    assert says in line and "password" not in line
    assert list(local_store.list("")) == []


def test_usage(tmp_path: Path) -> None:
    """What the arguments alone show to be wrong is exit code 2 as well; help and version are none."""
    for arguments in ([], ["no-such-command"], ["snapshot", str(tmp_path)], ["ls", "--store"]):
        assert poorwill(*arguments).code == 2
    assert poorwill("--version").out.startswith("poorwill ")
    assert "exit codes: 0 done" in poorwill("--help").out


def test_refused_corrupt_and_overwritten(tmp_path: Path, local_store: LocalStore) -> None:
    """6 for what would overwrite, 4 for what is damaged, 0 when overwriting was allowed; --include takes some."""
    workspace = aged(make_large(tmp_path / "w", 1))
    taken = take(local_store, workspace)
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "mine").write_text("mine")
    restore = ("restore", taken.id, tmp_path / "back", "--store", local_store.url)
    refused = poorwill(*restore)
    assert refused.code == 6 and "not empty: nothing was restored" in one_line(refused)
    assert poorwill(*restore, "--overwrite", "--include", "1?.txt").code == 0
    assert sorted(os.listdir(tmp_path / "back")) == sorted(["mine", *(f"{n}.txt" for n in range(10, 20))])
    part = Path(local_store.url.removeprefix("file://")) / taken.own_parts[0]
    data = bytearray(part.read_bytes())
    data[5000] ^= 1
    part.write_bytes(data)
    for command in (("verify", taken.id), ("restore", taken.id, tmp_path / "new")):
        ran = poorwill(*command, "--store", local_store.url, "--json")
        assert ran.code == 4
        error = ran.events[-1]
        assert (error["event"], error["type"], error["exit_code"]) == ("error", "Corrupt", 4)
        assert taken.own_parts[0] in error["message"] and error["facts"]["expected"] != error["facts"]["found"]


def test_s3_that_refuses(tmp_path: Path, s3_server: S3Server) -> None:
    """Wrong credentials, a missing bucket, nobody there: endpoint and bucket in one line, 7, and no secret."""
    workspace = make_large(tmp_path / "w", 1)
    nobody, secret = "http://127.0.0.1:1", "c0ffee" * 6
    cases = [
        ({"AWS_SECRET_ACCESS_KEY": secret}, "s3://poorwill/x", s3_server.endpoint),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "s3://poorwill/x", s3_server.endpoint),
        ({}, "s3://no-such-bucket/x", s3_server.endpoint),
        ({"AWS_ENDPOINT_URL": nobody, "AWS_ENDPOINT_URL_S3": nobody}, "s3://poorwill/x", nobody),
    ]
    running = [
        (start("snapshot", workspace, "--store", url, env={**s3_server.env(), **env}), url, place)
        for env, url, place in cases
    ]
    for process, url, place in running:
        out, err = process.communicate(timeout=90)
        line = one_line(Ran(process.returncode, out.decode(), err.decode()))
        assert process.returncode == 7, line
        assert place in line and url.split("/")[2] in line
        assert secret not in line and s3_server.secret_key not in line


def test_without_any_credentials(tmp_path: Path) -> None:
    """Also one line, and what is missing."""
    env = {"HOME": str(tmp_path), "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    ran = poorwill("ls", "--store", "s3://bucket/x", env=env)
    assert ran.code == 7
    assert "credentials" in one_line(ran)


def _without_override() -> None:
    """Root who may not pass over modes: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH leave the bounding set (prctl 24)."""
    if os.geteuid() == 0:
        for capability in (1, 2):
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


def test_unreadable_files(tmp_path: Path, local_store: LocalStore) -> None:
    """Listed, with exit code 1, or left out and recorded, with exit code 3."""
    workspace = aged(make_large(tmp_path / "w", 1))
    (workspace / "secret").write_text("secret")
    (workspace / "secret").chmod(0)
    given = ("snapshot", workspace, "--store", local_store.url, "--machine", MACHINE)
    ran = poorwill(*given, preexec_fn=_without_override)
    assert ran.code == 1
    line = ran.err.splitlines()[0]
    assert "1 entries" in line and "secret: Permission denied" in line
    skipped = poorwill(*given, "--skip-unreadable", preexec_fn=_without_override)
    assert skipped.code == 3 and skipped.err == "left out: secret: Permission denied\n"
    found = ID.search(skipped.out)
    assert found and poorwill("restore", found[0], tmp_path / "back", "--store", local_store.url).code == 0
    assert differences(workspace, tmp_path / "back", without=["secret"]) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path: Path, local_store: LocalStore, signum: signal.Signals) -> None:
    """130, with how to go on; nothing is committed; going on works."""
    workspace = aged(make_large(tmp_path / "w", 16))
    given = ("snapshot", workspace, "--store", local_store.url, "--machine", MACHINE, "--json")
    process = start(*given)
    assert process.stdout is not None
    begun = json.loads(process.stdout.readline())
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert begun["event"] == "begun"
    assert process.returncode == 130 and b"Traceback" not in err
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("error", 130)
    assert f"--id {begun['snapshot_id']}" in last["hint"] and f"--machine {MACHINE}" in last["hint"]
    assert list(local_store.list(keys.SNAPSHOTS)) == []
    again = poorwill(*given, "--id", begun["snapshot_id"])
    assert again.code == 0 and again.done["snapshot_id"] == begun["snapshot_id"]


def test_output_that_cannot_be_written(tmp_path: Path, local_store: LocalStore) -> None:
    """A closed stdout, a closed pipe, a full disk: no traceback, and the work is done."""
    workspace = make_large(tmp_path / "w", 1)
    given = ("snapshot", workspace, "--store", local_store.url, "--json")
    closed = poorwill(*given, "--machine", "closed", preexec_fn=lambda: os.close(1))
    assert closed.code == 0 and closed.err == ""
    every = poorwill(*given, "--machine", "every", preexec_fn=lambda: os.closerange(0, 3))
    assert every.code == 0
    with open("/dev/full", "w") as full:
        ran = poorwill(*given, "--machine", "full", stdout=full)
    assert ran.code == 1 and ran.err == "poorwill: standard output could not be written: No space left on device\n"
    reading, writing = socket.socketpair()
    reading.close()
    with writing:
        ran = poorwill(*given, "--machine", "pipe", stdout=writing.fileno())
    assert ran.code == 1 and "Traceback" not in ran.err and "Broken pipe" in ran.err
    machines = {found.key.split("/")[1] for found in local_store.list(keys.SNAPSHOTS)}
    assert machines == {"closed", "every", "full", "pipe"}


def test_names_that_are_not_text(tmp_path: Path, local_store: LocalStore) -> None:
    """A workspace whose name is no UTF-8, in a locale without it."""
    workspace = make_large(tmp_path / os.fsdecode(b"w-\xff\xe9"), 1)
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    given = ("--store", local_store.url)
    done = poorwill("snapshot", workspace, *given, "--json", env=env).done
    back = tmp_path / os.fsdecode(b"back-\xff")
    ran = poorwill("restore", done["snapshot_id"], back, *given, env=env)
    assert ran.code == 0 and "Traceback" not in ran.err
    assert differences(workspace, back) == []
