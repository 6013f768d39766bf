"""Two npm devices, a Python device and an application in Postgres write the same few rows, with cuts and kills.

Whatever they did, once everything has been delivered all four hold the same rows.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import pytest
from tests.npm.rig import NpmDevice, NpmError, eventually
from tests.npm.service import ServiceProcess, serving

from syncline.client import Database, open_db

ROUNDS = 25
KEYS = 8
SQL = "CREATE TABLE things (id int PRIMARY KEY, a int, b text, c text); INSERT INTO things VALUES (0, 0, 'b', 'c');"
INSERT = "INSERT INTO things (id, a, b, c) VALUES ({id}, {n}, '{who} {n}', NULL)"
CHANGES = (
    "UPDATE things SET a = {n} WHERE id = {id}",
    "UPDATE things SET b = '{who} {n}' WHERE id = {id}",
    "UPDATE things SET c = '{who} {n}', a = NULL WHERE id = {id}",
    "UPDATE things SET c = '{who} all {n}'",
    "DELETE FROM things WHERE id = {id}",
    INSERT,
    INSERT,
)

Write = Callable[[str], Awaitable[Any]]


class Scene:
    """Everybody who writes, and what may go wrong around them."""

    def __init__(
        self, seed: int, folder: Path, service: ServiceProcess, postgres: asyncpg.Connection, eve: Database
    ) -> None:
        self.random = random.Random(seed)
        self.service = service
        self.postgres = postgres
        self.eve = eve
        self.npm: dict[str, NpmDevice] = {}
        self._folder = folder
        self._number = 0

    async def open(self, name: str) -> None:
        self.npm[name] = await NpmDevice.open(self._folder / f"{name}.db", self.service.url)
        await self.npm[name].connect(name)

    async def write(self, who: str, write: Write) -> None:
        """One random statement; to insert a row that is there already counts as not done."""
        self._number += 1
        sql = self.random.choice(CHANGES).format(id=self.random.randrange(KEYS), n=self._number, who=who)
        try:
            await write(sql)
        except (sqlite3.IntegrityError, asyncpg.UniqueViolationError):
            pass
        except NpmError as refused:
            if refused.code != "SQLITE_CONSTRAINT_PRIMARYKEY":
                raise

    async def round(self) -> None:
        """Everybody writes at once."""
        writes = [self.write(name, device_write(device)) for name, device in self.npm.items()]
        await asyncio.gather(
            *writes, self.write("eve", self.eve.execute), self.write("postgres", self.postgres.execute)
        )

    async def mishap(self) -> None:
        name = self.random.choice(sorted(self.npm))
        match self.random.randrange(12):
            case 0 if self.npm[name].connected:  # told to while it reconnects by itself, the client loses its way
                await self.npm[name].disconnect()
            case 1:
                await self.eve.disconnect()
            case 2:
                await self.npm[name].kill()
                await self.open(name)
            case 3:
                await self.service.kill()
                await self.service.start()
            case 4:
                await self.connect_all()
            case _:
                await asyncio.sleep(self.random.random() / 10)  # a step of the plan: nothing is done

    async def connect_all(self) -> None:
        """Also those that believe they are: cut off while it starts to replicate, the npm client does so for ever."""
        await asyncio.gather(*(device.connect() for device in self.npm.values()), self.eve.connect())

    async def agree_once_connected(self) -> bool:
        await self.connect_all()
        return await self.agree()

    async def agree(self) -> bool:
        there = [tuple(row) for row in await self.postgres.fetch("SELECT * FROM things ORDER BY id")]
        for name, device in self.npm.items():
            rows = await device.query("SELECT * FROM things ORDER BY id")
            assert [tuple(row.values()) for row in rows] == there, name
            assert await device.pending() == 0, name
        assert [tuple(row) for row in await self.eve.sql("SELECT * FROM things ORDER BY id")] == there, "eve"
        assert self.eve.status.pending_writes == 0
        return True


def device_write(device: NpmDevice) -> Write:
    return lambda sql: device.execute((sql,))


@pytest.mark.parametrize("seed", [1, 2])
async def test_all_hold_the_same_rows_in_the_end(seed: int, database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=("things",)) as (service, postgres),
        open_db(tmp_path / "eve.db", service.url.replace("http", "ws")) as eve,
    ):
        scene = Scene(seed, tmp_path, service, postgres, eve)
        try:
            await eve.connect(jwt.encode({"sub": "eve"}, "", "none"))
            await (await eve.sync("things")).synced()
            for name in ("ann", "bob"):
                await scene.open(name)
                await scene.npm[name].sync("things")
            for _ in range(ROUNDS):
                await scene.round()
                await scene.mishap()
            await eventually(scene.agree_once_connected)
            assert service.is_running
        finally:
            for device in scene.npm.values():
                await device.close()
