"""What the steps of a generation share: blocks, store and folder, opened once for the run.

It is lost with the process: a run that begins anew opens it again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from blocks.lookup import media_block, model_block
from blocks.media import Media
from blocks.video_models import VideoModel
from poorwill.errors import NotFound
from poorwill.media import process_state
from poorwill.media.delivery import Files
from poorwill.media.process_state import ProcessState
from poorwill.store.base import Store


@dataclass(frozen=True, slots=True)
class Studio:
    """One run, its blocks, the store its video goes to, the folder its files are in between its steps, and what it
    shares with other runs of its process."""

    run: str
    model: VideoModel
    media: Media
    store: Store
    folder: Path
    process: ProcessState

    @property
    def image(self) -> Path:
        return self.folder / "image.png"

    @property
    def files(self) -> Files:
        return Files(self.folder / "video.mp4", self.folder / "poster.jpg", self.folder / "contact-sheet.jpg")


_CURRENT: ContextVar[Studio] = ContextVar("studio")


@contextmanager
def studio(run: str, model: str, media: str) -> Iterator[Studio]:
    """Open what the run works with; the steps inside find it by `current`.

    The folder is emptied first, whatever a killed run has left, and removed afterwards. NotFound and UsageError for
    names of no block, and for blocks that cannot be used.
    """
    scratch = os.environ.get("POORWILL_SCRATCH_DIR") or f"{tempfile.gettempdir()}/poorwill-{os.getuid()}"
    media_opened, folder = media_block(media), Path(scratch) / run
    with closing(media_opened.open()) as store:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        opened = Studio(run, model_block(model), media_opened, store, folder, process_state.current())
        token = _CURRENT.set(opened)
        try:
            yield opened
        finally:
            _CURRENT.reset(token)
            shutil.rmtree(folder, ignore_errors=True)


def current() -> Studio:
    """The studio of the run that calls. NotFound outside of `studio`."""
    try:
        return _CURRENT.get()
    except LookupError:
        raise NotFound("this step has no studio: it is called by the flow generate") from None
