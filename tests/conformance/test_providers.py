"""Every provider passes the suite; and what is special about the local one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.conformance.provider_suite")

from poorwill.errors import NotFound, Refused, UsageError  # noqa: E402
from poorwill.providers.base import Provider, Wish  # noqa: E402
from poorwill.providers.local import LocalProvider  # noqa: E402
from tests.conformance.provider_suite import TIMEOUT_S, ProviderSuite  # noqa: E402


class TestLocalProvider(ProviderSuite):
    @pytest.fixture
    def provider(self, tmp_path: Path) -> Provider:
        return LocalProvider(tmp_path / "machines")


@pytest.fixture
def local(tmp_path: Path) -> LocalProvider:
    return LocalProvider(tmp_path / "machines")


def test_destroy_follows_no_symlink_and_removes_what_is_read_only(local: LocalProvider, tmp_path: Path) -> None:
    """Targets of symlinks stay, and folders without write permission are removed."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    (outside / "precious").write_text("stays")
    machine = local.create("m", Wish())
    workspace = Path(local.endpoint(machine.id).path("/workspace"))
    (workspace / "closed" / "inner").mkdir(parents=True)
    (workspace / "link").symlink_to(outside)
    (workspace / "closed" / "inner" / "file").write_text("x")
    (workspace / "closed" / "inner").chmod(0o000)
    (workspace / "closed").chmod(0o500)
    local.destroy(machine.id, TIMEOUT_S)
    assert os.listdir(local.root) == []
    assert (outside / "precious").read_text() == "stays" and outside.stat().st_mode & 0o777 == 0o750


def test_an_interrupted_destruction_still_exists_until_it_is_done(local: LocalProvider) -> None:
    """A machine that was renamed for removal cannot be used, but exists, and destroying it again removes it."""
    machine = local.create("m", Wish())
    (local.root / machine.id).rename(local.root / f".destroying-{machine.id}")
    assert local.exists(machine.id) and local.list_by_label("m") == []
    with pytest.raises(NotFound):
        local.endpoint(machine.id)
    local.destroy(machine.id, TIMEOUT_S)
    assert not local.exists(machine.id)


def test_a_symlink_in_place_of_a_machine_is_not_one(local: LocalProvider, tmp_path: Path) -> None:
    """A link with a machine's name is never opened, and destroying it removes the link alone."""
    machine = local.create("m", Wish())
    elsewhere = tmp_path / "elsewhere"
    (local.root / machine.id).rename(elsewhere)
    (local.root / machine.id).symlink_to(elsewhere)
    with pytest.raises(NotFound):
        local.get(machine.id)
    local.destroy(machine.id, TIMEOUT_S)
    assert not local.exists(machine.id) and (elsewhere / "instance.json").exists()


def test_paths_of_a_machine_stay_inside_it(local: LocalProvider) -> None:
    """/workspace is the machine's own folder; nothing leads out of it, or to the provider's records."""
    endpoint = local.endpoint(local.create("m", Wish()).id)
    assert endpoint.path("/workspace/models/") == f"{endpoint.root}/workspace/models"
    assert endpoint.environment["POORWILL_STATE_DIR"] == f"{endpoint.root}/state"
    for path in ("workspace", "/", "/state/x", "/instance.json", "/a/../../b", "/a\0b", ""):
        with pytest.raises(UsageError):
            endpoint.path(path)


def test_it_refuses_what_a_folder_cannot_have(local: LocalProvider) -> None:
    """No GPUs, no regions, no more disk than there is; and no machine is left behind."""
    for wish in (Wish(gpu="H200"), Wish(gpu_count=1), Wish(region="eu"), Wish(disk_gb=999_999)):
        with pytest.raises(Refused):
            local.create("m", wish)
    assert local.list_by_label("m") == []
    assert os.listdir(local.root) == []
    with pytest.raises(UsageError):
        LocalProvider("relative/path")
