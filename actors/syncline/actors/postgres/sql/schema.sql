-- Step 1 of schema "electric": everything Syncline keeps durably. Postgres is its only durable store.
-- Run once, by bootstrap.py, inside its transaction. Procedures are in the other files and replaced at will.

CREATE SCHEMA electric;

COMMENT ON SCHEMA electric IS 'Syncline: replication state. Do not change by hand.';

-- schema_version, server_id, procedures (digest of the installed SQL), and what later steps add.
CREATE TABLE electric.meta (
    key   text PRIMARY KEY,
    value text NOT NULL
);

-- One row a device. lsn: last transaction of the device that was decided here (applied or rejected), in the device's own
-- numbering. ms: the greatest commit time, in milliseconds, of any of them.
CREATE TABLE electric.clients (
    client_id text PRIMARY KEY,
    lsn       bigint NOT NULL DEFAULT 0,
    ms        bigint NOT NULL DEFAULT 0,
    user_id   text,
    last_seen timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE electric.subscriptions (
    client_id       text NOT NULL,
    subscription_id text NOT NULL,
    shapes          jsonb NOT NULL,
    state           text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'cancelled')),
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (client_id, subscription_id)
);

-- Electrified tables. depth: 0 without foreign keys, else one more than the deepest table referred to.
CREATE TABLE electric.tables (
    relid          oid PRIMARY KEY,
    schema_name    text NOT NULL,
    table_name     text NOT NULL,
    description    jsonb NOT NULL,
    depth          integer NOT NULL DEFAULT 0,
    electrified_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (schema_name, table_name)
);

-- Schema history as devices replay it. tables: array of whole table descriptions after the step.
CREATE TABLE electric.migrations (
    id         bigserial PRIMARY KEY,
    version    text NOT NULL UNIQUE CHECK (version ~ '^[0-9_]+$'),
    tables     jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Causal state of one row. key: see rowkey.py. tags: what keeps the row alive, empty after a delete. column_tags: the
-- last writer of each column of the description, in its order; kept after a delete, for a revival.
-- row_xmin: xmin of the row this entry describes. NULL: the row was written in the same subtransaction as this entry, so
-- its xmin is this entry's own. An entry whose xmin is not the row's is older than a direct SQL write to the row.
CREATE TABLE electric.shadow (
    relid       oid NOT NULL,
    key         text NOT NULL,
    tags        text[] NOT NULL,
    column_tags text[] NOT NULL,
    row_xmin    xid,
    PRIMARY KEY (relid, key)
) WITH (fillfactor = 80);

-- The last image of a deleted row ("row" holds Postgres text values in the order of the description), for a revival.
CREATE TABLE electric.tombstones (
    relid      oid NOT NULL,
    key        text NOT NULL,
    row        text[] NOT NULL,
    deleted_ms bigint NOT NULL,
    PRIMARY KEY (relid, key)
);

-- Device transactions Postgres refused. Each was rejected alone; "ops" keeps what the device had written.
CREATE TABLE electric.rejections (
    id              bigserial PRIMARY KEY,
    client_id       text NOT NULL,
    lsn             bigint NOT NULL,
    ms              bigint NOT NULL,
    sqlstate        text NOT NULL,
    message         text NOT NULL,
    detail          text,
    hint            text,
    table_name      text,
    constraint_name text,
    ops             jsonb NOT NULL,
    rejected_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX rejections_client ON electric.rejections (client_id, lsn);

-- Who owns a slot. A take-over raises the epoch; an owner that reads a greater one than its own stops.
CREATE TABLE electric.owner (
    slot     text PRIMARY KEY,
    epoch    bigint NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now()
);

CREATE PUBLICATION electric_publication
    FOR TABLE electric.clients, electric.migrations, electric.shadow;
