"""How fast device transactions are merged into Postgres.

    python -m benchmarks.writes [--transactions N] [--batch N] [--backlog N]

*electric.apply*: what the service's writer calls, on one connection and with the service stopped, each device
transaction changing one row of a six-column table: an insert, an update whose author has seen the row, one whose
author has not (a conflict), an update of a row that direct SQL wrote, and a delete. *End to end*: one device of the
Python library writes a backlog of one-row transactions while offline, connects, and has every one of them back as an
echo, that is: merged, durable, streamed and applied again. Its CPU time stands apart: it is no part of the server's.

Limits in the same run, on the same table without Syncline and on one connection: plain single inserts, each its own
durable commit; the same with commits that do not wait for the disk; and COPY of the same rows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from benchmarks import processes
from benchmarks.figures import Figure, per_cpu_s
from benchmarks.program import Program, run
from benchmarks.side import beside
from benchmarks.stand import COLUMNS, TOKEN, Deployment, serving
from syncline.actors.postgres.writer import WRITER_SETTINGS
from syncline.client import open_db
from syncline.proto.values import POSTGRES_ORIGIN

ROUNDS = 3
KINDS = {
    "insert": "one insert each",
    "update": "one update each",
    "conflict": "one update each, of what its author has not seen",
    "direct": "one update each, of a row of direct SQL",
    "delete": "one delete each",
}
INSERT = "INSERT INTO issues (id, title, body, priority, done, created) VALUES (?, ?, ?, ?, ?, ?)"


def row(number: int, key: str) -> list[str]:
    return [
        key,
        f"issue {number}",
        "a few words of text, as people write them",
        str(number % 5),
        "f",
        "2026-01-01 00:00:00Z",
    ]


def transaction(number: int, operation: dict[str, Any]) -> dict[str, Any]:
    return {"client": f"device-{number % 50}", "lsn": number, "ms": 1_700_000_000_000 + number, "ops": [operation]}


def tag(of: dict[str, Any]) -> str:
    return f"{of['client']}@{of['ms']}"


def inserts(relid: int, keys: list[str], start: int) -> list[dict[str, Any]]:
    return [
        transaction(start + i, {"rel": relid, "op": "I", "row": row(i, key), "modified": [True] * 6, "tags": []})
        for i, key in enumerate(keys)
    ]


def updates(relid: int, keys: list[str], start: int, seen: Sequence[list[str]]) -> list[dict[str, Any]]:
    changed = [False, True, False, True, False, False]
    return [
        transaction(start + i, {"rel": relid, "op": "U", "row": row(i + 1, key), "modified": changed, "tags": tags})
        for i, (key, tags) in enumerate(zip(keys, seen, strict=True))
    ]


def deletes(relid: int, keys: list[str], start: int, seen: list[list[str]]) -> list[dict[str, Any]]:
    return [
        transaction(start + i, {"rel": relid, "op": "D", "row": row(i, key), "modified": [], "tags": tags})
        for i, (key, tags) in enumerate(zip(keys, seen, strict=True))
    ]


async def apply_all(connection: asyncpg.Connection, transactions: list[dict[str, Any]], batch: int) -> float:
    """Seconds; asserts that every transaction was applied."""
    started = time.perf_counter()
    for at in range(0, len(transactions), batch):
        text = json.dumps(transactions[at : at + batch])
        results = json.loads(await connection.fetchval("CALL electric.apply($1, NULL)", text))
        assert all(result["status"] == "applied" for result in results), results[0]
    return time.perf_counter() - started


async def plain_inserts(connection: asyncpg.Connection, keys: list[str]) -> float:
    statement = await connection.prepare(
        "INSERT INTO plain VALUES ($1::text::uuid, $2, $3, $4::text::int4, $5::text::bool, $6::text::timestamptz)"
    )
    started = time.perf_counter()
    for i, key in enumerate(keys):
        await statement.fetch(*row(i, key))
    return time.perf_counter() - started


async def copy(connection: asyncpg.Connection, keys: list[str]) -> float:
    data = "".join("\t".join(row(i, key)) + "\n" for i, key in enumerate(keys)).encode()

    async def source() -> Any:
        yield data

    started = time.perf_counter()
    await connection.copy_to_table("plain", source=source())
    return time.perf_counter() - started


def write_offline(pipe: Connection, path: str, url: str, count: int) -> None:
    """The device: sends the seconds of writing locally, is told to connect, sends the seconds until all came back and
    the CPU seconds that it used meanwhile."""
    asyncio.run(_write_offline(pipe, path, url, count))


async def _write_offline(pipe: Connection, path: str, url: str, count: int) -> None:
    async with open_db(path, url) as db:
        await db.connect(TOKEN)
        await (await db.sync("issues")).synced()
        await db.disconnect()
        started_s = time.monotonic()
        for n in range(count):
            await db.execute(INSERT, (str(uuid.uuid4()), f"issue {n}", "a few words of text", n % 5, 0, None))
        pipe.send(time.monotonic() - started_s)
        await asyncio.to_thread(pipe.recv)
        started_s, cpu_s = time.monotonic(), time.process_time()
        await db.connect()
        async for status in db.status_changes():
            if status.pending_writes == 0:
                break
        pipe.send((time.monotonic() - started_s, time.process_time() - cpu_s))


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--transactions", type=int, default=3_000, help="of each kind and round (default 3000)")
    parser.add_argument("--batch", type=int, default=500, help="transactions a call (default 500)")
    parser.add_argument("--backlog", type=int, default=5_000, help="of the offline device (default 5000)")


async def apply_and_limits(
    database: asyncpg.Connection, relid: int, count: int, batch: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Transactions a second, and a CPU second of the backend, of each kind: one value a round."""
    rates: dict[str, list[float]] = {}
    cpu_rates: dict[str, list[float]] = {}
    backend = psutil.Process(database.get_server_pid())

    def cpu_s() -> float:
        times = backend.cpu_times()
        return float(times.user + times.system)

    async def note(name: str, transactions: int, work: Awaitable[float]) -> None:
        before_s = cpu_s()
        rates.setdefault(name, []).append(transactions / await work)
        cpu_rates.setdefault(name, []).append(per_cpu_s(transactions, cpu_s() - before_s))

    number = 1
    for _ in range(ROUNDS):
        keys = [str(uuid.uuid4()) for _ in range(count)]
        plain = [str(uuid.uuid4()) for _ in range(count // 10)]
        await note("durable", len(plain), plain_inserts(database, plain))
        await database.execute("SET synchronous_commit = off")
        plain = [str(uuid.uuid4()) for _ in range(count // 2)]
        await note("unsafe", len(plain), plain_inserts(database, plain))
        await database.execute("RESET synchronous_commit")
        await note("copy", count, copy(database, [str(uuid.uuid4()) for _ in range(count)]))
        first = inserts(relid, keys, number)
        number += count
        await note("insert", count, apply_all(database, first, batch))
        work = updates(relid, keys, number, [[tag(it)] for it in first])
        number += count
        await note("update", count, apply_all(database, work, batch))
        unseen = updates(relid, keys, number, [[]] * count)
        number += count
        await note("conflict", count, apply_all(database, unseen, batch))
        # The first author's tag went when it was seen, the others' keep the row.
        work = deletes(relid, keys, number, [[tag(one), tag(other)] for one, other in zip(work, unseen, strict=True)])
        number += count
        await note("delete", count, apply_all(database, work, batch))
        await database.execute(
            "INSERT INTO issues SELECT k::uuid, 't', 'b', 1, false, now() FROM unnest($1::text[]) k", plain
        )
        work = updates(relid, plain, number, [[f"{POSTGRES_ORIGIN}@0"]] * len(plain))
        number += count
        await note("direct", len(plain), apply_all(database, work, batch))
        await database.execute("DELETE FROM issues WHERE id = ANY ($1::text[]::uuid[])", plain)
    left = await database.fetchval("SELECT count(*) FROM issues")
    assert left == 0, f"{left} rows survived their deletes"
    return rates, cpu_rates


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    backlog = options.backlog
    tables = f"CREATE TABLE issues ({COLUMNS}); CREATE TABLE plain ({COLUMNS})"
    async with serving(folder, Deployment.of(options), tables, "issues") as (service, database):
        async with beside(write_offline, str(folder / "device.db"), service.url, backlog) as device:
            local_s = await device.receive()
            cpu_s = service.cpu_s()
            postgres_s = processes.postgres_cpu_s(database.get_server_pid())
            device.send("connect")
            drained_s, device_s = await device.receive()
            cpu_s = service.cpu_s() - cpu_s
            postgres_s = processes.postgres_cpu_s(database.get_server_pid()) - postgres_s
        arrived = await database.fetchval("SELECT count(*) FROM issues")
        assert arrived == backlog, f"{arrived} of {backlog} transactions are in Postgres"
        await database.execute("TRUNCATE issues")
        await service.stop()
        caller = await asyncpg.connect(service.dsn, server_settings=WRITER_SETTINGS)
        relid = await caller.fetchval("SELECT 'issues'::regclass::oid")
        rates, cpu_rates = await apply_and_limits(caller, relid, options.transactions, options.batch)
        await caller.close()
    durable = Figure("single inserts, durable", tuple(rates["durable"]), "tx/s")
    unsafe = Figure("single inserts, not waiting for the disk", tuple(rates["unsafe"]), "tx/s")
    copied = Figure("COPY", tuple(rates["copy"]), "rows/s")
    end_to_end = Figure(
        f"{backlog:,} offline transactions, end to end", (backlog / drained_s,), "tx/s", goal=">= 1,667"
    )
    merged = Figure(f"electric.apply, {KINDS['insert']}", tuple(rates["insert"]), "tx/s")
    backend = [
        Figure(f"electric.apply, {kind}", tuple(cpu_rates[of]), "tx/backend CPU-s", goal=">= 5,000").against(
            Figure("single inserts, not waiting for the disk", tuple(cpu_rates["unsafe"]), "tx/backend CPU-s")
        )
        for of, kind in KINDS.items()
    ]
    return [
        merged.against(durable),
        merged.against(unsafe),
        merged.against(copied),
        *(
            Figure(f"electric.apply, {KINDS[of]}", tuple(rates[of]), "tx/s").against(durable)
            for of in KINDS
            if of != "insert"
        ),
        *backend,
        end_to_end.against(durable),
        end_to_end.against(merged),
        Figure("server (service and Postgres), end to end", (per_cpu_s(backlog, cpu_s + postgres_s),), "tx/CPU-s"),
        Figure("service, end to end", (per_cpu_s(backlog, cpu_s),), "tx/CPU-s"),
        Figure("Postgres, end to end", (per_cpu_s(backlog, postgres_s),), "tx/CPU-s"),
        Figure("load: the device, end to end", (per_cpu_s(backlog, device_s),), "tx/CPU-s"),
        Figure("written locally meanwhile offline", (backlog / local_s,), "tx/s"),
    ]


PROGRAM = Program("writes", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
