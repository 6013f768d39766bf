"""Device transactions merged into Postgres, in transactions a second on one connection.

    python -m benchmarks.writes [--transactions N] [--batch N] [--dsn DSN]

Each device transaction inserts, updates or deletes one row of a six-column table through ``electric.apply``. The limits
measured in the same run, on the same table shape without Syncline: plain single inserts, each its own durable commit,
on one connection; the same with commits that do not wait for the disk; and COPY of the same rows. Without ``--dsn`` an
embedded Postgres is started (fsync on) in a temporary folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from syncline.actors.postgres.bootstrap import bootstrap
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.typemap import SESSION_SETTINGS

TABLE = "id uuid PRIMARY KEY, title text NOT NULL, body text, priority int4, done bool, created timestamptz"
ROUNDS = 3


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


def inserts(relid: int, keys: list[str], start: int) -> list[dict[str, Any]]:
    return [
        transaction(start + i, {"rel": relid, "op": "I", "row": row(i, key), "modified": [True] * 6, "tags": []})
        for i, key in enumerate(keys)
    ]


def updates(relid: int, keys: list[str], start: int) -> list[dict[str, Any]]:
    changed = [False, True, False, True, False, False]
    return [
        transaction(start + i, {"rel": relid, "op": "U", "row": row(i + 1, key), "modified": changed, "tags": []})
        for i, key in enumerate(keys)
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


async def measure(dsn: str, count: int, batch: int, *, local: bool) -> None:
    connection = await asyncpg.connect(dsn, server_settings=SESSION_SETTINGS)
    await bootstrap(connection)
    await connection.execute(f"CREATE TABLE issues ({TABLE}); CREATE TABLE plain ({TABLE})")
    await connection.execute("CALL electric.electrify('public.issues')")
    relid = await connection.fetchval("SELECT 'issues'::regclass::oid")
    backend = psutil.Process(connection.get_server_pid()) if local else None
    rates: dict[str, list[float]] = {}
    per_cpu: dict[str, list[float]] = {}

    def cpu_s() -> float:
        times = backend.cpu_times() if backend is not None else None
        return times.user + times.system if times is not None else math.nan

    async def note(name: str, transactions: int, work: Awaitable[float]) -> None:
        before_s = cpu_s()
        rates.setdefault(name, []).append(transactions / await work)
        per_cpu.setdefault(name, []).append(transactions / max(0.01, cpu_s() - before_s))

    number = 1
    for _ in range(ROUNDS):
        keys = [str(uuid.uuid4()) for _ in range(count)]
        plain = [str(uuid.uuid4()) for _ in range(count // 10)]
        await note("plain inserts, one durable commit each", len(plain), plain_inserts(connection, plain))
        await connection.execute("SET synchronous_commit = off")
        plain = [str(uuid.uuid4()) for _ in range(count // 2)]
        await note("plain inserts, commits not waited for", len(plain), plain_inserts(connection, plain))
        await connection.execute("RESET synchronous_commit")
        await note("COPY, rows/s", count, copy(connection, [str(uuid.uuid4()) for _ in range(count)]))
        work = inserts(relid, keys, number)
        number += count
        await note("electric.apply, one insert each", count, apply_all(connection, work, batch))
        work = updates(relid, keys, number)
        tags = [
            [f"{a['client']}@{a['ms']}", f"device-{(number - count + i) % 50}@{1_700_000_000_000 + number - count + i}"]
            for i, a in enumerate(work)
        ]
        number += count
        await note("electric.apply, one update each", count, apply_all(connection, work, batch))
        work = deletes(relid, keys, number, tags)
        number += count
        await note("electric.apply, one delete each", count, apply_all(connection, work, batch))
    left = await connection.fetchval("SELECT count(*) FROM issues")
    assert left == 0, f"{left} rows survived their deletes"
    print(f"{'median of ' + str(ROUNDS):<42}{'a second':>10}{'a CPU second':>16}   (of the backend)")
    for name, values in rates.items():
        print(f"{name:<42}{statistics.median(values):>10,.0f}{statistics.median(per_cpu[name]):>16,.0f}")
    await connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transactions", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--dsn", help="an empty database; default: an embedded Postgres")
    arguments = parser.parse_args()
    if arguments.dsn:
        asyncio.run(measure(arguments.dsn, arguments.transactions, arguments.batch, local=False))
        return
    with tempfile.TemporaryDirectory(prefix="syncline-bench-") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder) / "postgres")
        dsn = server.start()
        try:
            asyncio.run(measure(dsn, arguments.transactions, arguments.batch, local=True))
        finally:
            server.stop("immediate")


if __name__ == "__main__":
    main()
