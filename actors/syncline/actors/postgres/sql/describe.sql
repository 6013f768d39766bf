-- What devices and the service are told about a table. Nothing here asks what is electrified.

-- What devices call a table or an index of this schema: as devicenames.py has it.
CREATE OR REPLACE FUNCTION electric.device_name(in_schema text, name text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN in_schema = 'public' THEN name ELSE in_schema || '__' || name END
$$;

CREATE OR REPLACE FUNCTION electric.foreign_key_action(code "char") RETURNS text
LANGUAGE sql IMMUTABLE AS $$
SELECT CASE code WHEN 'a' THEN 'NO ACTION' WHEN 'r' THEN 'RESTRICT' WHEN 'c' THEN 'CASCADE'
    WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT' END
$$;

-- What a delete does to the rows that refer to the one that goes. Of SET NULL that is for some of its columns (Postgres 15 or
-- later) with these.
CREATE OR REPLACE FUNCTION electric.on_delete(key pg_constraint) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT electric.foreign_key_action(key.confdeltype) || coalesce((
    SELECT format(' (%s)', string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum))
    FROM jsonb_array_elements_text(nullif(to_jsonb(key) -> 'confdelsetcols', 'null')) AS n (number)
    JOIN pg_attribute a ON a.attrelid = key.conrelid AND a.attnum = n.number::smallint
    HAVING count(*) BETWEEN 1 AND cardinality(key.conkey) - 1
), '')
$$;

-- Those of the columns that are generated, by name; NULL: none is.
CREATE OR REPLACE FUNCTION electric.generated_columns(target oid, numbers smallint[]) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
WHERE a.attrelid = target AND a.attnum = ANY (numbers) AND a.attgenerated <> ''
$$;

-- The type that the values of another one are of: of a domain that under all of it. But not of bytea and timestamptz: their values
-- travel otherwise than Postgres prints them, which is told by the type itself.
CREATE OR REPLACE FUNCTION electric.base_type(target oid) RETURNS oid
LANGUAGE sql STABLE AS $$
SELECT CASE WHEN own.typtype <> 'd' THEN target ELSE (  -- it is asked for each column of thousands of tables
    WITH RECURSIVE under (type, depth) AS (
        SELECT target, 0
        UNION ALL
        SELECT y.typbasetype, under.depth + 1 FROM under JOIN pg_type y ON y.oid = under.type WHERE y.typtype = 'd'
    )
    SELECT CASE WHEN type IN ('bytea'::regtype, 'timestamptz'::regtype) THEN target ELSE type END
    FROM under ORDER BY depth DESC LIMIT 1) END
FROM pg_type own WHERE own.oid = target
$$;

-- The SQL expression that reads a text as its output function has printed it. A cast does the same, unless there is one with a
-- function for text of its own: that of regclass does not take the "-" of no relation.
CREATE OR REPLACE FUNCTION electric.reading(target oid, source text) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT CASE
    WHEN EXISTS (
        SELECT FROM pg_cast c
        WHERE c.castsource = 'text'::regtype AND c.casttarget = electric.base_type(target) AND c.castmethod = 'f')
    THEN format('%s.%I(textout(%s)%s)', p.pronamespace::regnamespace, p.proname, source, CASE p.pronargs WHEN 1 THEN '' ELSE
        format(', %s, -1', CASE WHEN y.typelem <> 0 THEN y.typelem ELSE y.oid END) END)
    ELSE format('(%s)::%I.%I', source, n.nspname, y.typname) END
FROM pg_type y JOIN pg_namespace n ON n.oid = y.typnamespace JOIN pg_proc p ON p.oid = y.typinput WHERE y.oid = target
$$;

-- What a type is called to devices: without its schema, unless devices know another by that name, in whatever case.
CREATE OR REPLACE FUNCTION electric.device_type(target oid) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT CASE
    WHEN y.oid = 'timetz'::regtype THEN 'pg_catalog.timetz'  -- the npm client cuts the zone off what is called timetz
    WHEN n.nspname <> 'pg_catalog' AND (lower(y.typname) IN ('blob', 'int', 'integer', 'real') OR EXISTS (
        SELECT FROM pg_type own WHERE own.typnamespace = 'pg_catalog'::regnamespace AND own.typname = lower(y.typname)))
        OR y.typtype = 'e' AND n.nspname <> 'public'
    THEN n.nspname || '.' || y.typname ELSE y.typname END
FROM pg_type y JOIN pg_namespace n ON n.oid = y.typnamespace WHERE y.oid = electric.base_type(target)
$$;

-- Whether values of a type that are equal may be printed differently, as 1.0 and 1.00 of numeric without a scale are.
CREATE OR REPLACE FUNCTION electric.is_ambiguous(target oid, modifier integer) RETURNS boolean
LANGUAGE sql STABLE AS $$
WITH RECURSIVE part (type, modifier) AS (
    SELECT target, modifier
    UNION
    SELECT inner_.type, inner_.modifier FROM part JOIN pg_type y ON y.oid = part.type CROSS JOIN LATERAL (
        SELECT y.typbasetype, y.typtypmod WHERE y.typtype = 'd'
        UNION ALL SELECT y.typelem, part.modifier WHERE y.typcategory = 'A'
        UNION ALL SELECT r.rngsubtype, -1 FROM pg_range r WHERE y.typtype IN ('r', 'm') AND (
            r.rngtypid = y.oid OR (to_jsonb(r) ->> 'rngmultitypid')::oid = y.oid)
        UNION ALL SELECT a.atttypid, a.atttypmod FROM pg_attribute a
            WHERE a.attrelid = y.typrelid AND y.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped
    ) AS inner_ (type, modifier)
)
SELECT EXISTS (
    SELECT FROM part JOIN pg_type y ON y.oid = part.type
    WHERE y.typname IN ('citext', 'interval') OR y.typname IN ('bpchar', 'numeric') AND part.modifier < 0)
$$;

-- Whether texts that differ may be one value of this column: to devices each is another.
CREATE OR REPLACE FUNCTION electric.is_ambiguous(attribute pg_attribute) RETURNS boolean
LANGUAGE sql STABLE AS $$
SELECT electric.is_ambiguous(attribute.atttypid, attribute.atttypmod) OR EXISTS (
    SELECT FROM pg_collation c WHERE c.oid = attribute.attcollation AND NOT c.collisdeterministic)
$$;

-- What devices and server are told about a table. "pk" is the column's place in its key, from 1, or null. Generated columns are
-- Postgres' own, and with them foreign keys of theirs. A foreign key is "loose" where a value that refers to another may be
-- spelled otherwise.
CREATE OR REPLACE FUNCTION electric.describe(target oid) RETURNS jsonb
LANGUAGE sql STABLE AS $$
SELECT jsonb_build_object(
    'schema', n.nspname,
    'table', c.relname,
    'oid', c.oid::bigint,
    'columns', (
        SELECT jsonb_agg(jsonb_build_object(
            'name', a.attname,
            'type', electric.device_type(y.oid),
            'not_null', a.attnotnull OR y.typnotnull,
            'pk', array_position(k.key, a.attnum),
            'enum', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = electric.base_type(y.oid)),
            'default', CASE WHEN a.atthasdef OR a.attidentity <> '' OR y.typdefaultbin IS NOT NULL THEN electric.described_default(c.oid, a.attnum) END
        ) ORDER BY a.attnum)
        FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    ),
    'fks', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'columns', electric.column_names(f.conrelid, f.conkey),
            'schema', fn.nspname,
            'table', fc.relname,
            'ref_columns', electric.column_names(f.confrelid, f.confkey),
            'on_delete', electric.on_delete(f),
            'on_update', electric.foreign_key_action(f.confupdtype)
        ) || CASE WHEN EXISTS (
            SELECT FROM pg_attribute a WHERE electric.is_ambiguous(a)
                AND (a.attrelid, true) IN ((f.conrelid, a.attnum = ANY (f.conkey)), (f.confrelid, a.attnum = ANY (f.confkey)))
        ) THEN '{"loose": true}'::jsonb ELSE '{}' END ORDER BY f.conname)
        FROM pg_constraint f JOIN pg_class fc ON fc.oid = f.confrelid JOIN pg_namespace fn ON fn.oid = fc.relnamespace
        WHERE f.conrelid = c.oid AND f.contype = 'f' AND f.conparentid = 0
            AND electric.generated_columns(f.conrelid, f.conkey) IS NULL AND electric.generated_columns(f.confrelid, f.confkey) IS NULL
    ), '[]'),
    'indexes', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'name', ic.relname, 'unique', i.indisunique, 'columns', electric.column_names(i.indrelid, (i.indkey::smallint[])[0:i.indnkeyatts - 1])
        ) ORDER BY ic.relname)
        FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND NOT i.indisprimary AND i.indisvalid AND i.indexprs IS NULL AND i.indpred IS NULL
          AND electric.generated_columns(c.oid, (i.indkey::smallint[])[0:i.indnkeyatts - 1]) IS NULL
    ), '[]')
) || electric.constraints_of(c.oid)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT electric.key_of(c.oid) AS key) AS k
WHERE c.oid = target
$$;
