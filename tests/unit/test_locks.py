"""What `make lock` writes: one set of versions for everything that is installed, with hashes where it is shipped."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from poorwill.remote.install import wheels
from poorwill.remote.install.wheels import Target

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "deployments" / "docker"
CONTROL = IMAGES / "requirements-control.txt"
GPU_WORKER = IMAGES / "requirements-gpu-worker.txt"
SHIPPED = sorted((ROOT / "poorwill" / "remote" / "install").glob("requirements*.txt"))
HERE = Target((3, 11), "x86_64", 36)


def locked(path: Path) -> list[str]:
    """Its pins, with their markers and hashes on one line."""
    lines = path.read_text().replace(" \\\n    --hash", " --hash").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@functools.cache
def versions(path: Path, target: Target = HERE) -> dict[str, str]:
    pins = map(Requirement, wheels.without_hashes(wheels.resolved(locked(path), target)))
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}


def test_constraints_bind_the_package_itself_too() -> None:
    """One hash in them, and pip would refuse to install a directory; an option would name an index or a path."""
    assert all(re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+( ; .+)?", line) for line in locked(ROOT / "constraints.txt"))


@pytest.mark.parametrize("path", [*SHIPPED, CONTROL, GPU_WORKER], ids=lambda path: path.name)
@pytest.mark.parametrize("target", [HERE, Target((3, 10), "aarch64", 36), Target((3, 14), "x86_64", 36)])
def test_what_is_shipped_is_what_was_tested(path: Path, target: Target) -> None:
    """Every version is the one that constraints.txt has for the same Python, and every pin names hashes."""
    if path.parent == IMAGES and target.python == (3, 10):
        return  # Prefect needs Python 3.11
    tested = versions(ROOT / "constraints.txt", target)
    assert versions(path, target).items() <= tested.items()
    assert all(" --hash=sha256:" in line for line in locked(path))


@pytest.mark.parametrize(
    ("files", "extras"),
    [((CONTROL,), ("s3", "control")), ((CONTROL, GPU_WORKER), ("s3", "control", "generate", "gpu"))],
    ids=["control", "gpu-worker"],
)
def test_images_have_all_that_their_extras_need(files: tuple[Path, ...], extras: tuple[str, ...]) -> None:
    """Followed through the packages that are installed here, nothing is needed that no file pins: pip is told not to
    look at dependencies, and to take the build system that is there."""
    pinned = {name for path in files for name in versions(path)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = project["project"]
    todo = [*project["build-system"]["requires"], *declared["dependencies"]]
    todo += [line for extra in extras for line in declared["optional-dependencies"][extra]]
    seen = set[tuple[str, str]]()
    while todo:
        needed = Requirement(todo.pop())
        for extra in ("", *needed.extras):
            name = canonicalize_name(needed.name)
            if (name, extra) in seen or name == "torch":  # torch's builds need different packages
                continue
            seen.add((name, extra))
            assert name in pinned, f"{needed} is pinned by none of {[path.name for path in files]}"
            for line in importlib.metadata.requires(name) or []:
                marker = Requirement(line).marker
                if marker is None or marker.evaluate({"extra": extra}):
                    todo.append(line)
    assert len(seen) > 100
