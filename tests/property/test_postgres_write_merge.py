"""The SQL that applies device writes agrees with the merge rules of ``syncline.proto.merge``, whatever devices do."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import drop_database
from tests.integration.write_scene import Scene, scene

from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.proto.merge import RowState, RowWrite, apply_write, unrecorded
from syncline.proto.tags import Tag, format_tags, parse_tags
from syncline.proto.values import Row

SCHEMA = """
CREATE TABLE points (x text, id text PRIMARY KEY, y int, b bool);
CREATE TABLE bare (id text PRIMARY KEY);
"""
KINDS = {"insert": "I", "update": "U", "delete": "D", "compensation": "C"}
DEVICES = ("a", "b", "c@home", "postgres_0", "postgres_2")
EXAMPLES_MAX = 150

_keys = itertools.count(1)


@dataclass(frozen=True)
class Operation:
    kind: str
    cells: tuple[str | None, ...]
    modified: tuple[bool, ...]
    observed: frozenset[Tag]


@dataclass(frozen=True)
class DeviceTransaction:
    """Operations of one device on one row, committed there at ``ms``."""

    device: str
    ms: int
    operations: tuple[Operation, ...]


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
    operation = st.builds(
        Operation, st.sampled_from(list(KINDS)), values, st.tuples(*[st.booleans()] * width), observed
    )
    return st.builds(
        DeviceTransaction,
        st.sampled_from(DEVICES),
        st.integers(1, 12),
        st.lists(operation, min_size=1, max_size=3).map(tuple),
    )


points = st.tuples(
    st.sampled_from(["", "one", "two", None]),
    st.sampled_from(["1", "-7", None]),
    st.sampled_from(["t", "f", None]),
)


@dataclass
class Database:
    runner: asyncio.Runner
    scene: Scene


@pytest.fixture(scope="module")
def merging(postgres: EmbeddedPostgres) -> Iterator[Database]:
    name = "write_merge"

    async def open_scene(stack: AsyncExitStack) -> Scene:
        admin = await asyncpg.connect(postgres.dsn())
        await admin.execute(f"CREATE DATABASE {name}")
        await admin.close()
        return await stack.enter_async_context(scene(postgres.dsn(name), SCHEMA, "points", "bare"))

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield Database(runner, runner.run(open_scene(stack)))
        runner.run(stack.aclose())
        runner.run(drop_database(postgres.dsn(), name))


def _with_key(table: str, cells: tuple[str | None, ...], key: str) -> tuple[str | None, ...]:
    return (cells[0], key, *cells[1:]) if table == "points" else (key,)


def _bytes(cells: Iterable[str | None]) -> Row:
    return tuple(None if cell is None else cell.encode() for cell in cells)


def _expected(start: RowState, table: str, key: str, history: list[DeviceTransaction]) -> RowState:
    state = start
    for transaction in history:
        for op in transaction.operations:
            cells = _with_key(table, op.cells, key)
            only_key = [cell if cell == key else None for cell in cells]
            modified = {
                "insert": (True,) * len(cells),
                "update": tuple(m and cell != key for m, cell in zip(op.modified, cells, strict=True)),
            }.get(op.kind, (False,) * len(cells))
            row = _bytes(only_key if op.kind == "compensation" else cells)
            tag = Tag(transaction.device, transaction.ms)
            state = apply_write(state, RowWrite(op.kind, row, modified, tag, op.observed))  # type: ignore[arg-type]
    return state


async def _write(s: Scene, table: str, key: str, history: list[DeviceTransaction]) -> None:
    lsns = itertools.count(1)
    batch = []
    for transaction in history:
        ops = []
        for op in transaction.operations:
            cells = _with_key(table, op.cells, key)
            # An insert gives every column here: one that it leaves out takes its default.
            given = op.kind == "insert"
            modified = [given or (m and cell != key) for m, cell in zip(op.modified, cells, strict=True)]
            row = [cell if cell == key else None for cell in cells] if op.kind == "compensation" else cells
            ops.append(
                {
                    "rel": s.relids[table],
                    "op": KINDS[op.kind],
                    "row": row,
                    "modified": modified,
                    "tags": format_tags(op.observed),
                }
            )
        batch.append({"client": transaction.device, "lsn": next(lsns), "ms": transaction.ms, "ops": ops})
    await s.connection.execute("DELETE FROM electric.clients")
    text = await s.connection.fetchval("CALL electric.apply($1, NULL)", json.dumps(batch))
    assert [result["status"] for result in json.loads(text)] == ["applied"] * len(batch), text


async def _stored(s: Scene, table: str, key: str) -> RowState:
    columns = "x, id, y::text, CASE WHEN b THEN 't' WHEN NOT b THEN 'f' END" if table == "points" else "id"
    relid, key_text = s.relids[table], f'["{key}"]'
    row = await s.connection.fetchrow(f"SELECT {columns} FROM {table} WHERE id = $1", key)
    shadow = await s.connection.fetchrow(
        "SELECT tags, column_tags FROM electric.shadow WHERE relid = $1 AND key = $2", relid, key_text
    )
    grave = await s.connection.fetchval(
        'SELECT "row" FROM electric.tombstones WHERE relid = $1 AND key = $2', relid, key_text
    )
    return RowState(
        None if row is None else _bytes(row),
        parse_tags(shadow["tags"] if shadow else ()),
        tuple(tag for text in (shadow["column_tags"] if shadow else ()) for tag in parse_tags([text])),
        None if grave is None else _bytes(grave),
    )


def _same(expected: RowState, stored: RowState, width: int) -> None:
    assert (stored.row, stored.tags, stored.tombstone) == (expected.row, expected.tags, expected.tombstone)
    for column in range(width):
        assert stored.column_tag(column) == expected.column_tag(column)


def test_any_history_of_a_row_ends_as_the_rules_say(merging: Database) -> None:
    @settings(max_examples=EXAMPLES_MAX)
    @given(existed=st.booleans(), history=st.lists(transactions(4, points), min_size=1, max_size=8))
    def agree(existed: bool, history: list[DeviceTransaction]) -> None:
        key = f"k{next(_keys)}"
        start = unrecorded((b"direct", key.encode(), b"0", None)) if existed else RowState()

        async def play() -> RowState:
            if existed:
                await merging.scene.connection.execute("INSERT INTO points VALUES ('direct', $1, 0, NULL)", key)
            await _write(merging.scene, "points", key, history)
            return await _stored(merging.scene, "points", key)

        _same(_expected(start, "points", key, history), merging.runner.run(play()), 4)

    agree()


def test_a_table_of_nothing_but_a_key_follows_the_same_rules(merging: Database) -> None:
    @settings(max_examples=EXAMPLES_MAX // 3)
    @given(history=st.lists(transactions(1, st.just(())), min_size=1, max_size=6))
    def agree(history: list[DeviceTransaction]) -> None:
        key = f"k{next(_keys)}"

        async def play() -> RowState:
            await _write(merging.scene, "bare", key, history)
            return await _stored(merging.scene, "bare", key)

        _same(_expected(RowState(), "bare", key, history), merging.runner.run(play()), 1)

    agree()
