"""Sessions as devices have them: resumed, replaced, expired, abused, slow."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from pathlib import Path

import asyncpg
import jwt
import pytest
from tests.npm.service import serving
from tests.patience import PATIENCE_S, PAUSE_S, until
from tests.rawdevice import RawDevice

from syncline.proto import events
from syncline.proto.values import Column, Insert, Relation, Row, Transaction, Update

ITEMS = "CREATE TABLE items (id uuid PRIMARY KEY, n int4 NOT NULL, body text)"
DEVICE_ITEMS = Relation(0, "public", "items", (Column("id", "TEXT"), Column("n", "INTEGER"), Column("body", "TEXT")))
KEY = "a key of at least thirty-two bytes, for HS256"


async def held_by_postgres(postgres: asyncpg.Connection) -> dict[bytes, tuple[bytes | None, ...]]:
    rows = await postgres.fetch("SELECT id::text, n::text, body FROM items")
    return {row[0].encode(): tuple(cell if cell is None else cell.encode() for cell in row) for row in rows}


async def until_equal(device: RawDevice, postgres: asyncpg.Connection, within_s: float = PATIENCE_S) -> None:
    began = time.monotonic()
    while True:
        held: dict[bytes | None, Row] = next(iter(device.rows.values()), {})
        count = await postgres.fetchval("SELECT count(*) FROM items")
        # All rows are asked for only when it may well be the last time: there are tests with many.
        if count == len(held) and await held_by_postgres(postgres) == held:
            return
        assert time.monotonic() - began < within_s, (count, {k: len(v) for k, v in device.rows.items()})
        await asyncio.sleep(PAUSE_S)  # no event: two sides are compared, each of which changes by itself


async def insert(postgres: asyncpg.Connection, rows: int, start: int = 0) -> None:
    await postgres.execute(
        "INSERT INTO items SELECT gen_random_uuid(), n, 'row ' || n FROM generate_series($1::int, $2::int) n",
        start,
        start + rows - 1,
    )


@pytest.mark.each_runtime
async def test_a_resumed_device_gets_only_what_it_lacks_over_a_restart_of_the_service(
    database: str, tmp_path: Path
) -> None:
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres):
        await insert(postgres, 1000)
        async with RawDevice.connected(service.url) as first:
            await first.start()
            subscription = await first.subscribe("items")
            await until_equal(first, postgres)
        await insert(postgres, 5, start=1000)
        await postgres.execute("UPDATE items SET body = 'changed' WHERE n < 3")
        await postgres.execute("DELETE FROM items WHERE n = 10")
        assert await service.stop() == 0
        await postgres.execute("DELETE FROM items WHERE n = 11")
        await service.start()
        async with RawDevice.connected(service.url, client_id=first.client_id) as second:
            second.rows = first.rows
            await second.start(first.lsn, (subscription,))
            await until_equal(second, postgres)
            assert sum(len(transaction.changes) for transaction in second.transactions) == 5 + 3 + 1 + 1


async def test_a_device_whose_history_is_lost_is_told_to_start_over(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres):
        await insert(postgres, 10)
        async with RawDevice.connected(service.url) as device:
            await device.start()
            subscription = await device.subscribe("items")
        await service.stop()
        shutil.rmtree(tmp_path / "data")
        await insert(postgres, 10, start=10)
        await service.start()
        async with RawDevice.connected(service.url, client_id=device.client_id) as again:
            await again.told_to_start_over(device.lsn, subscription)
        async with RawDevice.connected(service.url, client_id=device.client_id) as afresh:
            await afresh.start()
            await afresh.subscribe("items")
            await until_equal(afresh, postgres)


async def test_an_unknown_subscription_and_a_position_from_the_future_start_over_too(
    database: str, tmp_path: Path
) -> None:
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, _):
        async with RawDevice.connected(service.url) as known:
            await known.start()
        for lsn, subscriptions, code in (
            (b"1", [str(uuid.uuid4())], "SUBSCRIPTION_NOT_FOUND"),
            (b"999999999999999", [], "BEHIND_WINDOW"),
            (b"not a number", [], "BEHIND_WINDOW"),
        ):
            async with RawDevice.connected(service.url, client_id=known.client_id) as device:
                await device.socket.send(device.session.start(lsn, subscriptions, None, "sqlite"))
                assert (await device.expect(events.StreamRefused)).code == code


async def test_the_newest_connection_of_a_client_replaces_the_older_one(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        RawDevice.connected(service.url) as old,
    ):
        await old.start()
        async with RawDevice.connected(service.url, client_id=old.client_id) as new:
            code, reason = await old.closed()
            assert code == 4001
            assert "took over" in reason
            await new.start()
            await new.subscribe("items")
            await insert(postgres, 3)
            await until_equal(new, postgres)


async def test_an_expired_token_closes_the_connection_by_its_name_and_a_renewed_one_keeps_it(
    database: str, tmp_path: Path
) -> None:
    def token(lifetime_s: float) -> str:
        now = int(time.time())
        return jwt.encode({"sub": "ann", "iat": now, "exp": now + lifetime_s}, KEY, algorithm="HS256")

    settings = {"AUTH_MODE": "secure", "AUTH_JWT_ALG": "HS256", "AUTH_JWT_KEY": KEY}
    async with (
        serving(database, tmp_path, settings=settings) as (service, _),
        RawDevice.connected(service.url, token=token(1)) as brief,
        RawDevice.connected(service.url, token=token(1)) as renewed,
    ):
        await renewed.socket.send(renewed.session.authenticate(renewed.client_id, token(60)))
        await renewed.expect(events.Authenticated)
        assert await brief.closed() == (4000, "JWT-expired")
        await renewed.start()
        async with RawDevice.connected(service.url, token="") as forger:
            await forger.socket.send(forger.session.authenticate(forger.client_id, token(60)[:-4] + "AAAA"))
            assert (await forger.expect(events.PeerFailed)).code == "AUTH_REQUIRED"
            await forger.closed()


async def test_a_device_that_stops_reading_costs_bounded_memory_and_catches_up(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        RawDevice.connected(service.url) as quick,
        RawDevice.connected(service.url) as slow,
    ):
        for device in (quick, slow):
            await device.start()
            await device.subscribe("items")
        slow.acking = False
        acked = len(slow.transactions)
        before = service.resident_bytes()
        for start in range(0, 200_000, 5_000):
            await insert(postgres, 5_000, start)
        await until_equal(quick, postgres)
        assert service.resident_bytes() - before < 200 << 20
        assert len(slow.transactions) - acked <= 30
        slow.acking = True
        last = slow.transactions[-1]
        assert last.transaction_id is not None
        await slow.socket.send(slow.session.ack(last.transaction_id, last.lsn))
        await until_equal(slow, postgres)


async def test_a_rejected_write_heals_the_device_and_blocks_nothing(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        RawDevice.connected(service.url) as device,
    ):
        await insert(postgres, 1)
        await device.start()
        await device.subscribe("items")
        (table,) = device.rows.values()
        (row,) = table.values()
        ms = int(time.time() * 1000)
        wrong = Update(0, (row[0], b"not a number", b"x"), row, ("postgres_1@0",))
        fine = Insert(0, (str(uuid.uuid4()).encode(), b"7", b"fine"))
        for number, change in enumerate((wrong, fine), 1):
            transaction = Transaction(ms + number, number.to_bytes(4, "big"), (change,))
            for frame in device.session.write(transaction, {0: DEVICE_ITEMS}):
                await device.socket.send(frame)
        table[row[0]] = wrong.row  # what the device shows until it is told otherwise
        await until_equal(device, postgres)
        echoes = {t.commit_ms for t in device.transactions if t.origin == device.client_id}
        assert echoes == {ms + 1, ms + 2}
        rejection = await postgres.fetchrow("SELECT sqlstate, table_name FROM electric.rejections")
        assert tuple(rejection) == ("22P02", "items")


async def test_an_idle_database_still_advances_the_slot(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres):
        await postgres.execute("CREATE TABLE unsynced (n int4)")

        async def caught_up() -> bool:
            lag: int = await postgres.fetchval(
                "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::int8 FROM pg_replication_slots "
                "WHERE database = current_database()"
            )
            return lag <= 1 << 20

        await postgres.execute("INSERT INTO unsynced SELECT generate_series(1, 200000)")
        await until(caught_up)
        assert service.port


async def test_a_truncate_empties_the_devices(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        RawDevice.connected(service.url) as device,
    ):
        await insert(postgres, 3000)
        await device.start()
        await device.subscribe("items")
        async with postgres.transaction():
            await insert(postgres, 10, start=5000)
            await postgres.execute("TRUNCATE items")
            await insert(postgres, 2, start=9000)
        await until_equal(device, postgres)
        assert len(device.rows[next(iter(device.rows))]) == 2
        async with RawDevice.connected(service.url) as later:
            await later.start()
            await later.subscribe("items")
            await until_equal(later, postgres)
