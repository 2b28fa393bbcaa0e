"""Machines that are directories of this host: for trying Poorwill out, for tests, and for a host of one's own.

`<root>/<instance id>/` holds `instance.json`, the machine's files (its `/workspace` is `workspace/`) and the
engine's `state/`. A machine is built under a hidden name and then renamed, and is renamed before it is removed: a
process that is killed meanwhile leaves a whole machine or none.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import threading
from pathlib import Path
from typing import Any

from poorwill import timestamps
from poorwill.errors import DeadlineExceeded, NotFound, PermanentError, Refused, UsageError
from poorwill.providers.base import Endpoint, Instance, LocalEndpoint, Offer, Wish, checked_label

_ID = re.compile(r"local-[0-9a-f]{12}")
log = logging.getLogger(__name__)
_RECORD = "instance.json"
_RECORD_BYTES_MAX = 1 << 16
_NO_CHOICE = ("gpu", "gpu_count", "region", "spot", "download_mbps_min", "reliability_min", "cuda_min",
              "compute_capability_min")  # fmt: skip


class LocalProvider:
    """The machines below `root`, which is created with the first. They cost nothing and start at once."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        if not os.path.isabs(root):
            raise UsageError(f"'{os.fspath(root)}': a local provider needs an absolute path")
        self.root = Path(root)

    def describe(self) -> str:
        return f"local provider at {self.root}"

    def offers(self, wish: Wish) -> list[Offer]:
        wish.check()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._refuse(wish)
            free = shutil.disk_usage(self.root).free
        except Refused:
            return []
        except OSError as error:
            raise PermanentError(f"{self.describe()}: {error.strerror}") from None
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return [Offer("directory", "", 0, os.cpu_count() or 1, memory / 1e9, free / 1e9, "", 0.0)]

    def create(self, label: str, wish: Wish) -> Instance:
        checked_label(label)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._refuse(wish.check())
            instance_id = f"local-{secrets.token_hex(6)}"
            building = self.root / f".creating-{instance_id}"
            (building / "state").mkdir(parents=True, mode=0o700)
            record = {"id": instance_id, "label": label, "created_at": timestamps.now()}
            (building / _RECORD).write_text(json.dumps(record, indent=1) + "\n")
            (building / "workspace").mkdir()
            building.rename(self.root / instance_id)
        except OSError as error:
            raise PermanentError(f"{self.describe()} cannot create a machine: {error.strerror}") from None
        return self.get(instance_id)

    def _refuse(self, wish: Wish) -> None:
        if any(getattr(wish, name) for name in _NO_CHOICE):
            raise Refused(f"{self.describe()} has nothing to choose from: leave out {', '.join(_NO_CHOICE)}")
        free = shutil.disk_usage(self.root).free
        if wish.disk_gb is not None and wish.disk_gb * 10**9 > free:
            raise Refused(f"{self.describe()} has {free / 1e9:.0f} GB free, {wish.disk_gb} were asked for")

    def get(self, instance_id: str) -> Instance:
        directory = self._directory(instance_id)
        record = None if directory.is_symlink() else self._record(directory / _RECORD)
        if record is None:
            raise NotFound(f"{self.describe()} has no instance {instance_id}", instance=instance_id)
        return Instance(instance_id, str(record.get("label")), True, str(record.get("created_at")), 0.0)

    def _directory(self, instance_id: str) -> Path:
        if _ID.fullmatch(instance_id) is None:
            raise NotFound(f"'{instance_id[:80]}' is not an instance of {self.describe()}")
        return self.root / instance_id

    @staticmethod
    def _record(path: Path) -> dict[str, Any] | None:
        try:
            with open(path, "rb") as file:
                found = json.loads(file.read(_RECORD_BYTES_MAX))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def list_by_label(self, label: str) -> list[Instance]:
        return [instance for instance in self.list_by_prefix(label) if instance.label == label]

    def list_by_prefix(self, prefix: str) -> list[Instance]:
        try:
            names = sorted(name for name in os.listdir(self.root) if _ID.fullmatch(name))
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            try:
                instance = self.get(name)
            except NotFound:
                continue  # destroyed since it was listed
            if instance.label.startswith(prefix):
                found.append(instance)
        return found

    def wait(self, instance_id: str, timeout_s: float) -> Instance:
        return self.get(instance_id)

    def endpoint(self, instance_id: str) -> Endpoint:
        self.get(instance_id)
        directory = self._directory(instance_id)
        return LocalEndpoint(str(directory), {"POORWILL_STATE_DIR": str(directory / "state")})

    def exists(self, instance_id: str) -> bool:
        try:
            directory = self._directory(instance_id)
        except NotFound:
            return False
        return os.path.lexists(directory) or os.path.lexists(self._leaving(instance_id))

    def _leaving(self, instance_id: str) -> Path:
        return self.root / f".destroying-{instance_id}"

    def destroy(self, instance_id: str, timeout_s: float) -> None:
        if not self.exists(instance_id):
            return
        # Not interrupted when the time is up: it goes on, and so does the next call.
        remover = threading.Thread(target=self._try_to_remove, args=(instance_id,), name="destroy", daemon=True)
        remover.start()
        remover.join(timeout_s)
        if not self.exists(instance_id):
            return
        bills = f"{self._leaving(instance_id)} still takes disk space: destroy it again or remove it by hand"
        if remover.is_alive():
            raise DeadlineExceeded(f"instance {instance_id} is not gone after {timeout_s:.0f} s; {bills}")
        raise PermanentError(f"instance {instance_id} cannot be removed completely; {bills}")

    def _try_to_remove(self, instance_id: str) -> None:
        try:
            self._remove(instance_id)
        except OSError as error:
            log.warning("destroying %s: %s", instance_id, error)  # `destroy` sees that it is still there

    def _remove(self, instance_id: str) -> None:
        directory, leaving = self._directory(instance_id), self._leaving(instance_id)
        if directory.is_symlink():
            directory.unlink()  # not a machine of ours; what it points to is not touched
        if os.path.lexists(directory):
            directory.rename(leaving)
        for folder, folders, _ in os.walk(leaving):
            os.chmod(folder, 0o700)
            # os.walk looks into them next, and does not follow symlinks.
            for name in folders:
                path = os.path.join(folder, name)
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
        shutil.rmtree(leaving, ignore_errors=True)
