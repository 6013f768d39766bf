"""Whatever crashes, or is started again, beside an include tree: the device goes on from where it was, exactly."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import shutil
import traceback
from pathlib import Path

import pytest
from tests.integration.test_shape_trees import PROJECTS, SQL, TABLES, expected, held, request, scribble
from tests.integration.tree_scene import Stubborn, Tree, running, until
from tests.rawdevice import RawDevice

from syncline.actors.names import BUNDLER, CONSUMERS, REPLICATOR, ROUTER, SHARD
from syncline.actors.shapes import logfiles
from syncline.actors.shapes.holdings import Holdings
from syncline.cluster.testing import crash
from syncline.proto.values import ShapeRequest

ROUNDS = 3


def wish() -> ShapeRequest:
    return request("projects", project=request("issues", issue=request("comments")))


async def equal(tree: Tree, device: Stubborn) -> None:
    async def holds() -> bool:
        raw = device._device
        return raw is not None and await held(tree, raw) == await expected(tree.postgres, PROJECTS)

    await until(holds)


@pytest.mark.parametrize("name", [CONSUMERS, "consumer", SHARD, ROUTER, REPLICATOR, BUNDLER])
async def test_a_crash_costs_a_reconnect_at_most(database: str, tmp_path: Path, name: str) -> None:
    async with running(database, tmp_path, SQL, TABLES) as tree:
        await scribble(database, 1, 40)
        device = Stubborn(tree.url, wish())
        try:
            await device.resumed.wait()
            for number in range(ROUNDS):
                writing = asyncio.create_task(scribble(database, 10 + number, 60))
                await asyncio.sleep(0.05 * number)  # at another place of the work each time
                crash(await (tree.consumer("projects") if name == "consumer" else tree.victim(name)))
                await writing
                await equal(tree, device)
            assert device.afresh == 0, "nothing is fetched again"
        finally:
            await device.close()


class FullDisk:
    """``os.write`` where the disk is full in the middle of the first thing that a new tree has to catch up with."""

    def __init__(self) -> None:
        self.been = False

    def write(self, descriptor: int, data: bytes) -> int:
        if not self.been and any(frame.name == "_catch_up" for frame in traceback.extract_stack()):
            self.been = True
            os.write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, data)

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


async def test_a_disk_that_is_full_while_a_new_tree_catches_up(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FullDisk()
    monkeypatch.setattr(logfiles, "os", disk)
    async with running(database, tmp_path, SQL, TABLES) as tree:
        await scribble(database, 1, 40)
        writing = [asyncio.create_task(scribble(database, number, 200)) for number in range(2, 6)]
        device = Stubborn(tree.url, wish())
        try:
            await device.resumed.wait()
            assert disk.been
            await asyncio.gather(*writing)
            await equal(tree, device)
            await confirmed(tree)
            crash(await tree.consumer("projects"))  # the next one has what the log says
            another = Stubborn(tree.url, wish())
            try:
                await equal(tree, another)
            finally:
                await another.close()
        finally:
            await device.close()


async def confirmed(tree: Tree) -> None:
    """Postgres will not send again what there is by now."""
    upto = await tree.postgres.fetchval("SELECT pg_current_wal_lsn()")

    async def passed() -> bool:
        sql = "SELECT bool_and(confirmed_flush_lsn >= $1) FROM pg_replication_slots WHERE database = current_database()"
        return bool(await tree.postgres.fetchval(sql, upto))

    await until(passed)


@pytest.mark.parametrize("lost", [(), ("holdings",), ("holdings", "holdings-wal")])
async def test_a_service_that_starts_again_knows_what_it_held(
    database: str, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    """Also when the file that says so is gone, or older than the log."""
    port = 0
    async with running(database, tmp_path, SQL, TABLES) as tree:
        await scribble(database, 1, 40)
        device = Stubborn(tree.url, wish())
        port = tree.service.port or 0
        try:
            await device.resumed.wait()
            await scribble(database, 2, 40)
            await equal(tree, device)
        except BaseException:
            await device.close()
            raise
    try:
        for file in (path for path in (tmp_path / "data").rglob("holdings*") if path.name in lost):
            file.unlink()
        await scribble(database, 3, 40)
        environment = {"HTTP_PORT": str(port)}
        async with running(database, tmp_path, "SELECT 1", (), environment) as tree:
            await equal(tree, device)
            await scribble(database, 4, 40)
            await equal(tree, device)
            assert device.afresh == 0, "nothing is fetched again"
    finally:
        await device.close()


async def test_holdings_that_lag_behind_the_log_are_made_again(database: str, tmp_path: Path) -> None:
    """A kill may come between the two."""
    async with running(database, tmp_path, SQL, TABLES) as tree:
        await scribble(database, 1, 40)
        device = Stubborn(tree.url, wish())
        try:
            await device.resumed.wait()
            await equal(tree, device)
            consumer = await tree.consumer("projects")
            holdings: Holdings = consumer._cell.actor._holdings  # type: ignore[attr-defined]
            old = tmp_path / "old"
            old.mkdir()
            holdings._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            shutil.copy(holdings._path, old / "holdings")
            await scribble(database, 2, 40)
            await equal(tree, device)
            crash(consumer)
            await until(lambda: _ended(consumer))
            for file in holdings._path.parent.glob("holdings*"):
                file.unlink()
            shutil.copy(old / "holdings", holdings._path)
            await scribble(database, 3, 40)
            await equal(tree, device)
            assert device.afresh == 0, "nothing is fetched again"
        finally:
            await device.close()


async def _ended(ref: object) -> bool:
    return not ref.alive  # type: ignore[attr-defined, no-any-return]


async def test_a_column_that_is_dropped_stops_nothing(database: str, tmp_path: Path) -> None:
    """What is fetched then has NULL in its place, as what is streamed has."""
    async with running(database, tmp_path, SQL, TABLES) as tree, RawDevice.connected(tree.url) as device:
        await tree.postgres.execute("INSERT INTO users VALUES (1, NULL, 'ann'), (2, 1, 'bob')")
        await tree.postgres.execute("INSERT INTO projects VALUES (1, NULL, 'one'), (2, NULL, 'two')")
        await device.start()
        await device.subscribe(dataclasses.replace(wish(), where="this.id = 1"))
        await tree.postgres.execute("ALTER TABLE users DROP COLUMN name")
        await tree.postgres.execute("UPDATE projects SET owner = 2 WHERE id = 1")
        oid = await tree.postgres.fetchval("SELECT 'users'::regclass::oid::int8")

        async def arrived() -> bool:
            return device.rows.get(oid) == {b"1": (b"1", None, None), b"2": (b"2", b"1", None)}

        await until(arrived)
