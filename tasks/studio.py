"""What a generation works with, by its run's id: blocks and stores are opened once for all its steps.

Tasks take ids and ask here. What is lost with the process is only this: a run that begins anew opens it again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blocks.lookup import media_block, model_block
from blocks.media import Media
from blocks.video_models import VideoModel
from poorwill.errors import NotFound
from poorwill.media import process_state
from poorwill.media.process_state import ProcessState
from poorwill.store.base import Store


@dataclass(frozen=True, slots=True)
class Studio:
    """One run's blocks, the store its video goes to, the folder its files are in between its steps, and what it shares
    with other runs of its process."""

    model: VideoModel
    media: Media
    store: Store
    folder: Path
    process: ProcessState


_studios: dict[str, Studio] = {}
_lock = threading.Lock()


@contextmanager
def studio(run: str, model: str, media: str) -> Iterator[Studio]:
    """Open what the run works with, and close it at its end. The folder is empty, whatever a killed run has left, and
    removed afterwards. NotFound and UsageError for names and blocks that are none."""
    media_opened = media_block(media)
    opened = Studio(model_block(model), media_opened, media_opened.open(), _folder_of(run), process_state.current())
    shutil.rmtree(opened.folder, ignore_errors=True)
    opened.folder.mkdir(parents=True, mode=0o700)
    with _lock:
        _studios[run] = opened
    try:
        yield opened
    finally:
        with _lock:
            _studios.pop(run, None)
        opened.store.close()
        shutil.rmtree(opened.folder, ignore_errors=True)


def of_run(run: str) -> Studio:
    """NotFound for a run that is not open in this process."""
    with _lock:
        found = _studios.get(run)
    if found is None:
        raise NotFound(f"run {run} has no studio in this process: its steps are called by the flow generate")
    return found


def _folder_of(run: str) -> Path:
    root = os.environ.get("POORWILL_SCRATCH_DIR") or os.path.join(tempfile.gettempdir(), f"poorwill-{os.getuid()}")
    return Path(root) / run
