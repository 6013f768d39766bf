-- What a table is made of, and how it is named in SQL.

-- The columns by which rows are told apart: those of the primary key, or else of a unique index of columns that are never NULL;
-- of several the one with the fewest columns, then the oldest. NULL: there is none. Devices do not hold generated columns.
CREATE OR REPLACE FUNCTION electric.key_of(target oid) RETURNS smallint[]
LANGUAGE sql STABLE AS $$
SELECT k.key
FROM pg_index i CROSS JOIN LATERAL (SELECT (i.indkey::smallint[])[0:i.indnkeyatts - 1] AS key) AS k
WHERE i.indrelid = target AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
    AND NOT EXISTS (
        SELECT FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
        WHERE a.attrelid = target AND a.attnum = ANY (k.key) AND (a.attgenerated <> '' OR NOT (a.attnotnull OR y.typnotnull)))
ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1
$$;

CREATE OR REPLACE FUNCTION electric.full_name(target oid) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target
$$;

-- A table as FROM wants it for its own rows: those of tables that inherit from it are not, those of its partitions are.
CREATE OR REPLACE FUNCTION electric.own_rows(target oid) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT format(CASE c.relkind WHEN 'p' THEN '%I.%I' ELSE 'ONLY %I.%I' END, n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target
$$;

-- A table and what it is made of: the partitions of a partitioned one, at all levels. As pg_partition_tree has it, which would
-- wait for whoever has one of them locked.
CREATE OR REPLACE FUNCTION electric.parts(target oid) RETURNS SETOF oid
LANGUAGE sql STABLE AS $$
WITH RECURSIVE part (relid) AS (
    SELECT target
    UNION
    SELECT i.inhrelid FROM part JOIN pg_inherits i ON i.inhparent = part.relid AND NOT i.inhdetachpending
        JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
)
SELECT relid FROM part
$$;

CREATE OR REPLACE FUNCTION electric.column_names(target oid, numbers smallint[]) RETURNS jsonb
LANGUAGE sql STABLE AS $$
SELECT jsonb_agg(a.attname ORDER BY u.place)
FROM unnest(numbers) WITH ORDINALITY AS u (number, place)
JOIN pg_attribute a ON a.attrelid = target AND a.attnum = u.number
$$;
