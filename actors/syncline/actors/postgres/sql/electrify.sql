-- CALL electric.electrify('schema.table'): opens a table to devices. From then on every change to it is streamed, and
-- devices may write it. All or nothing, and a second call changes nothing.

CREATE OR REPLACE FUNCTION electric.column_names(target oid, numbers smallint[]) RETURNS jsonb
LANGUAGE sql STABLE AS $$
SELECT jsonb_agg(a.attname ORDER BY u.place)
FROM unnest(numbers) WITH ORDINALITY AS u (number, place)
JOIN pg_attribute a ON a.attrelid = target AND a.attnum = u.number
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
WITH RECURSIVE under (type, depth) AS (
    SELECT target, 0
    UNION ALL
    SELECT y.typbasetype, under.depth + 1 FROM under JOIN pg_type y ON y.oid = under.type WHERE y.typtype = 'd'
)
SELECT CASE WHEN type IN ('bytea'::regtype, 'timestamptz'::regtype) THEN target ELSE type END
FROM under ORDER BY depth DESC LIMIT 1
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

-- What devices and server are told about a table. "pk" is the column's place in the primary key, from 1, or null. Generated
-- columns are Postgres' own.
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
            'pk', array_position(p.conkey, a.attnum),
            'enum', (SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = electric.base_type(y.oid))
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
        ) ORDER BY f.conname)
        FROM pg_constraint f JOIN pg_class fc ON fc.oid = f.confrelid JOIN pg_namespace fn ON fn.oid = fc.relnamespace
        WHERE f.conrelid = c.oid AND f.contype = 'f'
    ), '[]'),
    'indexes', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'name', ic.relname, 'unique', i.indisunique, 'columns', electric.column_names(i.indrelid, (i.indkey::smallint[])[0:i.indnkeyatts - 1])
        ) ORDER BY ic.relname)
        FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND NOT i.indisprimary AND i.indisvalid AND i.indexprs IS NULL AND i.indpred IS NULL
          AND electric.generated_columns(c.oid, (i.indkey::smallint[])[0:i.indnkeyatts - 1]) IS NULL
    ), '[]')
)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_constraint p ON p.conrelid = c.oid AND p.contype = 'p'
WHERE c.oid = target
$$;

-- Tables a table refers to, directly or through others, that are not electrified; parents before children.
CREATE OR REPLACE FUNCTION electric.missing_parents(target oid) RETURNS TABLE (relid oid, refers_back boolean)
LANGUAGE sql STABLE AS $$
WITH RECURSIVE up (relid, distance) AS (
    SELECT target, 0
    UNION
    SELECT f.confrelid, up.distance + 1
    FROM up JOIN pg_constraint f ON f.conrelid = up.relid AND f.contype = 'f'
    WHERE up.distance < 32
)
SELECT up.relid, EXISTS (
    WITH RECURSIVE back (relid) AS (
        SELECT up.relid
        UNION
        SELECT f.confrelid FROM back JOIN pg_constraint f ON f.conrelid = back.relid AND f.contype = 'f'
    )
    SELECT FROM back WHERE back.relid = target
)
FROM up
WHERE up.relid <> target AND NOT EXISTS (SELECT FROM electric.tables t WHERE t.relid = up.relid)
GROUP BY up.relid
ORDER BY max(up.distance) DESC
$$;

-- What devices call a table or an index of this schema: as devicenames.py has it.
CREATE OR REPLACE FUNCTION electric.device_name(in_schema text, name text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
SELECT CASE WHEN in_schema = 'public' THEN name ELSE in_schema || '__' || name END
$$;

-- Raises where devices could not tell names of a table apart: SQLite takes letters of ASCII that differ in case only for the
-- same, tables and indexes have their names from one set, and what a device has once been told of it keeps. Nothing would
-- take such a migration back, and no device could go on.
CREATE OR REPLACE FUNCTION electric.require_names(target oid) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    described CONSTANT jsonb := electric.describe(target);
    name CONSTANT text := format('%I.%I', described ->> 'schema', described ->> 'table');
    told jsonb[];
    clash record;
BEGIN
    IF EXISTS (SELECT FROM electric.tables t WHERE t.relid = target) THEN
        RETURN;
    END IF;
    told := ARRAY(SELECT d FROM electric.migrations m CROSS JOIN jsonb_array_elements(m.tables) AS d) || described;

    WITH named (kind, name, in_schema, own) AS (
        SELECT 'table', electric.device_name(d ->> 'schema', d ->> 'table'), d ->> 'schema', d = described FROM unnest(told) AS d
        UNION
        SELECT 'index', electric.device_name(d ->> 'schema', i ->> 'name'), d ->> 'schema', d = described
        FROM unnest(told) AS d CROSS JOIN jsonb_array_elements(d -> 'indexes') AS i
    )
    SELECT n.kind, n.name, other.kind AS other_kind, other.name AS other INTO clash
    FROM named n
    LEFT JOIN named other ON lower(other.name COLLATE "C") = lower(n.name COLLATE "C")
        AND (other.kind, other.name, other.in_schema) <> (n.kind, n.name, n.in_schema)
    WHERE n.own AND (other.name IS NOT NULL OR lower(n.name COLLATE "C") ~ '^(sqlite_|_syncline_|_electric_)')
    ORDER BY n.kind DESC, n.name, other.name LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported',
            MESSAGE = CASE WHEN clash.other IS NULL
                THEN format('%s: the name of %s %I is one that SQLite or the device libraries keep for themselves',
                    name, clash.kind, clash.name)
                ELSE format('%s: devices could not tell %s %I from %s %I', name, clash.kind, clash.name, clash.other_kind, clash.other)
            END,
            HINT = format('%sGive it another name: ALTER %s %I.%I RENAME TO ...', CASE WHEN clash.other IS NOT NULL THEN
                'SQLite does not tell upper from lower case, and devices keep what was electrified before. ' ELSE '' END,
                upper(clash.kind), described ->> 'schema', clash.name);
    END IF;

    SELECT c ->> 'name' AS name, other ->> 'name' AS other INTO clash
    FROM jsonb_array_elements(described -> 'columns') AS c
    JOIN unnest(told) AS d ON (d ->> 'schema', d ->> 'table') = (described ->> 'schema', described ->> 'table')
    CROSS JOIN jsonb_array_elements(d -> 'columns') AS other
    WHERE lower(other ->> 'name' COLLATE "C") = lower(c ->> 'name' COLLATE "C") AND other ->> 'name' <> c ->> 'name'
    ORDER BY 1, 2 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '%: devices could not tell column % from column %', name, quote_ident(clash.name), quote_ident(clash.other)
            USING ERRCODE = 'feature_not_supported', HINT = format(
                'SQLite does not tell upper from lower case, and devices keep what was electrified before. '
                'Give it another name: ALTER TABLE %s RENAME COLUMN %I TO ...', name, clash.name);
    END IF;
END
$$;

-- Raises what keeps a table from being electrified, with a hint how to mend it.
CREATE OR REPLACE FUNCTION electric.require_electrifiable(target oid) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    rel record;
    odd text;
    calls text;
BEGIN
    SELECT c.relname, c.relkind, c.relpersistence, c.relispartition, c.relhasrules, c.relowner, n.nspname,
           format('%I.%I', n.nspname, c.relname) AS name
        INTO rel FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
    IF rel.relkind <> 'r' OR rel.relispartition OR EXISTS (SELECT FROM pg_inherits WHERE target IN (inhrelid, inhparent)) THEN
        RAISE EXCEPTION '% is not an ordinary table', rel.name USING ERRCODE = 'wrong_object_type',
            HINT = 'Views, foreign tables, partitioned or inherited tables cannot be electrified.';
    ELSIF rel.nspname ~ '^(pg_|electric$|information_schema$)' THEN
        RAISE EXCEPTION '% is in schema %, which is not of the application', rel.name, rel.nspname
            USING ERRCODE = 'feature_not_supported', HINT = 'What Postgres and Syncline keep for themselves does not sync.';
    ELSIF rel.relpersistence <> 'p' THEN
        RAISE EXCEPTION '% is unlogged or temporary, so its changes are not in the WAL', rel.name
            USING ERRCODE = 'wrong_object_type', HINT = format('ALTER TABLE %s SET LOGGED', rel.name);
    ELSIF NOT pg_has_role(rel.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'role % does not own %', current_user, rel.name USING ERRCODE = 'insufficient_privilege',
            HINT = format('As the owner or an administrator: GRANT %I TO %I', rel.relowner::regrole::text, current_user);
    ELSIF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = target AND contype = 'p') THEN
        RAISE EXCEPTION '% has no primary key', rel.name USING ERRCODE = 'invalid_table_definition',
            HINT = format('ALTER TABLE %s ADD PRIMARY KEY (...)', rel.name);
    ELSIF EXISTS (SELECT FROM pg_constraint WHERE conrelid = target AND contype = 'p' AND condeferrable) THEN
        RAISE EXCEPTION 'the primary key of % is deferrable', rel.name USING ERRCODE = 'feature_not_supported',
            HINT = 'Make it NOT DEFERRABLE: rows are merged by it.';
    ELSIF rel.relhasrules AND EXISTS (SELECT FROM pg_rewrite WHERE ev_class = target) THEN
        RAISE EXCEPTION '% has rewrite rules', rel.name USING ERRCODE = 'feature_not_supported',
            HINT = 'Use triggers in their place.';
    END IF;

    SELECT string_agg(DISTINCT odds.names, ', ') INTO odd
    FROM pg_constraint k
    CROSS JOIN LATERAL (VALUES (electric.generated_columns(k.conrelid, k.conkey)),
                               (electric.generated_columns(k.confrelid, k.confkey))) AS odds (names)
    WHERE k.conrelid = target AND k.contype IN ('p', 'f');
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION 'keys of % have generated columns: %', rel.name, odd USING ERRCODE = 'feature_not_supported',
            HINT = 'Devices do not hold generated columns: make them ordinary ones, filled by a trigger.';
    END IF;
    SELECT string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum) INTO odd
    FROM pg_constraint k
    JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
    JOIN pg_collation c ON c.oid = a.attcollation
    WHERE k.conrelid = target AND k.contype = 'p' AND NOT c.collisdeterministic;
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION 'the primary key of % takes different texts for the same: %', rel.name, odd USING ERRCODE = 'feature_not_supported',
            HINT = 'To devices each text is another key: give the columns a deterministic collation, for instance "C".';
    END IF;
    SELECT string_agg(format('%I (%s)', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum) INTO odd
    FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)
    WHERE k.conrelid = target AND k.contype = 'p' AND electric.is_ambiguous(a.atttypid, a.atttypmod);
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION 'the primary key of % takes different texts for the same: %', rel.name, odd USING ERRCODE = 'feature_not_supported',
            HINT = 'To devices each text is another key. Give a numeric column a scale, numeric(20, 0) for instance; '
                'make others text, or integers.';
    END IF;
    SELECT string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum) INTO odd
    FROM pg_attribute a WHERE a.attrelid = target AND a.attgenerated = 'v';
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION '% has virtual generated columns: %', rel.name, odd USING ERRCODE = 'feature_not_supported',
            HINT = 'Postgres refuses to update or delete rows of a synced table with such columns: make them STORED.';
    END IF;
    SELECT format('%I.%I', n.nspname, c.relname) INTO odd
    FROM electric.tables t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE t.schema_name = rel.nspname AND t.table_name = rel.relname AND t.relid <> target;
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION 'under the name % devices know another table, which is called % now', rel.name, odd
            USING ERRCODE = 'feature_not_supported', HINT = format('Rename both back; or, if that one is not needed any more: '
                'DROP TABLE %s; CALL electric.electrify(%L);', odd, rel.name);
    END IF;
    PERFORM electric.require_names(target);

    SELECT string_agg(format('CALL electric.electrify(%L);', format('%I.%I', n.nspname, c.relname)), ' ' ORDER BY m.place),
           string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY m.place)
        INTO calls, odd
    FROM electric.missing_parents(target) WITH ORDINALITY AS m (relid, refers_back, place)
    JOIN pg_class c ON c.oid = m.relid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT m.refers_back;  -- in a circle of references somebody has to be first
    IF odd IS NOT NULL THEN
        RAISE EXCEPTION '% refers to tables that are not electrified: %', rel.name, odd
            USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Parents first: ' || calls || format(' CALL electric.electrify(%L);', rel.name);
    END IF;
END
$$;

-- A version no earlier migration has, later than all of them: the UTC time to the millisecond, as digits.
CREATE OR REPLACE FUNCTION electric.next_version() RETURNS text
LANGUAGE sql VOLATILE AS $$
SELECT to_char(greatest(
    clock_timestamp() AT TIME ZONE 'UTC',
    (SELECT to_timestamp(max(version), 'YYYYMMDDHH24MISS_MS')::timestamp + interval '1 millisecond'
     FROM electric.migrations WHERE version ~ '^\d{14}_\d{3}$')
), 'YYYYMMDDHH24MISS_MS')
$$;

CREATE OR REPLACE PROCEDURE electric.electrify(target text)
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    rel oid;
    described jsonb;
    name text;
BEGIN
    BEGIN
        rel := to_regclass(target);
    EXCEPTION WHEN syntax_error OR invalid_name THEN
        rel := NULL;
    END;
    IF rel IS NULL THEN
        RAISE EXCEPTION 'table % does not exist', coalesce(target, 'NULL') USING ERRCODE = 'undefined_table',
            HINT = 'Give its name as schema.table, with double quotes where SQL needs them.';
    END IF;
    PERFORM pg_advisory_xact_lock(x'656c656374726966'::bigint);  -- "electrif": one at a time
    PERFORM electric.require_electrifiable(rel);
    name := rel::regclass::text;

    IF EXISTS (SELECT FROM electric.tables t WHERE t.relid = rel) THEN
        RAISE NOTICE 'table % is already electrified', name;
        RETURN;
    END IF;

    EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', rel::regclass);
    IF NOT EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                   WHERE p.pubname = 'electric_publication' AND r.prrelid = rel) THEN
        EXECUTE format('ALTER PUBLICATION electric_publication ADD TABLE %s', rel::regclass);
    END IF;
    described := electric.describe(rel);

    -- A table of this name that was dropped since leaves its entry behind.
    DELETE FROM electric.tables t
        WHERE t.schema_name = described ->> 'schema' AND t.table_name = described ->> 'table'
          AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relid);
    INSERT INTO electric.tables (relid, schema_name, table_name, description, depth)
        SELECT rel, described ->> 'schema', described ->> 'table', described, coalesce(max(p.depth) + 1, 0)
        FROM electric.tables p
        JOIN pg_constraint f ON f.contype = 'f' AND f.conrelid = rel AND f.confrelid = p.relid AND f.confrelid <> rel;
    INSERT INTO electric.migrations (version, tables) VALUES (electric.next_version(), jsonb_build_array(described));
    PERFORM electric.generate_merge(rel);
END
$$;
