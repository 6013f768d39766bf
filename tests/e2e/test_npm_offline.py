"""The npm client through offline spells and kill -9, its own and the service's: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import asyncpg
from tests.e2e.proxy import Proxy
from tests.npm.rig import NpmDevice, devices, eventually
from tests.npm.service import serving

ITEMS = """
CREATE TABLE items (id int PRIMARY KEY, title text NOT NULL, rank int);
INSERT INTO items SELECT i, 'title ' || i, i FROM generate_series(1, 1000) i;
"""

# Every row of the journal is one local transaction; the trigger counts how often each is carried out in Postgres.
JOURNAL = """
CREATE TABLE journal (id text PRIMARY KEY, number int NOT NULL);
CREATE TABLE carried_out (id text NOT NULL, at bigserial);
CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO carried_out VALUES (NEW.id); RETURN NEW; END';
CREATE TRIGGER count_it AFTER INSERT OR UPDATE ON journal FOR EACH ROW EXECUTE FUNCTION count_it();
"""


async def test_what_is_written_offline_is_delivered_on_reconnect(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann", "bob") as [ann, bob],
    ):
        await ann.sync("items")
        await bob.sync("items")
        await ann.disconnect()
        await ann.create("items", id=1001, title="written offline", rank=1)
        await ann.update("items", {"id": 1001}, rank=2)
        await ann.update("items", {"id": 1}, title="changed offline")
        await ann.delete("items", id=2)
        await postgres.execute("UPDATE items SET rank = -1 WHERE id = 1")
        await postgres.execute("DELETE FROM items WHERE id = 3")
        await eventually(lambda: _agree("items", postgres, bob))
        assert (await ann.dump("items"))[1] == {"id": 1, "title": "changed offline", "rank": 1}
        await ann.connect()
        await eventually(lambda: _agree("items", postgres, ann, bob))
        rows = await postgres.fetch("SELECT * FROM items WHERE id IN (1, 2, 3, 1001) ORDER BY id")
        assert [tuple(row) for row in rows] == [(1, "changed offline", -1), (1001, "written offline", 2)]


async def test_what_a_process_wrote_offline_its_successor_delivers(database: str, tmp_path: Path) -> None:
    path = tmp_path / "ann.db"
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres):
        async with await NpmDevice.open(path, service.url) as ann:
            await ann.connect("ann")
            await ann.sync("items")
        ann = await NpmDevice.open(path, service.url)
        await ann.create("items", id=1001, title="written offline", rank=1)
        await ann.kill()
        async with await NpmDevice.open(path, service.url) as ann:
            await ann.connect("ann")
            await eventually(lambda: _agree("items", postgres, ann))
            assert await ann.count("items") == 1001


async def test_subscriptions_survive_a_restart_of_both_and_only_what_is_missing_is_sent(
    database: str, tmp_path: Path
) -> None:
    path = tmp_path / "ann.db"
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres):
        async with await NpmDevice.open(path, service.url) as ann:
            await ann.connect("ann")
            await ann.sync("items")
        assert await service.stop() == 0
        await postgres.execute("UPDATE items SET title = 'while both were away' WHERE id <= 10")
        await service.start()
        async with await NpmDevice.open(path, service.url) as ann:
            await ann.connect("ann")
            await eventually(lambda: _agree("items", postgres, ann))
            await postgres.execute("UPDATE items SET title = 'live' WHERE id = 11")
            await eventually(lambda: _agree("items", postgres, ann))
            assert {event["origin"] for event in ann.events if event["event"] == "changed"} == {"remote"}


async def test_a_client_killed_while_it_writes_loses_nothing_and_repeats_nothing(database: str, tmp_path: Path) -> None:
    path = tmp_path / "ann.db"
    written: list[str] = []
    async with serving(database, tmp_path, sql=JOURNAL, electrified=("journal",)) as (service, postgres):
        for life in range(5):
            wanted = len(written) + 1 + 40 * life
            ann = await NpmDevice.open(path, service.url)
            connecting = asyncio.create_task(ann.connect("ann"))
            writing = asyncio.create_task(_write_journal(ann, f"life {life}", 1000, written))
            await eventually(partial(_reached, written, wanted))
            await ann.kill()
            await asyncio.gather(connecting, writing, return_exceptions=True)
        async with await NpmDevice.open(path, service.url) as ann:
            await ann.connect("ann")
            await ann.sync("journal")
            await eventually(lambda: _agree("journal", postgres, ann))
            await _assert_exactly_once(postgres, written, ann)


async def test_a_service_killed_while_clients_write_loses_nothing_and_repeats_nothing(
    database: str, tmp_path: Path
) -> None:
    written: list[str] = []
    async with (
        serving(database, tmp_path, sql=JOURNAL, electrified=("journal",)) as (service, postgres),
        devices(tmp_path, service.url, "ann", "bob") as [ann, bob],
    ):
        await ann.sync("journal")
        await bob.sync("journal")
        writing = asyncio.gather(
            _write_journal(ann, "ann", 200, written, pause_s=0.01),
            _write_journal(bob, "bob", 200, written, pause_s=0.01),
        )
        for wanted in (20, 120, 250):
            await eventually(partial(_reached, written, wanted))
            await service.kill()
            await service.start()
        await writing
        await eventually(lambda: _agree("journal", postgres, ann, bob))
        await _assert_exactly_once(postgres, written, ann)


async def test_a_network_that_cuts_again_and_again_loses_nothing_and_repeats_nothing(
    database: str, tmp_path: Path
) -> None:
    written: list[str] = []
    async with serving(database, tmp_path, sql=JOURNAL, electrified=("journal",)) as (service, postgres):
        network = Proxy(service.port)
        await network.start()
        try:
            async with devices(tmp_path, f"http://127.0.0.1:{network.port}", "ann", "bob") as [ann, bob]:
                await ann.sync("journal")
                await bob.sync("journal")
                writing = asyncio.gather(
                    _write_journal(ann, "ann", 200, written, pause_s=0.01),
                    _write_journal(bob, "bob", 200, written, pause_s=0.01),
                )
                for wanted in range(20, 400, 40):
                    await eventually(partial(_reached, written, wanted))
                    network.cut()
                await writing
                await eventually(lambda: _agree_once_connected("journal", postgres, ann, bob))
                await _assert_exactly_once(postgres, written, ann)
        finally:
            await network.stop()


async def test_a_service_killed_while_it_sends_a_shape_sends_it_after_its_return(database: str, tmp_path: Path) -> None:
    sql = f"{ITEMS} INSERT INTO items SELECT i, repeat('long ', 20), i FROM generate_series(1001, 20000) i"
    async with (
        serving(database, tmp_path, sql=sql, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.subscribe("items")
        await service.kill()
        await postgres.execute("DELETE FROM items WHERE id % 2 = 0")
        await service.start()
        await eventually(lambda: _agree("items", postgres, ann))  # the client never settles a promise of before a cut


async def test_a_client_killed_while_a_shape_arrives_gets_it_in_its_next_life(database: str, tmp_path: Path) -> None:
    sql = f"{ITEMS} INSERT INTO items SELECT i, repeat('long ', 20), i FROM generate_series(1001, 20000) i"
    path = tmp_path / "ann.db"
    async with serving(database, tmp_path, sql=sql, electrified=("items",)) as (service, postgres):
        for _ in range(3):
            ann = await NpmDevice.open(path, service.url)
            await ann.connect("ann")
            await ann.subscribe("items")
            await ann.kill()
        async with await NpmDevice.open(path, service.url) as ann:
            await ann.connect("ann")
            await ann.sync("items")
            await eventually(lambda: _agree("items", postgres, ann))


async def test_a_service_killed_under_live_changes_catches_its_devices_up(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann", "bob") as [ann, bob],
    ):
        await ann.sync("items")
        await bob.sync("items")
        changing = asyncio.create_task(_change_items(postgres, rounds=60))
        for _ in range(3):
            await service.kill()
            await ann.create("items", id=10_000 + await ann.count("items"), title="in the dark", rank=None)
            await service.start()
        await changing
        await eventually(lambda: _agree("items", postgres, ann, bob))
        for device in (ann, bob):
            assert {event["origin"] for event in device.events[10:] if event["event"] == "changed"} <= {
                "remote",
                "local",
            }


async def test_a_service_that_lost_its_disk_has_its_devices_start_over_with_their_own_writes_kept(
    database: str, tmp_path: Path
) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("items")
        await service.kill()
        await ann.create("items", id=1001, title="in the dark", rank=None)
        await postgres.execute("UPDATE items SET title = 'changed' WHERE id = 1")
        (tmp_path / "data").rename(tmp_path / "lost")
        await service.start()
        await eventually(lambda: postgres.fetchval("SELECT title FROM items WHERE id = 1001"))
        await ann.sync("items")
        await eventually(lambda: _agree("items", postgres, ann))


async def _write_journal(device: NpmDevice, who: str, count: int, written: list[str], *, pause_s: float = 0.0) -> None:
    """One transaction after the other; ``written`` names those the local database has committed."""
    for number in range(count):
        name = f"{who}, {number}"
        await device.execute(("INSERT INTO journal VALUES (?, ?)", name, number))
        written.append(name)
        await asyncio.sleep(pause_s)  # the writer's pace


async def _change_items(postgres: asyncpg.Connection, rounds: int) -> None:
    for number in range(rounds):
        async with postgres.transaction():
            await postgres.execute("INSERT INTO items VALUES ($1, 'live', 0)", 2000 + number)
            await postgres.execute("UPDATE items SET rank = $1 WHERE id <= 50", number)
            await postgres.execute("DELETE FROM items WHERE id = $1", 500 + number)
        await asyncio.sleep(0.02)  # likewise


async def _reached(written: Sequence[str], count: int) -> bool:
    return len(written) >= count


async def _assert_exactly_once(postgres: asyncpg.Connection, written: Sequence[str], device: NpmDevice) -> None:
    """What a killed process committed without telling us is in its database too, hence the device is asked."""
    carried_out = [row["id"] for row in await postgres.fetch("SELECT id FROM carried_out ORDER BY id")]
    assert set(written) <= set(carried_out)
    assert carried_out == sorted(await device.dump("journal"))


async def _agree_once_connected(table: str, postgres: asyncpg.Connection, *npm: NpmDevice) -> bool:
    """Cut off while it starts to replicate, the client believes for ever that it is connected: it has to be told."""
    for device in npm:
        await device.connect()
    return await _agree(table, postgres, *npm)


async def _agree(table: str, postgres: asyncpg.Connection, *npm: NpmDevice) -> bool:
    """Whether Postgres and these devices hold the same rows and nothing is on its way; asserts what differs."""
    there = {row["id"]: dict(row) for row in await postgres.fetch(f"SELECT * FROM {table}")}
    for device in npm:
        assert await device.dump(table) == there
        assert await device.pending() == 0
        assert device.unhandled == []
    return True
