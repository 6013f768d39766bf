"""Shapes under keys, with columns and includes, and what is shown of them, against a peer over a real WebSocket."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path

import pytest
from tests.unit.client.satellite_peer import ITEMS, Peer, item, running_peer

from syncline.client import Database, Include, Shape, ShapeRefused, ShapeStatus, UsageError, open_db
from syncline.client.schema import STORE_STEPS
from syncline.client.shape_spec import INCLUDE_DEPTH_MAX, shape_spec, spec_from_json, spec_to_json
from syncline.proto.values import Insert, ShapeRequest, Update

pytestmark = pytest.mark.timeout(60)
TAGS = ("postgres_1@0",)
LOW, HIGH, TOP = "this.rank < 3", "this.rank > 1", "this.rank > 2"


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with running_peer() as peer:
        peer.rows = {str(n): (item(str(n), rank=n), TAGS) for n in range(1, 5)}
        peer.selected = {LOW: {"1", "2"}, HIGH: {"2", "3", "4"}, TOP: {"3", "4"}}
        yield peer


@pytest.fixture
async def db(peer: Peer, tmp_path: Path) -> AsyncIterator[Database]:
    async with asyncio.timeout(20), open_db(tmp_path / "app.db", peer.url) as db:
        yield db


async def ids(db: Database) -> str:
    return "".join([row["id"] for row in await db.sql("SELECT id FROM items ORDER BY id")])


async def until_ids(db: Database, wanted: str, watching: asyncio.Event | None = None) -> list[str]:
    """Wait until the items are these; what they were on the way. ``watching`` is set once it knows what they are."""
    seen = []
    async with db.sql("SELECT id FROM items ORDER BY id").live() as results:
        async for rows in results:
            seen.append("".join(row["id"] for row in rows))
            if watching is not None:
                watching.set()
            if seen[-1] == wanted:
                break
    return seen


async def until_state(shape: Shape, state: str) -> ShapeStatus:
    async for status in shape.status_changes():
        if status.state == state:
            return status
    raise AssertionError("unreachable")


async def stored(db: Database) -> list[tuple[object, ...]]:
    """The subscriptions: whose condition, how far."""
    rows = await db.sql("SELECT shape, state, key FROM _syncline_subscriptions ORDER BY position")
    return [(spec_from_json(row["shape"]).where, row["state"], row["key"]) for row in rows]


# --- keys -------------------------------------------------------------------------------------------------------------


async def test_another_shape_under_a_key_replaces_the_one_before_once_it_is_here(db: Database, peer: Peer) -> None:
    await db.connect("token")
    low = await db.sync("items", LOW, key="list")
    await low.synced()
    assert await ids(db) == "12"
    peer.may_finish.clear()
    high = await db.sync("items", HIGH, key="list")
    await asyncio.wait_for(peer.half_delivered.wait(), 10)
    assert (low.status.state, await ids(db)) == ("delivered", "12")
    begun = asyncio.Event()
    watching = asyncio.create_task(until_ids(db, "234", begun))
    await asyncio.wait_for(begun.wait(), 10)
    peer.may_finish.set()
    assert await watching == ["12", "1234", "234"] or watching.result() == ["12", "234"]
    await until_state(low, "unsubscribed")  # told once what the commit that took its rows has done is known
    assert (high.key, high.status) == ("list", ShapeStatus("delivered", 3))
    assert await stored(db) == [(HIGH, "delivered", "list")]
    with pytest.raises(UsageError, match="not subscribed any more"):
        await low.synced()


async def test_the_same_shape_under_a_key_is_subscribed_once_and_apart_from_others(db: Database, peer: Peer) -> None:
    await db.connect("token")
    for key in ("list", "list", None, None, "other"):
        await (await db.sync("items", LOW, key=key)).synced()
    assert await stored(db) == [(LOW, "delivered", "list"), (LOW, "delivered", None), (LOW, "delivered", "other")]
    await (await db.sync("items", LOW, key="list")).unsubscribe()
    await peer.until(lambda: len(peer.held) == 2)
    assert await ids(db) == "12"


async def test_a_refused_replacement_leaves_the_key_as_it_was(db: Database, peer: Peer) -> None:
    await db.connect("token")
    low = await db.sync("items", LOW, key="list")
    await low.synced()
    peer.refuse_subscribe = True
    with pytest.raises(ShapeRefused):
        await db.sync("items", HIGH, key="list")
    assert await stored(db) == [(LOW, "delivered", "list")]
    await peer.commit(Update(ITEMS.id, item("1", "still followed", 1), None, TAGS))
    async with db.sql("SELECT 1 FROM items WHERE title = 'still followed'").live() as results:
        async for rows in results:
            if rows:
                break
    assert low.status.state == "delivered"


async def test_a_replacement_asked_for_offline_and_refused_leaves_the_undelivered_one_before_it(
    db: Database, peer: Peer
) -> None:
    low = await db.sync("items", LOW, key="list")
    high = await db.sync("items", HIGH, key="list")
    peer.refuse_next = 1
    await db.connect("token")
    await low.synced()
    assert (high.status.state, low.status.state) == ("refused", "delivered")
    assert "no table items" in (high.status.reason or "")
    assert await ids(db) == "12"
    assert await stored(db) == [(LOW, "delivered", "list")]


async def test_of_what_was_asked_for_offline_under_a_key_only_the_last_travels(db: Database, peer: Peer) -> None:
    shapes = [await db.sync("items", where, key="list") for where in (LOW, HIGH, TOP)]
    assert db.status.behind == 1
    waiting = asyncio.create_task(shapes[0].synced())
    await db.connect("token")
    await shapes[2].synced()
    with pytest.raises(UsageError, match="taken the place"):
        await waiting
    assert [asked.shapes[0].where for asked in peer.asked] == [TOP]
    assert [shape.status.state for shape in shapes] == ["cancelling", "cancelling", "delivered"]
    await peer.cut()
    await peer.until(lambda: len(peer.starts) == 2)
    await until_state(shapes[0], "unsubscribed")
    assert await stored(db) == [(TOP, "delivered", "list")]


async def test_two_replacements_in_a_row_before_the_first_is_here(db: Database, peer: Peer) -> None:
    await db.connect("token")
    await (await db.sync("items", LOW, key="list")).synced()
    peer.deliver = False
    high = await db.sync("items", HIGH, key="list")
    peer.deliver = True
    top = await db.sync("items", TOP, key="list")
    await top.synced()
    await until_ids(db, "34")
    assert [*peer.held.values()] == [{"3", "4"}]
    assert high.status.state in ("cancelling", "unsubscribed")
    await peer.cut()
    await until_state(high, "unsubscribed")
    assert await stored(db) == [(TOP, "delivered", "list")]


async def test_going_back_to_what_is_here_withdraws_its_replacement(db: Database, peer: Peer) -> None:
    await db.connect("token")
    low = await db.sync("items", LOW, key="list")
    await low.synced()
    peer.deliver = False
    high = await db.sync("items", HIGH, key="list")
    again = await db.sync("items", LOW, key="list")
    assert again.status.state == low.status.state == "delivered"
    await peer.until(lambda: high.status.state != "cancelling")
    assert await stored(db) == [(LOW, "delivered", "list")]
    assert await ids(db) == "12"


async def test_unsubscribing_a_replacement_gives_the_whole_key_up(db: Database, peer: Peer) -> None:
    await db.connect("token")
    await (await db.sync("items", LOW, key="list")).synced()
    await db.disconnect()
    high = await db.sync("items", HIGH, key="list")
    await high.unsubscribe()
    await db.connect()
    await until_ids(db, "")
    assert await stored(db) == []
    assert len(peer.asked) == 1


@pytest.mark.parametrize("lost", ["before the answer", "after the answer", "in the delivery", "before the batch"])
async def test_a_replacement_goes_on_after_a_restart_at_any_moment(peer: Peer, tmp_path: Path, lost: str) -> None:
    async with asyncio.timeout(20):
        async with open_db(tmp_path / "app.db", peer.url) as db:
            await db.connect("token")
            await (await db.sync("items", LOW, key="list")).synced()
            peer.silent = lost == "before the answer"
            peer.deliver = lost != "after the answer"
            if lost == "in the delivery":
                peer.may_finish.clear()
            peer.keep_unsubscribed = lost == "before the batch"
            asking = asyncio.create_task(db.sync("items", HIGH, key="list"))
            if lost == "before the answer":
                await peer.until(lambda: peer.unanswered == 1)
                await db.disconnect()
            high = await asking
            if lost == "in the delivery":
                await asyncio.wait_for(peer.half_delivered.wait(), 10)
            elif lost == "before the batch":
                await high.synced()
                await peer.until(lambda: peer.kept > 0)
                assert await ids(db) == "1234"
        peer.silent = peer.keep_unsubscribed = False
        peer.deliver = True
        peer.may_finish.set()
        async with open_db(tmp_path / "app.db", peer.url) as db:
            await db.connect("token")
            assert all("2" in seen for seen in await until_ids(db, "234"))
            assert await stored(db) == [(HIGH, "delivered", "list")]
    assert [*peer.held.values()][-1:] == [{"2", "3", "4"}]


async def test_a_delivery_that_fails_touches_nothing_of_what_is_here(db: Database, peer: Peer) -> None:
    await db.connect("token")
    low = await db.sync("items", LOW, key="list")
    await low.synced()
    peer.may_finish.clear()
    peer.fail_delivery = True
    high = await db.sync("items", HIGH, key="list")
    waiting = asyncio.create_task(high.synced())
    await asyncio.wait_for(peer.half_delivered.wait(), 10)
    peer.may_finish.set()
    with pytest.raises(ShapeRefused, match="disk full") as refused:
        await waiting
    assert (refused.value.code, high.status.state) == ("SHAPE_DELIVERY_ERROR", "refused")
    assert (await stored(db), await ids(db)) == ([(LOW, "delivered", "list")], "12")
    peer.fail_delivery = False
    await (await db.sync("items", HIGH, key="list")).synced()
    await until_ids(db, "234")


async def test_what_is_here_is_not_forgotten_when_a_server_says_it_has_failed(db: Database, peer: Peer) -> None:
    await db.connect("token")
    low = await db.sync("items", LOW)
    await low.synced()
    await peer.fail(peer.asked[0].subscription_id)
    await (await db.sync("items", HIGH)).synced()
    assert low.status.state == "delivered"
    assert await stored(db) == [(LOW, "delivered", None), (HIGH, "delivered", None)]


# --- what is asked for ------------------------------------------------------------------------------------------------


async def test_columns_and_includes_reach_the_server_and_survive_a_restart(peer: Peer, tmp_path: Path) -> None:
    include = (
        Include("comments", on="item_id", where="this.hidden = false", include=[Include("users", on="author")]),
        Include("regions", on=("country", "region"), columns=["name"]),
    )
    async with asyncio.timeout(20):
        async with open_db(tmp_path / "app.db", peer.url) as db:
            await db.sync("items", LOW, columns=["title", "rank"], include=include, key="list")
        async with open_db(tmp_path / "app.db", peer.url) as db:
            shape = await db.sync("items", LOW, columns=("rank", "title"), include=include[::-1], key="list")
            await db.connect("token")
            await shape.synced()
    (asked,) = peer.asked
    (request,) = asked.shapes
    assert (request.table, request.where, request.columns) == ("items", LOW, ("rank", "title"))
    id = request.request_id
    users = ShapeRequest(id, "users")
    assert request.include == (
        (("country", "region"), ShapeRequest(id, "regions", columns=("name",))),
        (("item_id",), ShapeRequest(id, "comments", "this.hidden = false", ((("author",), users),))),
    )


def nested(levels: int) -> list[Include]:
    include: list[Include] = []
    for _ in range(levels):
        include = [Include("items", on="parent", include=include)]
    return include


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"table": ""}, "names a table"),
        ({"table": "t", "columns": []}, "at least one"),
        ({"table": "t", "columns": "id"}, r"write \('id',\)"),
        ({"table": "t", "include": [Include("c", on=())]}, "at least one"),
        ({"table": "t", "include": [Include("c", on="t_id"), Include("c", on=("t_id",))]}, "included twice"),
        ({"table": "t", "include": nested(INCLUDE_DEPTH_MAX + 1)}, "levels deep"),
        ({"table": "t", "where": "x" * 300_000}, "at most"),
        ({"table": "t", "where": "\ud800"}, "Unicode"),
    ],
)
def test_what_no_server_could_be_asked_is_refused_at_once(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        shape_spec(**arguments)  # type: ignore[arg-type]


async def test_the_deepest_tree_is_understood(db: Database, peer: Peer) -> None:
    await db.connect("token")
    await (await db.sync("items", include=nested(INCLUDE_DEPTH_MAX))).synced()
    depth, request = 0, peer.asked[0].shapes[0]
    while request.include:
        depth, request = depth + 1, request.include[0][1]
    assert depth == INCLUDE_DEPTH_MAX


def test_a_stored_shape_reads_back() -> None:
    spec = shape_spec("t", "this.n = 'é'", ["b", "a"], [Include("u", on=("x", "y"), columns=["c"])])
    assert spec_from_json(spec_to_json(spec)) == spec


# --- what is shown ----------------------------------------------------------------------------------------------------


async def test_the_rows_that_have_arrived_are_shown_with_the_estimate(db: Database, peer: Peer) -> None:
    peer.rows_estimate = 5
    shape = await db.sync("items")
    assert shape.status == ShapeStatus("requested")
    peer.may_finish.clear()
    await db.connect("token")
    async for status in shape.status_changes():
        if status.rows == 1:
            break
    assert shape.status == ShapeStatus("receiving", 1, 5)
    await peer.cut()
    await until_state(shape, "requested")
    peer.may_finish.set()
    await shape.synced()
    assert shape.status == ShapeStatus("delivered", 4, 5)
    await shape.unsubscribe()
    assert (await until_state(shape, "unsubscribed")).rows == 4


async def test_what_a_reset_fetches_anew_is_shown_as_requested(db: Database, peer: Peer) -> None:
    await db.connect("token")
    shape = await db.sync("items", key="all")
    await shape.synced()
    peer.refuse_start_once = "BEHIND_WINDOW"
    peer.deliver = False
    await peer.cut()
    await until_state(shape, "requested")
    await peer.until(lambda: len(peer.asked) == 2)
    peer.deliver = True
    await peer.cut()
    await shape.synced()


async def test_a_store_of_the_release_before_is_taken_over(peer: Peer, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "app.db") as connection:
        for sql in chain.from_iterable(STORE_STEPS[:1]):
            connection.execute(sql)
        connection.execute("INSERT INTO _syncline_state (one, client_id) VALUES (1, 'me')")
        connection.execute(
            "INSERT INTO _syncline_subscriptions (subscription_id, shape, state) VALUES (?, ?, ?)",
            ("an id", '{"table": "items", "where": ""}', "requested"),
        )
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    async with asyncio.timeout(20), open_db(tmp_path / "app.db", peer.url) as db:
        assert db.client_id == "me"
        await db.connect("token")
        await (await db.sync("items")).synced()
        assert await stored(db) == [("", "delivered", None)]
        await peer.commit(Insert(ITEMS.id, item("5"), TAGS))
        await until_ids(db, "12345")
