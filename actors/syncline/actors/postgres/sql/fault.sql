-- What of a rejected transaction is at fault, beside what Postgres says of it.

-- op: the operation at which it ended, NULL if at none. The others are what Postgres names: a schema and a table, a constraint
-- (or unique index), a column; empty where it does not.
-- {"table": as devices call it, "columns": those of the constraint, or the column, "key": of the row, texts in column order},
-- what is known of them. Of a generated column it is those that it is computed from. All are about the one table that Postgres names, which may
-- be another than that of the operation: a row that refers to the one that is deleted, or something that a trigger writes. Then
-- nothing is known of its row.
CREATE OR REPLACE FUNCTION electric.fault(op jsonb, in_schema text, in_table text, in_constraint text, in_column text)
RETURNS jsonb LANGUAGE sql STABLE AS $$
WITH written AS (
    SELECT t.schema_name, t.table_name, jsonb_agg(op -> 'row' -> (c.i - 1)::integer ORDER BY c.i) AS key
    FROM electric.tables t, jsonb_array_elements(t.description -> 'columns') WITH ORDINALITY AS c (column_, i)
    WHERE t.relid = (op ->> 'rel')::oid AND c.column_ ->> 'pk' IS NOT NULL
    GROUP BY t.schema_name, t.table_name
    HAVING bool_and(op -> 'row' -> (c.i - 1)::integer <> 'null')
), tied AS (
    SELECT o.conrelid AS relid, o.conkey AS attnums FROM pg_constraint o
    WHERE o.conname = in_constraint AND o.conrelid <> 0 AND coalesce(in_column, '') = ''
    UNION ALL
    SELECT i.indrelid, (i.indkey::int2[])[0:i.indnkeyatts - 1] FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid
    WHERE n.relname = in_constraint AND coalesce(in_column, '') = ''
    UNION ALL
    SELECT a.attrelid, ARRAY[a.attnum] FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.relname = in_table AND a.attname = in_column
), columns AS (
    SELECT jsonb_agg(a.attname ORDER BY k.place) AS names
    FROM (SELECT t.relid, t.attnums FROM tied t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace s ON s.oid = c.relnamespace
        WHERE s.nspname = in_schema AND c.relname = in_table LIMIT 1) AS one,
        unnest(electric.inputs(one.relid, one.attnums)) WITH ORDINALITY AS k (attnum, place), pg_attribute a
    WHERE a.attnum = k.attnum AND a.attrelid = one.relid
)
SELECT jsonb_strip_nulls(jsonb_build_object(
    'table', CASE WHEN in_table <> '' THEN electric.device_name(in_schema, in_table)
        ELSE (SELECT electric.device_name(schema_name, table_name) FROM written) END,
    'columns', coalesce((SELECT names FROM columns), CASE WHEN in_column <> '' THEN jsonb_build_array(in_column) END),
    'key', (SELECT key FROM written WHERE coalesce(in_table, '') = '' OR (schema_name, table_name) = (in_schema, in_table))))
$$;

-- {"columns": those of the operation whose values Postgres does not take}, or {}: for an error of a value (class 22), of which
-- Postgres does not name the column. A cast that is asked for cuts a text that is too long; an assignment does not. Whatever
-- a cast fails for: nobody catches what is raised here.
CREATE OR REPLACE FUNCTION electric.unassignable(op jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    written record;
    names jsonb := '[]';
BEGIN
    FOR written IN
        SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, op -> 'row' ->> (d.i - 1)::integer AS cell,
            electric.reading(a.atttypid, '$1') AS reading,
            CASE WHEN a.atttypid IN ('varchar'::regtype, 'bpchar'::regtype) THEN nullif(a.atttypmod, -1) - 4 END AS chars
        FROM electric.tables t
        CROSS JOIN jsonb_array_elements(t.description -> 'columns') WITH ORDINALITY AS d (c, i)
        JOIN pg_attribute a ON a.attrelid = t.relid AND a.attname = d.c ->> 'name' AND NOT a.attisdropped
        WHERE t.relid = (op ->> 'rel')::oid
            AND (op ->> 'op' = 'I' OR d.c ->> 'pk' IS NOT NULL OR (op -> 'modified' ->> (d.i - 1)::integer)::boolean)
        ORDER BY d.i
    LOOP
        BEGIN
            IF char_length(rtrim(written.cell, ' ')) > written.chars THEN
                RAISE string_data_right_truncation;
            END IF;
            EXECUTE format('SELECT CAST(%s AS %s)', written.reading, written.type) USING written.cell;
        EXCEPTION WHEN OTHERS THEN
            names := names || to_jsonb(written.name);
        END;
    END LOOP;
    RETURN CASE WHEN names = '[]' THEN '{}' ELSE jsonb_build_object('columns', names) END;
END
$$;
