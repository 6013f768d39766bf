"""A table that is dropped costs a device that table, not everything it has."""

from __future__ import annotations

from pathlib import Path

from tests.integration.tree_scene import ITEMS, running, until
from tests.rawdevice import RawDevice

from syncline.proto import events

SQL = ITEMS + "; CREATE TABLE notes (id uuid PRIMARY KEY); CREATE TABLE more (id uuid PRIMARY KEY)"
NOTE = "INSERT INTO notes VALUES (gen_random_uuid())"


async def test_a_device_resumes_without_a_table_that_was_dropped_meanwhile(database: str, tmp_path: Path) -> None:
    async with (
        running(database, tmp_path, SQL, ("items", "notes", "more")) as tree,
        RawDevice.connected(tree.url) as device,
    ):
        await tree.insert(2)
        await tree.postgres.execute(NOTE)
        await device.start()
        both, alone = await device.subscribe("items", "notes"), await device.subscribe("notes")
    async with (
        running(database, tmp_path, "DROP TABLE notes", ()) as tree,
        RawDevice.connected(tree.url, client_id=device.client_id) as again,
    ):
        again.rows = device.rows
        await again.start(device.lsn, (both, alone))
        await tree.insert(2, start=2)

        async def arrived() -> bool:
            return await tree.held() <= {key for table in again.rows.values() for key in table}

        await until(arrived)
        await again.subscribe("more")
        for ended in (alone, both):
            await again.socket.send(again.session.unsubscribe([ended]))
            assert (await again.expect(events.GonesEnded)).subscription_ids == (ended,)
        left = {key for table in again.rows.values() for key in table}
        assert not left & await tree.held()


async def test_a_table_that_was_made_anew_is_fetched_anew(database: str, tmp_path: Path) -> None:
    async with (
        running(database, tmp_path, SQL, ("notes",)) as tree,
        RawDevice.connected(tree.url) as device,
    ):
        await device.start()
        notes = await device.subscribe("notes")
    anew = "DROP TABLE notes; CREATE TABLE notes (id uuid PRIMARY KEY)"
    async with (
        running(database, tmp_path, anew, ("notes",)) as tree,
        RawDevice.connected(tree.url, client_id=device.client_id) as again,
    ):
        await again.told_to_start_over(device.lsn, notes)
