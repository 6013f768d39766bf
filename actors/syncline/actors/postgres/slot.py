"""What the stream needs in the database: a publication, a permanent logical slot, and a server set up for both.

Every check that fails raises ``PreconditionError``, which names the fault and what the operator should do, in the words
of the server's own settings.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Final

import asyncpg

from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.rowkey import quote_identifier

SERVER_VERSION_MIN: Final = 140000  # 14: logical messages and pg_snapshot as we use them
SLOT_NAME_CHARS_MAX: Final = 63
BEING_MADE_POLL_S: Final = 0.05
PLUGIN: Final = "pgoutput"
SLOT_PREFIX: Final = "electric_replication_out_"

_SERVER = """
SELECT current_setting('server_version_num')::int AS version,
       current_setting('server_version') AS version_text,
       current_setting('wal_level') AS wal_level,
       pg_is_in_recovery() AS standby,
       current_user AS role,
       (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user)
           OR EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication'
                      AND pg_has_role(current_user, oid, 'MEMBER')) AS may_replicate
"""

_SLOT = """
SELECT slot_name, plugin, database = current_database() AS here, active, active_pid, wal_status,
       slot_type = 'logical' AND active AND confirmed_flush_lsn IS NULL AS being_made,
       restart_lsn::text AS restart_lsn, confirmed_flush_lsn::text AS confirmed_lsn,
       CASE WHEN pg_is_in_recovery() THEN 0 ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) END::bigint
           AS retained_bytes,
       CASE WHEN pg_is_in_recovery() THEN 0
            ELSE greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)) END::bigint AS lag_bytes
FROM pg_replication_slots WHERE slot_name = $1
"""

_PUBLICATION = """
SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate AND pubviaroot AS complete,
       coalesce(to_jsonb(p) ->> 'pubgencols', 's') = 's' AS computed,  -- see computed.sql; from Postgres 18
       coalesce((SELECT array_agg(electric.own_rows(relid) ORDER BY relid) FROM (
           SELECT relid FROM electric.tables
           UNION SELECT unnest(ARRAY['electric.clients', 'electric.migrations', 'electric.shadow']::regclass[])
       ) AS wanted (relid)
       WHERE EXISTS (SELECT FROM pg_class WHERE oid = relid)
         AND NOT puballtables
         AND NOT EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = wanted.relid)
       ), '{}') AS missing
FROM pg_publication p WHERE pubname = $1
"""

_IDENTITY = """
SELECT c.oid::regclass::text FROM electric.tables e CROSS JOIN electric.parts(e.relid) AS p (relid)
JOIN pg_class c ON c.oid = p.relid WHERE c.relreplident <> 'f' ORDER BY c.oid
"""


class PreconditionError(Exception):
    """The database is not ready for replication. ``hint`` says what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}: {hint}")
        self.hint = hint


@dataclass(frozen=True, slots=True)
class SlotState:
    """``confirmed``: the slot's position, before which we need no WAL; ``retained_bytes``: WAL the server keeps for us.

    ``lag_bytes``: WAL written since ``confirmed``.
    ``wal_status``: reserved | extended | unreserved | lost, as Postgres has it. ``created``: by this very call, so
    nothing before it can be streamed.
    """

    name: str
    active: bool
    active_pid: int | None
    restart: Lsn | None
    confirmed: Lsn | None
    wal_status: str | None
    retained_bytes: int
    lag_bytes: int
    created: bool = False

    @property
    def done(self) -> Lsn:
        """What ``ReplicationStream.confirm`` was last told: every commit at or below it will not be sent again."""
        return Lsn(max(0, (self.confirmed or 0) - 1))


def slot_name(database: str) -> str:
    """The slot of a database: ``electric_replication_out_<database>``, in the characters slots allow."""
    name = SLOT_PREFIX + re.sub(r"[^a-z0-9_]", "_", database.lower())
    return name[:SLOT_NAME_CHARS_MAX]


async def check_server(connection: asyncpg.Connection) -> int:
    """Whether this server and role can replicate at all; returns server_version_num. Raises PreconditionError."""
    row = await connection.fetchrow(_SERVER)
    if row["version"] < SERVER_VERSION_MIN:
        raise PreconditionError(f"Postgres {row['version_text']} is too old", "version 14 or later is needed")
    if row["standby"]:
        raise PreconditionError("this server is a read-only standby", "connect to the primary")
    if row["wal_level"] != "logical":
        raise PreconditionError(
            f"wal_level is {row['wal_level']}, logical is needed",
            "run ALTER SYSTEM SET wal_level = logical and restart Postgres "
            "(on a hosted Postgres: the parameter for logical replication)",
        )
    if not row["may_replicate"]:
        raise PreconditionError(
            f"role {row['role']} may not replicate", f"run ALTER ROLE {row['role']} WITH REPLICATION as a superuser"
        )
    return int(row["version"])


def service_name(slot: str, server_id: str) -> str:
    """What tells the service of a database from others in the same Ray cluster."""
    return f"{slot.removeprefix(SLOT_PREFIX)}-{server_id[:8]}"


async def slot_state(connection: asyncpg.Connection, name: str) -> SlotState | None:
    """The slot as it stands, or None."""
    row = await connection.fetchrow(_SLOT, name)
    return None if row is None else _state(row)


async def ensure_slot(connection: asyncpg.Connection, name: str) -> SlotState:
    """The slot, made if there is none. Raises PreconditionError when it cannot be made or used.

    Making one waits for every transaction that is running at that moment to end, whoever makes it.
    """
    row, created = await _whole(connection, name), False
    while row is None:
        created = await _make(connection, name)
        row = await _whole(connection, name)
        if row is None and created:
            raise PreconditionError(f"slot {name} disappeared while it was made", "find out who drops it, and retry")
    if row["plugin"] != PLUGIN or not row["here"]:
        raise PreconditionError(
            f"a slot named {name} exists, but not for {PLUGIN} on this database",
            "drop it with pg_drop_replication_slot if nobody needs it",
        )
    if row["wal_status"] == "lost":
        raise PreconditionError(
            f"slot {name} has lost its WAL: it lagged more than max_slot_wal_keep_size",
            "drop it with pg_drop_replication_slot; devices will start over from a new one",
        )
    return _state(row, created=created)


async def _whole(connection: asyncpg.Connection, name: str) -> asyncpg.Record | None:
    """The slot's row once nobody is making it any more: until then it has no position, at first not even a plugin."""
    row = await connection.fetchrow(_SLOT, name)
    while row is not None and row["being_made"]:
        await asyncio.sleep(BEING_MADE_POLL_S)
        row = await connection.fetchrow(_SLOT, name)
    return row


async def _make(connection: asyncpg.Connection, name: str) -> bool:
    """Makes the slot; False if another of us was faster (whose making may still fail)."""
    try:
        await connection.execute("SELECT pg_create_logical_replication_slot($1, $2)", name, PLUGIN)
    except asyncpg.ConfigurationLimitExceededError as cause:
        raise PreconditionError(
            "all replication slots of the server are in use",
            "raise max_replication_slots, or drop a slot nobody uses (see pg_replication_slots)",
        ) from cause
    except asyncpg.DuplicateObjectError:
        return False
    return True


async def ensure_publication(connection: asyncpg.Connection, name: str) -> None:
    """Puts right what somebody changed: a missing publication, missing tables, a replica identity that is not FULL.

    Expects schema ``electric``. Raises PreconditionError when our rights do not reach that far.
    """
    publication = quote_identifier(name)
    try:
        row = await connection.fetchrow(_PUBLICATION, name)
        if row is None:
            await connection.execute(f"CREATE PUBLICATION {publication}")
            row = await connection.fetchrow(_PUBLICATION, name)
        if not row["complete"]:
            await connection.execute(
                f"ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate', "
                "publish_via_partition_root = true)"
            )
        if not row["computed"]:
            await connection.execute(f"ALTER PUBLICATION {publication} SET (publish_generated_columns = stored)")
        for table in row["missing"]:
            await connection.execute(f"ALTER PUBLICATION {publication} ADD TABLE {table}")
        for record in await connection.fetch(_IDENTITY):
            await connection.execute(f"ALTER TABLE {record[0]} REPLICA IDENTITY FULL")
    except asyncpg.InsufficientPrivilegeError as cause:
        raise PreconditionError(
            f"publication {name} or its tables need a change that we may not make ({cause})",
            "let our role own the publication and the synced tables, or be a member of the role that does",
        ) from cause


def _state(row: asyncpg.Record, *, created: bool = False) -> SlotState:
    restart, confirmed = row["restart_lsn"], row["confirmed_lsn"]
    return SlotState(
        name=row["slot_name"],
        active=row["active"],
        active_pid=row["active_pid"],
        restart=None if restart is None else Lsn.parse(restart),
        confirmed=None if confirmed is None else Lsn.parse(confirmed),
        wal_status=row["wal_status"],
        retained_bytes=row["retained_bytes"] or 0,
        lag_bytes=row["lag_bytes"] or 0,
        created=created,
    )
