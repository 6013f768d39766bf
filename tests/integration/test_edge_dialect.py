"""Postgres judges the Postgres dialect: what it describes, rebuilt from our DDL, it describes the same."""

from __future__ import annotations

import json
from typing import Any

import asyncpg

from syncline.actors.postgres.bootstrap import bootstrap
from syncline.actors.postgres.dialect import operations

SCHEMA = """
CREATE TYPE mood AS ENUM ('it''s ok', 'bad', 'Ärger');
CREATE TABLE projects (id uuid PRIMARY KEY, name varchar NOT NULL);
CREATE TABLE items (
    a int2, b int8, project_id uuid NOT NULL REFERENCES projects ON DELETE CASCADE, up_a int2, up_b int8,
    flag bool, small int4, r float4, d float8, t text, day date, clock time, at timestamp, moment timestamptz,
    j json, jb jsonb, raw bytea, feeling mood NOT NULL, tags text[],
    PRIMARY KEY (b, a),
    FOREIGN KEY (up_b, up_a) REFERENCES items (b, a) ON UPDATE CASCADE ON DELETE SET NULL
);
CREATE INDEX items_flag ON items (flag, small);
CREATE TABLE "Odd ""name" ("select" int4 PRIMARY KEY, "Mixed Case" mood);
CREATE TABLE started (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n int4 NOT NULL DEFAULT -1, feeling mood DEFAULT 'it''s ok',
    raw bytea DEFAULT '\\x00', tags text[] DEFAULT '{a}', made timestamptz DEFAULT now(), local timestamp DEFAULT now(),
    short timestamptz DEFAULT CURRENT_TIMESTAMP(1), day date DEFAULT CURRENT_DATE, clock time DEFAULT LOCALTIME,
    midnight timestamp DEFAULT CURRENT_DATE
);
"""


async def describe(connection: asyncpg.Connection) -> list[dict[str, Any]]:
    rows = await connection.fetch(
        """
        SELECT electric.describe(c.oid)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND c.relkind = 'r' ORDER BY c.relname <> 'projects', c.relname
        """
    )
    return [{name: value for name, value in json.loads(row[0]).items() if name != "oid"} for row in rows]


async def test_tables_rebuilt_from_our_ddl_are_described_the_same(database: str) -> None:
    await bootstrap(database)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(SCHEMA)
        wanted = await describe(connection)
        assert len(wanted) == 4
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        for _, steps in operations([(str(number), [table]) for number, table in enumerate(wanted)], "postgresql"):
            for step in steps:
                for _, sql in step.statements:
                    await connection.execute(sql)
        assert await describe(connection) == wanted
    finally:
        await connection.close()


async def test_a_column_added_later_is_described_the_same(database: str) -> None:
    await bootstrap(database)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("CREATE TABLE projects (id uuid PRIMARY KEY); CREATE TABLE t (id int4 PRIMARY KEY)")
        before = await describe(connection)
        await connection.execute("ALTER TABLE t ADD COLUMN p uuid REFERENCES projects ON DELETE SET NULL, ADD n int8")
        after = await describe(connection)
        await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        for _, steps in operations([("1", before), ("2", after)], "postgresql"):
            for step in steps:
                for _, sql in step.statements:
                    await connection.execute(sql)
        assert await describe(connection) == after
    finally:
        await connection.close()
