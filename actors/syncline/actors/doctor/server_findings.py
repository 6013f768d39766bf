"""What is to be said of a server, of the role that asks, and of what is there already. Pure.

The rules are those by which the service starts: ``postgres/slot.py``, ``postgres/bootstrap.py`` and
docs/operations/postgres-rights.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from syncline.actors.doctor.facts import Facts, Server, Slot, Table
from syncline.actors.doctor.findings import Finding

PLUGIN: Final = "pgoutput"
RESTART: Final = "and restart Postgres (on a hosted Postgres: change it in its parameters)"


def server_findings(facts: Facts, slot_name: str, publication: str, schema_version: int) -> list[Finding]:
    """``slot_name``, ``publication``: the service's own here. ``schema_version``: of schema ``electric`` that this
    Syncline installs."""
    server = facts.server
    ours = next((slot for slot in server.slots if slot.name == slot_name), None)
    return [
        *_wal(server),
        *_slots(server, ours),
        *_existing(server, publication, schema_version),
        *_others(server, ours, publication),
        *_role(server),
        *_ownership(facts),
        *_row_security(facts),
    ]


def _number(server: Server, name: str) -> int:
    return int(server.settings.get(name, "0"))


def _wal(server: Server) -> Iterator[Finding]:
    level = server.settings["wal_level"]
    if level != "logical":
        yield Finding(
            "wal_level",
            f"wal_level is {level}, logical is needed",
            f"ALTER SYSTEM SET wal_level = logical {RESTART}",
        )
    if _number(server, "max_slot_wal_keep_size") < 0:
        yield Finding(
            "wal_kept",
            "max_slot_wal_keep_size is -1: while the service does not run, WAL is kept for it until the disk is full",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '50GB' (what the disk can spare), SELECT pg_reload_conf()",
        )
    if timeout_s := _number(server, "idle_replication_slot_timeout"):
        yield Finding(
            "slot_timeout",
            f"idle_replication_slot_timeout is {timeout_s} s: a service that does not run for longer loses its slot",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0, or longer than any stop; SELECT pg_reload_conf()",
        )
    if server.encoding != "UTF8":
        yield Finding(
            "encoding",
            f"the database's encoding is {server.encoding}: Postgres refuses what devices write in characters it lacks"
            if server.encoding != "SQL_ASCII"
            else "the database's encoding is SQL_ASCII: texts in it that are no UTF-8 cannot be shown to devices",
            "only a new database can have another: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
        )


def _slots(server: Server, ours: Slot | None) -> Iterator[Finding]:
    slots, senders = _number(server, "max_replication_slots"), _number(server, "max_wal_senders")
    if ours is None and len(server.slots) >= slots:
        yield Finding(
            "no_free_slot",
            f"all {slots} replication slots are in use",
            f"drop one that nobody needs; or ALTER SYSTEM SET max_replication_slots = {slots + 2} {RESTART}",
        )
    if server.senders >= senders and not (ours is not None and ours.active):
        yield Finding(
            "no_free_sender",
            f"all {senders} WAL senders are in use",
            f"ALTER SYSTEM SET max_wal_senders = {server.senders + 2} {RESTART}",
        )
    if ours is not None and (ours.plugin != PLUGIN or ours.database != server.database):
        yield Finding(
            "slot_foreign",
            f"a slot named {ours.name} exists, but not for {PLUGIN} on this database",
            f"if nobody needs it: {_drop(ours)}",
        )
    elif ours is not None and ours.wal_status == "lost":
        yield Finding(
            "slot_lost",
            f"slot {ours.name} has lost its WAL: it lagged more than max_slot_wal_keep_size",
            f"devices start over from a new one: {_drop(ours)}",
        )


def _drop(slot: Slot) -> str:
    return f"SELECT pg_drop_replication_slot('{slot.name}')"


def _existing(server: Server, publication: str, schema_version: int) -> Iterator[Finding]:
    schema = server.schema
    if schema is not None and not schema.ours:
        yield Finding(
            "schema_foreign",
            "this database has a schema electric that is not Syncline's (an older Electric left it?)",
            f"when nothing uses it any more: DROP PUBLICATION IF EXISTS {publication}; DROP SCHEMA electric CASCADE",
        )
    elif schema is not None and not schema.owned:
        yield Finding(
            "role_electric",
            f"schema electric is here and belongs to {schema.owner}, not to role {server.role.name}",
            f"GRANT {schema.owner} TO {server.role.quoted}; or run the service as that role",
        )
    elif schema is not None and schema.version is not None and schema.version > schema_version:
        yield Finding(
            "schema_newer",
            f"schema electric is at version {schema.version}, this Syncline knows {schema_version}",
            "run a newer Syncline: schemas are never taken back",
        )
    if schema is None and any(found.name == publication for found in server.publications):
        yield Finding(
            "publication_foreign",
            f"this database has a publication {publication} that is not Syncline's",
            f"when nothing uses it any more: DROP PUBLICATION {publication}",
        )


def _others(server: Server, ours: Slot | None, publication: str) -> Iterator[Finding]:
    idle = [slot for slot in server.slots if not slot.active and slot is not ours]
    if idle:
        yield Finding(
            "slots_idle",
            "slots that nobody reads keep WAL: "
            + ", ".join(f"{slot.name} {slot.kept_bytes / 2**20:,.0f} MiB" for slot in idle),
            "if nobody needs one any more: SELECT pg_drop_replication_slot(...)",
            tuple(slot.name for slot in idle),
        )
    others = [found for found in server.publications if found.name != publication]
    if others:
        yield Finding(
            "publications",
            "others publish tables: "
            + ", ".join(
                f"{found.name} ({'all tables' if found.all_tables else f'{found.tables:,}'})" for found in others
            ),
            "of tables that are opened to devices they get whole old rows, as their replica identity becomes FULL",
            tuple(found.name for found in others),
        )
    if server.event_triggers:
        yield Finding(
            "event_triggers",
            f"event triggers fire for what the service changes, too: {', '.join(server.event_triggers)}",
            "they must let through CREATE SCHEMA, ALTER TABLE, ALTER PUBLICATION and functions in schema electric",
            server.event_triggers,
        )


def _role(server: Server) -> Iterator[Finding]:
    role = server.role
    if not role.replicates:
        yield Finding(
            "role_replication",
            f"role {role.name} may not replicate",
            f"as a superuser: ALTER ROLE {role.quoted} WITH REPLICATION (Amazon: GRANT rds_replication TO "
            f"{role.quoted})",
        )
    if not role.creates and (server.schema is None or not server.schema.owned):
        yield Finding(
            "role_create",
            f"role {role.name} may not create a schema and a publication in database {server.database}",
            f"GRANT CREATE ON DATABASE {server.quoted_database} TO {role.quoted}",
        )


def _ownership(facts: Facts) -> Iterator[Finding]:
    role = facts.server.role.quoted
    foreign = sorted((table for table in facts.tables if not table.owned), key=lambda table: table.owner)
    for owner, owned in groupby(foreign, lambda table: table.owner):
        tables = list(owned)
        yield Finding(
            "role_owner",
            f"role {facts.server.role.name} does not own {_tables(len(tables))} of {owner}",
            f"as {owner} or an administrator: GRANT {owner} TO {role}",
            _names(tables),
        )
    hidden = [table for table in facts.tables if not table.schema_usage]
    for schema, in_schema in groupby(hidden, lambda table: table.quoted_schema):
        yield Finding(
            "role_usage",
            f"role {facts.server.role.name} may not use schema {schema}",
            f"GRANT USAGE ON SCHEMA {schema} TO {role}",
            _names(in_schema),
        )


def _row_security(facts: Facts) -> Iterator[Finding]:
    hidden = [table for table in facts.tables if table.owned and table.row_security_holds and not table.policies]
    if hidden:
        role = facts.server.role.quoted
        yield Finding(
            "role_row_security",
            f"row security is forced on {_tables(len(hidden))} without a policy: role {facts.server.role.name} sees no "
            "row of them",
            f"ALTER ROLE {role} BYPASSRLS; or, for each: CREATE POLICY syncline ON {hidden[0].name} TO {role} "
            "USING (true) WITH CHECK (true)",
            _names(hidden),
        )


def _tables(count: int) -> str:
    return f"{count:,} table{'' if count == 1 else 's'}"


def _names(tables: Iterable[Table]) -> tuple[str, ...]:
    return tuple(table.name for table in tables)
