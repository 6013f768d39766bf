"""A few runs as part of the ordinary suite; ``python -m tests.oracle`` makes as many as wanted."""

from __future__ import annotations

import random
import shutil
from collections import Counter

import pytest
from tests.conftest import fresh_database
from tests.oracle.__main__ import COUNTED, explain, features_of, summary
from tests.oracle.plan import FEATURES, draw, transactions_of
from tests.oracle.run import run
from tests.oracle.schema import Schema, draw_schema

from syncline.actors.postgres.embedded import EmbeddedPostgres

SEEDS = range(1, 5)
WRITTEN_MIN = 50


async def sound_run(postgres: EmbeddedPostgres, seed: int, *, killable: bool) -> Counter[str]:
    """What a run has counted; its files are kept if something was wrong."""
    async with fresh_database(postgres) as dsn:
        result = await run(draw(seed), dsn, killable=killable)
    assert result.anomaly is None, explain(result)
    shutil.rmtree(result.folder)
    return result.counters


async def test_devices_hold_what_their_shapes_give_at_every_moment(postgres: EmbeddedPostgres) -> None:
    sums: Counter[str] = Counter()
    for seed in SEEDS:
        counters = await sound_run(postgres, seed, killable=False)
        assert counters["transactions"] >= WRITTEN_MIN
        sums.update(counters)
    print(summary(len(SEEDS), sums))
    for happened in (*COUNTED, "samples", "device transactions", "restart"):
        assert sums[happened] > 0


@pytest.mark.each_runtime
async def test_devices_hold_what_their_shapes_give_when_the_service_is_killed(postgres: EmbeddedPostgres) -> None:
    counters = await sound_run(postgres, 5, killable=True)
    assert counters["crash"] > 0


def test_a_seed_always_makes_the_same_plan() -> None:
    assert draw(7, FEATURES) == draw(7, FEATURES)
    assert draw(7, FEATURES) != draw(8, FEATURES)


def test_every_plan_restarts_the_service_twice_and_writes_enough() -> None:
    for seed in range(1, 200):
        plan = draw(seed, FEATURES)
        kinds = [event.kind for phase in plan.phases for event in phase.events]
        assert kinds.count("restart") + kinds.count("crash") >= 2
        assert transactions_of(plan.phases) >= WRITTEN_MIN


def test_schemas_have_circles_references_to_themselves_and_keys_of_every_kind() -> None:
    schemas = [draw_schema(random.Random(seed)) for seed in range(200)]
    tables = [(schema, table) for schema in schemas for table in schema.tables]
    keys = {tuple(table.types[name] for name in table.key) for _, table in tables}
    references = [(schema, table, fk) for schema, table in tables for fk in table.foreign_keys]
    assert {len(key) for key in keys} == {1, 2, 3}
    assert {"int4", "int8", "text", "uuid"} <= {key[0] for key in keys}
    assert any(fk.parent == table.name for _, table, fk in references)
    assert any(_in_circle(schema, table.name) and fk.parent != table.name for schema, table, fk in references)
    assert any(len({fk.parent for fk in table.foreign_keys}) < len(table.foreign_keys) for _, table in tables)
    assert any(set(fk.columns) & set(table.key) for _, table, fk in references)
    assert {fk.on_delete for _, _, fk in references} == {"CASCADE", "SET NULL", "NO ACTION"}


def _in_circle(schema: Schema, name: str) -> bool:
    return name in schema.referenced[name]


def test_features_can_be_named_or_left_out() -> None:
    assert features_of(None) == FEATURES
    assert features_of("where,cuts") == {"where", "cuts"}
    assert features_of("-where,-cuts") == FEATURES - {"cuts", "where"}
