"""Random constraints, and random writes that are each valid where they were made: what they are merged to is valid.

And so is what a device shows meanwhile, whose own writes meet those of others.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.integration.write_scene import Scene, Standing, standing, written

from syncline.actors.postgres.checks import registers
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.client.merging import merged, write_from
from syncline.client.oplog import Entry
from syncline.client.schema import Table
from syncline.proto.values import Row, Update

EXAMPLES = int(os.environ.get("SYNCLINE_TIES_EXAMPLES", "60"))
RANDOMS = st.integers(0, 2**64).map(Random)
NAMES = ("a", "b", "c", "d")
P0 = "postgres_1@0"
PAIRS = """
CREATE TABLE pairs (x int4, y int4, PRIMARY KEY (x, y));
INSERT INTO pairs SELECT x, y FROM generate_series(0, 5) x, generate_series(0, 5) y WHERE (x * y + x) % 3 <> 1;
"""
CONSTRAINTS = (
    "CHECK (a <= b)",
    "CHECK (b + c <= 6)",
    "CHECK (num_nonnulls(a, d) = 1)",
    "CHECK (a <> c OR d > 2)",
    "CHECK (CASE WHEN d > 2 THEN a IS NOT NULL ELSE true END)",
    "CHECK (b > 0) NOT VALID",
    "CHECK (a * d <> 6 AND c < 5)",
    "UNIQUE (a, b)",
    "UNIQUE (c, d)",
    "FOREIGN KEY (a, b) REFERENCES pairs",
    "FOREIGN KEY (c, d) REFERENCES pairs MATCH FULL",
    "EXCLUDE USING gist (int4range(a, b) WITH &&) WHERE (a < b)",
    "EXCLUDE USING gist (int4range(c, d) WITH &&)",
)
COLUMNS = (
    "g int4 GENERATED ALWAYS AS (12 / (a - c)) STORED",
    "h int4 GENERATED ALWAYS AS (b + d) STORED CHECK (h < 8)",
)
INDEXES = (
    "CREATE UNIQUE INDEX ON t (c) WHERE d > 2",
    "CREATE UNIQUE INDEX ON t ((a + b))",
    "CREATE UNIQUE INDEX ON t (d, (coalesce(b, 0)))",
)
Values = tuple[int | None, ...]
_numbers = itertools.count()


@dataclass(frozen=True)
class Write:
    """A device's row after a write, and which of its columns it changed."""

    device: str
    ms: int
    before: Values
    row: Values

    @property
    def changed(self) -> list[int]:
        return [i + 1 for i, (old, new) in enumerate(zip(self.before, self.row, strict=True)) if old != new]


@pytest.fixture(scope="module")
def merging(postgres: EmbeddedPostgres) -> Iterator[Standing]:
    with standing(postgres, "ties", PAIRS, "pairs") as opened:
        yield opened


async def make(s: Scene, random: Random) -> None:
    """A table ``t`` with some of the constraints."""
    added = [*random.sample(CONSTRAINTS, random.randint(0, 3)), *random.sample(COLUMNS, random.choice([0, 0, 1]))]
    lines = ", ".join(["id text PRIMARY KEY", *(f"{name} int4" for name in NAMES), *added])
    await s.connection.execute(f"""
        DROP TABLE IF EXISTS t;
        CREATE TABLE t ({lines});
        {random.choice(INDEXES) if random.random() < 0.4 else ""};
    """)
    for id in ("other", "1"):
        while not await valid(s, id, row := values(random)):
            pass
        await s.connection.execute("INSERT INTO t VALUES ($1, $2, $3, $4, $5)", id, *row)
    await s.electrify("t")


def values(random: Random) -> Values:
    return tuple(None if random.random() < 0.2 else random.randint(0, 5) for _ in NAMES)


async def valid(s: Scene, id: str, row: Values) -> bool:
    """Whether Postgres takes the row in place of the one there."""
    transaction = s.connection.transaction()
    await transaction.start()
    try:
        await s.connection.execute("DELETE FROM t WHERE id = $1", id)
        await s.connection.execute("INSERT INTO t VALUES ($1, $2, $3, $4, $5)", id, *row)
    except asyncpg.PostgresError:
        return False
    finally:
        await transaction.rollback()
    return True


async def changed(s: Scene, random: Random, row: Values) -> Values:
    """A valid row that is another one, in one or two columns."""
    for _ in range(60):
        new, others = list(row), values(random)
        for place in random.sample(range(len(NAMES)), random.choice([1, 1, 2])):
            new[place] = others[place]
        if tuple(new) != row and await valid(s, "1", tuple(new)):
            return tuple(new)
    return row


async def current(s: Scene) -> Values:
    return tuple(await s.connection.fetchrow("SELECT a, b, c, d FROM t WHERE id = '1'"))


def cells(row: Values) -> list[str | None]:
    return [None if value is None else str(value) for value in row]


def encoded(row: Values) -> Row:
    return (b"1", *(None if cell is None else cell.encode() for cell in cells(row)))


async def table(s: Scene) -> Table:
    """As devices describe it."""
    text = await s.connection.fetchval("SELECT description FROM electric.tables WHERE relid = $1", s.relids["t"])
    types = ("text", *["int4"] * len(NAMES))
    return Table(0, "t", ("id", *NAMES), types, ("id",), registers=registers(json.loads(text)))


def test_whatever_valid_writes_are_merged_to_is_valid(merging: Standing) -> None:
    """Of devices that have not seen each other's, in any order, with direct SQL in between."""
    met = 0

    async def play(random: Random) -> None:
        nonlocal met
        s = merging.scene
        await make(s, random)
        base = await current(s)
        writes: dict[str, list[Write]] = {}
        for device in ("ann", "bob", "eve"):
            row, ms, its = base, 0, []
            for _ in range(random.randint(1, 2)):
                ms += random.randint(1, 50)
                before, row = row, await changed(s, random, row)
                if row != before:
                    its.append(Write(device, ms, before, row))
            writes[device] = its
        await s.connection.execute("DELETE FROM electric.clients")
        while any(writes.values()):
            if random.random() < 0.3:
                row = await changed(s, random, await current(s))
                sets = "UPDATE t SET a = $1, b = $2, c = $3, d = $4 WHERE id = '1'"
                await s.connection.execute(sets, *row)
            write = writes[random.choice([device for device, its in writes.items() if its])].pop(0)
            seen = [P0, *([f"{write.device}@{write.ms}"] if write.before != base else [])]
            update = s.update("t", "1", *cells(write.row), changed=write.changed, seen=seen)
            before = await current(s)
            assert await s.statuses(written(write.device, write.ms, update)) == ["applied"], (before, write)
            met += before != write.before

    agree(merging, play)
    assert met > EXAMPLES / 2


def test_whatever_a_device_shows_of_its_own_writes_and_others_is_valid(merging: Standing) -> None:
    """It merges as the service does, for it knows the same registers."""
    mixed = 0

    async def play(random: Random) -> None:
        nonlocal mixed
        s = merging.scene
        await make(s, random)
        base, described = await current(s), await table(s)
        tied = "SELECT electric.tied_columns(relid, description) AS places FROM electric.tables WHERE relid = $1"
        places = await s.connection.fetch(tied, s.relids["t"])
        assert set(described.tied) == {frozenset(place - 1 for place in row["places"]) for row in places}
        own, others = await changed(s, random, base), await changed(s, random, base)
        ours, theirs = random.sample(range(1, 100), 2)
        names = described.columns
        entry = Entry(
            *(1, "t", "U", dict(zip(names, ("1", *own), strict=True)), dict(zip(names, ("1", *base), strict=True))),
            *(ours, (P0,)),
        )
        came = Update(0, encoded(others), encoded(base), (f"bob@{theirs}",))
        pending = (write_from(entry, described, "ann"),)
        shown, _, _ = merged(pending, [(came, (True,) * len(names))], "bob", theirs, described.tied)
        assert shown is not None
        row = tuple(None if cell is None else int(cell) for cell in shown[1:])
        assert await valid(s, "1", row), (base, own, others, row)
        apart = replace(described, registers=())
        alone = (write_from(entry, apart, "ann"),)
        mixed += merged(alone, [(came, (True,) * len(names))], "bob", theirs, apart.tied)[0] != shown

    agree(merging, play)
    assert mixed


def agree(merging: Standing, play: object) -> None:
    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
    @given(RANDOMS)
    def example(random: Random) -> None:
        merging.runner.run(play(random))  # type: ignore[operator]

    example()
