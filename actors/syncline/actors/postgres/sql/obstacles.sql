-- What keeps a table from being synced, whether or not anything is: nothing here asks what is electrified.

-- The first obstacle, with what would mend it, and the SQLSTATE to raise it by; NULL: there is none.
CREATE OR REPLACE FUNCTION electric.obstacle(target oid, OUT message text, OUT hint text, OUT state text)
LANGUAGE plpgsql STABLE AS $$
DECLARE
    rel record;
    odd text;
BEGIN
    SELECT c.relkind, c.relpersistence, c.relispartition, c.relowner, n.nspname, format('%I.%I', n.nspname, c.relname) AS name,
        (SELECT i.inhparent::regclass FROM pg_inherits i WHERE i.inhrelid = target LIMIT 1) AS parent
        INTO rel FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
    IF rel.nspname ~ '^(pg_|electric$|information_schema$)' THEN
        message := format('%s is in schema %s, which is not of the application', rel.name, rel.nspname);
        hint := 'What Postgres and Syncline keep for themselves does not sync.';
        state := 'feature_not_supported';
        RETURN;
    ELSIF rel.relispartition THEN
        message := format('%s is a partition of %s', rel.name, rel.parent);
        hint := format('Devices have the whole table: CALL electric.electrify(%L);', rel.parent);
        state := 'wrong_object_type';
        RETURN;
    ELSIF rel.relkind NOT IN ('r', 'p') THEN
        message := format('%s is %s, not a table', rel.name, CASE rel.relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view'
            WHEN 'f' THEN 'a foreign table' WHEN 'S' THEN 'a sequence' ELSE 'something else' END);
        hint := 'Its rows are not in the WAL of this database: electrify the tables that they come from.';
        state := 'wrong_object_type';
        RETURN;
    ELSIF rel.relpersistence = 't' THEN
        message := format('%s is temporary, so its changes are not in the WAL', rel.name);
        hint := 'Only its session sees it: create it without TEMPORARY.';
        state := 'wrong_object_type';
        RETURN;
    END IF;

    SELECT string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY n.nspname, c.relname) INTO odd
        FROM electric.parts(target) AS p (relid) JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'f' OR c.relkind = 'r' AND c.relpersistence <> 'p';
    IF odd IS NOT NULL THEN
        message := CASE odd WHEN rel.name THEN format('%s is unlogged, so its changes are not in the WAL', odd) ELSE
            format('partitions of %s are unlogged or foreign tables, so their changes are not in the WAL: %s', rel.name, odd) END;
        hint := CASE odd WHEN rel.name THEN format('ALTER TABLE %s SET LOGGED', odd)
            ELSE format('ALTER TABLE %s DETACH PARTITION ..., or ALTER TABLE ... SET LOGGED', rel.name) END;
        state := 'wrong_object_type';
        RETURN;
    END IF;
    IF electric.key_of(target) IS NULL THEN
        message := format('%s has no key by which its rows are told apart', rel.name);
        hint := electric.key_hint(target, rel.name);
        state := 'invalid_table_definition';
        RETURN;
    END IF;
    SELECT string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum) INTO odd
        FROM pg_attribute a WHERE a.attrelid = target AND a.attgenerated = 'v' AND NOT a.attisdropped;
    IF odd IS NOT NULL THEN
        message := format('%s has virtual generated columns: %s', rel.name, odd);
        hint := 'Postgres refuses to update or delete rows of a synced table with such columns: make them STORED.';
        state := 'feature_not_supported';
    ELSIF NOT pg_has_role(rel.relowner, 'USAGE') THEN
        message := format('role %s does not own %s', current_user, rel.name);
        hint := format('As the owner or an administrator: GRANT %I TO %I', rel.relowner::regrole::text, current_user);
        state := 'insufficient_privilege';
    END IF;
END
$$;

-- The statement that would give a table a key: of the columns of an index that is one but for NULL, or of one to be chosen.
CREATE OR REPLACE FUNCTION electric.key_hint(target oid, name text) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT coalesce((
    SELECT CASE WHEN count(*) FILTER (WHERE a.attgenerated <> '') > 0
        THEN 'Devices do not hold generated columns: give it a key of ordinary ones, filled by a trigger.'
        ELSE format('ALTER TABLE %s %s', name,
            string_agg(format('ALTER COLUMN %I SET NOT NULL', a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE NOT a.attnotnull)) END
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::smallint[])[0:i.indnkeyatts - 1])
    WHERE i.indrelid = target AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
    GROUP BY i.indexrelid ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1
), format('ALTER TABLE %s ADD PRIMARY KEY (...), or, without a column for one: ALTER TABLE %s ADD COLUMN id uuid PRIMARY KEY DEFAULT gen_random_uuid()',
    name, name))
$$;

-- Of the tables that are described those whose names, or names of whose indexes or columns, devices could not tell apart from
-- others, of these or of what they have been told before: SQLite takes letters of ASCII that differ in case only for the same,
-- tables and indexes have their names from one set, and what a device has once been told of it keeps. Nothing would take such a
-- migration back, and no device could go on.
CREATE OR REPLACE FUNCTION electric.clashes(descriptions jsonb, told_before jsonb) RETURNS TABLE (relid oid, message text, hint text)
LANGUAGE sql STABLE AS $$
WITH described AS MATERIALIZED (
    SELECT (d ->> 'oid')::oid AS relid, d FROM jsonb_array_elements(descriptions) AS d
), told AS MATERIALIZED (
    SELECT NULL::oid AS relid, d FROM jsonb_array_elements(told_before) AS d
    UNION ALL
    SELECT relid, d FROM described
), named AS MATERIALIZED (
    SELECT told.relid, n.kind, n.name, lower(n.name COLLATE "C") AS folded, d ->> 'schema' AS in_schema, d ->> 'table' AS of_table
    FROM told CROSS JOIN LATERAL (
        SELECT 'table', electric.device_name(d ->> 'schema', d ->> 'table')
        UNION ALL
        SELECT 'index', electric.device_name(d ->> 'schema', i ->> 'name') FROM jsonb_array_elements(d -> 'indexes') AS i
    ) AS n (kind, name)
), clashes AS (
    SELECT n.relid, n.kind, n.name, n.in_schema, n.of_table, other.kind AS other_kind, other.name AS other
    FROM named n
    LEFT JOIN named other ON other.folded = n.folded AND (other.kind, other.name, other.in_schema) <> (n.kind, n.name, n.in_schema)
    WHERE n.relid IS NOT NULL AND (other.name IS NOT NULL OR n.folded ~ '^(sqlite_|_syncline_|_electric_)')
)
(SELECT DISTINCT ON (c.relid) c.relid,
    CASE WHEN c.other IS NULL
        THEN format('%I.%I: the name of %s %I is one that SQLite or the device libraries keep for themselves',
            c.in_schema, c.of_table, c.kind, c.name)
        ELSE format('%I.%I: devices could not tell %s %I from %s %I', c.in_schema, c.of_table, c.kind, c.name, c.other_kind, c.other) END,
    format('%sGive it another name: ALTER %s %I.%I RENAME TO ...', CASE WHEN c.other IS NOT NULL
        THEN 'SQLite does not tell upper from lower case, and devices keep what was electrified before. ' ELSE '' END,
        upper(c.kind), c.in_schema, c.name)
FROM clashes c ORDER BY c.relid, c.kind DESC, c.name, c.other)
UNION ALL
(SELECT DISTINCT ON (described.relid) described.relid,
    format('%I.%I: devices could not tell column %I from column %I', described.d ->> 'schema', described.d ->> 'table',
        c ->> 'name', other ->> 'name'),
    format('SQLite does not tell upper from lower case, and devices keep what was electrified before. '
        'Give it another name: ALTER TABLE %I.%I RENAME COLUMN %I TO ...', described.d ->> 'schema', described.d ->> 'table', c ->> 'name')
FROM described
JOIN told ON told.d ->> 'schema' = described.d ->> 'schema' AND told.d ->> 'table' = described.d ->> 'table'
CROSS JOIN jsonb_array_elements(described.d -> 'columns') AS c
JOIN jsonb_array_elements(told.d -> 'columns') AS other
    ON lower(other ->> 'name' COLLATE "C") = lower(c ->> 'name' COLLATE "C") AND other ->> 'name' <> c ->> 'name'
ORDER BY described.relid, c ->> 'name', other ->> 'name')
$$;
