"""The SQL that applies device writes agrees with the merge rules of ``syncline.proto.merge``, whatever devices do, and
whatever direct SQL does in between."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.integration.write_scene import Scene, Standing, standing

from syncline.actors.postgres.absorber import ABSORB, columns_of
from syncline.actors.postgres.absorption import Absorption, Stretch
from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.streamed import TransactionHead
from syncline.proto.merge import RowState, RowWrite, Tied, apply_direct, apply_write, unrecorded
from syncline.proto.tags import Tag, format_tags, parse_tags
from syncline.proto.values import Column, Delete, Relation, Row, Update

SCHEMA = """
CREATE TABLE points (x text, id text PRIMARY KEY, y int, b bool);
CREATE TABLE tied (x text, id text PRIMARY KEY, y int, b bool, CHECK (y IS NULL OR b IS NULL OR true));
CREATE TABLE bare (id text PRIMARY KEY);
"""
COLUMNS = (Column("x", "text"), Column("id", "text", primary_key=True), Column("y", "int4"), Column("b", "bool"))
# By their places, what constraints tie together.
TIED: dict[str, Tied] = {"points": (), "tied": ((2, 3),), "bare": ()}
KINDS = {"insert": "I", "update": "U", "delete": "D", "compensation": "C"}
DEVICES = ("a", "b", "c@home", "postgres_0", "postgres_2")
EXAMPLES_MAX = 150

_keys = itertools.count(1)


@dataclass(frozen=True)
class Operation:
    """``lacking``: the places of columns that its author does not hold."""

    kind: str
    cells: tuple[str | None, ...]
    modified: tuple[bool, ...]
    observed: frozenset[Tag]
    lacking: frozenset[int] = frozenset()

    def write(self, table: str, key: str, tag: Tag) -> RowWrite:
        """What it says of the row with ``key``. An insert gives all columns that its author holds."""
        cells = _with_key(table, self.cells, key)
        absent = frozenset(place for place in self.lacking if place < len(cells) and cells[place] != key)
        if self.kind == "insert":
            modified = tuple(place not in absent for place in range(len(cells)))
        else:
            changed = zip(self.modified, cells, strict=True)
            modified = tuple(
                self.kind == "update" and is_new and cell != key and place not in absent
                for place, (is_new, cell) in enumerate(changed)
            )
        row = _bytes(
            None if place in absent or (self.kind == "compensation" and cell != key) else cell
            for place, cell in enumerate(cells)
        )
        return RowWrite(self.kind, row, modified, tag, self.observed, absent)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DeviceTransaction:
    """Operations of one device on one row, committed there at ``ms``."""

    device: str
    ms: int
    operations: tuple[Operation, ...]


@dataclass(frozen=True)
class DirectWrite:
    """Direct SQL, at ``ms``: what ``deletes`` not is an update of the columns ``modified``, or the row's insert.

    ``again``: so many of its writes before this one come once more with it, as after a restart of the service.
    """

    deletes: bool
    cells: tuple[str | None, ...]
    modified: tuple[bool, ...]
    ms: int
    again: int = 0


History: TypeAlias = list[DeviceTransaction | DirectWrite]

# Few devices and few moments, so that tags meet: equal times, equal tags, clocks that go back.
tags = st.builds(Tag, st.sampled_from(DEVICES), st.integers(1, 12)) | st.builds(
    Tag, st.just("postgres_1"), st.integers(0, 12)
)
observed = st.frozensets(tags, max_size=4) | st.builds(
    # what a device knows that has seen everything up to some moment
    lambda ms: frozenset(Tag(origin, ms) for origin in (*DEVICES, "postgres_1")),
    st.integers(1, 12),
)


def transactions(width: int, values: st.SearchStrategy[tuple[str | None, ...]]) -> st.SearchStrategy[DeviceTransaction]:
    lacking = st.just(frozenset[int]()) | st.frozensets(st.integers(0, width - 1))
    operation = st.builds(
        Operation, st.sampled_from(list(KINDS)), values, st.tuples(*[st.booleans()] * width), observed, lacking
    )
    return st.builds(
        DeviceTransaction,
        st.sampled_from(DEVICES),
        st.integers(1, 12),
        st.lists(operation, min_size=1, max_size=3).map(tuple),
    )


def direct_writes(values: st.SearchStrategy[tuple[str | None, ...]]) -> st.SearchStrategy[DirectWrite]:
    again = st.integers(0, 3)
    return st.builds(DirectWrite, st.booleans(), values, st.tuples(*[st.booleans()] * 4), st.integers(1, 12), again)


points = st.tuples(
    st.sampled_from(["", "one", "two", None]),
    st.sampled_from(["1", "-7", None]),
    st.sampled_from(["t", "f", None]),
)


@pytest.fixture(scope="module")
def merging(postgres: EmbeddedPostgres) -> Iterator[Standing]:
    with standing(postgres, "write_merge", SCHEMA, *TIED) as opened:
        yield opened


def _with_key(table: str, cells: tuple[str | None, ...], key: str) -> tuple[str | None, ...]:
    return (key,) if table == "bare" else (cells[0], key, *cells[1:])


def _bytes(cells: Iterable[str | None]) -> Row:
    return tuple(None if cell is None else cell.encode() for cell in cells)


def _tellable(existed: bool, table: str, history: History) -> History:
    """``history`` without what the database cannot know: when direct SQL inserted a row of which there was no record,
    or one that it has written again since, nor that its own clock went back and forth. So the one is of moment 0, the
    other is written again at the same moment, and devices do not insert what nobody but direct SQL has written."""
    told: History = []
    alive, recorded, updated, born_ms, direct_ms = existed, False, False, None, 0
    for step in history:
        if isinstance(step, DeviceTransaction):
            if updated and not recorded:
                ops = tuple(replace(op, kind="update") if op.kind == "insert" else op for op in step.operations)
                step = replace(step, operations=ops)
            # Of a delete of what is not there nothing is recorded.
            recorded |= alive or any(op.kind != "delete" for op in step.operations)
            born_ms = None
        else:
            if not alive and not recorded:
                direct_ms = 0
            elif born_ms is None:
                direct_ms = max(direct_ms, step.ms)
            step = replace(step, ms=direct_ms)
            if step.deletes:
                recorded, alive, born_ms = recorded or alive, False, None
            elif alive:
                updated = True
            else:
                alive, born_ms = True, direct_ms if recorded else None
        told.append(step)
        if isinstance(step, DeviceTransaction):
            alive = _expected_alive(existed, table, told)
    return told


def _expected(start: RowState, table: str, key: str, history: History) -> RowState:
    state = start
    for step in history:
        if isinstance(step, DirectWrite):
            state = _directly(state, table, key, step)
            continue
        written = False
        for op in step.operations:
            write = op.write(table, key, Tag(step.device, step.ms))
            alive = state.row is not None
            state = apply_write(state, write, TIED[table], anew=not written)
            written |= alive or op.kind != "delete"
    return state


def _expected_alive(existed: bool, table: str, history: History) -> bool:
    start = unrecorded((b"direct", b"", b"0", None)) if existed else RowState()
    return _expected(start, table, "", history).row is not None


def _directly(state: RowState, table: str, key: str, step: DirectWrite) -> RowState:
    """The row after a write of direct SQL, which does nothing to a row that is not there but insert it."""
    if step.deletes:
        return (
            state if state.row is None else apply_direct(state, "delete", state.row, (False,) * 4, step.ms, TIED[table])
        )
    row = _bytes(_with_key(table, step.cells, key))
    if state.row is None:
        return apply_direct(state, "insert", row, (True,) * 4, step.ms, TIED[table])
    row = tuple(new if step.modified[i] else old for i, (new, old) in enumerate(zip(row, state.row, strict=True)))
    changed = tuple(new != old for new, old in zip(row, state.row, strict=True))
    return apply_direct(state, "update", row, changed, step.ms, TIED[table])


class Stream:
    """What the stream says of direct SQL writes to one row of a table, and what comes of it in Postgres."""

    def __init__(self, s: Scene, table: str, key: str) -> None:
        self._connection = s.connection
        self._here = s.here
        self._name = table
        self._relid = s.relids[table]
        self._table = TableInfo(Relation(self._relid, "public", table, COLUMNS), {})
        self._key = key
        self.xmins: dict[str, int] = {}
        self._streamed: list[tuple[TransactionHead, Update | Delete]] = []

    async def existed(self, ms: int) -> None:
        await self._note(ms)

    async def write(self, step: DirectWrite) -> None:
        connection, key = self._connection, self._key
        old = await self._row()
        if step.deletes:
            await connection.execute(f"DELETE FROM {self._name} WHERE id = $1", key)
        elif old is None:
            x, y, b = step.cells
            insert = f"INSERT INTO {self._name} VALUES ($1, $2, $3::text::int, $4::text::bool)"
            await connection.execute(insert, x, key, y, b)
        else:
            places = {"x": 0, "y": 2, "b": 3}
            sets = ", ".join(f"{name} = n.{name}" for name, place in places.items() if step.modified[place])
            await connection.execute(
                f"UPDATE {self._name} p SET {sets or 'x = p.x'} "
                "FROM (SELECT $2::text AS x, $3::text::int AS y, $4::text::bool AS b) n WHERE p.id = $1",
                key,
                *step.cells,
            )
        await self._note(step.ms)
        new = await self._row()
        relation = self._relid
        if old is not None:
            change = Delete(relation, old) if new is None else Update(relation, new, old, (f"postgres_1@{step.ms}",))
            absorption = Absorption()
            lsn = await self._here()
            again = self._streamed[len(self._streamed) - step.again :] if step.again else []
            self._streamed.append((TransactionHead(Lsn(lsn), step.ms, 1), change))
            for head, streamed in (*again, self._streamed[-1]):
                absorption.add(Stretch(head, 0, (streamed,), {}), {relation: self._table})
            entries = {(self._relid, place[1]): entry for place, entry in absorption.take().items()}
            await connection.execute(ABSORB, *columns_of(entries))

    async def _row(self) -> Row | None:
        columns = "x, id, y::text, CASE WHEN b THEN 't' WHEN NOT b THEN 'f' END"
        row = await self._connection.fetchrow(f"SELECT {columns} FROM {self._name} WHERE id = $1", self._key)
        return None if row is None else _bytes(row)

    async def _note(self, ms: int) -> None:
        xmin = await self._connection.fetchval(f"SELECT xmin::text FROM {self._name} WHERE id = $1", self._key)
        if xmin is not None:
            self.xmins[xmin] = ms


async def _write(s: Scene, table: str, key: str, history: History) -> None:
    stream = None if table == "bare" else Stream(s, table, key)
    if stream is not None:
        await stream.existed(0)
    lsns = itertools.count(1)
    await s.connection.execute("DELETE FROM electric.clients")
    for transaction in history:
        if isinstance(transaction, DirectWrite):
            assert stream is not None, "direct SQL does not write what has a key only"
            await stream.write(transaction)
            continue
        ops = []
        for op in transaction.operations:
            write = op.write(table, key, Tag(transaction.device, transaction.ms))
            absent = write.absent if op.kind == "update" else ()
            ops.append(
                {
                    "rel": s.relids[table],
                    "op": KINDS[op.kind],
                    "row": [None if cell is None else cell.decode() for cell in write.row],
                    "modified": [None if place in absent else new for place, new in enumerate(write.modified)],
                    "tags": format_tags(op.observed),
                }
            )
        element = {"client": transaction.device, "lsn": next(lsns), "ms": transaction.ms, "ops": ops}
        xmins = {} if stream is None else stream.xmins
        for absorbed in ({}, {"absorbed": {"xmins": xmins, "gone": [f'{s.relids[table]} ["{key}"]']}}):
            text = await s.connection.fetchval(
                "CALL electric.apply($1, NULL, $2)", json.dumps([element | absorbed]), '{"horizon": null}'
            )
            (result,) = json.loads(text)
            if result["status"] != "unabsorbed":
                break
        assert result["status"] == "applied", text


async def _stored(s: Scene, table: str, key: str) -> RowState:
    columns = "x, id, y::text, CASE WHEN b THEN 't' WHEN NOT b THEN 'f' END"
    if table == "bare":
        columns = "id"
    relid, key_text = s.relids[table], f'["{key}"]'
    row = await s.connection.fetchrow(f"SELECT {columns} FROM {table} WHERE id = $1", key)
    shadow = await s.connection.fetchrow(
        "SELECT tags, column_tags FROM electric.shadow WHERE relid = $1 AND key = $2",
        *(relid, key_text),
    )
    # A delete of what direct SQL had deleted leaves its entry as it is.
    past = await s.connection.fetchrow(
        """SELECT d."row", electric.overlaid(
            coalesce(s.column_tags, array_fill('postgres_1@0'::text, ARRAY[cardinality(d.column_ms)])),
            d.ms, """
        + f"{_spread('d.column_ms', table)}, {_spread('d.column_lsn', table)}, "
        + """s.at_lsn, s.tags = '{}') AS column_tags
        FROM electric.direct d LEFT JOIN electric.shadow s USING (relid, key)
        WHERE d.relid = $1 AND d.key = $2 AND (s.at_lsn IS NULL OR d.lsn > s.at_lsn)""",
        *(relid, key_text),
    )
    grave = await s.connection.fetchval(
        'SELECT "row" FROM electric.tombstones WHERE relid = $1 AND key = $2', relid, key_text
    )
    tags = parse_tags(shadow["tags"] if shadow else ())
    if past is not None:
        tags, grave = frozenset(), past["row"]
    column_tags = (past or shadow or {"column_tags": ()})["column_tags"]
    return RowState(
        None if row is None else _bytes(row),
        tags,
        tuple(map(_column_tag, column_tags)),
        None if grave is None else _bytes(grave),
    )


def _spread(numbers: str, table: str) -> str:
    """What direct SQL has changed, as SQL, where the columns of each register go together."""
    for register in TIED[table]:
        numbers = f"electric.spread({numbers}, '{{{','.join(str(column + 1) for column in register)}}}')"
    return numbers


def _column_tag(text: str) -> Tag:
    (tag,) = parse_tags([text])
    if not tag.origin.startswith("postgres_1@"):
        return tag
    (written,) = parse_tags([tag.origin])
    return Tag(written.origin, tag.ms, written.ms)


def _same(expected: RowState, stored: RowState, width: int, tied: Tied) -> None:
    """Of columns that are tied only the newest tag counts."""
    assert (stored.row, stored.tags, stored.tombstone) == (expected.row, expected.tags, expected.tombstone)
    for register in (*tied, *((column,) for column in range(width) if column not in itertools.chain(*tied))):
        assert max(map(stored.column_tag, register)) == max(map(expected.column_tag, register))


@pytest.mark.parametrize("table", ["points", "tied"])
def test_any_history_of_a_row_ends_as_the_rules_say(merging: Standing, table: str) -> None:
    @settings(max_examples=EXAMPLES_MAX)
    @given(
        existed=st.booleans(),
        history=st.lists(transactions(4, points) | direct_writes(points), min_size=1, max_size=8),
        last=transactions(4, points),
    )
    def agree(existed: bool, history: History, last: DeviceTransaction) -> None:
        key = f"k{next(_keys)}"
        start = unrecorded((b"direct", key.encode(), b"0", None)) if existed else RowState()
        # What direct SQL wrote last shows when the next device writes.
        told = _tellable(existed, table, [*history, last])

        async def play() -> RowState:
            if existed:
                insert = f"INSERT INTO {table} VALUES ('direct', $1, 0, NULL)"
                await merging.scene.connection.execute(insert, key)
            await _write(merging.scene, table, key, told)
            return await _stored(merging.scene, table, key)

        _same(_expected(start, table, key, told), merging.runner.run(play()), 4, TIED[table])

    agree()


def test_a_table_of_nothing_but_a_key_follows_the_same_rules(merging: Standing) -> None:
    @settings(max_examples=EXAMPLES_MAX // 3)
    @given(history=st.lists(transactions(1, st.just(())), min_size=1, max_size=6))
    def agree(history: list[DeviceTransaction]) -> None:
        key = f"k{next(_keys)}"

        async def play() -> RowState:
            await _write(merging.scene, "bare", key, history)
            return await _stored(merging.scene, "bare", key)

        _same(_expected(RowState(), "bare", key, history), merging.runner.run(play()), 1, ())

    agree()
