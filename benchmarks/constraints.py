"""What constraints cost the merging of device transactions into Postgres.

    python -m benchmarks.constraints [--transactions N] [--batch N]

``electric.apply`` on one connection, with the service stopped, each transaction changing one row: of a table with a
primary key alone, and of one that has the same columns and, besides, three CHECKs (one over two columns), a foreign
key, two unique constraints (one over two columns) and a generated column. Plain SQL pays for constraints, too: the same
inserts without Syncline, which do not wait for the disk, tell how much. Then what becomes of writes that violate a
unique constraint, by each policy.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.figures import Figure
from benchmarks.program import Program, run
from benchmarks.stand import Deployment, serving
from syncline.actors.postgres.writer import WRITER_SETTINGS

ROUNDS = 3
COLUMNS = "id int PRIMARY KEY, name text, team int, place int, starts int, ends int"
BOUND = """
    CHECK (length(name) < 100), CHECK (place >= 0), CHECK (starts < ends), FOREIGN KEY (team) REFERENCES teams,
    UNIQUE (name), UNIQUE (team, place), lasts int GENERATED ALWAYS AS (ends - starts) STORED
"""
TABLES = f"""
CREATE TABLE teams (id int PRIMARY KEY);
INSERT INTO teams SELECT generate_series(0, 99);
CREATE TABLE bare ({COLUMNS});
CREATE TABLE bound ({COLUMNS}, {BOUND});
CREATE TABLE labels (id int PRIMARY KEY, label text UNIQUE);
CREATE TABLE plain_bare ({COLUMNS});
CREATE TABLE plain_bound ({COLUMNS}, {BOUND});
INSERT INTO labels VALUES (0, 'taken');
"""
POLICIES = ("first-wins", "rename", "nullify")


def row(n: int) -> list[str]:
    return [str(n), f"name {n}", str(n % 100), str(n // 100), str(n), str(n + 10)]


class Writes:
    """Transactions of fifty devices, numbered on."""

    def __init__(self, connection: asyncpg.Connection, batch: int) -> None:
        self._connection = connection
        self._batch = batch
        self._number = 0

    def transaction(self, operation: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        n = self._number
        return {"client": f"device-{n % 50}", "lsn": n, "ms": 1_700_000_000_000 + n, "ops": [operation]}

    async def rate(self, operations: Sequence[dict[str, Any]], status: str = "applied") -> float:
        """Transactions a second, of one operation each; asserts what became of them."""
        transactions = [self.transaction(operation) for operation in operations]
        started_s = time.perf_counter()
        for at in range(0, len(transactions), self._batch):
            text = json.dumps(transactions[at : at + self._batch])
            results = json.loads(await self._connection.fetchval("CALL electric.apply($1, NULL)", text))
            assert all(result["status"] == status for result in results), results[0]
        return len(transactions) / (time.perf_counter() - started_s)


def insert(relid: int, cells: list[str]) -> dict[str, Any]:
    return {"rel": relid, "op": "I", "row": cells, "modified": [True] * len(cells), "tags": []}


def update(relid: int, n: int) -> dict[str, Any]:
    """Of the columns that a CHECK ties."""
    cells = [*row(n)[:4], str(n + 1), str(n + 20)]
    return {"rel": relid, "op": "U", "row": cells, "modified": [False] * 4 + [True] * 2, "tags": []}


async def plain_rate(connection: asyncpg.Connection, table: str, numbers: range) -> float:
    values = ", ".join(f"${place}::text::{kind}" for place, kind in enumerate(("int", "text", *["int"] * 4), 1))
    statement = await connection.prepare(f"INSERT INTO {table} VALUES ({values})")
    started_s = time.perf_counter()
    for n in numbers:
        await statement.fetch(*row(n))
    return len(numbers) / (time.perf_counter() - started_s)


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    rates: dict[str, list[float]] = {}
    tables = ("teams", "bare", "bound", "labels")
    async with serving(folder, Deployment.of(options), TABLES, *tables) as (service, _):
        await service.stop()
        connection = await asyncpg.connect(service.dsn, server_settings=WRITER_SETTINGS)
        relids = {name: await connection.fetchval("SELECT $1::text::regclass::oid", name) for name in tables}
        writes = Writes(connection, options.batch)

        def note(name: str, rate: float) -> None:
            rates.setdefault(name, []).append(rate)

        for at in range(ROUNDS):
            numbers = range(1 + at * options.transactions, 1 + (at + 1) * options.transactions)
            await connection.execute("SET synchronous_commit = off")
            for table in ("plain_bare", "plain_bound"):
                note(table, await plain_rate(connection, table, numbers))
            await connection.execute("RESET synchronous_commit")
            for table in ("bare", "bound"):
                note(table, await writes.rate([insert(relids[table], row(n)) for n in numbers]))
                note(f"{table} update", await writes.rate([update(relids[table], n) for n in numbers]))
            few = numbers[: max(1, len(numbers) // 10)]
            for place, policy in enumerate(POLICIES):
                await connection.execute("SELECT electric.unique_policy('labels_label_key', $1)", policy)
                ids = [n * len(POLICIES) + place for n in few]
                status = "rejected" if policy == "first-wins" else "applied"
                taken = [insert(relids["labels"], [str(n), "taken"]) for n in ids]
                note(policy, await writes.rate(taken, status))
        await connection.close()
    bare, bound = (
        Figure(f"electric.apply, one insert each, {name}", tuple(rates[key]), "tx/s")
        for name, key in (("a primary key alone", "bare"), ("with constraints", "bound"))
    )
    return [
        bound.against(bare),
        Figure(
            "electric.apply, one update each of two tied columns, with constraints",
            tuple(rates["bound update"]),
            "tx/s",
        ).against(Figure("the same without them", tuple(rates["bare update"]), "tx/s")),
        Figure(
            "single inserts, not waiting for the disk, with constraints", tuple(rates["plain_bound"]), "tx/s"
        ).against(Figure("the same without them", tuple(rates["plain_bare"]), "tx/s")),
        *(
            Figure(
                f"electric.apply, one insert each of a value that is taken, {policy}", tuple(rates[policy]), "tx/s"
            ).against(bound)
            for policy in POLICIES
        ),
    ]


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--transactions", type=int, default=3_000, help="of each kind and round (default 3000)")
    parser.add_argument("--batch", type=int, default=500, help="transactions a call (default 500)")


PROGRAM = Program("constraints", __doc__, options, measure)

if __name__ == "__main__":
    run(PROGRAM)
