"""Reads the facts of a database, and leaves nothing behind.

All of it is one transaction, which is rolled back: the functions that decide are made in it, as temporary ones
(``borrowed``), and go with it. Its settings are local to it. It takes the locks that reading the catalogue takes; what
Postgres would lock a table for is left out for tables that somebody has locked, and waits no longer than
``LOCK_WAIT_S`` for one that is locked since. No row of a table is read.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

import asyncpg

from syncline.actors.doctor.borrowed import borrowed
from syncline.actors.doctor.facts import Clash, Facts, Server, Size, Table
from syncline.actors.faults import Fault
from syncline.actors.postgres.bootstrap import PROCEDURES, sql_text
from syncline.actors.postgres.slot import SERVER_VERSION_MIN

LOCK_WAIT_S: Final = 3
STATEMENT_S: Final = 120
TABLES_AT_ONCE: Final = 200  # of which no statement takes longer than some seconds
ROOTS: Final = (
    *("tables_of", "obstacle", "describe", "key_of", "parts", "full_name", "column_names"),
    *("is_ambiguous", "tied_columns", "clashes"),
)

# Whatever is set for the role, or in the database. JIT would take longer than all the rest.
_LOCAL: Final = {
    "search_path": "pg_catalog, pg_temp",
    "lock_timeout": f"{LOCK_WAIT_S}s",
    "statement_timeout": f"{STATEMENT_S}s",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",  # from Postgres 17 on
    "check_function_bodies": "off",
    "jit": "off",
}
_VERSION = (
    "SELECT current_setting('server_version_num')::integer, current_setting('server_version'), pg_is_in_recovery()"
)
_SETTINGS = """
SELECT set_config(s.name, given.value, true)
FROM jsonb_each_text($1) AS given (name, value) JOIN pg_catalog.pg_settings s ON s.name = given.name
"""
_HISTORY = """
SELECT (SELECT value FROM electric.meta WHERE key = 'schema_version'),
    (SELECT jsonb_agg(d) FROM electric.migrations m CROSS JOIN jsonb_array_elements(m.tables) AS d)::text,
    (SELECT array_agg(relid::bigint) FROM electric.tables)
"""
_POLICIES = "SELECT jsonb_object_agg(indexrelid::text, policy)::text FROM electric.unique_policies"
_KNOWS = """
SELECT count(*) FILTER (WHERE c.relname IN ('meta', 'tables', 'migrations')) = 3 AND EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass('electric.meta') AND a.attname = 'value'),
    count(*) FILTER (WHERE c.relname = 'unique_policies') = 1
FROM pg_class c WHERE c.relnamespace = 'electric'::regnamespace
"""
_CLASHES = "SELECT c.relid::bigint AS relid, c.message, c.hint FROM pg_temp.clashes($1, $2) AS c ORDER BY 1"
_SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|electric$|information_schema$)' ORDER BY 1"


async def read(connection: asyncpg.Connection, schemas: Sequence[str] = ()) -> Facts:
    """The facts of the tables of ``schemas``; none: of all of the application's.

    Raises Fault for what keeps it from asking, and what asyncpg raises of the connection.
    """
    version, version_text, standby = await connection.fetchrow(_VERSION)
    if version < SERVER_VERSION_MIN:
        raise Fault(f"Postgres {version_text} is too old", "Syncline needs Postgres 14 or later")
    if standby:
        raise Fault("this server is a read-only standby", "ask the primary, which the service needs, too")
    try:
        async with _passing_transaction(connection):
            return await _read(connection, schemas)
    except asyncpg.CharacterNotInRepertoireError as error:  # in a database of SQL_ASCII
        raise Fault(
            f"a name or a text in the catalogue is no UTF-8: {error}",
            "rename what has such a name; devices could not be told it",
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise Fault(f"the catalogue may not be read: {error}", "ask as the role of the service") from error
    except asyncpg.LockNotAvailableError as error:
        raise Fault(f"a table is locked by somebody for more than {LOCK_WAIT_S} s", "ask again later") from error
    except asyncpg.QueryCanceledError as error:
        raise Fault(f"the catalogue could not be read: {error}", "ask again when Postgres is less busy") from error


@asynccontextmanager
async def _passing_transaction(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction of one snapshot that has our functions, and of which nothing stays."""
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE")  # temporary functions are written, too
    try:
        await connection.fetch(_SETTINGS, json.dumps(_LOCAL))
        await _borrow(connection)
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")


async def _borrow(connection: asyncpg.Connection) -> None:
    """Makes our functions in ``pg_temp``. Raises Fault."""
    try:
        await connection.execute(borrowed(map(sql_text, PROCEDURES), ROOTS))
    except asyncpg.InsufficientPrivilegeError as error:
        role, database = await _asking(connection)
        raise Fault(
            f"role {role} may not make temporary functions, which the checks are: {error}",
            f"GRANT TEMPORARY ON DATABASE {database} TO {role}, and USAGE ON LANGUAGE sql and plpgsql; nothing of them "
            "stays",
        ) from error
    except asyncpg.PostgresConnectionError:
        raise
    except asyncpg.PostgresError as error:
        raise Fault(
            f"temporary functions, which the checks are, cannot be made: {error}",
            "an event trigger of the database may refuse them: ask as a role that it lets through",
        ) from error


async def _asking(connection: asyncpg.Connection) -> tuple[str, str]:
    """The role and the database, as SQL has them; the transaction has failed by then."""
    await connection.execute("ROLLBACK")
    role, database = await connection.fetchrow("SELECT quote_ident(current_user), quote_ident(current_database())")
    await connection.execute("BEGIN")
    return role, database


async def _read(connection: asyncpg.Connection, schemas: Sequence[str]) -> Facts:
    found = json.loads(await connection.fetchval(_text("server.sql")))
    ours = await _ours(connection) if found["schema"] is not None and found["schema"]["readable"] else Ours()
    relids = await connection.fetchval("SELECT pg_temp.tables_of($1::text[])::bigint[]", list(schemas) or None)
    await _require_schemas(connection, schemas)
    tables: list[Table] = []
    for start in range(0, len(relids), TABLES_AT_ONCE):
        some = relids[start : start + TABLES_AT_ONCE]
        sizes = {
            row["relid"]: Size(row["rows"], row["bytes"], row["toast_bytes"], row["analysed"])
            for row in await _unhindered(connection, "sizes.sql", some)
        }
        tables += [
            Table.of(
                row["relid"],
                json.loads(row["facts"]),
                sizes.get(row["relid"], Size()),
                electrified=row["relid"] in ours.electrified,
                policies=ours.policies,
            )
            for row in await _unhindered(connection, "tables.sql", some)
        ]
    described = [table.description for table in tables if table.description is not None and not table.electrified]
    clashes = await connection.fetch(_CLASHES, json.dumps(described), ours.told)
    return Facts(
        Server.of(found, ours.version),
        tuple(sorted(tables, key=lambda table: (table.schema, table.table))),
        tuple(Clash(row["relid"], row["message"], row["hint"]) for row in clashes),
        tuple(schemas),
    )


@dataclass(frozen=True, slots=True)
class Ours:
    """What is known from schema ``electric``. ``told``: all that devices have been told, as JSON. ``electrified``: OIDs
    of tables. ``policies``: of unique indexes, by their OIDs as texts."""

    version: int | None = None
    told: str | None = None
    electrified: frozenset[int] = frozenset()
    policies: Mapping[str, str] = field(default_factory=dict)


async def _ours(connection: asyncpg.Connection) -> Ours:
    """Of a schema that may be read; it may be somebody else's, or of another version."""
    has_history, has_policies = await connection.fetchrow(_KNOWS)
    if not has_history:
        return Ours()
    version, told, electrified = await connection.fetchrow(_HISTORY)
    policies = await connection.fetchval(_POLICIES) if has_policies else None
    return Ours(int(version or 0), told, frozenset(electrified or ()), json.loads(policies or "{}"))


async def _require_schemas(connection: asyncpg.Connection, schemas: Sequence[str]) -> None:
    """Raises Fault for one that there is not."""
    if schemas:
        known = [row[0] for row in await connection.fetch(_SCHEMAS)]
        missing = [schema for schema in schemas if schema not in known]
        if missing:
            raise Fault(f"there is no schema {missing[0]}", f"give one of {', '.join(known)}")


async def _unhindered(connection: asyncpg.Connection, name: str, relids: Sequence[int]) -> list[asyncpg.Record]:
    """What the query ``name`` answers about the tables. It does without what a table's lock is in the way of; where one
    has been locked since it looked, it is asked again. Raises what asyncpg raises."""
    await connection.execute("SAVEPOINT unhindered")
    try:
        rows: list[asyncpg.Record] = await connection.fetch(_text(name), relids)
    except asyncpg.LockNotAvailableError:
        await connection.execute("ROLLBACK TO unhindered")
        rows = await connection.fetch(_text(name), relids)
    return rows


def _text(name: str) -> str:
    return files("syncline.actors.doctor").joinpath("sql", name).read_text(encoding="utf-8")
