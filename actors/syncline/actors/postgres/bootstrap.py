"""Installs schema ``electric``: by numbered steps, once each, whoever of several servers comes first.

Everything happens in one transaction under an advisory lock, so two servers that start together do not race and a
server killed half-way leaves nothing behind. Tables change only by a new step. Procedures hold no data: they are
replaced whenever their text differs from what is installed, and the per-table merge functions are generated anew.

The rights this needs (no superuser) are listed in ``docs/operations/postgres-rights.md``.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import asyncpg

from syncline.actors.postgres.session import connect

PUBLICATION = "electric_publication"
POSTGRES_VERSION_MIN = 140000  # as server_version_num has it
BOOTSTRAP_LOCK = 0x53796E636C696E65  # advisory lock key: "Syncline" in ASCII

# Step n brings the schema from version n - 1 to n. Files of released steps never change.
STEPS: tuple[str, ...] = (
    "schema.sql",
    "aging.sql",
    "homes.sql",
    "owner.sql",
    "positions.sql",
    "rejections.sql",
    "openings.sql",
    "direct.sql",
    "generated.sql",
    "xids.sql",
    "places.sql",
    "computed.sql",
    "pieces.sql",
    "progress.sql",
    "partitions.sql",
    "uniques.sql",
    "blocks.sql",
)
PROCEDURES: tuple[str, ...] = (
    "tables.sql",
    "defaults.sql",
    "checks.sql",
    "describe.sql",
    "obstacles.sql",
    "reread.sql",
    "rules.sql",
    "references.sql",
    "merge.sql",
    "generate.sql",
    "electrify.sql",
    "reserving.sql",
    "absorb.sql",
    "unique.sql",
    "apply.sql",
    "fault.sql",
    "fence.sql",
    "where.sql",
)

# What an older version installed under another signature would make calls ambiguous.
DROP_ROUTINES = """
DO $$
DECLARE
    routine regprocedure;
BEGIN
    FOR routine IN SELECT oid FROM pg_proc WHERE pronamespace = 'electric'::regnamespace LOOP
        EXECUTE format('DROP ROUTINE %s', routine);
    END LOOP;
END
$$
"""


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """Who this installation is. ``server_id`` (UUID text) is made once and kept in Postgres."""

    server_id: str
    schema_version: int
    postgres_version: int


class BootstrapError(RuntimeError):
    """Schema ``electric`` cannot be installed or used here. ``hint`` says what the operator can do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}\nhint: {hint}")
        self.message = message
        self.hint = hint


async def bootstrap(connection_or_dsn: asyncpg.Connection | str) -> ServerIdentity:
    """Bring schema ``electric`` up to this version, or find it so. Safe to call at every start, concurrently.

    Takes an open connection (not inside a transaction) or a DSN. Raises BootstrapError for what an operator must mend;
    errors of the connection itself come through as asyncpg raises them.
    """
    async with _connection(connection_or_dsn) as connection:
        try:
            async with connection.transaction(isolation="read_committed"):
                return await _install(connection)
        except asyncpg.InsufficientPrivilegeError as error:
            raise BootstrapError(
                f"the database role lacks a right: {error}",
                "grant it CREATE on the database, LOGIN and REPLICATION, and membership of the role that owns the"
                " tables (docs/operations/postgres-rights.md)",
            ) from error


async def _install(connection: asyncpg.Connection) -> ServerIdentity:
    postgres_version = int(await connection.fetchval("SHOW server_version_num"))
    if postgres_version < POSTGRES_VERSION_MIN:
        raise BootstrapError(
            f"Postgres {await connection.fetchval('SHOW server_version')} is too old",
            "Syncline needs Postgres 14 or later",
        )
    # Both end with the transaction. Autovacuum or a long reader must not turn a start into an endless wait.
    await connection.execute("SELECT set_config('lock_timeout', '30s', true)")
    await connection.execute("SELECT pg_advisory_xact_lock($1)", BOOTSTRAP_LOCK)
    version = await _installed_version(connection)
    if version > len(STEPS):
        raise BootstrapError(
            f"schema electric is at version {version}, this server knows {len(STEPS)}",
            "run a newer Syncline: schemas are never taken back",
        )
    for step in range(version, len(STEPS)):
        await connection.execute(sql_text(STEPS[step]))
    if version < len(STEPS):
        await write_meta(connection, "schema_version", str(len(STEPS)))
    await connection.execute(
        "INSERT INTO electric.meta (key, value) VALUES ('server_id', $1) ON CONFLICT (key) DO NOTHING",
        str(uuid.uuid4()),
    )
    if await read_meta(connection, "procedures") != procedures_digest():
        await connection.execute(DROP_ROUTINES)
        for name in PROCEDURES:
            await connection.execute(sql_text(name))
        await connection.execute("SELECT electric.generate_all()")
        await write_meta(connection, "procedures", procedures_digest())
    server_id = await read_meta(connection, "server_id")
    assert server_id is not None
    return ServerIdentity(server_id, len(STEPS), postgres_version)


async def _installed_version(connection: asyncpg.Connection) -> int:
    """The version in the database, 0 for none; refuses what somebody else installed under our names."""
    schema, meta, publication = await connection.fetchrow(
        """
        SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'electric'),
               EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('electric.meta') AND attname = 'value'),
               EXISTS (SELECT FROM pg_publication WHERE pubname = $1)
        """,
        PUBLICATION,
    )
    if meta:
        text = await read_meta(connection, "schema_version")
        if text is not None:
            return int(text)
    if schema:
        raise BootstrapError(
            "this database has a schema electric that is not Syncline's (an older Electric left it?)",
            f"when nothing uses it any more: DROP PUBLICATION IF EXISTS {PUBLICATION}; DROP SCHEMA electric CASCADE; "
            "and pg_drop_replication_slot() for each inactive slot in pg_replication_slots that belonged to it. "
            "Your own tables are not in that schema; its triggers on them go with it",
        )
    if publication:
        raise BootstrapError(
            f"this database has a publication {PUBLICATION} that is not Syncline's",
            f"when nothing uses it any more: DROP PUBLICATION {PUBLICATION}",
        )
    return 0


async def read_meta(connection: asyncpg.Connection, key: str) -> str | None:
    """What ``electric.meta`` holds under ``key``. Raises what asyncpg raises."""
    value: str | None = await connection.fetchval("SELECT value FROM electric.meta WHERE key = $1", key)
    return value


async def write_meta(connection: asyncpg.Connection, key: str, value: str) -> None:
    """``electric.meta`` holds ``value`` under ``key`` from now on. Raises what asyncpg raises."""
    await connection.execute(
        "INSERT INTO electric.meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        key,
        value,
    )


def sql_text(name: str) -> str:
    """The SQL of ``sql/<name>`` beside this module."""
    return files("syncline.actors.postgres").joinpath("sql", name).read_text(encoding="utf-8")


@cache
def procedures_digest() -> str:
    """SHA-256, in hex, of the procedures this server installs."""
    return hashlib.sha256("".join(map(sql_text, PROCEDURES)).encode()).hexdigest()


@asynccontextmanager
async def _connection(connection_or_dsn: Any) -> AsyncIterator[asyncpg.Connection]:
    if not isinstance(connection_or_dsn, str):
        yield connection_or_dsn
        return
    connection = await connect(connection_or_dsn, {"application_name": "syncline-bootstrap"})
    try:
        yield connection
    finally:
        await connection.close()
