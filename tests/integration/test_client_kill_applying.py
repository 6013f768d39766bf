"""A device process is killed while it applies the server's stream; position, rows and deliveries must agree."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
from pathlib import Path

from tests.unit.client.satellite_peer import ITEMS, Peer, item, running_peer

from syncline.proto.values import Insert

DEVICE = """
import asyncio, sys
from syncline.client import open_db
async def main():
    async with open_db(sys.argv[1], sys.argv[2]) as db:
        await db.connect("token")
        await (await db.sync("items")).synced()
        await asyncio.Event().wait()
asyncio.run(main())
"""

KILLS = 5
FIRST_ROWS = 500


async def stream(peer: Peer) -> None:
    """A two-row transaction as often as the device takes them."""
    while True:
        first = peer.lsn + 1
        await peer.commit(
            Insert(ITEMS.id, item(f"s{first}a"), ("postgres_1@0",)),
            Insert(ITEMS.id, item(f"s{first}b"), ("other@9",)),
        )


def check(path: Path) -> int:
    """What must hold at any moment; returns how many streamed transactions are here."""
    connection = sqlite3.connect(path)
    (lsn,) = connection.execute("SELECT lsn FROM _syncline_state").fetchone()
    states = [state for (state,) in connection.execute("SELECT state FROM _syncline_subscriptions")]
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'items'").fetchone():
        assert lsn == b""
        return 0
    shape = connection.execute("SELECT count(*) FROM items WHERE id LIKE 'd%'").fetchone()[0]
    assert shape == (FIRST_ROWS if "delivered" in states else 0)
    streamed = [int(key[1:-1]) for (key,) in connection.execute("SELECT id FROM items WHERE id LIKE 's%' ORDER BY id")]
    assert len(streamed) == 2 * len(set(streamed))
    assert max(streamed, default=0) <= int(lsn)
    tagged = connection.execute("SELECT count(*) FROM _syncline_shadow").fetchone()[0]
    assert tagged == len(set(streamed))
    connection.close()
    return len(set(streamed))


async def test_position_rows_and_tags_agree_after_every_kill(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    random.seed(11)
    async with running_peer() as peer:
        peer.rows = {f"d{number}": (item(f"d{number}"), ("postgres_1@0",)) for number in range(FIRST_ROWS)}
        streamed = 0
        for _ in range(KILLS):
            starts = len(peer.starts)
            device = await asyncio.create_subprocess_exec(sys.executable, "-c", DEVICE, path, peer.url)
            await peer.until(lambda starts=starts: len(peer.starts) > starts)
            if peer.starts[-1].lsn:
                streaming = asyncio.ensure_future(stream(peer))
                await asyncio.sleep(random.uniform(0.0, 0.2))  # killed anywhere in its work: no moment is to be met
                device.kill()
                await device.wait()
                await asyncio.wait({streaming}, timeout=0)
                streaming.cancel()
            else:
                await asyncio.sleep(random.uniform(0.0, 0.05))  # likewise
                device.kill()
                await device.wait()
            await peer.until(lambda: not peer.connected)
            streamed = check(path)
        assert streamed > 0
