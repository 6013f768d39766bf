"""Every transaction that Postgres committed during a run, in order, from a replication slot of the test's own.

Nothing here is the product's: the slot is read by SQL when the run is over, and pgoutput's messages are parsed by what
the Postgres manual says about them, as far as tables of this schema need it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import asyncpg
from tests.oracle.expected import Key, Row, State, key_of
from tests.oracle.schema import Schema, Table
from tests.oracle.values import on_device

SLOT = "oracle"


@dataclass(frozen=True)
class Change:
    """``old`` is the key of a row that goes, ``new`` a row that comes; ``table`` alone: all its rows go."""

    table: str
    old: Key | None = None
    new: Row | None = None

    @property
    def is_truncate(self) -> bool:
        return self.old is None and self.new is None


@dataclass(frozen=True)
class Commit:
    """``lsn``: of its commit record."""

    lsn: int
    changes: tuple[Change, ...]

    def apply(self, state: State) -> None:
        for change in self.changes:
            rows = state.of(change.table)
            if change.old is not None:
                rows.pop(change.old, None)
            if change.new is not None:
                rows[key_of(state.schema[change.table], change.new)] = change.new
            if change.is_truncate:
                rows.clear()


async def begin_history(postgres: asyncpg.Connection, publication: str, database: str) -> None:
    """From now on every transaction is kept."""
    await postgres.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot_name(database))


def slot_name(database: str) -> str:
    return f"{SLOT}_{database}"


async def read_history(postgres: asyncpg.Connection, schema: Schema, publication: str, database: str) -> list[Commit]:
    """All that has been committed since ``begin_history``; the slot is dropped."""
    rows = await postgres.fetch(
        "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', "
        "'publication_names', $2)",
        slot_name(database),
        publication,
    )
    await postgres.execute("SELECT pg_drop_replication_slot($1)", slot_name(database))
    return list(_commits((bytes(row["data"]) for row in rows), schema))


@dataclass
class _Reader:
    data: bytes
    at: int = 1

    def take(self, form: str) -> int:
        (value,) = struct.unpack_from(f"!{form}", self.data, self.at)
        self.at += struct.calcsize(f"!{form}")
        return int(value)

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        found = self.data[self.at : end].decode()
        self.at = end + 1
        return found

    def letter(self) -> str:
        self.at += 1
        return chr(self.data[self.at - 1])

    def tuple(self) -> list[str | None]:
        return [self._cell() for _ in range(self.take("h"))]

    def _cell(self) -> str | None:
        kind = self.letter()
        if kind == "n":
            return None
        assert kind == "t", f"a value of kind {kind!r}: rows of a run are small"
        size = self.take("i")
        self.at += size
        return self.data[self.at - size : self.at].decode()


@dataclass
class _Stream:
    schema: Schema
    tables: dict[int, Table | None] = field(default_factory=dict)
    columns: dict[int, list[str]] = field(default_factory=dict)

    def relation(self, reader: _Reader) -> None:
        oid, namespace, name = reader.take("I"), reader.text(), reader.text()
        known = namespace == "public" and name in {table.name for table in self.schema.tables}
        self.tables[oid] = self.schema[name] if known else None
        reader.letter()
        self.columns[oid] = []
        for _ in range(reader.take("h")):
            reader.letter()
            self.columns[oid].append(reader.text())
            reader.at += 8
        if known:
            assert tuple(self.columns[oid]) == self.schema[name].names

    def change(self, reader: _Reader, kind: str) -> Change | None:
        table = self.tables[reader.take("I")]
        if table is None:
            return None
        old = new = None
        letter = reader.letter()
        if letter in "KO":
            old = key_of(table, row_of(table, reader.tuple()))
            letter = reader.letter() if kind == "U" else ""
        if letter == "N":
            new = row_of(table, reader.tuple())
        return Change(table.name, old, new)

    def truncate(self, reader: _Reader) -> Iterator[Change]:
        count, _ = reader.take("I"), reader.letter()
        for _ in range(count):
            table = self.tables[reader.take("I")]
            if table is not None:
                yield Change(table.name)


def row_of(table: Table, texts: list[str | None]) -> Row:
    """What Postgres prints, as a device holds it."""
    return tuple([on_device(c.type_name)(text) for c, text in zip(table.columns, texts, strict=True)])


def _commits(messages: Iterator[bytes], schema: Schema) -> Iterator[Commit]:
    stream = _Stream(schema)
    lsn, changes = 0, list[Change]()
    for data in messages:
        kind, reader = chr(data[0]), _Reader(data)
        if kind == "B":
            lsn, changes = reader.take("Q"), []
        elif kind == "R":
            stream.relation(reader)
        elif kind in "IUD":
            change = stream.change(reader, kind)
            changes += [] if change is None else [change]
        elif kind == "T":
            changes += stream.truncate(reader)
        elif kind == "C":
            yield Commit(lsn, tuple(changes))


async def read_state(postgres: asyncpg.Connection, schema: Schema) -> State:
    """All rows as they stand; ``postgres`` has TimeZone UTC."""
    state = State(schema)
    for table in schema.tables:
        columns = ", ".join(f"{name}::text" for name in table.names)
        for record in await postgres.fetch(f"SELECT {columns} FROM {table.name}"):
            row = row_of(table, list(record))
            state.of(table.name)[key_of(table, row)] = row
    return state


class Judge:
    """Says which rows satisfy a where clause, by asking Postgres about each row and clause once."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._matching: dict[tuple[str, str], set[Row]] = {}
        self._asked: dict[tuple[str, str], set[Row]] = {}

    async def ask(self, postgres: asyncpg.Connection, clauses: set[tuple[str, str]], rows: dict[str, set[Row]]) -> None:
        for name, where in clauses:
            table = self._schema[name]
            asked = self._asked.setdefault((name, where), set())
            fresh = list(rows.get(name, set()) - asked)
            asked |= set(fresh)
            held = self._matching.setdefault((name, where), set())
            held |= await matching(postgres, table, where, fresh)

    def __call__(self, table: str, where: str, row: Row) -> bool:
        assert row in self._asked[table, where], f"nobody has asked about {row} of {table}"
        return row in self._matching[table, where]


async def matching(postgres: asyncpg.Connection, table: Table, where: str, rows: Sequence[Row]) -> set[Row]:
    """Those of ``rows`` for which ``where`` is true; a row for which it is an error is none of them."""
    try:
        return {rows[number] for number in await _matching(postgres, table, where, rows)}
    except asyncpg.DataError:
        if len(rows) == 1:
            return set()
        half = len(rows) // 2
        return set().union(*[await matching(postgres, table, where, part) for part in (rows[:half], rows[half:])])


async def _matching(postgres: asyncpg.Connection, table: Table, where: str, rows: Sequence[Row]) -> list[int]:
    """Numbers of the rows for which ``where`` is true. They are given as text and cast to their columns' types."""
    if not rows:
        return []
    arrays = [[_to_text(row[place]) for row in rows] for place in range(len(table.columns))]
    casts = ", ".join(f"a.{c.name}::{c.type_name} AS {c.name}" for c in table.columns)
    parameters = ", ".join(f"${place + 1}::text[]" for place in range(len(table.columns)))
    found = await postgres.fetch(
        f"SELECT number FROM (SELECT {casts}, a.number FROM unnest({parameters}) WITH ORDINALITY "
        f"AS a ({', '.join(table.names)}, number)) AS this WHERE {where}",
        *arrays,
    )
    return [record["number"] - 1 for record in found]


def _to_text(value: object) -> str | None:
    if value is None:
        return None
    return "\\x" + value.hex() if isinstance(value, bytes) else str(value)
