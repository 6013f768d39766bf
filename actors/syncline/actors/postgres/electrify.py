"""Opens tables to devices: ``CALL electric.electrify`` with errors a program can tell apart and a person can act on.

All checks, and the plan of what is opened in which order, are in SQL (``sql/electrify.sql``), so that ``psql`` gets the
same answers. Here is what only a program can do well: names that are nearly right, one transaction for each step of a
plan, and a bounded wait for a table's lock, so that a busy table is not blocked by somebody who waits to electrify it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import asyncpg

LOCK_WAIT_S = 5
SUGGESTIONS_MAX = 3
TOGETHER_MAX = 20


class ElectrifyError(RuntimeError):
    """A table could not be electrified. ``table`` as it was given; ``hint`` says what would mend it, may be empty."""

    def __init__(self, table: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\nhint: {hint}" if hint else message)
        self.table = table
        self.message = message
        self.hint = hint


class TableNotFound(ElectrifyError):
    """There is no such table. ``suggestions``: existing tables with similar names, which make a better hint."""

    def __init__(self, table: str, message: str, suggestions: tuple[str, ...], hint: str = "") -> None:
        super().__init__(table, message, f"did you mean {' or '.join(suggestions)}?" if suggestions else hint)
        self.suggestions = suggestions


class ParentsNotElectrified(ElectrifyError):
    """The table refers to others that are not electrified; the hint holds the statements to run, in order."""


class NotOwner(ElectrifyError):
    """The connected role is no member of the role that owns the table."""


class TableUnsupported(ElectrifyError):
    """The table has something that cannot be synced: no primary key, a type, a kind of table, a schema."""


class TableBusy(ElectrifyError):
    """Somebody held a lock on the table for too long. Nothing was changed; try again."""


class NotBootstrapped(ElectrifyError):
    """Schema ``electric`` is not installed in this database: start the server on it once."""


@dataclass(frozen=True, slots=True)
class Electrified:
    """``description``: what devices are told about the table (see electric.describe). ``already``: nothing changed."""

    table: str
    description: dict[str, Any]
    already: bool


@dataclass(frozen=True, slots=True)
class Planned:
    """A table of a plan, called ``name`` with its schema. ``step``: of those to be opened, from 1: tables of one refer
    to one another in a circle, and are opened together. ``message`` and ``hint``: why one is refused, and what would
    mend it."""

    relid: int
    name: str
    action: Literal["electrify", "already", "refused"]
    step: int | None = None
    message: str = ""
    hint: str = ""


async def plan(
    connection: asyncpg.Connection, relids: Sequence[int] | None, *, with_parents: bool = False
) -> list[Planned]:
    """What is done with these tables, those to be opened in that order; None: with all of the application's.
    ``with_parents``: with whatever they refer to, too. Raises NotBootstrapped, and what asyncpg raises."""
    wanted = "electric.tables_of()" if relids is None else "$1::oid[]"
    if with_parents:
        wanted = f"electric.with_parents({wanted})"
    arguments = () if relids is None else (relids,)
    try:
        rows = await connection.fetch(f"SELECT * FROM electric.plan_of({wanted})", *arguments)  # noqa: S608 - of the above
    except asyncpg.PostgresError as error:
        raise await _typed(connection, "", error) from error
    return [
        Planned(row["relid"], row["name"], row["action"], row["step"], row["message"] or "", row["hint"] or "")
        for row in rows
    ]


def steps(planned: Iterable[Planned]) -> list[list[Planned]]:
    """Those of a plan that are to be opened, those of a step together, in order."""
    opened = [table for table in planned if table.action == "electrify"]
    return [list(together) for _, together in groupby(opened, lambda table: table.step)]


def transactions(planned: Iterable[Planned]) -> list[list[Planned]]:
    """The same, as many steps together as make a transaction of ``TOGETHER_MAX`` tables: each costs the service a
    reading of its catalogue, and keeps the tables locked until it ends."""
    found: list[list[Planned]] = []
    for step in steps(planned):
        if found and len(found[-1]) + len(step) <= TOGETHER_MAX:
            found[-1] += step
        else:
            found.append(step)
    return found


async def tables_named(connection: asyncpg.Connection, name: str) -> list[int]:
    """The table of that name, as ``schema.table``. Raises TableNotFound, NotBootstrapped."""
    try:
        found: list[int] = await connection.fetchval("SELECT electric.tables_named(ARRAY[$1])", name)
    except asyncpg.PostgresError as error:
        raise await _typed(connection, name, error) from error
    return found


async def tables_of_schema(connection: asyncpg.Connection, schema: str) -> list[int]:
    """The tables of a schema. Raises ElectrifyError where there is none, NotBootstrapped."""
    try:
        found: list[int] = await connection.fetchval("SELECT electric.tables_of(ARRAY[$1])", schema)
    except asyncpg.PostgresError as error:
        raise await _typed(connection, schema, error) from error
    if not found:
        schemas = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|electric$)'")
        near = difflib.get_close_matches(schema, [row[0] for row in schemas], n=SUGGESTIONS_MAX)
        hint = f"did you mean {' or '.join(near)}?" if near and schema not in near else "create them first"
        raise ElectrifyError(schema, f"there is no table in a schema {schema}", hint)
    return found


async def open_together(connection: asyncpg.Connection, tables: Sequence[Planned]) -> None:
    """Opens these tables, in one transaction. Raises as ``electrify`` does."""
    name = ", ".join(table.name for table in tables)
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('lock_timeout', $1, true)", f"{LOCK_WAIT_S}s")
            await connection.execute("SELECT electric.open_all($1::oid[])", [table.relid for table in tables])
    except asyncpg.PostgresError as error:
        raise await _typed(connection, name, error) from error


async def electrify(connection: asyncpg.Connection, table: str) -> Electrified:
    """Electrify ``table`` (``schema.table``; without a schema, as the search path finds it), in one transaction.

    Raises a subclass of ElectrifyError for every answer that is about the table; errors of the connection come through
    as asyncpg raises them.
    """
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('lock_timeout', $1, true)", f"{LOCK_WAIT_S}s")
            await connection.execute("CALL electric.electrify($1)", table)
            row = await connection.fetchrow(
                """
                SELECT description::text AS description, electrified_at < now() AS already
                FROM electric.tables WHERE relid = to_regclass($1)
                """,
                table,
            )
    except asyncpg.PostgresError as error:
        raise await _typed(connection, table, error) from error
    return Electrified(table, json.loads(row["description"]), already=row["already"])


async def _typed(connection: asyncpg.Connection, table: str, error: asyncpg.PostgresError) -> Exception:
    message, hint = error.message or str(error), error.hint or ""
    match error:
        case asyncpg.InvalidSchemaNameError() | asyncpg.UndefinedFunctionError():
            return NotBootstrapped(
                table, "schema electric is not installed in this database", "run syncline serve on it once"
            )
        case asyncpg.UndefinedTableError() if "electric." in message:
            return NotBootstrapped(
                table, "schema electric is not installed in this database", "run syncline serve on it once"
            )
        case asyncpg.UndefinedTableError():
            return TableNotFound(table, message, await near_names(connection, table), hint)
        case asyncpg.ObjectNotInPrerequisiteStateError():
            return ParentsNotElectrified(table, message, hint)
        case asyncpg.InsufficientPrivilegeError():
            return NotOwner(table, message, hint)
        case (
            asyncpg.WrongObjectTypeError() | asyncpg.FeatureNotSupportedError() | asyncpg.InvalidTableDefinitionError()
        ):
            return TableUnsupported(table, message, hint)
        case asyncpg.LockNotAvailableError():
            return TableBusy(table, f"{table} was locked by somebody else for {LOCK_WAIT_S} s", "try again")
    other: Exception = error
    return other


async def near_names(connection: asyncpg.Connection, table: str) -> tuple[str, ...]:
    """Tables of the application whose names are close to ``table``, the closest first."""
    rows = await connection.fetch(
        """
        SELECT n.nspname AS schema, c.relname AS name, format('%I.%I', n.nspname, c.relname) AS quoted
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('electric', 'information_schema') AND n.nspname !~ '^pg_'
        """
    )
    wanted = table.rpartition(".")[2].strip('"').lower()
    by_name: dict[str, list[str]] = {}
    for row in rows:
        by_name.setdefault(row["name"].lower(), []).append(row["quoted"])
    close = difflib.get_close_matches(wanted, by_name, n=SUGGESTIONS_MAX)
    return tuple(quoted for name in close for quoted in by_name[name])[:SUGGESTIONS_MAX]
