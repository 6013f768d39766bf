"""A random schema: keys of several kinds, foreign keys to anywhere. Pure.

Every table may refer to every other and to itself, once or several times, by keys of one column or more, some of them
part of its own primary key. Only references that may not be NULL go to earlier tables alone: rows could not be made
otherwise.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cached_property

from tests.oracle.values import KEYS

TABLES_MIN, TABLES_MAX = 4, 6
PULSE = "pulse"
"""A table every device holds whole: what it shows tells how far the device has come."""


@dataclass(frozen=True)
class Column:
    name: str
    type_name: str
    nullable: bool = True


@dataclass(frozen=True)
class ForeignKey:
    """``nullable``: some of its columns are, and a row with a NULL there refers to nothing."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str
    on_update: str
    deferrable: bool
    nullable: bool


@dataclass(frozen=True)
class Table:
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def types(self) -> dict[str, str]:
        return {column.name: column.type_name for column in self.columns}

    @cached_property
    def key_places(self) -> tuple[int, ...]:
        return self.places(self.key)

    def places(self, names: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(self.names.index(name) for name in names)

    @cached_property
    def payload(self) -> tuple[Column, ...]:
        """Columns of neither a key nor a foreign key."""
        tied = set(self.key).union(*(fk.columns for fk in self.foreign_keys))
        return tuple(column for column in self.columns if column.name not in tied)

    def create(self) -> str:
        lines = [f"{c.name} {c.type_name}{'' if c.nullable else ' NOT NULL'}" for c in self.columns]
        return f"CREATE TABLE {self.name} ({', '.join(lines)}, PRIMARY KEY ({', '.join(self.key)}));"

    def constraints(self) -> list[str]:
        return [
            f"ALTER TABLE {self.name} ADD FOREIGN KEY ({', '.join(fk.columns)}) REFERENCES {fk.parent} "
            f"({', '.join(fk.parent_columns)}) ON DELETE {fk.on_delete} ON UPDATE {fk.on_update}"
            f"{' DEFERRABLE INITIALLY DEFERRED' if fk.deferrable else ''};"
            for fk in self.foreign_keys
        ]


@dataclass(frozen=True)
class Schema:
    tables: tuple[Table, ...] = field(default=())

    def __getitem__(self, name: str) -> Table:
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Table]:
        return {table.name: table for table in self.tables}

    @cached_property
    def referenced(self) -> dict[str, set[str]]:
        """Every table with all it refers to, directly or not; itself only when it is in a circle."""
        found = {table.name: {fk.parent for fk in table.foreign_keys} for table in self.tables}
        for _ in self.tables:
            for name, parents in found.items():
                found[name] = parents.union(*(found[parent] for parent in parents))
        return found

    @cached_property
    def parents_first(self) -> tuple[Table, ...]:
        return tuple(sorted(self.tables, key=lambda table: len(self.referenced[table.name] | {table.name})))

    def sql(self) -> str:
        constraints = [line for table in self.tables for line in table.constraints()]
        return "\n".join([*(table.create() for table in self.tables), *constraints])


def draw_schema(rng: random.Random) -> Schema:
    count = rng.randint(TABLES_MIN, TABLES_MAX)
    drafts: list[_Draft] = []
    for number in range(count):
        drafts.append(_draft(rng, number, drafts))
    for number, draft in enumerate(drafts):
        parent = None
        for _ in range(rng.choice((0, 1, 1, 2, 2, 3))):
            parent = parent if parent is not None and rng.random() < 0.3 else rng.randrange(count)
            _refer(rng, draft, drafts[parent], may_be_required=parent < number)
    pulse = Table(PULSE, (Column("id", "int4", False), Column("n", "int4", False)), ("id",))
    return Schema((*(_finished(rng, draft) for draft in drafts), pulse))


@dataclass
class _Draft:
    name: str
    key: list[Column]
    foreign_keys: list[ForeignKey] = field(default_factory=list)
    tied: list[Column] = field(default_factory=list)


def _draft(rng: random.Random, number: int, earlier: list[_Draft]) -> _Draft:
    """A table with its primary key, which may contain a reference to an earlier one."""
    name = f"t{number}"
    single = rng.choice(list(KEYS))
    if rng.random() < 0.55:
        return _Draft(name, [Column("id", single, False)])
    narrow = [draft for draft in earlier if len(draft.key) <= 2]
    if not narrow or rng.random() < 0.5:
        return _Draft(name, [Column("k1", single, False), Column("k2", rng.choice(("int4", "text")), False)])
    parent = rng.choice(narrow)
    columns = [Column(f"of_{column.name}", column.type_name, False) for column in parent.key]
    draft = _Draft(name, [*columns, Column("place", "int4", False)])
    draft.foreign_keys.append(_foreign_key(rng, columns, parent, nullable=False))
    return draft


def _refer(rng: random.Random, draft: _Draft, parent: _Draft, *, may_be_required: bool) -> None:
    nullable = not (may_be_required and rng.random() < 0.4)
    number = len(draft.foreign_keys)
    columns = [Column(f"{draft.name}f{number}_{column.name}", column.type_name, nullable) for column in parent.key]
    draft.tied += columns
    draft.foreign_keys.append(_foreign_key(rng, columns, parent, nullable=nullable))


def _foreign_key(rng: random.Random, columns: list[Column], parent: _Draft, *, nullable: bool) -> ForeignKey:
    actions = ["CASCADE", "CASCADE", "NO ACTION"] + (["SET NULL", "SET NULL"] if nullable else [])
    return ForeignKey(
        tuple(column.name for column in columns),
        parent.name,
        tuple(column.name for column in parent.key),
        on_delete=rng.choice(actions),
        on_update=rng.choice(("CASCADE", "NO ACTION")),
        deferrable=rng.random() < 0.2,
        nullable=nullable,
    )


def _finished(rng: random.Random, draft: _Draft) -> Table:
    extra = rng.sample(("bool", "float8", "date", "timestamptz", "jsonb", "bytea", "varchar", "int8", "uuid"), 2)
    payload = [Column("n", "int4", rng.random() < 0.5), Column("label", "text", rng.random() < 0.7)]
    payload += [Column(f"c_{type_name}", type_name) for type_name in extra]
    columns = [*draft.key, *draft.tied, *payload]
    if rng.random() < 0.3:  # a key need not come first
        rng.shuffle(columns)
    return Table(draft.name, tuple(columns), tuple(c.name for c in draft.key), tuple(draft.foreign_keys))
