"""Step 3, once for every part: compress and upload it, streaming."""

from __future__ import annotations

import time
from typing import Any

from prefect import task

from tasks.retries import attempt_number, policy, transient_or_upload_gone
from tasks.sessions import sessions


@task(name="pack_part", task_run_name="pack_part-{number:02d}", **policy(transient_or_upload_gone))
def pack_part(run: str, number: int) -> dict[str, Any]:
    """Have one part coded and sent, and complete its upload. A repeated call starts this part over.

    Args:
        run: the id of the connection.
        number: of the part.
    """
    began_s = time.monotonic()
    sent = sessions.snapshot(run).pack_part(number, attempt_number())
    return {
        "number": number,
        "raw_bytes": sent.raw_bytes,
        "stored_bytes": sent.stored_bytes,
        "bytes": sent.bytes,
        "milliseconds": round((time.monotonic() - began_s) * 1000),
    }
