"""A device that holds some columns of a table writes these, and says nothing of the others."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.unit.client.satellite_peer import ITEMS, ITEMS_MIGRATION, item

from syncline.client.columns import lacking, unexplained
from syncline.client.live import Changes
from syncline.client.oplog import Outlines, transactions
from syncline.client.replica import Replica, load_replica
from syncline.client.schema import ForeignKey, Table
from syncline.client.shape_spec import Include, ShapeSpec, shape_spec
from syncline.client.shapes import Subscription
from syncline.client.store import Store, open_store
from syncline.proto.values import (
    ALTER_ADD_COLUMN,
    Gone,
    Insert,
    Migrate,
    MigrationColumn,
    Relation,
    Row,
    Transaction,
    Update,
)


def part(relation_id: int, *columns: str) -> Relation:
    return Relation(relation_id, "public", "items", tuple(c for c in ITEMS.columns if c.name in ("id", *columns)))


TITLES, LOST = part(1 << 31, "title"), part(1 << 31 | 1, "rank", "done")
RELATIONS = {relation.id: relation for relation in (ITEMS, TITLES, LOST)}
TITLES_SPEC = shape_spec("items", columns=["title"])


class Device:
    def __init__(self, store: Store, replica: Replica) -> None:
        self.store = store
        self.replica = replica

    async def subscribed(self, spec: ShapeSpec, relation: Relation, *rows: Row) -> Subscription:
        subscription = await self.replica.subscribe(spec)
        await self.replica.announced(relation)
        self.replica.begin_delivery()
        await self.replica.stage([Insert(relation.id, row, ("o@1",)) for row in rows], RELATIONS)
        await self.replica.apply_shape(subscription, b"1")
        return subscription

    async def unsubscribed(self, subscription: Subscription, *gone: Gone) -> None:
        await self.replica.cancel([subscription])
        await self.replica.stage_gone(gone, RELATIONS)
        await self.replica.apply_gone([subscription], b"2")

    async def receive(self, *changes: Insert | Update | Migrate) -> None:
        await self.replica.apply_transactions([Transaction(1, b"3", changes, "o", 1)], RELATIONS)

    async def write(self, sql: str) -> None:
        stamped = await self.store.write(lambda c: (c.execute(sql), self.replica.stamp(c))[1])
        self.replica.committed(stamped, frozenset())

    async def rows(self) -> list[tuple[object, ...]]:
        return await self.store.read(lambda c: [tuple(row) for row in c.execute("SELECT * FROM items ORDER BY id")])

    async def sent(self) -> list[tuple[tuple[str, ...], Row | None, Row | None]]:
        """Per operation on the wire: the columns, the new row and the old one."""
        outlines = Outlines()
        writes = list(transactions(await self.replica.backlog(0, 100), self.replica.tables, outlines))
        return [
            (outlines.relations[c.relation_id].names, getattr(c, "row", None), getattr(c, "old_row", None))
            for write in writes
            for c in write.changes
        ]


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Device]:
    async with open_store(path) as store:
        replica = await load_replica(store, Changes(), lambda: 100)
        await replica.migrate([ITEMS_MIGRATION])
        yield Device(store, replica)


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Device]:
    async with opened(tmp_path / "app.db") as device:
        yield device


TITLE_A: Row = (b"a", b"A")


async def test_a_write_to_a_column_that_is_not_here_is_refused(device: Device) -> None:
    await device.subscribed(TITLES_SPEC, TITLES, TITLE_A)
    with pytest.raises(sqlite3.IntegrityError, match=r"does not hold the column rank of items.*sync a shape"):
        await device.write("UPDATE items SET rank = 1")
    with pytest.raises(sqlite3.IntegrityError, match="does not hold the column done of items"):
        await device.write("INSERT INTO items (id, title, done) VALUES ('b', 'B', 1)")
    assert await device.rows() == [("a", "A", None, None)]
    assert await device.sent() == []


async def test_what_is_sent_says_nothing_of_columns_that_are_not_here(device: Device) -> None:
    await device.subscribed(TITLES_SPEC, TITLES, TITLE_A)
    await device.write("UPDATE items SET title = 'B'")
    await device.write("INSERT INTO items (id, title, rank) VALUES ('c', 'C', NULL)")
    await device.write("DELETE FROM items WHERE id = 'a'")
    names = ("id", "title")
    assert await device.sent() == [
        (names, (b"a", b"B"), (b"a", b"A")),
        (names, (b"c", b"C"), None),
        (names, None, (b"a", b"B")),
    ]


async def test_a_server_reads_it_under_relations_of_its_own(device: Device) -> None:
    await device.write("INSERT INTO items (id, rank) VALUES ('z', 3)")
    await device.subscribed(TITLES_SPEC, TITLES, TITLE_A)
    await device.write("UPDATE items SET title = 'B' WHERE id = 'a'")
    outlines = Outlines()
    writes = list(transactions(await device.replica.backlog(0, 100), device.replica.tables, outlines))
    ids = [change.relation_id for write in writes for change in write.changes]
    assert len(set(ids)) == 2
    assert [outlines.relations[id].names for id in ids] == [ITEMS.names, ("id", "title")]
    assert all(outlines.relations[id].key_indexes == (0,) for id in ids)


async def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "app.db") as device:
        await device.subscribed(TITLES_SPEC, TITLES, TITLE_A)
    async with opened(tmp_path / "app.db") as device:
        with pytest.raises(sqlite3.IntegrityError, match="does not hold the column rank"):
            await device.write("UPDATE items SET rank = 1")
        await device.write("UPDATE items SET title = 'B'")
        assert await device.sent() == [(("id", "title"), (b"a", b"B"), (b"a", b"A"))]


async def test_a_shape_that_is_on_its_way_counts_already(device: Device) -> None:
    subscription = await device.replica.subscribe(TITLES_SPEC)
    with pytest.raises(sqlite3.IntegrityError, match="does not hold the column rank"):
        await device.write("INSERT INTO items (id, rank) VALUES ('a', 1)")
    await device.replica.forget(subscription)
    await device.write("INSERT INTO items (id, rank) VALUES ('a', 1)")
    assert await device.sent() == [(ITEMS.names, item("a", rank=1), None)]


async def test_a_shape_with_all_columns_counts_from_its_rows_on_until_it_is_unwanted(device: Device) -> None:
    await device.subscribed(TITLES_SPEC, TITLES, TITLE_A)
    whole = await device.replica.subscribe(shape_spec("items"))
    with pytest.raises(sqlite3.IntegrityError, match="does not hold the column rank"):
        await device.write("UPDATE items SET rank = 1")
    await device.replica.apply_shape(whole, b"2")
    await device.write("UPDATE items SET rank = 1")
    await device.replica.cancel([whole])
    with pytest.raises(sqlite3.IntegrityError, match="does not hold the column rank"):
        await device.write("UPDATE items SET rank = 2")


async def test_when_the_shape_is_gone_anything_may_be_written_again(device: Device) -> None:
    subscription = await device.subscribed(TITLES_SPEC, TITLES, TITLE_A)
    await device.unsubscribed(subscription, Gone(TITLES.id, (b"a", None)))
    await device.write("INSERT INTO items (id, rank) VALUES ('b', 1)")
    assert await device.sent() == [(ITEMS.names, item("b", rank=1), None)]
    assert await device.store.read(lambda c: c.execute("SELECT * FROM _syncline_relations").fetchall()) == []


async def test_a_shape_with_all_columns_that_leaves_takes_its_columns_with_it(device: Device) -> None:
    await device.subscribed(TITLES_SPEC, TITLES, TITLE_A)
    whole = await device.subscribed(shape_spec("items", "this.rank = 1"), ITEMS, item("a", "A", 1, True))
    assert await device.rows() == [("a", "A", 1, 1)]
    await device.write("UPDATE items SET rank = 2, title = 'B'")
    await device.unsubscribed(whole)
    await device.receive(Update(LOST.id, (b"a", None, None), None))
    # What was written to it and has not come back stays, and is sent.
    assert await device.rows() == [("a", "B", 2, None)]
    assert await device.sent() == [(ITEMS.names, item("a", "B", 2, True), item("a", "A", 1, True))]
    with pytest.raises(sqlite3.IntegrityError, match="does not hold the column rank"):
        await device.write("UPDATE items SET rank = 3")
    client_id = device.replica.client_id
    echo = Update(TITLES.id, (b"a", b"B"), (b"a", b"A"), (f"{client_id}@100",))
    await device.replica.apply_transactions([Transaction(100, b"4", (echo,), client_id, 2)], RELATIONS)
    assert await device.rows() == [("a", "B", None, None)]


async def test_what_was_written_before_there_was_a_shape_goes_with_the_last_echo(device: Device) -> None:
    await device.write("INSERT INTO items (id, title, rank) VALUES ('a', 'A', 1)")
    await device.write("UPDATE items SET title = 'B'")
    await device.subscribed(TITLES_SPEC, TITLES)
    client_id = device.replica.client_id
    for ms, title, rank in ((100, b"A", 1), (101, b"B", None)):
        echo = Insert(TITLES.id, (b"a", title), (f"{client_id}@{ms}",))
        await device.replica.apply_transactions([Transaction(ms, b"4", (echo,), client_id, ms)], RELATIONS)
        assert await device.rows() == [("a", "B", rank, None)]


async def test_a_column_that_is_taken_from_a_row_leaves_its_tags(device: Device) -> None:
    await device.subscribed(shape_spec("items", "this.rank = 1"), ITEMS, item("a", "A", 1, True))
    await device.receive(Update(LOST.id, (b"a", None, None), None), Update(LOST.id, (b"never here", None, None), None))
    assert await device.rows() == [("a", "A", None, None)]
    assert await device.store.read(lambda c: c.execute("SELECT tags FROM _syncline_shadow").fetchone()[0]) == '["o@1"]'


async def test_a_pending_change_of_another_column_outlives_a_row_that_comes(device: Device) -> None:
    await device.subscribed(shape_spec("items"), ITEMS, item("a", "A", 1, True))
    await device.write("UPDATE items SET rank = 2")
    await device.receive(Update(TITLES.id, (b"a", b"B"), (b"a", b"A"), ("o@2",)))
    assert await device.rows() == [("a", "B", 2, 1)]


async def test_a_column_that_is_added_is_not_held(device: Device) -> None:
    await device.subscribed(TITLES_SPEC, TITLES, TITLE_A)
    table = ITEMS_MIGRATION.table
    assert table is not None
    added = Migrate(
        "2",
        ((ALTER_ADD_COLUMN, "ALTER TABLE items ADD COLUMN mood TEXT"),),
        type(table)("items", (*table.columns, MigrationColumn("mood", "TEXT", "text")), (), ("id",)),
    )
    await device.receive(added)
    with pytest.raises(sqlite3.IntegrityError, match="does not hold the column mood"):
        await device.write("UPDATE items SET mood = 'good'")


async def test_columns_the_service_adds_are_learned_from_the_relation(device: Device) -> None:
    with_rank = part(7, "title", "rank")
    await device.replica.announced(with_rank)  # nobody names columns yet
    await device.subscribed(TITLES_SPEC, with_rank)
    await device.write("INSERT INTO items (id, title, rank) VALUES ('a', 'A', 1)")
    with pytest.raises(sqlite3.IntegrityError, match="does not hold the column done"):
        await device.write("UPDATE items SET done = 1")


async def test_a_reset_forgets_what_was_held(device: Device) -> None:
    subscription = await device.subscribed(TITLES_SPEC, TITLES, TITLE_A)
    await device.replica.cancel([subscription])
    with pytest.raises(sqlite3.IntegrityError, match="does not hold the column rank"):
        await device.write("UPDATE items SET rank = 3")
    await device.replica.reset()
    await device.write("INSERT INTO items (id, rank) VALUES ('b', 1)")
    assert await device.sent() == [(ITEMS.names, item("b", rank=1), None)]


# --- pure -------------------------------------------------------------------------------------------------------------

USERS = Table(0, "users", ("id", "name", "mail"), ("text",) * 3, ("id",))
NOTES = Table(
    1, "notes", ("id", "author", "a", "b"), ("text",) * 4, ("id",), (ForeignKey(("author",), "users", ("id",)),)
)
TABLES = {"users": USERS, "notes": NOTES}
SOME = shape_spec("notes", columns=["a"])
WITH_NAMES = shape_spec("notes", include=[Include("users", on="author", columns=["name"])])


@pytest.mark.parametrize(
    ("table", "specs", "announced", "expected"),
    [
        (NOTES, [], [], ()),
        (NOTES, [SOME], [], ("b",)),
        (USERS, [SOME], [], ()),
        (NOTES, [SOME, shape_spec("notes", "this.a = 'x'")], [], ()),
        (NOTES, [SOME, shape_spec("users")], [], ("b",)),
        (NOTES, [SOME, shape_spec("users")], [None], ()),
        (NOTES, [SOME], [None, frozenset({"id", "author", "a"})], ("b",)),
        (NOTES, [SOME], [None], ()),
        (NOTES, [SOME, shape_spec("notes", "this.a = 'x'", columns=["b"])], [], ()),
        (NOTES, [SOME], [frozenset({"id", "b"})], ("b",)),
        (USERS, [WITH_NAMES], [], ("mail",)),
        (USERS, [WITH_NAMES, SOME], [None], ()),
    ],
)
def test_what_is_held_follows_from_the_shapes_and_the_relations(
    table: Table, specs: list[ShapeSpec], announced: Sequence[frozenset[str] | None], expected: tuple[str, ...]
) -> None:
    assert lacking(table, specs, announced) == expected


def test_rows_come_whole_of_what_is_not_named_but_referred_to() -> None:
    assert unexplained([SOME], TABLES) == {"notes"}
    assert unexplained([WITH_NAMES], TABLES) == {"users"}
    assert unexplained([WITH_NAMES, SOME], TABLES) == set()
    assert unexplained([], TABLES) == {"notes", "users"}
