"""What a generation shows in Prefect's UI: a link to the video, and its contact sheet with the parameters."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from tasks.reports.artifacts import best_effort, markdown_table, stages_table
from tasks.studio import Studio


def publish_video(result: dict[str, Any], opened: Studio) -> None:
    """A link to the video, and its contact sheet with the parameters, as artifacts of the current run.

    result: the record with the URLs, which expire.
    """
    from poorwill.media.previews import as_data_url

    with best_effort("the report of the video"):
        prompt = result["parameters"]["prompt"]
        create_link_artifact(result["url"], link_text="video.mp4", key="video", description=prompt)
        contact_sheet = as_data_url(opened.files.contact_sheet.read_bytes())
        create_markdown_artifact(_markdown(result, contact_sheet), key="contact-sheet")


def _markdown(result: dict[str, Any], contact_sheet: str) -> str:
    video, parameters = result["video"], {"model": result["model"], **result["parameters"]}
    given = [{"parameter": name, "value": value} for name, value in parameters.items() if value is not None]
    return "\n".join(
        [
            f"# {video['frames']} frames, {video['width']} x {video['height']}, {video['seconds']:.2f} s",
            "",
            f"![contact sheet]({contact_sheet})",
            "",
            f"[video]({result['url']}), [poster]({result['poster_url']}), "
            f"[contact sheet]({result['contact_sheet_url']})",
            "",
            markdown_table(given),
            "",
            stages_table(result["timings_ms"]),
        ]
    )
