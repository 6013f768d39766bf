"""A database with one of each finding, for the tests of the doctor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

# A table a finding, which the table is named for; notes besides do no harm.
TABLES = """
CREATE SCHEMA app;
CREATE SCHEMA "Odd name";
CREATE TABLE plain (id uuid PRIMARY KEY, title text NOT NULL, done boolean, at timestamptz);
CREATE TABLE no_key (line text);
CREATE TABLE nearly_key (code text UNIQUE, line text);
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
CREATE TABLE "Items" (id int PRIMARY KEY);
CREATE TABLE items (id int PRIMARY KEY);
CREATE TABLE parent_refused (id int PRIMARY KEY, item int REFERENCES items);
CREATE TABLE "Odd name"."select" (id int PRIMARY KEY);

CREATE TABLE app.unique_key (code text NOT NULL UNIQUE, line text);
CREATE TABLE app.ambiguous_key (amount numeric PRIMARY KEY);
CREATE TABLE app.sequence (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n bigserial);
CREATE TYPE app.mood AS ENUM ('good', 'bad');
CREATE TABLE app.text_types (id uuid PRIMARY KEY, price numeric(10, 2), tags text[], mood app.mood);
CREATE TABLE app.generated_columns (id uuid PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED);
CREATE TABLE app.unique_ (id uuid PRIMARY KEY, email text UNIQUE, name text);
CREATE UNIQUE INDEX lower_name ON app.unique_ (lower(name)) WHERE name IS NOT NULL;
CREATE TABLE app.exclusion (id uuid PRIMARY KEY, during tsrange, EXCLUDE USING gist (during WITH &&));
CREATE TABLE app.foreign_key_left_out (id uuid PRIMARY KEY, email text REFERENCES app.unique_ (email),
    amount numeric REFERENCES app.ambiguous_key, code text REFERENCES nearly_key (code));
CREATE TABLE app.foreign_key_outside (id uuid PRIMARY KEY, plain uuid REFERENCES plain);
CREATE TABLE app.triggers (id uuid PRIMARY KEY);
CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER stamp BEFORE INSERT ON app.triggers FOR EACH ROW EXECUTE FUNCTION app.nothing();
CREATE TABLE app.rules (id uuid PRIMARY KEY);
CREATE RULE kept AS ON DELETE TO app.rules DO ALSO NOTHING;
CREATE TABLE app.inheritance (id uuid PRIMARY KEY);
CREATE TABLE app.heir (PRIMARY KEY (id)) INHERITS (app.inheritance);
CREATE TABLE app.replica_identity (id uuid PRIMARY KEY);
ALTER TABLE app.replica_identity REPLICA IDENTITY NOTHING;
CREATE TABLE app.large_values (id uuid PRIMARY KEY, data bytea);
ALTER TABLE app.large_values ALTER data SET STORAGE EXTERNAL;
INSERT INTO app.large_values
    SELECT gen_random_uuid(), convert_to(repeat('x', 1000000), 'UTF8') FROM generate_series(1, 9);
CREATE TABLE app.partitions (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE app.partition_2025 PARTITION OF app.partitions FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE app.partition_2026 PARTITION OF app.partitions FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE app.defaults (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), n int DEFAULT 7, at timestamptz DEFAULT now());
CREATE TABLE app.server_defaults (id uuid PRIMARY KEY, due timestamptz DEFAULT now() + '7 days');
CREATE TABLE app.device_checks (id uuid PRIMARY KEY, low int, high int, CONSTRAINT ordered CHECK (low < high));
CREATE TABLE app.checks (id uuid PRIMARY KEY, at timestamptz, CONSTRAINT past CHECK (at < now()));
"""


@asynccontextmanager
async def connected(dsn: str, sql: str = "") -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        if sql:
            await connection.execute(sql)
        yield connection
    finally:
        await connection.close()
