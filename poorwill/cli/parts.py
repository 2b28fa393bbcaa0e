"""All parts of a snapshot at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

from poorwill.errors import EngineLost
from poorwill.retry import Backoff, retry
from poorwill.snapshot import limits

BACKOFF = Backoff(first_s=0.5, attempts_max=3, jitter=False)


def all_parts(step: Callable[[int], Any], numbers: Iterable[int]) -> None:
    """step(number) for all at once; the first error ends the command, so the others are not waited for."""
    todo = list(numbers)
    threads = ThreadPoolExecutor(max(1, min(len(todo), limits.PARTS)), thread_name_prefix="part")
    futures = [threads.submit(_with_retries, step, number) for number in todo]
    wait(futures, return_when=FIRST_EXCEPTION)
    for future in futures:
        if future.done():
            future.result()
    threads.shutdown(wait=False)


def _with_retries(step: Callable[[int], Any], number: int) -> Any:
    """A lost engine has lost what it knew of the parts: the command ends then."""
    return retry(lambda: step(number), BACKOFF.pauses(), when=lambda error: not isinstance(error, EngineLost))
