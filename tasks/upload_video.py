"""Generating, step 3: the video into its store, and what a person sees of it in Prefect's UI."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from poorwill.media import delivery
from tasks import studio
from tasks.infer import CONTACT_SHEET, POSTER, VIDEO
from tasks.retries import policy, transient_in_time


@task(name="upload_video", **policy(transient_in_time))
def upload_video(run: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Upload video, poster and contact sheet, and then the record, with which the run's video exists.

    Idempotent. Returns the record.

    Args:
        run: the id of the run.
        facts: what the record says, beside the sizes.
    """
    opened = studio.of_run(run)
    files = delivery.Files(opened.folder / VIDEO, opened.folder / POSTER, opened.folder / CONTACT_SHEET)
    return delivery.deliver(opened.store, run, files, facts)


def publish(record: dict[str, Any], urls: dict[str, str], contact_sheet: str) -> None:
    """A link to the video, and its contact sheet with the parameters, as artifacts of the current run.

    contact_sheet: a data: URL. The links work for as long as their URLs are good.
    """
    create_link_artifact(urls["video"], link_text="video.mp4", key="video", description=record["parameters"]["prompt"])
    create_markdown_artifact(_markdown(record, urls, contact_sheet), key="contact-sheet")


def _markdown(record: dict[str, Any], urls: dict[str, str], contact_sheet: str) -> str:
    video, timings = record["video"], record["timings_ms"]
    rows = [(name, value) for name, value in record["parameters"].items() if value is not None]
    return "\n".join(
        [
            f"# {video['frames']} frames, {video['width']} x {video['height']}, {video['seconds']:.2f} s",
            "",
            f"![contact sheet]({contact_sheet})",
            "",
            f"[video]({urls['video']}), [poster]({urls['poster']}), [contact sheet]({urls['contact_sheet']})",
            "",
            "| parameter | value |",
            "|---|---|",
            f"| model | {_cell(record['model'])} |",
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
