"""The tables of the benchmarks of shapes, and what is asked of them.

``projects`` have ``issues``, and these have ``comments``; ``notes`` name a project and refer to nothing. What belongs
together has ids that follow each other.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Final

import asyncpg

from syncline.proto.values import ShapeRequest

TABLES: Final = ("projects", "issues", "comments", "notes")
SCHEMA: Final = """
CREATE TABLE projects (id int8 PRIMARY KEY, team text NOT NULL);
CREATE TABLE issues (id int8 PRIMARY KEY, project int8 NOT NULL REFERENCES projects, title text NOT NULL, done bool);
CREATE INDEX ON issues (project);
CREATE TABLE comments (id int8 PRIMARY KEY, issue int8 NOT NULL REFERENCES issues, body text);
CREATE INDEX ON comments (issue);
CREATE TABLE notes (id int8 PRIMARY KEY, project int8 NOT NULL, body text);
CREATE INDEX ON notes (project);
"""
_TEXT: Final = "'a few words of text, as people write them, number ' || n"


def request(table: str, where: str = "", *include: tuple[str, ShapeRequest]) -> ShapeRequest:
    """``include``: a column of a foreign key, and what hangs on it."""
    return ShapeRequest(str(uuid.uuid4()), table, where, tuple(((on,), below) for on, below in include))


def whole_projects(where: str) -> ShapeRequest:
    """Projects with all that hangs on them."""
    return request("projects", where, ("project", request("issues", "", ("issue", request("comments")))))


def whole_projects_sql(where: str) -> tuple[str, ...]:
    """The queries for the same rows, of each table."""
    issues = f"FROM issues WHERE project IN (SELECT id FROM projects WHERE {where})"
    return (
        f"SELECT * FROM projects WHERE {where}",
        f"SELECT * {issues}",
        f"SELECT * FROM comments WHERE issue IN (SELECT id {issues})",
    )


async def fill(database: asyncpg.Connection, projects: int, issues: int, comments: int, team: str = "'ours'") -> None:
    """Each project has ``issues``, and as many notes; each issue has ``comments``. ``team``: SQL over the number of the
    project, ``n``, which counts from 0."""
    every = projects * issues
    await database.execute(
        f"INSERT INTO projects SELECT n, {team} FROM generate_series(0, {projects - 1}) n;"
        f"INSERT INTO issues SELECT n, n / {issues}, {_TEXT}, n % 3 = 0 FROM generate_series(0, {every - 1}) n;"
        f"INSERT INTO comments SELECT n, n / {comments}, {_TEXT} FROM generate_series(0, {every * comments - 1}) n;"
        f"INSERT INTO notes SELECT n, n / {issues}, {_TEXT} FROM generate_series(0, {every - 1}) n"
    )
    await database.execute("ANALYZE")


async def copied(database: asyncpg.Connection, queries: Iterable[str]) -> tuple[int, int, float]:
    """What COPY gives for ``queries``, one after the other: rows, bytes, seconds."""
    rows = size = 0

    async def take(data: bytes) -> None:
        nonlocal size
        size += len(data)

    started_s = time.monotonic()
    for query in queries:
        status = await database.copy_from_query(query, output=take, format="text")
        rows += int(status.rpartition(" ")[2])
    return rows, size, time.monotonic() - started_s


def dealt(asked: Sequence[ShapeRequest], devices: int) -> list[tuple[ShapeRequest, ...]]:
    """``asked``, to so many devices; fewer, if there are not as many."""
    return [part for n in range(devices) if (part := tuple(asked[n::devices]))]
