"""What the doctor can find, in one table: how grave it is, and what it is called. Pure.

The report, its text and docs/reference/doctor.md read the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Severity: TypeAlias = Literal["missing", "refused", "note", "info"]
"""``missing``: a setting or a right without which the service does not start, or rows do not travel. ``refused``: a
table that cannot sync. ``note``: it syncs, and somebody should know. ``info``: how it syncs."""


@dataclass(frozen=True, slots=True)
class Kind:
    """``title``: what it is called where findings of many tables stand together."""

    severity: Severity
    title: str


KINDS: Final[Mapping[str, Kind]] = {
    # the server
    "wal_level": Kind("missing", "wal_level is not logical"),
    "no_free_slot": Kind("missing", "all replication slots are in use"),
    "no_free_sender": Kind("missing", "all WAL senders are in use"),
    "slot_foreign": Kind("missing", "somebody else has a slot of the service's name"),
    "slot_lost": Kind("missing", "the service's slot has lost its WAL"),
    "schema_foreign": Kind("missing", "schema electric is somebody else's"),
    "schema_newer": Kind("missing", "schema electric is of a newer version"),
    "publication_foreign": Kind("missing", "publication electric_publication is somebody else's"),
    "wal_kept": Kind("note", "nothing bounds the WAL that is kept for a slot"),
    "slot_timeout": Kind("note", "Postgres gives idle slots up"),
    "slots_idle": Kind("note", "slots that nobody reads"),
    "publications": Kind("note", "publications of others"),
    "event_triggers": Kind("note", "event triggers"),
    "encoding": Kind("note", "the database is not in UTF8"),
    # the role
    "role_replication": Kind("missing", "the role may not replicate"),
    "role_create": Kind("missing", "the role may not create schemas"),
    "role_electric": Kind("missing", "the role does not own schema electric"),
    "role_owner": Kind("missing", "the role does not own tables"),
    "role_usage": Kind("missing", "the role may not use schemas"),
    "role_row_security": Kind("missing", "row security hides all rows from the role"),
    # tables that cannot sync
    "no_key": Kind("refused", "no key by which rows are told apart"),
    "unlogged": Kind("refused", "unlogged: changes are not in the WAL"),
    "foreign_table": Kind("refused", "foreign tables: rows are not in this database"),
    "virtual_columns": Kind("refused", "virtual generated columns"),
    "not_owner": Kind("refused", "owned by another role"),
    "no_usage": Kind("refused", "in a schema that the role may not use"),
    "name_clash": Kind("refused", "names that devices could not tell apart"),
    "parent_refused": Kind("refused", "refers to a table that is left out for its name"),
    "other": Kind("refused", "cannot sync"),
    # how tables sync
    "locked": Kind("note", "locked by somebody just now: how it syncs could not be asked"),
    "ambiguous_key": Kind("note", "keys of which two texts are one value"),
    "sequence": Kind("note", "columns filled from a sequence, of which devices reserve values"),
    "server_defaults": Kind(
        "note", "defaults that Postgres alone can fill in: NULL on a device until the insert is back"
    ),
    "text_types": Kind("note", "columns that devices hold as text, as Postgres prints them"),
    "generated_columns": Kind("note", "generated columns, which devices do not hold"),
    "unique": Kind("note", "unique besides the key: what devices write apart may clash"),
    "exclusion": Kind("note", "exclusion constraints: the first to reach Postgres wins"),
    "foreign_key_left_out": Kind("note", "foreign keys that devices do without"),
    "foreign_key_outside": Kind("note", "foreign keys to tables of schemas that were not asked for"),
    "triggers": Kind("note", "triggers, which run for devices' writes as for any SQL client's"),
    "rules": Kind("note", "rules, which hold for devices' writes as for any SQL client's"),
    "inheritance": Kind("note", "inheritance: each table syncs as its own"),
    "row_security": Kind("note", "row security holds for the role"),
    "replica_identity": Kind("note", "a replica identity that becomes FULL"),
    "large_values": Kind("note", "large values, which each update and delete writes to the WAL"),
    "unique_key": Kind("info", "rows are told apart by a unique index, not by a primary key"),
    "partitions": Kind("info", "partitioned: devices have one table"),
    "defaults": Kind("info", "defaults that devices fill in"),
    "device_checks": Kind("info", "CHECK constraints that devices hold, too"),
    "checks": Kind("info", "CHECK constraints that Postgres alone holds"),
    "tied_columns": Kind("info", "columns that are one register: the later write has them all"),
    "unanalysed": Kind("info", "never counted by ANALYZE: sizes are guesses"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """``code``: of ``KINDS``. ``names``: the columns, constraints and so on that it is about. ``hint``: what mends it,
    or what to do; may be empty."""

    code: str
    message: str
    hint: str = ""
    names: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        return KINDS[self.code].severity

    @property
    def title(self) -> str:
        return KINDS[self.code].title
