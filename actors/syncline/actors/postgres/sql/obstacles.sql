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
