"""SQLite fails while synced rows are given up, as the server no longer knows the device's position."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.client.satellite_peer import Peer, item, running_peer
from tests.unit.client.test_client_satellite import TAGS, items, status, synced, until

from syncline.client import Database, connectivity, open_db


@pytest.fixture
async def peer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Peer]:
    monkeypatch.setattr(connectivity, "BACKOFF_MAX_S", 0.1)
    async with running_peer() as peer:
        peer.rows = {"a": (item("a"), TAGS)}
        yield peer


@pytest.fixture
async def db(peer: Peer, tmp_path: Path) -> AsyncIterator[Database]:
    async with asyncio.timeout(20), open_db(tmp_path / "app.db", peer.url) as db:
        await synced(db, peer)
        yield db


class FullDisk:
    """Of ``db``, for the next ``times`` times that it is to give its rows up; the server wants that each time."""

    def __init__(self, db: Database, peer: Peer, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = times
        self._peer = peer
        self._reset = db._replica.reset
        self.refuse()
        monkeypatch.setattr(db._replica, "reset", self.reset)

    def refuse(self) -> None:
        self._peer.refuse_start_once = "INVALID_POSITION"

    async def reset(self) -> None:
        if self.left:
            self.left -= 1
            self.refuse()
            raise sqlite3.OperationalError("database or disk is full")
        await self._reset()


async def test_it_is_tried_again_until_it_succeeds(db: Database, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(db, peer, 2, monkeypatch)
    peer.rows = {"b": (item("b"), TAGS)}
    await peer.cut()
    await status(db, last_error="database or disk is full", reason="unreachable")
    await until(db, "(SELECT group_concat(id) FROM items) = 'b'")
    assert disk.left == 0
    assert db.status.connected
    assert db.status.last_error is None


async def test_connecting_returns_meanwhile_and_all_data_stays(
    db: Database, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.disconnect()
    FullDisk(db, peer, 1_000, monkeypatch)
    await db.connect()
    assert (db.status.connected, db.status.reason) == (False, "unreachable")
    assert db.status.last_error == "database or disk is full"
    assert await items(db) == [("a", None, None, None)]
