-- Step 8 of schema "electric": what direct SQL wrote, read from the stream. Run once, by bootstrap.py, inside its
-- transaction.

-- at_lsn: a place in the WAL behind all that had been written to the row when the entry was made and before all that was
-- written since. written_at: by our clock, so that old entries can be told and removed.
ALTER TABLE electric.shadow
    ADD COLUMN at_lsn pg_lsn NOT NULL DEFAULT '0/0',
    ADD COLUMN written_at timestamptz NOT NULL DEFAULT now();

-- The last update or delete of a row by direct SQL, if it is later than the row's entry in electric.shadow. An insert
-- leaves none: a row that is there although it was deleted here has been inserted since.
-- lsn: of its commit. ms: when that was. column_ms: the same for each column of the description, where direct SQL has
-- changed it; NULL in others. row: what was deleted, as Postgres' texts in the order of the description; NULL while the
-- row lives. The entry with an empty key is the last TRUNCATE of the table.
CREATE TABLE electric.direct (
    relid       oid NOT NULL,
    key         text NOT NULL,
    lsn         pg_lsn NOT NULL,
    ms          bigint NOT NULL,
    column_ms   bigint[] NOT NULL,
    row         text[],
    absorbed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (relid, key)
) WITH (fillfactor = 80);
