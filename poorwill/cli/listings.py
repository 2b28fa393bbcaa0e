"""The commands that list the machines and runs of a Prefect server."""

from __future__ import annotations

import argparse
import time
from datetime import datetime
from typing import Any

from poorwill.cli.output import Output
from poorwill.cli.run_report import aligned
from poorwill.cli.runs import PAGE, Run
from poorwill.cli.server_commands import connected
from poorwill.errors import UsageError
from poorwill.remote.base import Host
from poorwill.runs import Progress, Status
from poorwill.snapshot import durations


def machines(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    rows = [_machine(document) for document in connected().machines()]
    for row in rows:
        output.event("machine", **row)
    output.lines(aligned([{name: value or "-" for name, value in row.items()} for row in rows]))
    output.done("there is no machine's block yet", {"machines": len(rows)}, quiet=bool(rows))
    return 0


def runs(arguments: argparse.Namespace, output: Output, host: Host) -> int:
    """The queued and running ones, and the last of all."""
    if not 1 <= arguments.limit <= PAGE:
        raise UsageError(f"--limit {arguments.limit}: expected 1 to {PAGE}")
    asked = connected()
    found = asked.recent(arguments.limit, arguments.flow)
    flows = asked.flow_names(run.flow_id for run in found)
    progress = asked.progress([run.id for run in found if run.status is Status.RUNNING])
    rows = [_run(run, flows.get(run.flow_id, ""), progress.get(run.id, [])) for run in found]
    for row in rows:
        output.event("run", **row)
    output.lines(aligned([_run_for_people(row) for row in rows]))
    output.done("no run yet", {"runs": len(rows)}, quiet=bool(rows))
    return 0


def _machine(document: dict[str, Any]) -> dict[str, Any]:
    """A machine's block in a row; `idle` is its idle policy."""
    data = document.get("data")
    data = data if isinstance(data, dict) else {}
    idle = {name: value for name, value in data.items() if name.startswith("idle") and value not in (None, "")}
    return {
        "machine": str(document.get("name") or ""),
        "status": str(data.get("status") or ""),
        "instance": str(data.get("instance") or ""),
        "snapshot": str(data.get("snapshot") or ""),
        "provider": _provider(document, data),
        "idle": ", ".join(f"{name}={value}" if len(idle) > 1 else str(value) for name, value in idle.items()),
    }


def _provider(document: dict[str, Any], data: dict[str, Any]) -> str:
    """The name of the provider's block, else its type."""
    try:
        return str(document["block_document_references"]["provider"]["block_document"]["name"])
    except (KeyError, TypeError):
        provider = data.get("provider")
        return str(provider.get("block_type_slug") or "") if isinstance(provider, dict) else ""


def _run(run: Run, flow: str, shown: list[Progress]) -> dict[str, Any]:
    end_s = run.ended_s or (time.time() if run.status is Status.RUNNING else None)
    took_s = round(end_s - run.began_s, 1) if end_s is not None and run.began_s is not None else None
    progress = round(sum(one.percent for one in shown) / len(shown) / 100, 3) if shown else None
    return {
        "run_id": run.id, "flow": flow, "name": run.name, "status": run.status, "progress": progress,
        "began_s": run.began_s, "took_s": took_s, "message": run.message if run.status is Status.FAILED else "",
    }  # fmt: skip


def _run_for_people(row: dict[str, Any]) -> dict[str, str]:
    began = datetime.fromtimestamp(row["began_s"]).strftime("%m-%d %H:%M:%S") if row["began_s"] else "-"
    progress = f"{row['progress'] * 100:.0f}%" if row["progress"] is not None else ""
    took = durations.rough(row["took_s"]) if row["took_s"] is not None else "-"
    name = row["name"] if row["began_s"] else row["flow"]  # until it begins, its name is one that Prefect made up
    return {
        "run": row["run_id"], "name": name, "status": row["status"], "progress": progress, "began": began,
        "took": took, "message": row["message"][:100],
    }  # fmt: skip
