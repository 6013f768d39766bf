"""One connected device between its socket and the rest of the service."""

from __future__ import annotations

import asyncio
import dataclasses

import asyncpg
import pytest
from tests.tokens import insecure_token
from tests.unit.devices.edge_scene import (
    CATALOG,
    DEVICE_ITEMS,
    REQUEST,
    SUBSCRIPTION,
    WATERMARK,
    EdgeScene,
    FakeConnection,
    OneDevice,
    written,
)

from syncline.actors.devices import carrying, echoes
from syncline.actors.devices.device import Device
from syncline.actors.devices.following import AwaitLsn, Followed, OwnPassed, Released, Unfollow
from syncline.actors.devices.turns import Turns
from syncline.actors.names import GATEWAY, SHARD
from syncline.actors.postgres.currentrows import CurrentRow
from syncline.actors.postgres.waitingline import Status
from syncline.actors.postgres.write import Rejection
from syncline.actors.postgres.writer import Written
from syncline.actors.shapes.frames import Frame, begin_of, lsn_bytes
from syncline.actors.shapes.log import Page
from syncline.actors.shapes.messages import NotifyReady, ReadRows, ShapeGone, ShapeReady
from syncline.actors.shapes.router import ShownUpTo
from syncline.actors.shapes.rows import RowsGone
from syncline.actors.shapes.shape import schema_shape
from syncline.cluster.testing import crash, spawn
from syncline.proto import codec, events
from syncline.proto.assembly import TransactionLimits
from syncline.proto.values import Gone, Insert, Transaction, Update

ITEMS = CATALOG.tables[7].relation
TRY_AGAIN_LATER = 1013


@pytest.fixture
async def scene() -> EdgeScene:
    return await EdgeScene().start()


# --- beginning --------------------------------------------------------------------------------------------------------


async def test_a_fresh_device_follows_the_schema_from_where_the_stream_is(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    await scene.bundler_followed(1)
    assert set(scene.bundler.followed[0].shapes) == {schema_shape("sqlite").hash}
    assert scene.bundler.authors[0].client_id == device.client_id


async def test_devices_are_admitted_in_turn_and_not_those_that_have_given_up(scene: EdgeScene) -> None:
    turns = Turns(1)
    scene.around = dataclasses.replace(scene.around, admissions=turns)
    first, gone, last = (OneDevice(scene, client_id) for client_id in ("first", "gone", "last"))
    async with turns:
        for device in (first, gone, last):
            device.ref = await spawn(device.device, scene.context)
            device.say(device.connection.client.authenticate(device.client_id, insecure_token("user")))
            for _ in range(5):
                await asyncio.sleep(0)  # so that they queue in this order
        assert not scene.gateway.received
        gone.connection.close(1006)
        gone.device.receiver.closed(1006, "")
    for device in (first, last):
        await device.connection.expect(events.Authenticated)
        assert (await scene.gateway.next()).client_id == device.client_id
    await gone.ref.join()
    assert not scene.gateway.received


async def test_a_socket_that_a_change_has_filled_gets_the_next_when_it_has_drained(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    await scene.bundler_followed(1)
    generation = scene.bundler.followed[-1].generation
    for _ in range(20):
        await asyncio.sleep(0)  # it follows, and rests
    device.connection.writable = False
    for lsn in range(WATERMARK + 1, WATERMARK + 4):
        body = begin_of(lsn, 1, "somebody") + codec.encode_commit(1, lsn_bytes(lsn))
        device.ref.cast(Released(generation, (Frame(lsn, 1, "somebody", body),), lsn))
    first = await device.connection.expect(events.TransactionReceived)
    for _ in range(20):
        await asyncio.sleep(0)  # time for a wrong message: none is to come
    assert device.connection.events.empty()
    device.connection.writable = True
    device.device.receiver.drained()
    others = [await device.connection.expect(events.TransactionReceived) for _ in range(2)]
    lsns = [int(event.transaction.lsn) for event in (first, *others)]
    assert lsns == [WATERMARK + 1, WATERMARK + 2, WATERMARK + 3]


async def test_writes_are_asked_for_only_after_the_bundler_knows_their_author(scene: EdgeScene) -> None:
    crash(scene.bundler.ref)
    await scene.bundler.ref.join()
    device = OneDevice(scene)
    await device.authenticate()
    device.say(device.connection.client.start(b"", [], None, "sqlite"))
    assert (await device.connection.ended())[0] == TRY_AGAIN_LATER
    assert device.connection.events.empty(), "it has not been asked for its writes"


async def test_a_resumed_device_follows_the_shapes_of_its_subscriptions(scene: EdgeScene) -> None:
    first = await OneDevice.streaming(scene)
    first.subscribe(table="notes")
    await first.connection.expect(events.ShapeDataEnded)
    second = OneDevice(scene)
    await second.authenticate()
    await second.start(b"%d" % WATERMARK, SUBSCRIPTION)
    await scene.bundler_followed(3)
    tables = {scene.ensured[shape].table for shape in scene.bundler.followed[-1].shapes}
    assert tables == {"migrations", "notes", "items"}, "notes refer to items"


@pytest.mark.parametrize(
    ("lsn", "subscriptions", "code"),
    [
        (b"1000", ("unknown",), "SUBSCRIPTION_NOT_FOUND"),
        (b"no position", (), "BEHIND_WINDOW"),
        (b"999999", (), "BEHIND_WINDOW"),
        (b"499", (), "BEHIND_WINDOW"),
    ],
)
async def test_what_cannot_be_resumed_is_refused_by_name(
    scene: EdgeScene, lsn: bytes, subscriptions: tuple[str, ...], code: str
) -> None:
    device = OneDevice(scene)
    await device.authenticate()
    device.say(device.connection.client.start(lsn, list(subscriptions), None, "sqlite"))
    refused = await device.connection.expect(events.StreamRefused)
    assert refused.code == code
    assert (await device.connection.ended())[0] == 1007


async def test_a_shape_that_is_still_being_read_cannot_be_resumed(scene: EdgeScene) -> None:
    first = await OneDevice.streaming(scene)
    first.subscribe()
    await first.connection.expect(events.ShapeDataEnded)
    scene.ready = None
    second = OneDevice(scene)
    await second.authenticate()
    second.say(second.connection.client.start(b"%d" % WATERMARK, [SUBSCRIPTION], None, "sqlite"))
    assert (await second.connection.expect(events.StreamRefused)).code == "BEHIND_WINDOW"


# --- what is away -----------------------------------------------------------------------------------------------------

AWAY = [
    ConnectionRefusedError("refused"),
    asyncpg.ConnectionDoesNotExistError("closed in the middle"),
    asyncpg.InterfaceError("the pool is closing"),
    TimeoutError(),
]


async def in_order(device: OneDevice) -> None:
    """The device has closed by itself, and not crashed."""
    assert (await device.connection.ended())[0] == TRY_AGAIN_LATER
    assert not (await device.ref.join()).abnormal


@pytest.mark.parametrize("error", AWAY)
async def test_postgres_away_at_authentication_closes_in_order(scene: EdgeScene, error: Exception) -> None:
    scene.database.away = error
    device = OneDevice(scene)
    device.ref = await spawn(device.device, scene.context)
    device.say(device.connection.client.authenticate("client", insecure_token("user")))
    await in_order(device)


@pytest.mark.parametrize("error", AWAY)
async def test_postgres_away_at_the_start_closes_in_order(scene: EdgeScene, error: Exception) -> None:
    device = OneDevice(scene)
    await device.authenticate()
    scene.database.away = error
    device.say(device.connection.client.start(b"", [], None, "sqlite"))
    await in_order(device)


@pytest.mark.parametrize("error", AWAY)
async def test_postgres_away_while_a_device_subscribes_closes_in_order(scene: EdgeScene, error: Exception) -> None:
    device = await OneDevice.streaming(scene)
    scene.database.away = error
    device.subscribe()
    await in_order(device)


async def test_postgres_away_when_a_rejected_write_has_to_be_healed_closes_in_order(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    write = await written(scene, device)
    scene.database.away = OSError("away")
    device.ref.cast(Written(write.lsn, write.ms, "rejected", 2_000, Rejection("23514", "no")))
    await in_order(device)


async def test_the_log_says_why_a_device_has_to_come_back_although_the_error_does_not(
    scene: EdgeScene, caplog: pytest.LogCaptureFixture
) -> None:
    device = await OneDevice.streaming(scene)
    scene.database.away = TimeoutError()
    device.subscribe()
    await in_order(device)
    assert "has to come back later: TimeoutError" in caplog.text


async def test_a_device_that_has_to_start_over_is_told_nothing_before_that_is_certain(
    scene: EdgeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An echo takes away what the device would send again, and with it every chance to find out."""
    monkeypatch.setattr("syncline.proto.server_session.TRANSACTION_LIMITS", TransactionLimits(ops_max=0, bytes_max=1))
    monkeypatch.setattr("syncline.actors.devices.uplink.ECHO_BYTES_MAX", 0)
    device = await OneDevice.streaming(scene)
    write = await written(scene, device)

    async def lost(client_id: str) -> None:
        raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    monkeypatch.setattr(scene.database, "forget_subscriptions", lost)
    device.ref.cast(Written(write.lsn, write.ms, "rejected", WATERMARK, Rejection("54000", "no")))
    device.ref.cast(Released(scene.bundler.followed[-1].generation, (), int(scene.database.flushed)))
    await in_order(device)
    told = [device.connection.events.get_nowait() for _ in range(device.connection.events.qsize())]
    assert not [event for event in told if isinstance(event, events.TransactionReceived)]


@pytest.mark.parametrize("name", [GATEWAY, SHARD])
async def test_a_part_of_the_service_that_starts_again_closes_in_order(scene: EdgeScene, name: str) -> None:
    lost = {GATEWAY: scene.gateway, SHARD: scene.shard}[name]
    device = OneDevice(scene)
    device.ref = await spawn(device.device, scene.context)
    crash(lost.ref)
    await lost.ref.join()
    device.say(device.connection.client.authenticate("client", insecure_token("user")))
    if name == SHARD:
        await device.connection.expect(events.Authenticated)
        device.say(device.connection.client.start(b"", [], None, "sqlite"))
    await in_order(device)


async def test_a_shape_that_ends_while_it_is_read_closes_in_order(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    await scene.bundler_followed(1)
    crash(scene.shape.ref)
    device.subscribe()
    await in_order(device)


# --- subscriptions ----------------------------------------------------------------------------------------------------


async def test_an_image_replaced_while_it_is_read_closes_in_order(
    scene: EdgeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(message: object) -> object:
        if isinstance(message, ReadRows):
            raise RowsGone("begin anew")
        return Page((), more=False)

    monkeypatch.setattr(scene.shape, "_answer", replaced)
    device = await OneDevice.streaming(scene)
    device.subscribe()
    await in_order(device)


async def test_while_a_device_reads_it_says_so_again_and_again(
    scene: EdgeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "PIN_AGAIN_S", 0.0)
    device = await OneDevice.streaming(scene)
    device.subscribe()
    await device.connection.expect(events.ShapeDataEnded)
    await scene.bundler.unpinned.wait()
    at = scene.released
    assert scene.bundler.pinned == [None, at, at, None], "none was read before, and one shape in one chunk then"


async def test_a_subscription_is_delivered_when_its_shapes_are_ready(scene: EdgeScene) -> None:
    scene.ready = None
    device = await OneDevice.streaming(scene)
    device.subscribe()
    asked = await scene.shape.next()
    assert isinstance(asked, NotifyReady)
    asked.device.inform(ShapeReady(next(h for h, shape in scene.ensured.items() if shape.kind == "table")))
    delivered = await device.connection.expect(events.ShapeDataEnded)
    assert delivered.lsn == b"%d" % WATERMARK


async def test_a_table_dropped_before_it_was_read_sends_the_device_to_ask_again(scene: EdgeScene) -> None:
    scene.ready = None
    device = await OneDevice.streaming(scene)
    device.subscribe()
    asked = await scene.shape.next()
    asked.device.inform(ShapeGone("whatever"))
    await in_order(device)


async def test_a_subscription_given_up_before_it_was_ready_is_never_delivered(scene: EdgeScene) -> None:
    scene.ready = None
    device = await OneDevice.streaming(scene)
    device.subscribe()
    asked = await scene.shape.next()
    device.unsubscribe(SUBSCRIPTION)
    await device.connection.expect(events.Unsubscribed)
    asked.device.inform(ShapeReady(next(h for h, shape in scene.ensured.items() if shape.kind == "table")))
    scene.ready = WATERMARK
    device.subscribe()  # the same id once more
    delivered = await device.connection.expect(events.ShapeDataEnded)
    assert delivered.subscription_id == SUBSCRIPTION
    assert scene.database.known[SUBSCRIPTION].cancelled is False


async def test_an_active_id_is_refused_and_the_connection_stays(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    device.subscribe()
    await device.connection.expect(events.ShapeDataEnded)
    device.subscribe()
    assert (await device.connection.expect(events.SubscribeRefused)).code == "SUBSCRIPTION_ID_ALREADY_EXISTS"
    assert device.connection.closed is None


async def test_an_id_that_is_no_uuid_is_refused_and_the_connection_stays(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    device.subscribe("no uuid")
    assert (await device.connection.expect(events.SubscribeRefused)).code == "CODE_UNSPECIFIED"
    assert device.connection.closed is None
    assert not scene.database.known


async def test_what_was_never_subscribed_is_unsubscribed_with_an_empty_batch(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    device.unsubscribe(REQUEST)
    await device.connection.expect(events.Unsubscribed)
    assert (await device.connection.expect(events.GonesBegun)).subscription_ids == (REQUEST,)
    assert await device.connection.expect(object) == events.GonesEnded((REQUEST,), b"%d" % WATERMARK)


async def test_a_stream_stopped_with_a_subscription_on_its_way_starts_again_without_it(scene: EdgeScene) -> None:
    scene.ready = None
    device = await OneDevice.streaming(scene)
    device.subscribe()
    asked = await scene.shape.next()
    device.say(device.connection.client.stop())
    assert isinstance(await scene.bundler.next(), Unfollow)
    await device.start()
    asked.device.inform(ShapeReady(next(h for h, shape in scene.ensured.items() if shape.kind == "table")))
    await scene.bundler_followed(2)
    first, second = scene.bundler.followed[:2]
    assert second.generation > first.generation
    assert device.ref.alive


async def test_an_answer_to_an_earlier_follow_is_not_taken_for_the_newest(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    await scene.bundler_followed(1)
    scene.bundler.silent = True
    device.subscribe()
    await scene.bundler_followed(2)
    newest = scene.bundler.followed[-1].generation
    device.ref.cast(Followed(newest - 1, 7))
    device.ref.cast(Released(newest - 1, (), 8))
    device.ref.cast(Followed(newest, 1_500))
    assert (await device.connection.expect(events.ShapeDataEnded)).lsn == b"1500"


# --- writes -----------------------------------------------------------------------------------------------------------


async def test_a_duplicate_is_echoed_with_its_rows_once_the_stream_has_passed_what_they_show(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    write = await written(scene, device)
    device.ref.cast(Written(write.lsn, write.ms, "duplicate", 2_001))
    shown = int(scene.database.flushed) - 1
    assert await scene.bundler.next() == AwaitLsn(device.ref, shown)
    device.ref.cast(Released(scene.bundler.followed[-1].generation, (), shown))
    echo = await device.connection.expect(events.TransactionReceived)
    assert (echo.transaction.origin, echo.transaction.commit_ms) == ("client", 1)


async def test_one_that_lies_before_where_a_device_goes_on_comes_back_with_its_rows(scene: EdgeScene) -> None:
    """A service that has started again comes by it once more. The device has what followed it by a repair."""
    first = await OneDevice.streaming(scene)
    first.subscribe()
    await first.connection.expect(events.ShapeDataEnded)
    device = OneDevice(scene)
    await device.authenticate()
    await device.start(b"%d" % WATERMARK, SUBSCRIPTION)
    write = await written(scene, device)
    row = (b"1", b"by SQL", b"3")
    scene.database.current = [CurrentRow(CATALOG.tables[7], (b"1",), row, ("postgres_1@9", "client@1"))]
    device.ref.cast(OwnPassed(WATERMARK, write.ms))
    device.ref.cast(Written(write.lsn, write.ms, "duplicate", WATERMARK + 1))
    device.ref.cast(Released(scene.bundler.followed[-1].generation, (), int(scene.database.flushed)))
    echo = (await device.connection.expect(events.TransactionReceived)).transaction
    assert (echo.commit_ms, [change.row for change in echo.changes]) == (write.ms, [row])


async def test_one_within_what_a_frame_stands_for_comes_back_with_its_rows(scene: EdgeScene) -> None:
    """The device takes its own for newer than the frame, which has in it what followed."""
    device = await OneDevice.streaming(scene)
    device.subscribe()
    await device.connection.expect(events.ShapeDataEnded)
    write = await written(scene, device)
    row = (b"1", b"by SQL", b"3")
    scene.database.current = [CurrentRow(CATALOG.tables[7], (b"1",), row, ("postgres_1@9", "client@1"))]
    lsn = WATERMARK + 20
    insert = codec.encode_ops((Insert(ITEMS.id, row, ("postgres_1@9", "client@1")),))
    body = begin_of(lsn, 1, "postgres_1") + insert + codec.encode_commit(1, lsn_bytes(lsn))
    device.ref.cast(OwnPassed(WATERMARK + 10, write.ms))
    device.ref.cast(Written(write.lsn, write.ms, "applied", WATERMARK + 11))
    generation = scene.bundler.followed[-1].generation
    device.ref.cast(Released(generation, (Frame(lsn, 1, "postgres_1", body, since=WATERMARK),), lsn))
    device.ref.cast(Released(generation, (), int(scene.database.flushed)))
    frame, echo = [(await device.connection.expect(events.TransactionReceived)).transaction for _ in range(2)]
    assert frame.origin == "postgres_1"
    assert (echo.origin, echo.commit_ms, [change.row for change in echo.changes]) == ("client", write.ms, [row])


async def test_one_too_large_to_be_remembered_until_then_has_the_device_read_anew(
    scene: EdgeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echoes, "WRITTEN_BYTES_MAX", 0)
    device = await OneDevice.streaming(scene)
    device.subscribe()
    await device.connection.expect(events.ShapeDataEnded)
    write = await written(scene, device)
    lsn = WATERMARK + 20
    body = begin_of(lsn, 1, "postgres_1") + codec.encode_commit(1, lsn_bytes(lsn))
    device.ref.cast(OwnPassed(WATERMARK + 10, write.ms))
    generation = scene.bundler.followed[-1].generation
    device.ref.cast(Released(generation, (Frame(lsn, 1, "postgres_1", body, since=WATERMARK),), lsn))
    device.ref.cast(Released(generation, (), int(scene.database.flushed)))
    _, echo = [(await device.connection.expect(events.TransactionReceived)).transaction for _ in range(2)]
    assert (echo.commit_ms, echo.changes) == (write.ms, ())
    await device.connection.ended()
    assert not scene.database.known, "its subscriptions are delivered anew"


async def test_an_own_transaction_no_shape_holds_comes_back_empty(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    device.subscribe()
    await device.connection.expect(events.ShapeDataEnded)
    write = await written(scene, device)
    device.ref.cast(OwnPassed(1_200, write.ms))
    device.ref.cast(Released(scene.bundler.followed[-1].generation, (), 1_200))
    echo = await device.connection.expect(events.TransactionReceived)
    assert (echo.transaction.commit_ms, echo.transaction.changes) == (write.ms, ())


@pytest.mark.parametrize("subscribed", [True, False])
async def test_a_rejected_write_is_healed_with_the_row_or_by_taking_it_away(scene: EdgeScene, subscribed: bool) -> None:
    device = await OneDevice.streaming(scene)
    if subscribed:
        device.subscribe()
        await device.connection.expect(events.ShapeDataEnded)
    write = await written(scene, device)
    now = (b"1", b"theirs", b"3")
    scene.database.current = [CurrentRow(CATALOG.tables[7], (b"1",), now, ("postgres_1@9",))]
    device.ref.cast(Written(write.lsn, write.ms, "rejected", WATERMARK, Rejection("23514", "no")))
    device.ref.cast(Released(scene.bundler.followed[-1].generation, (), int(scene.database.flushed)))
    (change,) = (await device.connection.expect(events.TransactionReceived)).transaction.changes
    if subscribed:
        assert change == Update(ITEMS.id, now, None, ("postgres_1@9",))
    else:
        assert change == Gone(ITEMS.id, (b"1", None, None))


@pytest.mark.parametrize(
    ("rows", "status", "brought"),
    [(1, None, [b"2"]), (1, "duplicate", [b"2"]), (1_001, "duplicate", []), (1, "applied", [b"1", b"2"])],
)
async def test_a_row_that_heals_waits_for_a_later_write_to_it_that_no_frame_has_brought(
    scene: EdgeScene, rows: int, status: Status | None, brought: list[bytes]
) -> None:
    device = await OneDevice.streaming(scene)
    device.subscribe()
    await device.connection.expect(events.ShapeDataEnded)
    first, later = await written(scene, device, 1, rows=2), await written(scene, device, 2, rows)
    scene.database.current = [
        CurrentRow(CATALOG.tables[7], (id,), (id, b"now", b"3"), ("client@9",)) for id in (b"1", b"2")
    ]
    device.ref.cast(Written(first.lsn, first.ms, "duplicate", WATERMARK))
    if status is not None:
        device.ref.cast(Written(later.lsn, later.ms, status, WATERMARK))
    device.ref.cast(Released(scene.bundler.followed[-1].generation, (), int(scene.database.flushed)))
    echo = (await device.connection.expect(events.TransactionReceived)).transaction
    assert echo.commit_ms == 1
    assert [change.row[0] for change in echo.changes] == brought


async def test_a_large_write_that_was_applied_is_answered_with_its_rows_when_it_comes_again(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    device.subscribe()
    await device.connection.expect(events.ShapeDataEnded)
    write = await written(scene, device, rows=20_001)
    device.ref.cast(Written(write.lsn, write.ms, "duplicate", WATERMARK))
    device.ref.cast(Released(scene.bundler.followed[-1].generation, (), int(scene.database.flushed)))
    echo = (await device.connection.expect(events.TransactionReceived)).transaction
    assert (echo.origin, echo.commit_ms) == ("client", 1)
    assert [key for keys in scene.database.asked for key in keys] == [
        (ITEMS.id, (b"%d" % n,)) for n in range(1, 20_002)
    ]
    assert len(scene.database.asked) == 1, "in one snapshot"
    assert list(scene.database.known) == [SUBSCRIPTION]
    assert device.connection.closed is None


async def test_a_device_is_listened_to_while_the_rows_that_heal_it_are_read(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    write = await written(scene, device)
    scene.database.reading.clear()
    device.ref.cast(Written(write.lsn, write.ms, "rejected", WATERMARK, Rejection("23514", "no")))
    await scene.database.began.wait()
    assert (await written(scene, device, 2)).lsn == 2
    scene.database.reading.set()
    device.ref.cast(Released(scene.bundler.followed[-1].generation, (), int(scene.database.flushed)))
    echo = await device.connection.expect(events.TransactionReceived)
    assert echo.transaction.commit_ms == 1


async def test_rows_that_lack_what_was_streamed_are_read_again(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    device.subscribe()
    await device.connection.expect(events.ShapeDataEnded)
    write = await written(scene, device)
    scene.shown.extend((False, False))
    device.ref.cast(Written(write.lsn, write.ms, "duplicate", WATERMARK))
    device.ref.cast(Released(scene.bundler.followed[-1].generation, (), int(scene.database.flushed)))
    await device.connection.expect(events.TransactionReceived)
    assert scene.database.asked == [[(ITEMS.id, (b"1",))]] * 3
    asked = [await scene.router.next() for _ in range(3)]
    assert {type(message) for message in asked} == {ShownUpTo}


async def test_a_device_that_writes_too_much_is_sent_away_to_come_back(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    write = await written(scene, device)
    device.ref.cast(Written(write.lsn, write.ms, "overloaded", 0))
    assert (await device.connection.ended())[0] == 1011


async def test_a_device_some_of_whose_writes_are_held_keeps_its_connection_when_there_is_no_room_for_more(
    scene: EdgeScene,
) -> None:
    device = await OneDevice.streaming(scene)
    held, refused = await written(scene, device, 1), await written(scene, device, 2)
    device.ref.cast(Written(refused.lsn, refused.ms, "overloaded", 0))
    device.ref.cast(Written(held.lsn, held.ms, "applied", 1))
    again = await scene.writer.next()
    assert (again.lsn, again.turn) == (2, 1)


async def test_a_device_that_sends_again_and_again_and_acknowledges_nothing_is_sent_away(
    scene: EdgeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.devices.echoes.ECHO_BYTES_MAX", 500)
    device = await OneDevice.streaming(scene)
    scene.database.current = [CurrentRow(CATALOG.tables[7], (b"1",), (b"1", b"x" * 500, b"3"), ())]
    for number in range(1, 4):
        write = await written(scene, device, number)
        device.ref.cast(Written(write.lsn, write.ms, "duplicate", 2_000))
    await in_order(device)


async def test_a_backlog_waits_here_and_the_socket_is_not_read_meanwhile(
    scene: EdgeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.devices.uplink.WRITES_OUT_MAX", 2)
    monkeypatch.setattr("syncline.actors.devices.uplink.UP_WAITING_MAX", 3)
    device = await OneDevice.streaming(scene)
    for number in range(1, 6):
        transaction = Transaction(number, number.to_bytes(4, "big"), (Insert(0, (b"1", b"x", b"2")),))
        for frame in device.connection.client.write(transaction, {0: DEVICE_ITEMS}):
            device.say(frame)
    first, second = await scene.writer.next(), await scene.writer.next()
    await device.connection.paused()
    for write in (first, second):
        device.ref.cast(Written(write.lsn, write.ms, "applied", 1))
    assert [(await scene.writer.next()).lsn, (await scene.writer.next()).lsn] == [3, 4]
    assert device.connection.reading


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_a_device_stops_while_its_stream_waits_for_room_or_an_answer(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    await scene.bundler_followed(1)
    device.connection.writable = False
    device.subscribe()
    await device.connection.expect(events.Subscribed)
    device.device.receiver.closed(1006, "cut")
    assert not (await device.ref.join()).abnormal


async def test_a_second_token_must_be_for_the_same_client(scene: EdgeScene) -> None:
    device = await OneDevice.streaming(scene)
    device.say(device.connection.client.authenticate("another", insecure_token("user")))
    assert (await device.connection.ended())[0] == 1007


async def test_a_crash_tells_the_device_that_it_was_not_its_fault(scene: EdgeScene) -> None:
    connection = FakeConnection()
    ref = await spawn(Device(connection, scene.around), scene.context)  # type: ignore[arg-type]
    crash(ref)
    assert await connection.ended() == (1011, "internal error")
