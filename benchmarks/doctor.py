"""How long the doctor takes for a database of many tables.

    python -m benchmarks.doctor [--tables N] [--repeats N]

The tables are of mixed shapes: plain ones, with foreign keys, sequences, CHECKs, unique indexes, generated columns,
partitions, without a key. What is timed is all of it: a connection, the facts, the findings, the JSON document. The
limit of the same run reads the catalogue of the same tables plainly, as JSON: ``pg_class`` with its columns,
constraints and indexes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import asyncpg

from benchmarks.figures import Figure
from benchmarks.program import Program, ViolatedError, progress, run
from syncline.actors.doctor.reading import read
from syncline.actors.doctor.report import report, to_json
from syncline.actors.postgres.bootstrap import PUBLICATION, STEPS
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.slot import slot_name

# Each with its number; of ten tables one has no key.
SHAPES = (
    "CREATE TABLE app.t{n} (id uuid PRIMARY KEY, title text NOT NULL, body text, done boolean, at timestamptz)",
    "CREATE TABLE app.t{n} (id bigserial PRIMARY KEY, parent uuid REFERENCES app.t{first}, amount numeric(10, 2))",
    "CREATE TABLE app.t{n} (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text UNIQUE, at timestamptz "
    "DEFAULT now(), n integer DEFAULT 7 CHECK (n > 0))",
    "CREATE TABLE app.t{n} (a integer, b integer, low integer, high integer, tags text[], PRIMARY KEY (a, b), "
    "CHECK (low < high))",
    "CREATE TABLE app.t{n} (line text, at timestamptz)",
    "CREATE TABLE app.t{n} (id uuid PRIMARY KEY, parent uuid REFERENCES app.t{first}, a integer, twice integer "
    "GENERATED ALWAYS AS (a * 2) STORED)",
    "CREATE TABLE app.t{n} (id uuid PRIMARY KEY, data jsonb, name varchar(80)); CREATE INDEX ON app.t{n} (name)",
    "CREATE TABLE app.t{n} (id integer, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day); CREATE TABLE "
    "app.t{n}_1 PARTITION OF app.t{n} FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    "CREATE TABLE app.t{n} (code text NOT NULL UNIQUE, uuid uuid, inet inet, during tstzrange)",
    "CREATE TABLE app.t{n} (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
    + ", ".join(f"c{column} text" for column in range(30))
    + ")",
)
PLAIN = """
SELECT jsonb_build_object('class', to_jsonb(c),
    'columns', (SELECT jsonb_agg(to_jsonb(a)) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0),
    'constraints', (SELECT jsonb_agg(to_jsonb(k)) FROM pg_constraint k WHERE k.conrelid = c.oid),
    'indexes', (SELECT jsonb_agg(to_jsonb(i)) FROM pg_index i WHERE i.indrelid = c.oid))::text
FROM pg_class c WHERE c.relnamespace = 'app'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tables", type=int, default=2_000, help="default 2,000")
    parser.add_argument("--repeats", type=int, default=3, help="default 3")


async def make(dsn: str, tables: int) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE SCHEMA app")
    for start in range(0, tables, 200):  # a transaction holds a lock for each of its tables
        some = range(start, min(start + 200, tables))
        await connection.execute(
            "; ".join(SHAPES[n % len(SHAPES)].format(n=n, first=n - n % len(SHAPES)) for n in some)
        )
    await connection.execute("ANALYZE")
    await connection.close()


async def examine(dsn: str, tables: int) -> tuple[float, float]:
    """Seconds, and those of them until the facts were there. Raises ViolatedError for a report of something else."""
    started_s = time.perf_counter()
    connection = await asyncpg.connect(dsn)
    facts = await read(connection)
    await connection.close()
    read_s = time.perf_counter() - started_s
    found = report(facts, slot_name(facts.server.database), PUBLICATION, len(STEPS))
    json.dumps(to_json(found))
    took_s = time.perf_counter() - started_s
    if len(found.tables) != tables or found.count("refused") != sum(n % len(SHAPES) == 4 for n in range(tables)):
        raise ViolatedError((), [f"{len(found.tables)} tables reported, {found.count('refused')} refused"])
    return took_s, read_s


async def plainly(dsn: str) -> float:
    started_s = time.perf_counter()
    connection = await asyncpg.connect(dsn)
    for row in await connection.fetch(PLAIN):
        json.loads(row[0])
    await connection.close()
    return time.perf_counter() - started_s


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    server = EmbeddedPostgres(folder / "postgres")
    dsn = server.start()
    try:
        progress(f"{options.tables:,} tables")
        await make(dsn, options.tables)
        took, until_read, plain = [], [], []
        for _ in range(options.repeats):
            plain.append(await plainly(dsn))
            took_s, read_s = await examine(dsn, options.tables)
            took.append(took_s)
            until_read.append(read_s)
    finally:
        server.stop("immediate")
    limit = Figure("the catalogue read plainly", tuple(plain), "s")
    return [
        Figure(f"doctor, {options.tables:,} tables", tuple(took), "s", goal="<= 10 s").against(limit),
        Figure("of it reading, and deciding in Postgres", tuple(until_read), "s"),
        Figure("a second", tuple(options.tables / took_s for took_s in took), "tables/s"),
    ]


PROGRAM = Program("doctor", __doc__, options, measure, serves=False)

if __name__ == "__main__":
    run(PROGRAM)
