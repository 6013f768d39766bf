"""How long a new device waits for a large table, and what that costs the service.

    python -m benchmarks.first_sync [--rows N] [--repeats N]

A device of the Python library, in a process of its own with an empty file, connects, syncs the table and counts its
rows in SQLite; the clock runs from ``sync`` to the answer. The first device's shape does not exist yet, so the service
takes the snapshot too (*cold*); later ones get what it has on disk (*warm*). In between one device that speaks the
protocol and keeps nothing shows what is left without SQLite.

Limits in the same run: ``COPY ... TO STDOUT`` of the table into a process that counts bytes, and ``executemany`` of the
same rows, already in memory as Python values, into a table of a new SQLite file.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import asyncpg

from benchmarks.figures import Figure
from benchmarks.fleet import Fleet
from benchmarks.program import Program, run
from benchmarks.side import beside
from benchmarks.stand import COLUMNS, TOKEN, Deployment, rows_sql, serving
from syncline.client import open_db


def sync_once(pipe: Connection, path: str, url: str, table: str) -> None:
    """A new device: sends (seconds, its CPU seconds, rows)."""
    pipe.send(asyncio.run(_sync_once(path, url, table)))


async def _sync_once(path: str, url: str, table: str) -> tuple[float, float, int]:
    async with open_db(path, url) as db:
        await db.connect(TOKEN)
        started_s, cpu_s = time.monotonic(), time.process_time()
        await (await db.sync(table)).synced()
        ((rows,),) = await db.sql(f"SELECT count(*) FROM {table}")
        return time.monotonic() - started_s, time.process_time() - cpu_s, rows


def insert_rows(pipe: Connection, dsn: str, path: str, table: str) -> None:
    """Sends (seconds, CPU seconds) of writing the table's rows to SQLite, as the device library would at best."""
    pipe.send(asyncio.run(_insert_rows(dsn, path, table)))


async def _insert_rows(dsn: str, path: str, table: str) -> tuple[float, float]:
    database = await asyncpg.connect(dsn)
    found = await database.fetch(f"SELECT id::text, title, body, priority, done::int, created::text FROM {table}")
    rows = [tuple(row) for row in found]
    await database.close()
    file = sqlite3.connect(path, isolation_level=None)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    file.execute(
        f"CREATE TABLE {table} (id TEXT NOT NULL PRIMARY KEY, title TEXT NOT NULL, body TEXT, priority INTEGER, "
        "done INTEGER, created TEXT) WITHOUT ROWID"
    )
    started_s, cpu_s = time.monotonic(), time.process_time()
    file.execute("BEGIN")
    file.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?)", rows)
    file.execute("COMMIT")
    taken = time.monotonic() - started_s, time.process_time() - cpu_s
    file.close()
    return taken


async def copy_out(dsn: str, table: str) -> float:
    """Seconds of a COPY of the table into nothing."""
    database = await asyncpg.connect(dsn)
    size = 0

    async def count(data: bytes) -> None:
        nonlocal size
        size += len(data)

    started_s = time.monotonic()
    await database.copy_from_query(f"SELECT * FROM {table}", output=count, format="text")
    seconds = time.monotonic() - started_s
    await database.close()
    return seconds


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=150_000, help="default 150000; the goal speaks of 1000000")
    parser.add_argument("--repeats", type=int, default=2, help="warm devices (default 2)")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    rows = options.rows
    walls: list[float] = []
    service_cpu: list[float] = []
    device_cpu: list[float] = []
    # The rows are there before the table is electrified: none of them comes through the stream.
    filled = f"CREATE TABLE issues ({COLUMNS}); {rows_sql('issues', f'1, {rows}')}; ANALYZE issues"
    async with serving(folder, Deployment.of(options), filled, "issues") as (service, _):

        async def device(number: int) -> tuple[float, float, float]:
            cpu_s = service.cpu_s()
            path = folder / f"device-{number}.db"
            async with beside(sync_once, str(path), service.url, "issues") as side:
                seconds, device_s, count = await side.receive()
            if count != rows:
                raise AssertionError(f"the device holds {count} rows of {rows}")
            path.unlink()
            return rows / seconds, rows / (service.cpu_s() - cpu_s), rows / device_s

        cold_wall, cold_cpu, cold_device = await device(0)
        async with Fleet.lead(service.url, ("issues",)) as bare:
            cpu_s, started_s = service.cpu_s(), time.monotonic()
            await bare.connect()
            bare_wall, bare_cpu = rows / (time.monotonic() - started_s), rows / (service.cpu_s() - cpu_s)
        for number in range(options.repeats):
            wall, cpu, of_device = await device(1 + number)
            walls.append(wall)
            service_cpu.append(cpu)
            device_cpu.append(of_device)
        copies = [rows / await copy_out(service.dsn, "issues") for _ in range(3)]
        raw = []
        for number in range(3):
            async with beside(insert_rows, service.dsn, str(folder / f"raw-{number}.db"), "issues") as side:
                raw.append(await side.receive())
    copy = Figure("COPY TO STDOUT", tuple(copies), "rows/s")
    sqlite_wall = Figure("SQLite executemany", tuple(rows / seconds for seconds, _ in raw), "rows/s")
    sqlite_cpu = Figure("SQLite executemany", tuple(rows / cpu_s for _, cpu_s in raw), "rows/CPU-s")
    many = f"{rows:,} rows"
    warm = tuple(walls)
    return [
        Figure(f"{many}, queryable on a cold device", (cold_wall,), "rows/s", goal=">= 100,000").against(sqlite_wall),
        Figure(f"{many}, queryable on a cold device", (cold_wall,), "rows/s").against(copy),
        Figure(f"{many}, queryable on a warm device", warm, "rows/s", goal=">= 100,000").against(sqlite_wall),
        Figure(f"{many}, warm, without SQLite", (bare_wall,), "rows/s").against(copy),
        Figure("service, cold", (cold_cpu,), "rows/CPU-s", goal=">= 150,000"),
        Figure("service, warm", (*service_cpu, bare_cpu), "rows/CPU-s", goal=">= 150,000"),
        Figure("device, cold and warm", (cold_device, *device_cpu), "rows/CPU-s").against(sqlite_cpu),
    ]


PROGRAM = Program("first_sync", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
