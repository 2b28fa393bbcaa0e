"""Past runs for the row `gateway`: a few that really were, and copies of them in the database."""

from __future__ import annotations

import asyncio
import datetime
import warnings
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID, uuid5

import sqlalchemy
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed, Running
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import create_async_engine

TABLES = ("flow_run", "flow_run_state", "task_run", "task_run_state", "artifact")
APART_S = 240.0
"""10,000 runs so far apart are four weeks."""
COPIES_AT_ONCE = 500
FAILED_EVERY = 20
PARAMETERS = {"image_url": "https://example.com/cat.png", "prompt": "the cat turns its head, slow zoom", "seed": 7}
ARTIFACTS: tuple[tuple[str, str, Any], ...] = (
    ("denoised", "progress", 100.0),
    ("encoded", "progress", 100.0),
    ("video", "markdown", "[video](https://example.com/video.mp4)"),
    ("contact-sheet", "markdown", "x" * 2000),
)
Row = dict[str, Any]


def past_run(client: SyncPrefectClient, deployment: UUID, end: State[Any]) -> UUID:
    """A run that went through all its states, with the artifacts that a generation leaves."""
    run = client.create_flow_run_from_deployment(deployment, parameters=PARAMETERS)
    for state in (Running(), end):
        client.set_flow_run_state(run.id, state, force=True)
    for key, kind, data in ARTIFACTS:
        client.create_artifact(ArtifactCreate(key=key, type=kind, data=data, description=key, flow_run_id=run.id))
    return run.id


def fill(client: SyncPrefectClient, deployment: UUID, database_url: str, count: int) -> list[UUID]:
    """`count` past runs: most of them completed, one of `FAILED_EVERY` failed. Returns the ids of the completed."""
    completed = past_run(client, deployment, Completed())
    failed = past_run(client, deployment, Failed(message="UsageError: num_frames=6: must be 4k+1: 5 or 9"))
    engine = create_async_engine(database_url)

    async def copy() -> list[UUID]:
        try:
            made: list[UUID] = [completed]
            async with engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    # A run and its state refer to each other, and its foreign keys are checked row by row.
                    await connection.execute(sqlalchemy.text("SET LOCAL session_replication_role = replica"))
                tables = await connection.run_sync(_reflected)
                templates = {run: await _rows_of(connection, tables, run) for run in (completed, failed)}
                for start in range(0, count, COPIES_AT_ONCE):
                    numbers = range(start, min(count, start + COPIES_AT_ONCE))
                    chosen = {n: failed if n % FAILED_EVERY == FAILED_EVERY - 1 else completed for n in numbers}
                    for name in TABLES:
                        rows = [row for n, run in chosen.items() for row in _copies(templates[run], name, n)]
                        if rows:
                            await connection.execute(tables[name].insert(), rows)
                    made += [uuid5(run, str(n)) for n, run in chosen.items() if run == completed]
            async with engine.connect() as connection:
                await (await connection.execution_options(isolation_level="AUTOCOMMIT")).execute(
                    sqlalchemy.text("ANALYZE")
                )
            return made
        finally:
            await engine.dispose()

    return asyncio.run(copy())


def _reflected(connection: sqlalchemy.Connection) -> Mapping[str, sqlalchemy.Table]:
    metadata = sqlalchemy.MetaData()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # indexes of expressions, which nobody needs here
        metadata.reflect(connection, only=TABLES)
    return {name: metadata.tables[name] for name in TABLES}


async def _rows_of(connection: Any, tables: Mapping[str, sqlalchemy.Table], run: UUID) -> dict[str, list[Row]]:
    """All rows of one run, by table."""
    found: dict[str, list[Row]] = {}
    for name, table in tables.items():
        chosen: sqlalchemy.ColumnElement[bool]
        if name == "task_run_state":
            chosen = table.c.task_run_id.in_([row["id"] for row in found["task_run"]])
        else:
            chosen = (table.c.id if name == "flow_run" else table.c.flow_run_id) == _as_stored(table, run)
        rows = (await connection.execute(sqlalchemy.select(table).where(chosen))).mappings().all()
        found[name] = [dict(row) for row in rows]
    return found


def _as_stored(table: sqlalchemy.Table, run: UUID) -> object:
    """SQLite has no type for UUIDs."""
    return run if isinstance(table.c.id.type, sqlalchemy.UUID) else str(run)


def _copies(template: dict[str, list[Row]], name: str, number: int) -> Iterable[Row]:
    """The rows of one table with ids of their own, earlier than the template's."""
    ids = {row["id"] for rows in template.values() for row in rows}
    earlier = datetime.timedelta(seconds=APART_S * (number + 1))

    def value(column: str, was: Any) -> Any:
        if isinstance(was, UUID | str) and was in ids:
            return type(was)(str(uuid5(UUID(str(was)), str(number))))
        if isinstance(was, datetime.datetime):
            return was - earlier
        return None if column == "idempotency_key" else was

    for row in template[name]:
        yield {column: value(column, was) for column, was in row.items()}
