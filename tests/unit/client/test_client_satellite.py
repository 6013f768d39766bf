"""The satellite against a peer that speaks the protocol by the book, over a real WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.client.satellite_peer import ITEMS, Peer, item, running_peer

from syncline.client import (
    AuthRefused,
    Database,
    ServerRefused,
    ShapeRefused,
    Status,
    UsageError,
    connectivity,
    open_db,
)
from syncline.client.transport import Transport, open_websocket
from syncline.proto import codec
from syncline.proto.codec import MessageType
from syncline.proto.values import Delete, Gone, Insert, Update

TAGS = ("postgres_1@0",)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with running_peer() as peer:
        yield peer


@pytest.fixture
async def db(peer: Peer, tmp_path: Path) -> AsyncIterator[Database]:
    async with asyncio.timeout(20), open_db(tmp_path / "app.db", peer.url) as db:
        yield db


async def items(db: Database) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await db.sql("SELECT id, title, rank, done FROM items ORDER BY id")]


async def until(db: Database, wanted: str) -> None:
    """Wait until an SQL condition over the local database is true."""
    async with db.sql(f"SELECT {wanted}").live() as results:
        async for rows in results:
            if rows[0][0]:
                return


async def status(db: Database, **wanted: object) -> Status:
    async for status in db.status_changes():
        if all(getattr(status, name) == value for name, value in wanted.items()):
            return status
    raise AssertionError("unreachable")


async def synced(db: Database, peer: Peer) -> None:
    """Connected, with the items of the peer here."""
    await db.connect("token")
    await (await db.sync("items")).synced()


async def test_a_fresh_device_gets_its_schema_and_its_shape(db: Database, peer: Peer) -> None:
    peer.rows = {"a": (item("a", "first", 2**63 - 1, True), TAGS), "b": (item("b"), ("postgres_1@7",))}
    await synced(db, peer)
    assert await items(db) == [("a", "first", 2**63 - 1, 1), ("b", None, None, None)]
    assert db.status == Status(connected=True, reason=None)


async def test_a_local_write_does_not_wait_for_a_delivery_and_merges_with_it(db: Database, peer: Peer) -> None:
    peer.rows = {key: (item(key, "theirs", 1), ("postgres_1@0",)) for key in ("a", "b", "c")}
    peer.may_finish.clear()
    await db.connect("token")
    shape = await db.sync("items")
    await asyncio.wait_for(peer.half_delivered.wait(), 10)
    await until(db, "EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'items')")
    await db.execute("INSERT INTO items (id, title, rank) VALUES ('b', 'mine', 2)")
    assert await items(db) == [("b", "mine", 2, None)]
    peer.may_finish.set()
    await shape.synced()
    assert await items(db) == [("a", "theirs", 1, None), ("b", "mine", 2, None), ("c", "theirs", 1, None)]
    await status(db, pending_writes=0)


async def test_a_shape_wanted_while_the_others_are_being_asked_for_is_asked_for_too(peer: Peer, tmp_path: Path) -> None:
    asking, may_ask = asyncio.Event(), asyncio.Event()

    class Slow:
        """A line that takes the first subscribe when it is told to."""

        def __init__(self, line: Transport) -> None:
            self._line = line
            self.protocol = line.protocol
            self.receive = line.receive

        async def send(self, frame: bytes) -> None:
            if frame[:1] == bytes((MessageType.RPC_REQUEST,)) and b"subscribe" in frame and not asking.is_set():
                asking.set()
                await may_ask.wait()
            await self._line.send(frame)

    @asynccontextmanager
    async def open_slow(url: str) -> AsyncIterator[Transport]:
        async with open_websocket(url) as line:
            yield Slow(line)

    async with asyncio.timeout(20), open_db(tmp_path / "app.db", peer.url, open_transport=open_slow) as db:
        early = await db.sync("items")
        connecting = asyncio.create_task(db.connect("token"))
        await asyncio.wait_for(asking.wait(), 10)
        late = await db.sync("items", "this.rank > 0")
        unwanted = await db.sync("items", "this.rank > 1")
        may_ask.set()
        await unwanted.unsubscribe()
        await connecting
        await early.synced()
        await late.synced()


async def test_a_delivery_that_breaks_in_the_middle_leaves_nothing_and_comes_again(db: Database, peer: Peer) -> None:
    peer.rows = {key: (item(key), TAGS) for key in ("a", "b")}
    peer.may_finish.clear()
    await db.connect("token")
    shape = await db.sync("items")
    await asyncio.wait_for(peer.half_delivered.wait(), 10)
    await until(db, "EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'items')")
    await peer.cut()
    await status(db, connected=False)
    assert await items(db) == []
    peer.rows = {"c": (item("c"), TAGS)}
    peer.may_finish.set()
    await shape.synced()
    assert [row[0] for row in await items(db)] == ["c"]


async def test_a_delivery_replaces_what_was_known_of_its_rows(db: Database, peer: Peer) -> None:
    peer.rows = {"a": (item("a", "old"), ("other@5",)), "b": (item("b", "old"), ("other@5",))}
    await synced(db, peer)
    peer.rows = {"a": (item("a", "new"), TAGS), "b": (item("b", "new"), ("other@6",))}
    await (await db.sync("items", "this.rank IS NULL")).synced()
    assert [row[1] for row in await items(db)] == ["new", "new"]
    tags = [tuple(row) for row in await db.sql("SELECT key, tags FROM _syncline_shadow")]
    assert tags == [('["b"]', '["other@6"]')]


async def test_live_changes_arrive(db: Database, peer: Peer) -> None:
    peer.rows = {"a": (item("a", "first"), TAGS)}
    await synced(db, peer)
    await peer.commit(Insert(ITEMS.id, item("b", "new"), ("postgres_1@1000",)))
    await peer.commit(Update(ITEMS.id, item("a", "better"), item("a", "first"), ("postgres_1@1001",)))
    await peer.commit(Delete(ITEMS.id, item("b", "new"), ()), Gone(ITEMS.id, item("zzz")))
    await peer.commit(Insert(ITEMS.id, item("end"), TAGS))
    await until(db, "EXISTS (SELECT 1 FROM items WHERE id = 'end')")
    assert await items(db) == [("a", "better", None, None), ("end", None, None, None)]


async def test_transactions_that_arrive_together_are_shown_together(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    seen: list[int] = []
    async with db.sql("SELECT count(*) FROM items").live() as results:
        await anext(results)
        await peer.commit_together(*((1_000, Insert(ITEMS.id, item(str(number)), TAGS)) for number in range(200)))
        async for rows in results:
            seen.append(rows[0][0])
            if seen[-1] == 200:
                break
    assert seen == [200]
    ((lsn,),) = await db.sql("SELECT lsn FROM _syncline_state")
    assert int(lsn) == peer.lsn


async def test_echoes_that_arrive_together_release_their_own_writes_and_no_others(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    peer.echo = False
    for title in ("one", "two", "three"):
        await db.execute(
            "INSERT INTO items (id, title) VALUES ('a', ?1) ON CONFLICT DO UPDATE SET title = ?1", (title,)
        )
    await peer.until(lambda: len(peer.writes) == 3)
    tags = tuple(f"{db.client_id}@{write.commit_ms}" for write in peer.writes)
    await peer.commit_together(
        (peer.writes[0].commit_ms, Insert(ITEMS.id, item("a", "one"), tags[:1])),
        (peer.writes[1].commit_ms, Update(ITEMS.id, item("a", "two"), item("a", "one"), tags[1:2])),
        origin=db.client_id,
    )
    await status(db, pending_writes=1)
    assert await items(db) == [("a", "three", None, None)]
    await peer.echo_write(peer.writes[2], Update(ITEMS.id, item("a", "three"), None, tags[2:]), client_id=db.client_id)
    await status(db, pending_writes=0)
    assert [tuple(row) for row in await db.sql("SELECT tags FROM _syncline_shadow")] == [(f'["{tags[2]}"]',)]


async def test_what_precedes_a_transaction_that_makes_no_sense_is_applied(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    elsewhere = replace(ITEMS, id=ITEMS.id + 90, table="elsewhere")  # which no migration has made here
    await peer._send(codec.relation_message(elsewhere))
    sense = [Insert(ITEMS.id, item(key), TAGS) for key in "ab"]
    nonsense = Insert(elsewhere.id, item("c"), TAGS)
    await peer.commit_together(*((1_000, change) for change in (*sense, nonsense)))
    await status(db, connected=False)
    assert [row[0] for row in await items(db)] == ["a", "b"]
    await status(db, connected=True)
    assert int(peer.starts[-1].lsn) == peer.lsn - 1


async def test_a_local_write_goes_up_and_its_echo_releases_it(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    async with db.transaction() as tx:
        await tx.execute("INSERT INTO items (id, title) VALUES ('a', 'x')")
        await tx.execute("INSERT INTO items (id, title) VALUES ('b', 'y')")
    await status(db, pending_writes=0)
    (write,) = peer.writes
    assert [change.row for _, change in write.changes if isinstance(change, Insert)] == [item("a", "x"), item("b", "y")]
    assert [column.type_name for column in write.changes[0][0].columns] == ["text", "text", "int8", "bool"]
    assert await items(db) == [("a", "x", None, None), ("b", "y", None, None)]


async def test_writes_made_offline_go_up_on_connecting_in_their_order(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    await db.disconnect()
    for number in range(50):
        await db.execute("INSERT INTO items (id, rank) VALUES (?, ?)", (f"i{number:02}", number))
    assert db.status.pending_writes == 50
    await db.connect()
    await status(db, pending_writes=0)
    assert [write.lsn for write in peer.writes] == [number.to_bytes(4, "big") for number in range(1, 51)]
    stamps = [write.commit_ms for write in peer.writes]
    assert stamps == sorted(set(stamps))


async def test_writes_without_echo_are_sent_again_on_the_next_connection(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    peer.echo = False
    await db.execute("INSERT INTO items (id) VALUES ('a')")
    await peer.until(lambda: len(peer.writes) == 1)
    peer.echo = True
    await peer.cut()
    await peer.until(lambda: len(peer.writes) == 2)
    await status(db, pending_writes=0)
    assert peer.writes[0] == peer.writes[1]


async def test_a_write_the_server_calls_invalid_is_withheld_on_the_next_connection(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    await db.disconnect()
    for key in ("a", "b", "c"):
        await db.execute("INSERT INTO items (id) VALUES (?)", (key,))
    peer.refuse_write = 2
    await db.connect()
    await status(db, connected=False)
    shown = await status(db, connected=True, pending_writes=2)
    assert "no such thing" in (shown.last_error or "")
    await peer.commit(Insert(ITEMS.id, item("theirs"), TAGS))
    await until(db, "EXISTS (SELECT 1 FROM items WHERE id = 'theirs')")
    assert [int.from_bytes(write.lsn, "big") for write in peer.writes][:2] == [1, 2]
    assert len(peer.starts) == 3


async def test_a_withheld_write_is_tried_again_on_the_connection_after_that(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    peer.refuse_write = 1
    await db.execute("INSERT INTO items (id) VALUES ('a')")
    await peer.until(lambda: len(peer.starts) == 2)
    await status(db, connected=True)
    assert len(peer.writes) == 1
    peer.refuse_write = None
    await peer.cut()
    await status(db, pending_writes=0)
    assert (await status(db, connected=True)).last_error is None


async def test_an_empty_echo_releases_a_write_too(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    peer.echo = False
    await db.execute("INSERT INTO items (id) VALUES ('a')")
    await peer.until(lambda: len(peer.writes) == 1)
    await peer.echo_write(peer.writes[0], client_id=db.client_id)
    await status(db, pending_writes=0)


async def test_a_device_resumes_after_its_position_with_what_it_holds(peer: Peer, tmp_path: Path) -> None:
    async with asyncio.timeout(20):
        async with open_db(tmp_path / "app.db", peer.url) as db:
            await synced(db, peer)
        async with open_db(tmp_path / "app.db", peer.url) as db:
            await (await db.sync("items")).synced()
            await db.connect("token")
    fresh, resumed = peer.starts
    assert (fresh.lsn, fresh.subscription_ids, fresh.schema_version) == (b"", (), None)
    assert (resumed.lsn, len(resumed.subscription_ids), resumed.schema_version) == (b"102", 1, None)


async def test_a_cut_line_is_reconnected_by_itself(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    await peer.cut()
    assert (await status(db, connected=False)).reason == "unreachable"
    await status(db, connected=True)
    assert len(peer.starts) == 2


@pytest.mark.parametrize("code", [1001, 1012])
async def test_a_server_that_restarts_is_come_back_to_at_once(
    db: Database, peer: Peer, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(connectivity, "backoff_s", lambda failures, jitter: 3600.0)
    await synced(db, peer)
    await peer.close(code, "the service restarts")
    await peer.until(lambda: len(peer.starts) == 2)
    await status(db, connected=True)


async def test_a_server_that_sends_everybody_away_before_a_stream_is_not_asked_in_a_hurry(
    db: Database, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = asyncio.Event()

    def backoff_s(failures: int, jitter: float) -> float:
        if failures == 3:
            third.set()
        return 0.0 if failures < 3 else 3600.0

    monkeypatch.setattr(connectivity, "backoff_s", backoff_s)
    await synced(db, peer)
    peer.restarting = True
    await peer.close(1012, "the service restarts")
    await third.wait()


@pytest.mark.parametrize("code", ["BEHIND_WINDOW", "INVALID_POSITION", "SUBSCRIPTION_NOT_FOUND"])
async def test_a_lost_position_starts_over_with_the_same_shapes_and_keeps_local_writes(
    db: Database, peer: Peer, code: str
) -> None:
    peer.rows = {"a": (item("a", "old"), TAGS), "b": (item("b", "old"), TAGS)}
    await synced(db, peer)
    await db.disconnect()
    await db.execute("INSERT INTO items (id, title) VALUES ('mine', 'written offline')")
    peer.rows = {"b": (item("b", "new"), TAGS)}
    peer.refuse_start_once = code
    await db.connect()
    await status(db, pending_writes=0, behind=0, connected=True)
    assert await items(db) == [("b", "new", None, None), ("mine", "written offline", None, None)]
    assert (peer.starts[-1].lsn, peer.starts[-1].schema_version) == (b"", "20240101_1")


async def test_a_shape_the_server_refuses_raises_and_touches_nothing(db: Database, peer: Peer) -> None:
    peer.rows = {"a": (item("a"), TAGS)}
    await synced(db, peer)
    peer.refuse_subscribe = True
    with pytest.raises(ShapeRefused, match="no table secrets") as refusal:
        await db.sync("secrets")
    assert refusal.value.code == "TABLE_NOT_FOUND"
    assert len(await items(db)) == 1
    assert (db.status.connected, db.status.behind) == (True, 0)


async def test_a_shape_asked_for_offline_and_refused_later_tells_whoever_waits(db: Database, peer: Peer) -> None:
    shape = await db.sync("secrets")
    peer.refuse_subscribe = True
    waiting = asyncio.ensure_future(shape.synced())
    await db.connect("token")
    with pytest.raises(ShapeRefused):
        await waiting
    with pytest.raises(UsageError, match="not subscribed any more"):
        await shape.synced()


async def test_an_undelivered_shape_is_asked_for_again_under_a_fresh_id(db: Database, peer: Peer) -> None:
    peer.deliver = False
    await db.connect("token")
    shape = await db.sync("items")
    peer.rows = {"a": (item("a"), TAGS)}
    peer.deliver = True
    await peer.cut()
    await shape.synced()
    assert len(await items(db)) == 1


async def test_the_same_shape_is_subscribed_once(db: Database, peer: Peer) -> None:
    await db.connect("token")
    await asyncio.gather(*(db.sync("items") for _ in range(5)))
    assert len(await db.sql("SELECT * FROM _syncline_subscriptions")) == 1


async def test_sync_does_not_wait_for_ever_for_a_server_that_stays_silent(db: Database, peer: Peer) -> None:
    await db.connect("token")
    peer.silent = True
    asking = asyncio.ensure_future(db.sync("items"))
    await peer.until(lambda: peer.unanswered == 1)
    await db.disconnect()
    await asking
    assert db.status.behind == 1


async def test_unsubscribing_removes_the_rows_when_the_server_says_so(db: Database, peer: Peer) -> None:
    peer.rows = {"a": (item("a"), TAGS)}
    await db.connect("token")
    shape = await db.sync("items")
    await shape.synced()
    await shape.unsubscribe()
    await until(db, "NOT EXISTS (SELECT 1 FROM items)")
    assert await db.sql("SELECT * FROM _syncline_subscriptions") == []
    with pytest.raises(UsageError):
        await shape.synced()


async def test_unsubscribing_offline_is_done_on_the_next_connection(db: Database, peer: Peer) -> None:
    peer.rows = {"a": (item("a"), TAGS)}
    await db.connect("token")
    shape = await db.sync("items")
    await shape.synced()
    await db.disconnect()
    await shape.unsubscribe()
    assert len(await items(db)) == 1
    await db.connect()
    await until(db, "NOT EXISTS (SELECT 1 FROM items)")
    assert len(peer.starts[-1].subscription_ids) == 1


async def test_a_shape_given_up_while_it_arrives_leaves_although_the_line_was_lost(db: Database, peer: Peer) -> None:
    peer.rows = {"a": (item("a"), TAGS), "b": (item("b"), TAGS)}
    peer.may_finish.clear()
    await db.connect("token")
    shape = await db.sync("items")
    await asyncio.wait_for(peer.half_delivered.wait(), 10)
    await shape.unsubscribe()
    peer.silent = True  # the unsubscribe is lost on its way
    peer.may_finish.set()
    await until(db, "(SELECT count(*) FROM items) = 2")
    assert db.status.behind == 0
    peer.silent = False
    await peer.cut()
    await until(db, "NOT EXISTS (SELECT 1 FROM items)")
    assert len(peer.starts[-1].subscription_ids) == 1
    assert await db.sql("SELECT * FROM _syncline_subscriptions") == []


async def test_a_shape_given_up_before_it_arrived_is_not_asked_for_again(db: Database, peer: Peer) -> None:
    peer.deliver = False
    await db.connect("token")
    shape = await db.sync("items")
    await shape.unsubscribe()
    peer.deliver = True
    await peer.cut()
    await peer.until(lambda: len(peer.starts) == 2)
    other = await db.sync("items")
    await other.synced()
    assert [tuple(row) for row in await db.sql("SELECT position, state FROM _syncline_subscriptions")] == [
        (2, "delivered")
    ]
    with pytest.raises(UsageError, match="not subscribed any more"):
        await shape.synced()


async def test_a_refused_token_raises_and_is_not_tried_again(db: Database, peer: Peer) -> None:
    peer.accepted_tokens = {"good"}
    with pytest.raises(AuthRefused):
        await db.connect("bad")
    assert (db.status.connected, db.status.reason) == (False, "token refused")
    await db.connect("good")
    assert db.status.connected
    assert peer.tokens == ["bad", "good"]


async def test_an_expired_token_waits_for_a_new_one(db: Database, peer: Peer) -> None:
    await db.connect("short-lived")
    await peer.close(4000, "JWT-expired")
    assert (await status(db, connected=False)).reason == "token refused"
    await db.connect("new")
    assert db.status.connected


async def test_a_token_callback_is_asked_again_when_the_token_has_expired(db: Database, peer: Peer) -> None:
    tokens = iter(["one", "two"])

    async def fetch() -> str:
        return next(tokens)

    await db.connect(fetch)
    await peer.close(4000, "JWT-expired")
    await peer.until(lambda: peer.tokens == ["one", "two"])
    await status(db, connected=True)


async def test_an_unknown_schema_version_is_refused_for_good_and_data_stays(db: Database, peer: Peer) -> None:
    peer.rows = {"a": (item("a"), TAGS)}
    await synced(db, peer)
    await db.disconnect()
    peer.refuse_start_once = "UNKNOWN_SCHEMA_VSN"
    with pytest.raises(ServerRefused, match="UNKNOWN_SCHEMA_VSN"):
        await db.connect()
    assert db.status.reason == "refused"
    assert len(await items(db)) == 1


async def test_transactions_are_acknowledged_before_the_window_is_full(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    for number in range(40):
        await peer.commit(Insert(ITEMS.id, item(str(number)), TAGS))
    await peer.until(lambda: any(ack.transaction_id >= peer.lsn - 30 for ack in peer.acks))
    assert len(peer.acks) < 40


async def test_a_device_that_receives_little_acknowledges_it_in_time(
    db: Database, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.client.connection.ACK_INTERVAL_S", 0.05)
    await synced(db, peer)
    await peer.commit(Insert(ITEMS.id, item("a"), TAGS))
    await peer.until(lambda: bool(peer.acks) and peer.acks[-1].transaction_id == peer.lsn)


async def test_a_delivery_is_acknowledged_with_its_subscription(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    await peer.until(lambda: any(ack.subscription_ids for ack in peer.acks))


async def test_a_stream_that_makes_no_sense_is_an_error_to_retry_not_the_end(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    await peer._send(b"\xff nonsense")
    assert (await status(db, connected=False)).last_error is not None
    await status(db, connected=True)


async def test_what_is_applied_survives_being_disconnected_in_the_middle(db: Database, peer: Peer) -> None:
    await synced(db, peer)
    for number in range(200):
        await peer.commit(Insert(ITEMS.id, item(f"{number:03}"), TAGS))
    await db.disconnect()
    applied = len(await items(db))
    ((lsn,),) = await db.sql("SELECT lsn FROM _syncline_state")
    assert int(lsn) == 102 + applied
    await db.connect()
    assert peer.starts[-1].lsn == lsn
