"""Generating, step 3: the video into its store, and what a person sees of it in Prefect's UI."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from poorwill.media import delivery
from tasks.retries import policy, transient_in_time
from tasks.studio import Studio, current


@task(name="upload_video", **policy(transient_in_time))
def upload_video(facts: dict[str, Any]) -> dict[str, Any]:
    """Upload video, poster and contact sheet, and then the record, with which the run's video exists.

    Idempotent. Returns the record.

    Args:
        facts: what the record says, beside the sizes.
    """
    opened = current()
    return delivery.deliver(opened.store, opened.run, opened.files, facts)


def publish(result: dict[str, Any], opened: Studio) -> None:
    """A link to the video, and its contact sheet with the parameters, as artifacts of the current run.

    result: the record with the URLs, which expire.
    """
    from poorwill.media.previews import as_data_url

    create_link_artifact(result["url"], link_text="video.mp4", key="video", description=result["parameters"]["prompt"])
    contact_sheet = as_data_url(opened.files.contact_sheet.read_bytes())
    create_markdown_artifact(_markdown(result, contact_sheet), key="contact-sheet")


def _markdown(result: dict[str, Any], contact_sheet: str) -> str:
    video, timings = result["video"], result["timings_ms"]
    rows = [(name, value) for name, value in result["parameters"].items() if value is not None]
    return "\n".join(
        [
            f"# {video['frames']} frames, {video['width']} x {video['height']}, {video['seconds']:.2f} s",
            "",
            f"![contact sheet]({contact_sheet})",
            "",
            f"[video]({result['url']}), [poster]({result['poster_url']}), "
            f"[contact sheet]({result['contact_sheet_url']})",
            "",
            "| parameter | value |",
            "|---|---|",
            f"| model | {_cell(result['model'])} |",
            *(f"| {name} | {_cell(value)} |" for name, value in rows),
            "",
            "| stage | seconds |",
            "|---|---|",
            *(f"| {name} | {ms / 1000:.2f} |" for name, ms in timings.items()),
        ]
    )


def _cell(value: object) -> str:
    """One cell of a table, whatever a prompt holds."""
    text = str(value)[:2000].replace("\n", " ").replace("|", "\\|")
    return text.replace("<", "&lt;").replace("[", "\\[").replace("!", "\\!")
