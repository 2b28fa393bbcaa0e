"""Events of Poorwill on Prefect's event stream, which automations listen to.

An event is a sentence for an operator: `poorwill.<event>` about one resource, `poorwill.<kind>.<name>`. An event that
cannot be emitted is logged, and fails nothing.
"""

from __future__ import annotations

import logging
from typing import Any

from prefect.events import emit_event

log = logging.getLogger(__name__)

STILL_BILLING = "poorwill.machine.still-billing"
VERIFICATION_FAILED = "poorwill.snapshot.verification-failed"
PACKS_IN_FULL = "poorwill.snapshot.packs-in-full"
MACHINE_IDLE = "poorwill.machine.idle"
WEBHOOK_UNDELIVERED = "poorwill.webhook.undelivered"


def emit(event: str, kind: str, name: str, message: str, **facts: Any) -> None:
    """Emit `event` about `poorwill.<kind>.<name>`; `message` is one line for a person, without a secret.

    The event is also related to the current run, which Prefect adds itself.
    """
    resource = {"prefect.resource.id": f"poorwill.{kind}.{name}", "prefect.resource.name": name}
    try:
        emit_event(event, resource=resource, payload={"message": message, **facts})
    except Exception as error:
        log.warning("event %s of %s was not emitted: %s", event, name, type(error).__name__)
