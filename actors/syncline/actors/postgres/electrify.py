"""Opens tables to devices: ``CALL electric.electrify`` with errors a program can tell apart and a person can act on.

All checks are in SQL (``sql/electrify.sql``), so that ``psql`` gets the same answers. Here is what only a program can
do well: names that are nearly right, and a bounded wait for the table's lock, so that a busy table is not blocked by
somebody who waits to electrify it.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import Any

import asyncpg

LOCK_WAIT_S = 5
SUGGESTIONS_MAX = 3


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
