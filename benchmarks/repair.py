"""What it takes to set a device right when the service has lost its disk: the rows that differ, found by digests.

    python -m benchmarks.repair [--rows N] [--changed N] [--repeats N]

A device of the Python library, in a process of its own, has a table of so many rows. The service is killed, its data
folder removed, some rows are changed, and it starts again. First another device has the table, so that the service has
read it anew: that is not the device's to wait for. Then the device connects; the clock runs from that until the repair
is applied, and the bytes are those that it receives and sends.

Limit in the same run: a new device that fetches the whole table then, from the same service, whose clock and bytes are
taken in the same way.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.program import Program, run
from benchmarks.side import beside
from benchmarks.stand import COLUMNS, TOKEN, Deployment, rows_sql, serving
from syncline.client import open_db
from syncline.client.transport import Transport, open_websocket
from syncline.proto.codec import MessageType

TABLE = "issues"
CHANGE = f"""
UPDATE {TABLE} SET title = 'changed' WHERE id IN (SELECT id FROM {TABLE} ORDER BY md5(id::text || $1) LIMIT $2)
"""


class Weighed:
    """``bytes`` that have come and gone, and ``repairs`` that have begun."""

    def __init__(self) -> None:
        self.bytes = 0
        self.repairs = 0

    @asynccontextmanager
    async def open(self, url: str) -> AsyncIterator[Transport]:
        async with open_websocket(url) as line:
            yield Weighing(line, self)


class Weighing:
    """A line whose bytes and repairs are counted."""

    def __init__(self, line: Transport, weighed: Weighed) -> None:
        self.protocol = line.protocol
        self._line = line
        self._weighed = weighed

    async def send(self, frame: bytes) -> None:
        self._weighed.bytes += len(frame)
        await self._line.send(frame)

    async def receive(self) -> bytes:
        frame = await self._line.receive()
        self._weighed.bytes += len(frame)
        self._weighed.repairs += frame[0] == MessageType.REPAIR_BEGIN
        return frame


def come(pipe: Connection, path: str, url: str, changed: int) -> None:
    """A device connects and has the table, with so many rows ``changed``: sends (seconds, bytes, repairs)."""
    pipe.send(asyncio.run(_come(path, url, changed)))


async def _come(path: str, url: str, changed: int) -> tuple[float, int, int]:
    weighed = Weighed()
    async with open_db(path, url, open_transport=weighed.open) as db:
        started_s = time.monotonic()
        await db.connect(TOKEN)
        await (await db.sync(TABLE)).synced()
        async with db.sql(f"SELECT count(*) FROM {TABLE} WHERE title = 'changed'").live() as results:
            async for ((count,),) in results:
                if count == changed:
                    break
        return time.monotonic() - started_s, weighed.bytes, weighed.repairs


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=100_000, help="of the table (default 100000)")
    parser.add_argument("--changed", type=int, default=100, help="of them, each time (default 100)")
    parser.add_argument("--repeats", type=int, default=3, help="losses (default 3)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    filled = f"CREATE TABLE {TABLE} ({COLUMNS}); {rows_sql(TABLE, f'1, {options.rows}')}; ANALYZE {TABLE}"
    repairs: list[tuple[float, int, int]] = []
    fetches: list[tuple[float, int, int]] = []
    async with serving(folder, Deployment.of(options), filled, TABLE) as (service, database):

        async def device(name: str, changed: int) -> tuple[float, int, int]:
            async with beside(come, str(folder / f"{name}.db"), service.url, changed) as side:
                seconds, octets, repaired = await side.receive()
                return float(seconds), int(octets), int(repaired)

        await device("kept", 0)
        for number in range(options.repeats):
            await service.kill()
            await asyncio.to_thread(shutil.rmtree, service.data_dir)
            await database.execute(CHANGE, str(number), options.changed)
            changed = await database.fetchval(f"SELECT count(*) FROM {TABLE} WHERE title = 'changed'")
            await service.start()
            await device(f"first-{number}", changed)
            fetches.append(await device(f"fetching-{number}", changed))
            repairs.append(await device("kept", changed))
            if repairs[-1][2] != 1:
                raise AssertionError("the device has not been repaired")
    whole_s = Figure("fetched whole", tuple(seconds for seconds, _, _ in fetches), "s")
    whole_bytes = Figure("fetched whole", tuple(float(octets) for _, octets, _ in fetches), "bytes")
    what = f"{options.rows:,} rows, {options.changed:,} changed, disk lost"
    return [
        Figure(f"{what}: until repaired", tuple(seconds for seconds, _, _ in repairs), "s").against(whole_s),
        Figure(f"{what}: both ways", tuple(float(octets) for _, octets, _ in repairs), "bytes").against(whole_bytes),
    ]


PROGRAM = Program("repair", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
