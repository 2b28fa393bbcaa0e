"""The flow that sends webhooks: a run's end to the URL that its user gave, or an event to the operator's."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import BaseModel, Field

from blocks.webhooks import USERS
from flows.stages import ending, failed
from poorwill.errors import PoorwillError, UsageError
from tasks.deliver import delivery_of_notice, describe_run, post_message
from tasks.events import WEBHOOK_UNDELIVERED, emit


class Notice(BaseModel):
    """Something that happened, for an operator."""

    id: str = Field(description="Of the event: the same event has the same delivery id.", max_length=100)
    event: str = Field(description="What happened, for example poorwill.machine.still-billing.", max_length=200)
    about: str = Field(default="", description="The name of what it happened to.", max_length=500)
    message: str = Field(description="One line for a person.", max_length=20_000)
    occurred_at: str = Field(default="", description="When, in ISO 8601.", max_length=50)


def _name() -> str:
    given = flow_run.parameters
    return f"deliver-{given.get('run') or given.get('webhook')}"


@flow(name="deliver", flow_run_name=_name, persist_result=False)
def deliver(run: str | None = None, notice: Notice | None = None, webhook: str = USERS) -> dict[str, Any]:
    """Send one signed message, again until it is taken; a message that cannot be delivered fails this run.

    Begun again, it sends the same message under the same delivery id.

    Args:
        run: Id of a run that has ended: its end is told to its `webhook_url`. A run without one is left alone.
        notice: What to tell to the URL of the webhook block instead.
        webhook: Name of the webhook block, which has the secrets that sign.
    """
    try:
        if (run is None) == (notice is None):
            raise UsageError("deliver tells either the end of a run or a notice: give one of them")
        if notice is not None:
            return post_message(webhook, delivery_of_notice(webhook, notice.id), notice.model_dump())
        message = describe_run(str(run))
        if message is None:
            return ending(Completed(message="nothing to tell: the run has no webhook_url, or was begun again"))
        return post_message(webhook, message["delivery"], message["body"], run)
    except PoorwillError as error:
        _undelivered(webhook, run, notice, error.message)
        return failed(error)
    except Exception as error:
        _undelivered(webhook, run, notice, type(error).__name__)
        raise


def _undelivered(webhook: str, run: str | None, notice: Notice | None, why: str) -> None:
    if notice is not None and notice.event == WEBHOOK_UNDELIVERED:
        return  # the webhook that does not work would send it, and so on
    what = f"the end of run {run}" if run is not None else f"the event {notice.event if notice else '?'}"
    emit(WEBHOOK_UNDELIVERED, "webhook", webhook, f"{what} was not delivered: {why}", run=run)
