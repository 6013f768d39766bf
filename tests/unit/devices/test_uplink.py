"""A device's writes on their way to the writer: in order, in slices, and never more than it may hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import cast

import pytest
from tests.catalogs import catalog_of
from tests.unit.devices.edge_scene import CATALOG

from syncline.actors.devices import uplink
from syncline.actors.devices.uplink import SLICE_OPERATIONS, Uplink, rows_of
from syncline.actors.postgres.apply import WriteQueue
from syncline.actors.postgres.batching import LARGE_OPERATIONS, Lane
from syncline.actors.postgres.catalog import Catalog
from syncline.actors.postgres.waitingline import Status
from syncline.actors.postgres.write import Write
from syncline.actors.postgres.writer import Written
from syncline.cluster import Ref
from syncline.proto.events import WriteReceived
from syncline.proto.values import Column, Compensation, Delete, Insert, Relation, RowChange

ITEMS = Relation(0, "public", "items", (Column("id", "INTEGER"), Column("body", "TEXT"), Column("n", "INTEGER")))
NOBODY = cast(Ref, object())
LARGE = max(10 * SLICE_OPERATIONS, LARGE_OPERATIONS) + 1


class Taker:
    """The writer's address."""

    def __init__(self) -> None:
        self.taken: asyncio.Queue[Write] = asyncio.Queue()

    async def send(self, write: Write) -> None:
        self.taken.put_nowait(write)

    async def next(self) -> Write:
        async with asyncio.timeout(5):
            return await self.taken.get()


def transaction(number: int, rows: int = 1, body: bytes = b"x", excess: str = "") -> WriteReceived:
    changes = tuple((ITEMS, Insert(0, (b"%d" % row, body, b"1"))) for row in range(rows))
    return WriteReceived(number, number.to_bytes(4, "big"), changes, excess, octets=rows * len(body))


def answer(write: Write) -> Written:
    return Written(write.lsn, write.ms, "applied", 1)


async def look_again() -> None:
    """There is nothing new."""


@asynccontextmanager
async def sending(taker: Taker) -> AsyncIterator[Uplink]:
    up = Uplink("client", cast(Ref, taker), NOBODY, CATALOG.named, look_again, lambda: None)
    task = asyncio.create_task(up.run())
    try:
        yield up
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_large_transaction_says_the_same_as_in_one_piece() -> None:
    taker = Taker()
    async with sending(taker) as up:
        up.take(transaction(1, LARGE))
        write = await taker.next()
    queue = WriteQueue()
    queue.add(write)
    batch = queue.take(0, Lane.LARGE)
    assert batch is not None
    (element,) = json.loads(batch.text)
    assert [op["row"] for op in element["ops"]] == [[str(row), "x", "1"] for row in range(LARGE)]


async def test_others_have_their_turn_while_a_large_transaction_is_made_ready() -> None:
    taker = Taker()
    async with sending(taker) as up:
        up.take(transaction(1, LARGE))
        turns = 0
        while taker.taken.empty():
            await asyncio.sleep(0)
            turns += 1
    assert turns > LARGE // SLICE_OPERATIONS


async def test_a_large_transaction_keeps_its_place_among_small_ones() -> None:
    taker = Taker()
    async with sending(taker) as up:
        for number, rows in ((1, 1), (2, LARGE), (3, 1)):
            up.take(transaction(number, rows))
        assert [(await taker.next()).lsn for _ in range(3)] == [1, 2, 3]


async def test_what_fills_the_way_up_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "OUT_BYTES_MAX", 1_000)
    taker = Taker()
    async with sending(taker) as up:
        for number, body in ((1, b"x"), (2, b"x" * 2_000), (3, b"x")):
            up.take(transaction(number, body=body))
        for number in (1, 2, 3):
            write = await taker.next()
            for _ in range(5):
                await asyncio.sleep(0)
            assert (write.lsn, taker.taken.empty()) == (number, True)
            event = up.decided(answer(write))
            assert event is not None
            assert event.commit_ms == number


async def test_a_device_that_repeats_a_position_and_a_time_has_each_of_its_writes_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uplink, "WRITES_OUT_MAX", 2)
    taker = Taker()
    async with sending(taker) as up:
        twice = [transaction(1, body=b"first"), transaction(1, body=b"second")]
        for event in (*twice, transaction(2)):
            up.take(event)
        written = [await taker.next() for _ in twice]
        for _ in range(5):
            await asyncio.sleep(0)
        assert taker.taken.empty(), "both are out"
        assert [up.decided(answer(write)) for write in written] == twice
        assert up.decided(answer(written[0])) is None
        assert (await taker.next()).lsn == 2
    assert up.decided(Written(2, 2, "applied", 1)) is not None


async def test_what_goes_under_another_client_id_waits_for_all_that_was_written_before_it() -> None:
    """The writer keeps the order of each id alone."""
    taker = Taker()
    async with sending(taker) as up:
        for number, origin in enumerate(("first", "first", "second", None, "client", "first")):
            up.take(replace(transaction(number), origin=origin))
        left = []
        for together in (["first", "first"], ["second"], ["client", "client"], ["first"]):
            writes = [await taker.next() for _ in together]
            assert [write.client_id for write in writes] == together
            left += [write.lsn for write in writes]
            for write in reversed(writes):
                for _ in range(5):
                    await asyncio.sleep(0)
                assert taker.taken.empty(), "not all of them are decided"
                up.decided(answer(write))
        assert left == list(range(6))


@pytest.mark.parametrize("status", ["duplicate", "rejected"])
async def test_what_is_a_repetition_or_refused_holds_up_nothing(status: Status) -> None:
    taker = Taker()
    async with sending(taker) as up:
        up.take(replace(transaction(1), origin="before"))
        up.take(transaction(2))
        up.decided(replace(answer(await taker.next()), status=status))
        assert (await taker.next()).client_id == "client"


async def test_what_follows_one_for_which_there_was_no_room_waits_for_it_under_another_client_id() -> None:
    taker = Taker()
    async with sending(taker) as up:
        for number, origin in ((1, "before"), (2, "before"), (3, None)):
            up.take(replace(transaction(number), origin=origin))
        first, second = await taker.next(), await taker.next()
        assert up.overloaded(replace(answer(second), status="overloaded"))
        up.decided(answer(first))
        again = await taker.next()
        assert (again.client_id, again.lsn) == (second.client_id, second.lsn)
        for _ in range(5):
            await asyncio.sleep(0)
        assert taker.taken.empty()
        up.decided(answer(again))
        assert (await taker.next()).lsn == 3


async def test_the_way_up_is_full_of_what_waits_for_another_client_id_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "UP_WAITING_MAX", 2)
    taker = Taker()
    async with sending(taker) as up:
        up.take(replace(transaction(1), origin="before"))
        before = await taker.next()
        up.take(transaction(2))
        up.take(transaction(3))
        for _ in range(5):
            await asyncio.sleep(0)
        assert up.full
        up.decided(answer(before))
        assert [(await taker.next()).lsn for _ in range(2)] == [2, 3]
        assert not up.full


async def test_the_way_up_is_full_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uplink, "UP_WAITING_BYTES_MAX", 1_000)
    up = Uplink("client", NOBODY, NOBODY, CATALOG.named, look_again, lambda: None)
    up.take(transaction(1))
    assert not up.full
    up.take(transaction(2, body=b"x" * 1_000))
    assert up.full


async def test_what_waits_counts_by_the_memory_it_takes_which_may_be_more_than_on_the_wire() -> None:
    taker = Taker()
    async with sending(taker) as up:
        up.take(replace(transaction(1), memory=uplink.UP_WAITING_BYTES_MAX))
        assert up.full
        await taker.next()
        assert not up.full


def no_room(write: Write) -> Written:
    return Written(write.lsn, write.ms, "overloaded", 0)


async def test_what_the_writer_has_no_room_for_is_sent_again_in_its_order_when_what_it_took_is_decided() -> None:
    taker = Taker()
    async with sending(taker) as up:
        for number in range(1, 6):
            up.take(transaction(number))
        sent = {write.lsn: write for write in [await taker.next() for _ in range(5)]}
        for number in (4, 5, 3):  # the last it had taken, and let go
            assert up.overloaded(no_room(sent[number]))
        up.take(transaction(6))
        up.decided(answer(sent[1]))
        for _ in range(5):
            await asyncio.sleep(0)
        assert taker.taken.empty(), "2 is not decided"
        up.decided(answer(sent[2]))
        again = [await taker.next() for _ in range(4)]
    assert [write.lsn for write in again] == [3, 4, 5, 6]
    assert [write.turn for write in sent.values()] == [0] * 5
    assert [write.turn for write in again] == [1] * 4


async def test_when_the_writer_takes_nothing_at_all_it_is_not_asked_again() -> None:
    taker = Taker()
    async with sending(taker) as up:
        up.take(transaction(1))
        up.decided(answer(await taker.next()))
        up.take(transaction(2))
        up.take(transaction(3))
        second, third = await taker.next(), await taker.next()
        assert up.overloaded(no_room(second))
        assert up.overloaded(no_room(third)), "it has got on"
        second, third = await taker.next(), await taker.next()
        assert up.overloaded(no_room(second))
        assert not up.overloaded(no_room(third))


async def test_what_is_made_ready_meanwhile_does_not_overtake_what_there_was_no_room_for() -> None:
    taker = Taker()
    async with sending(taker) as up:
        up.take(transaction(1))
        up.take(transaction(2))
        first, second = await taker.next(), await taker.next()
        up.take(transaction(3, LARGE))
        for _ in range(3):
            await asyncio.sleep(0)
        assert up.overloaded(no_room(second))
        up.decided(answer(first))
        assert [(await taker.next()).lsn for _ in range(2)] == [2, 3]


async def test_one_without_its_operations_is_refused_in_its_place() -> None:
    taker = Taker()
    async with sending(taker) as up:
        up.take(transaction(1))
        up.take(transaction(2, 0, excess="a transaction of more than 5 operations"))
        first, second = await taker.next(), await taker.next()
    assert first.refusal is None
    assert second.refusal is not None
    assert (second.refusal.sqlstate, second.refusal.message) == ("54000", "a transaction of more than 5 operations")


@pytest.mark.parametrize("rows", [1, LARGE])
async def test_what_is_refused_goes_with_what_was_written(rows: int) -> None:
    changes = tuple((ITEMS, Insert(0, (b"%d" % row, b"x", b"no number"))) for row in range(rows))
    taker = Taker()
    async with sending(taker) as up:
        up.take(WriteReceived(1, (1).to_bytes(4, "big"), changes, "", octets=rows))
        write = await taker.next()
    queue = WriteQueue()
    queue.add(write)
    batch = queue.take(0, Lane.LARGE if rows > 1 else Lane.BATCHES)
    assert batch is not None
    (element,) = json.loads(batch.text)
    assert element["refuse"]["sqlstate"] == "22P02"
    assert [op["row"] for op in element["ops"]] == [[str(row), "x", "no number"] for row in range(rows)]


async def test_a_table_opened_a_moment_ago_is_looked_for_before_a_write_to_it_is_refused() -> None:
    known = Catalog()

    async def read() -> None:
        nonlocal known
        known = CATALOG

    taker = Taker()
    up = Uplink("client", cast(Ref, taker), NOBODY, lambda table: known.named(table), read, lambda: None)
    task = asyncio.create_task(up.run())
    up.take(transaction(1))
    write = await taker.next()
    task.cancel()
    assert write.refusal is None
    assert [change.row for change in write.changes] == [("0", "x", "1")]


@pytest.mark.parametrize("rows", [1, LARGE])
async def test_a_table_that_takes_more_by_now_is_read_anew_before_a_write_to_it_is_refused(rows: int) -> None:
    table = CATALOG.named("items")
    assert table is not None

    async def read() -> None:
        nonlocal table
        assert table is not None
        table = replace(table, types_now={"id": "text"})

    taker = Taker()
    up = Uplink("client", cast(Ref, taker), NOBODY, lambda _: table, read, lambda: None)
    task = asyncio.create_task(up.run())
    changes = tuple((ITEMS, Insert(0, (b"row %d" % row, b"x", b"1"))) for row in range(rows))
    up.take(WriteReceived(1, (1).to_bytes(4, "big"), changes, "", octets=rows))
    write = await taker.next()
    task.cancel()
    assert write.refusal is None
    assert write.operations == rows


@pytest.mark.parametrize("known", [True, False], ids=["refused by its table", "of no table"])
async def test_one_reading_does_for_all_that_had_come_before_it_began(known: bool) -> None:
    readings = 0
    began, done = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        nonlocal readings
        readings += 1
        began.set()
        await done.wait()

    taker = Taker()
    lookup = CATALOG.named if known else Catalog().named
    up = Uplink("client", cast(Ref, taker), NOBODY, lookup, read, lambda: None)
    task = asyncio.create_task(up.run())
    for number in range(1, 4):
        up.take(transaction(number, body=b"\x00"))
    async with asyncio.timeout(5):
        await began.wait()
    up.take(transaction(4, body=b"\x00"))  # while the first reading is under way: it may not show what this one needs
    up.take(transaction(5, body=b"\x00"))
    done.set()
    refused = [await taker.next() for _ in range(5)]
    up.take(transaction(6, body=b"\x00"))
    refused.append(await taker.next())
    task.cancel()
    assert [write.lsn for write in refused] == list(range(1, 7))
    assert {write.refusal.sqlstate for write in refused if write.refusal} == {"22P02" if known else "42P01"}
    assert all(write.refusal for write in refused)
    assert readings == 3


async def test_a_text_postgres_cannot_hold_refuses_a_large_transaction_too() -> None:
    taker = Taker()
    async with sending(taker) as up:
        up.take(transaction(1, LARGE, b"\x00"))
        write = await taker.next()
    assert write.refusal is not None
    assert write.refusal.sqlstate == "22P02"


NOTES = Relation(0, "public", "notes", (Column("id", "TEXT"), Column("item", "INTEGER")))
SMALL, CAPITAL = b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", b"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"
KEY = {"name": "id", "type": "uuid", "not_null": True, "pk": 1, "enum": None}
ITEM = {"name": "item", "type": "int4", "not_null": False, "pk": None, "enum": None}
KEYED = catalog_of([{"schema": "public", "table": "notes", "oid": 9, "columns": [KEY, ITEM], "fks": [], "indexes": []}])


async def test_a_key_that_is_spelled_otherwise_is_told_before_its_transaction_leaves() -> None:
    told: list[int] = []
    taker = Taker()
    up = Uplink(
        "client",
        cast(Ref, taker),
        NOBODY,
        KEYED.named,
        look_again,
        lambda: None,
        spelled_otherwise=lambda commit_ms: told.append(commit_ms),
    )
    task = asyncio.create_task(up.run())
    changes: tuple[RowChange, ...]
    many = (Insert(0, (SMALL, b"1")),) * (2 * SLICE_OPERATIONS)
    for number, changes in enumerate(
        (
            (Insert(0, (SMALL, b"1")),),
            (Insert(0, (CAPITAL, b"1")),),
            (Delete(0, (CAPITAL, b"1"), ()),),
            (*many, Compensation(0, (CAPITAL, None), ())),
        )
    ):
        event = transaction(number, 0)
        up.take(replace(event, changes=tuple((NOTES, change) for change in changes)))
        await taker.next()
        assert told == list(range(1, number + 1))
    task.cancel()


async def test_a_row_that_is_compensated_by_a_key_spelled_otherwise_counts_as_written() -> None:
    changes = tuple((NOTES, Compensation(0, (key, None), ())) for key in (SMALL, CAPITAL))
    named, written = await rows_of(replace(transaction(1, 0), changes=changes), KEYED.named)
    assert list(named) == [(9, (SMALL,)), (9, (CAPITAL,))]
    assert written == {(9, (CAPITAL,))}
