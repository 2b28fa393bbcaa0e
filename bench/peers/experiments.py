"""The experiments: what is run, in which order, on which workspace. What it must reach is in targets.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import workspace
from bench.arena import Arena, Made, say
from bench.measure import CommandFailed, Usage, alternate, run
from bench.peers.tools import Contestant
from bench.tree import tree_bytes

CHANGED_SHARE = 0.01


def there_and_back(arena: Arena, kind: str, names: tuple[str, ...], *, memory: bool = False) -> None:
    """Pack, unpack and compare; every contestant in turn, round after round."""
    made = arena.workspace(kind)
    packs: dict[str, list[Usage]] = {name: [] for name in names}
    unpacks: dict[str, list[Usage]] = {name: [] for name in names}
    stored: dict[str, int] = {}

    def once(contestant: Contestant) -> Callable[[int], None]:
        def turn(number: int) -> None:
            name, site = contestant.name, arena.site(contestant.name)
            try:
                contestant.prepare(site)
                pack = arena.measured(contestant.pack(made.path, site), memory=memory)
                contestant.packed(pack.stdout)
                stored[name] = tree_bytes(site.repository)
                back = arena.unpacked(contestant, site, made, compare=number == 0, memory=memory)
            finally:
                site.clear()
            packs[name].append(pack)
            unpacks[name].append(back)
            say(f"{kind} {number + 1}: {name}: {pack.wall_s:.2f} s there, {back.wall_s:.2f} s back")

        return turn

    contestants = arena.contestants(names)
    failures = alternate({name: once(c) for name, c in contestants.items()}, arena.report.runs)
    arena.failed(kind, failures)
    measured = " (memory)" if memory else ""
    for step, usages in (("snapshot", packs), ("restore", unpacks)):
        for name in contestants:
            arena.add(made, step + measured, name, usages[name], stored.get(name))


def memory_without_source(arena: Arena, kind: str) -> None:
    """Peak memory on a workspace too large to lie beside its own copy: it goes before it is restored."""
    contestants = arena.contestants(("poorwill",))
    if not contestants:
        return
    poorwill, site = contestants["poorwill"], arena.site("poorwill")
    made = arena.workspace(kind)
    packs: list[Usage] = []
    backs: list[Usage] = []

    def pack(number: int) -> None:
        poorwill.prepare(site)
        packs.append(arena.measured(poorwill.pack(made.path, site), memory=True))
        poorwill.packed(packs[-1].stdout)
        say(f"{kind} {number + 1}: poorwill: packed, memory sampled")

    def unpack(number: int) -> None:
        backs.append(arena.unpacked(poorwill, site, made, compare=number == 0, memory=True))
        say(f"{kind} {number + 1}: poorwill: restored, memory sampled")

    failures = alternate({"poorwill": pack}, arena.report.runs)
    if not failures:
        arena.drop_workspace()
        failures = alternate({"poorwill": unpack}, arena.report.runs)
    arena.failed(kind, failures)
    site.clear()
    arena.add(made, "snapshot (memory)", "poorwill", packs)
    arena.add(made, "restore (memory)", "poorwill", backs)


def _first_packs(arena: Arena, made: Made, names: tuple[str, ...]) -> dict[str, Contestant]:
    ready: dict[str, Contestant] = {}
    for name, contestant in arena.contestants(names).items():
        site = arena.site(name)
        try:
            contestant.prepare(site)
            contestant.packed(run(contestant.pack(made.path, site)).stdout)
        except CommandFailed as error:
            arena.failed("first snapshot", {name: str(error)})
        else:
            ready[name] = contestant
    return ready


def unchanged(arena: Arena, names: tuple[str, ...]) -> None:
    """A second snapshot of a workspace in which nothing changed."""
    made = arena.workspace("weights")
    usages: dict[str, list[Usage]] = {name: [] for name in names}

    def once(contestant: Contestant) -> Callable[[int], None]:
        def turn(number: int) -> None:
            usage = arena.measured(contestant.pack(made.path, arena.site(contestant.name)))
            contestant.packed(usage.stdout)
            usages[contestant.name].append(usage)
            say(f"unchanged {number + 1}: {contestant.name}: {usage.wall_s:.2f} s")

        return turn

    ready = _first_packs(arena, made, names)
    arena.failed("unchanged", alternate({n: once(c) for n, c in ready.items()}, arena.report.runs))
    for name in ready:
        arena.add(made, "second snapshot, unchanged", name, usages[name])
        arena.site(name).clear()


@contextmanager
def overwritten(file: Path, begin: int, size: int, seed: int) -> Iterator[None]:
    """`size` bytes of `file` from `begin` are other weights inside the block, and the old ones after it."""
    with open(file, "r+b") as out:
        out.seek(begin)
        before = out.read(size)
        out.seek(begin)
        out.write(workspace.bf16_weights(seed, size // 2))
    try:
        yield
    finally:
        with open(file, "r+b") as out:
            out.seek(begin)
            out.write(before)


def changed(arena: Arena) -> list[dict[str, object]]:
    """Snapshots after a contiguous 1% of the largest file changed; what each of them said of itself.

    Every run changes another region and is compared with the same first snapshot.
    """
    made = arena.workspace("weights")
    file = made.path / workspace.BF16_FILE
    size = round(file.stat().st_size * CHANGED_SHARE)
    ready = _first_packs(arena, made, ("poorwill",))
    usages: list[Usage] = []
    said: list[dict[str, object]] = []

    def turn(number: int) -> None:
        begin = round(file.stat().st_size * (number + 0.5) / (arena.report.runs + 1))
        with overwritten(file, begin, size, seed=number):
            usages.append(arena.measured(ready["poorwill"].pack(made.path, arena.site("poorwill"))))
        said.append({**ready["poorwill"].packed(usages[-1].stdout), "changed_bytes": size})
        say(f"changed {number + 1}: poorwill: {usages[-1].wall_s:.2f} s")

    if ready:
        arena.failed("changed", alternate({"poorwill": turn}, arena.report.runs))
        arena.add(made, "second snapshot, 1% changed", "poorwill", usages)
        arena.site("poorwill").clear()
    return said
