"""What was read of a database, as values. Pure.

``of`` takes what the queries in ``sql/`` answer; their comments say what each part is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Json: TypeAlias = Mapping[str, Any]
FIRST_WINS: Final = "first-wins"


@dataclass(frozen=True, slots=True)
class Slot:
    """``kept_bytes``: WAL that the server keeps for it. ``database`` None: a physical one."""

    name: str
    database: str | None
    plugin: str | None
    active: bool
    wal_status: str | None
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class Publication:
    """``tables``: how many are named in it."""

    name: str
    owner: str
    owned: bool
    all_tables: bool
    tables: int


@dataclass(frozen=True, slots=True)
class Role:
    """``name``: whose rights hold; ``quoted``: it as SQL has it. ``login``: who logged in. ``creates``: schemas in the
    database."""

    name: str
    quoted: str
    login: str
    replicates: bool
    creates: bool
    bypasses_row_security: bool


@dataclass(frozen=True, slots=True)
class ElectricSchema:
    """A schema ``electric`` that is there. ``ours``: it has our tables. ``version`` None: it may not be read."""

    owner: str
    owned: bool
    ours: bool
    readable: bool
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """The server, the role, and what is there of logical replication. ``settings``: as ``pg_settings`` has them."""

    database: str
    quoted_database: str
    version: int
    version_text: str
    encoding: str
    settings: Mapping[str, str]
    senders: int
    slots: tuple[Slot, ...]
    role: Role
    schema: ElectricSchema | None
    publications: tuple[Publication, ...]
    event_triggers: tuple[str, ...]

    @staticmethod
    def of(read: Json, version: int | None) -> Server:
        """``version``: of schema ``electric``."""
        schema = read["schema"]
        return Server(
            read["database"],
            read["quoted_database"],
            read["version"],
            read["version_text"],
            read["encoding"],
            read["settings"],
            read["senders"],
            tuple(
                Slot(
                    slot["name"],
                    slot["database"],
                    slot["plugin"],
                    slot["active"],
                    slot["wal_status"],
                    slot["kept_bytes"] or 0,
                )
                for slot in read["slots"]
            ),
            Role(**read["role"]),
            None if schema is None else ElectricSchema(**schema, version=version),
            tuple(Publication(**publication) for publication in read["publications"]),
            tuple(trigger["name"] for trigger in read["event_triggers"]),
        )


@dataclass(frozen=True, slots=True)
class Column:
    """``default``: its own, as SQL. ``sequence``: that it is filled from. ``generated``: ``s`` stored, ``v`` virtual,
    empty for neither."""

    name: str
    type: str
    not_null: bool
    generated: str
    default: str | None
    sequence: str | None


@dataclass(frozen=True, slots=True)
class Constraint:
    """``kind``: p, u, c, f or x, as ``pg_constraint`` has it. ``definition``: of c and x, unless the table was locked.
    ``refers_to``: OID of the table of a foreign key."""

    name: str
    kind: str
    columns: tuple[str, ...]
    definition: str | None
    refers_to: int
    refers_to_name: str | None
    refers_to_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """Of a unique constraint, or alone. ``policy``: what becomes of devices' writes that violate it."""

    name: str
    policy: str
    columns: tuple[str, ...]
    partial: bool
    expressions: bool


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps a table from being synced, what would mend it, and the SQLSTATE's name that it is raised by."""

    message: str
    hint: str
    state: str


@dataclass(frozen=True, slots=True)
class Size:
    """As Postgres has counted. ``rows`` None: nobody knows. ``toast_bytes``: of ``bytes``, values kept apart."""

    rows: int | None = None
    bytes: int = 0
    toast_bytes: int = 0
    analysed: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """``name``: with its schema, as SQL has it, and so ``quoted_schema``. ``description``: what devices would be told
    of it, as ``electric.describe`` has it; None where it cannot sync, and where it was locked. ``ties``: the columns of
    each register of several. ``row_security_holds``: for the role that asks."""

    relid: int
    schema: str
    quoted_schema: str
    table: str
    name: str
    kind: str
    persistence: str
    owner: str
    owned: bool
    schema_usage: bool
    obstacle: Obstacle | None
    description: Json | None
    columns: tuple[Column, ...]
    ambiguous_key: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...]
    constraints: tuple[Constraint, ...]
    unique_indexes: tuple[UniqueIndex, ...]
    triggers: tuple[str, ...]
    rules: tuple[str, ...]
    partitions: int
    inherits_from: tuple[str, ...]
    inherited_by: tuple[str, ...]
    row_security_holds: bool
    policies: int
    replica_identity: str
    replica_identity_index: str | None
    size: Size = field(default_factory=Size)
    electrified: bool = False

    @staticmethod
    def of(relid: int, read: Json, size: Size, *, electrified: bool, policies: Mapping[str, str]) -> Table:
        """``policies``: of unique indexes, by their OIDs as texts, where they have one of their own."""
        obstacle = read["obstacle"]
        return Table(
            relid,
            read["schema"],
            read["quoted_schema"],
            read["table"],
            read["name"],
            read["kind"],
            read["persistence"],
            read["owner"],
            read["owned"],
            read["schema_usage"],
            None if obstacle is None else Obstacle(**obstacle),
            read["description"],
            tuple(Column(**column) for column in read["columns"]),
            tuple(read["ambiguous_key"]),
            tuple(map(tuple, read["ties"])),
            tuple(
                Constraint(
                    constraint["name"],
                    constraint["kind"],
                    tuple(constraint["columns"]),
                    constraint["definition"],
                    constraint["refers_to"],
                    constraint["refers_to_name"],
                    tuple(constraint["refers_to_columns"] or ()),
                )
                for constraint in read["constraints"]
            ),
            tuple(
                UniqueIndex(
                    index["name"],
                    policies.get(str(index["oid"]), FIRST_WINS),
                    tuple(index["columns"] or ()),
                    index["partial"],
                    index["expressions"],
                )
                for index in read["unique_indexes"]
            ),
            tuple(read["triggers"]),
            tuple(read["rules"]),
            read["partitions"],
            tuple(read["inherits_from"]),
            tuple(read["inherited_by"]),
            read["row_security_holds"],
            read["policies"],
            read["replica_identity"],
            read["replica_identity_index"],
            size,
            electrified,
        )

    def told(self) -> dict[str, Json]:
        """What devices would be told of its columns, by their names; nothing where it is not described."""
        return {column["name"]: column for column in self.description["columns"]} if self.description else {}

    def key(self) -> tuple[str, ...]:
        """The columns by which rows are told apart; none where the table cannot sync."""
        places = {column["pk"]: name for name, column in self.told().items() if column["pk"] is not None}
        return tuple(name for _, name in sorted(places.items()))


@dataclass(frozen=True, slots=True)
class Clash:
    """A table whose name, or a name in it, devices could not tell from another."""

    relid: int
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Facts:
    """``schemas``: those that were asked for; none: all. Of tables outside of them no more is known than what foreign
    keys say."""

    server: Server
    tables: tuple[Table, ...]
    clashes: tuple[Clash, ...] = ()
    schemas: tuple[str, ...] = ()
