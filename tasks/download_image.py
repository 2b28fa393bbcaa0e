"""Generating, step 1: the image, from the web, a bucket or the request itself, as far as its source is allowed."""

from __future__ import annotations

from typing import Any

from prefect import task

from blocks.lookup import store_block
from tasks.retries import policy, transient_in_time
from tasks.studio import current


@task(name="download_image", **policy(transient_in_time))
def download_image(image_url: str) -> dict[str, Any]:
    """Fetch the image, decode it, and keep it in the run's folder.

    Returns its `origin` (without secrets), `format`, `width`, `height` in pixels and `bytes`. Only transient errors are
    retried: a server that did not answer, but not a file that is no picture.

    Args:
        image_url: http, https, data: or s3: of a bucket of the media block.
    """
    from poorwill.media.image_source import fetch_image

    opened = current()
    sources = opened.media.sources(store_block(name) for name in opened.media.image_stores)
    found = fetch_image(image_url, sources, check=opened.process.stop.check)
    found.image.save(opened.image, compress_level=1)  # lossless; better compression only takes time
    return {name: getattr(found, name) for name in ("origin", "format", "width", "height", "bytes")}
