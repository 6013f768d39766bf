-- CALL electric.electrify('schema.table', ...): opens tables to devices. From then on every change to them is streamed, and
-- devices may write them. A second call changes nothing.
--
-- Of several what cannot be opened is left out, with a warning that says why and what would mend it; and so is what refers to
-- tables that could be opened and are not. electric.plan says the same beforehand.

-- Tables by their oids, or those of application schemas: not what an extension has brought, nor partitions.
CREATE OR REPLACE FUNCTION electric.tables_of(schemas text[] DEFAULT NULL) RETURNS oid[]
LANGUAGE sql STABLE AS $$
SELECT coalesce(array_agg(c.oid ORDER BY n.nspname, c.relname), '{}')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition
    AND CASE WHEN schemas IS NULL THEN n.nspname !~ '^(pg_|electric$|information_schema$)' ELSE n.nspname = ANY (schemas) END
    AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
$$;

-- The tables of these names. Raises for one that there is not.
CREATE OR REPLACE FUNCTION electric.tables_named(names text[]) RETURNS oid[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    name text;
    rel oid;
    found oid[] := '{}';
BEGIN
    FOREACH name IN ARRAY names LOOP
        BEGIN
            rel := to_regclass(name);
        EXCEPTION WHEN syntax_error OR invalid_name THEN
            rel := NULL;
        END;
        IF rel IS NULL THEN
            RAISE EXCEPTION 'table % does not exist', coalesce(name, 'NULL') USING ERRCODE = 'undefined_table',
                HINT = 'Give its name as schema.table, with double quotes where SQL needs them.';
        END IF;
        found := found || rel;
    END LOOP;
    RETURN found;
END
$$;

-- Tables a table refers to, directly or through others, that are neither electrified nor among "others"; parents before
-- children. Not those that cannot be: a table does without such a one.
CREATE OR REPLACE FUNCTION electric.missing_parents(target oid, others oid[]) RETURNS TABLE (relid oid)
LANGUAGE sql STABLE AS $$
WITH RECURSIVE up (relid, distance) AS (
    SELECT target, 0
    UNION
    SELECT f.confrelid, up.distance + 1
    FROM up JOIN pg_constraint f ON f.conrelid = up.relid AND f.contype = 'f' AND f.conparentid = 0
    WHERE up.distance < 32
)
SELECT up.relid
FROM up
WHERE up.relid <> target AND up.relid <> ALL (others) AND NOT EXISTS (SELECT FROM electric.tables t WHERE t.relid = up.relid)
    AND (electric.obstacle(up.relid)).message IS NULL
    AND NOT EXISTS (  -- in a circle of references somebody has to be first
        WITH RECURSIVE back (relid) AS (
            SELECT up.relid
            UNION
            SELECT f.confrelid FROM back JOIN pg_constraint f ON f.conrelid = back.relid AND f.contype = 'f' AND f.conparentid = 0
        )
        SELECT FROM back WHERE back.relid = target)
GROUP BY up.relid
ORDER BY max(up.distance) DESC, electric.full_name(up.relid) COLLATE "C"
$$;

-- These tables, and all that they refer to and that can be opened.
CREATE OR REPLACE FUNCTION electric.with_parents(targets oid[]) RETURNS oid[]
LANGUAGE sql STABLE AS $$
SELECT array_agg(DISTINCT relid) FROM (
    SELECT t AS relid FROM unnest(targets) AS t
    UNION
    SELECT p.relid FROM unnest(targets) AS t CROSS JOIN electric.missing_parents(t, '{}') AS p
) AS wanted
$$;

-- Of these tables those that devices could not tell apart from one another, or from what they have been told of before.
CREATE OR REPLACE FUNCTION electric.name_clashes(targets oid[]) RETURNS TABLE (relid oid, message text, hint text)
LANGUAGE sql STABLE AS $$
SELECT c.relid, c.message, c.hint FROM electric.clashes(
    (SELECT jsonb_agg(electric.describe(t)) FROM unnest(targets) AS t),
    (SELECT jsonb_agg(d) FROM electric.migrations m CROSS JOIN jsonb_array_elements(m.tables) AS d)) AS c
$$;

-- What electric.electrify would do with these tables, in that order. action: "electrify", "already" or "refused", with why and what
-- would mend it. Tables of one step refer to one another in a circle, and are opened together.
CREATE OR REPLACE FUNCTION electric.plan_of(targets oid[])
RETURNS TABLE (step integer, relid oid, name text, action text, message text, hint text, state text)
LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    refused jsonb;
    open oid[];
    more jsonb;
BEGIN
    targets := ARRAY(SELECT DISTINCT unnest(targets));
    open := ARRAY(SELECT t FROM unnest(targets) AS t WHERE NOT EXISTS (SELECT FROM electric.tables e WHERE e.relid = t));
    SELECT coalesce(jsonb_object_agg(t, to_jsonb(o)), '{}') INTO refused
        FROM unnest(open) AS t CROSS JOIN LATERAL electric.obstacle(t) AS o WHERE o.message IS NOT NULL;
    open := ARRAY(SELECT t FROM unnest(open) AS t WHERE NOT refused ? t::text);
    SELECT refused || coalesce(jsonb_object_agg(c.relid, jsonb_build_object(
            'message', c.message, 'hint', c.hint, 'state', 'feature_not_supported')), '{}')
        INTO refused FROM electric.name_clashes(open) AS c;
    SELECT refused || coalesce(jsonb_object_agg(o.relid, jsonb_build_object(
            'message', format('under the name %s devices know another table, which is called %s now', o.name, o.other),
            'hint', format('Rename both back; or, if that one is not needed any more: DROP TABLE %s; CALL electric.electrify(%L);',
                o.other, o.name),
            'state', 'feature_not_supported')), '{}')
        INTO refused FROM (
            SELECT c.oid AS relid, format('%I.%I', n.nspname, c.relname) AS name, format('%I.%I', othern.nspname, otherc.relname) AS other
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            JOIN electric.tables t ON t.schema_name = n.nspname AND t.table_name = c.relname AND t.relid <> c.oid
            JOIN pg_class otherc ON otherc.oid = t.relid JOIN pg_namespace othern ON othern.oid = otherc.relnamespace
            WHERE c.oid = ANY (open)) AS o;
    open := ARRAY(SELECT t FROM unnest(open) AS t WHERE NOT refused ? t::text);
    LOOP  -- what refers to one that is left out for this is left out, too
        SELECT coalesce(jsonb_object_agg(m.target, m.why), '{}') INTO more FROM (
            SELECT t AS target, jsonb_build_object(
                'message', format('%s refers to tables that are not electrified: %s', electric.full_name(t),
                    string_agg(electric.full_name(p.relid), ', ' ORDER BY p.place)),
                'hint', format('Parents first, or with it: CALL electric.electrify(%s, %L);',
                    string_agg(quote_literal(electric.full_name(p.relid)), ', ' ORDER BY p.place), electric.full_name(t)),
                'state', 'object_not_in_prerequisite_state') AS why
            FROM unnest(open) AS t CROSS JOIN electric.missing_parents(t, open) WITH ORDINALITY AS p (relid, place)
            GROUP BY t) AS m;
        EXIT WHEN more = '{}';
        refused := refused || more;
        open := ARRAY(SELECT t FROM unnest(open) AS t WHERE NOT more ? t::text);
    END LOOP;

    RETURN QUERY
    WITH RECURSIVE key (child, parent) AS (
        SELECT DISTINCT f.conrelid, f.confrelid FROM pg_constraint f
        WHERE f.contype = 'f' AND f.conparentid = 0 AND f.conrelid = ANY (open) AND f.confrelid = ANY (open) AND f.conrelid <> f.confrelid
    ), above (child, parent) AS (
        SELECT child, parent FROM key
        UNION
        SELECT above.child, key.parent FROM above JOIN key ON key.child = above.parent
    ), circle AS (
        SELECT t AS relid, least(t, min(a.parent) FILTER (WHERE b.child IS NOT NULL)) AS first, count(a.parent) FILTER (WHERE b.child IS NULL) AS before
        FROM unnest(open) AS t LEFT JOIN above a ON a.child = t LEFT JOIN above b ON b.child = a.parent AND b.parent = t
        GROUP BY t
    ), ordered AS (
        SELECT circle.relid, dense_rank() OVER (ORDER BY circle.before, first_name.name, circle.first)::integer AS step
        FROM circle CROSS JOIN LATERAL (SELECT electric.full_name(circle.first) AS name) AS first_name
    )
    SELECT o.step, t, electric.full_name(t), CASE WHEN refused ? t::text THEN 'refused' WHEN o.relid IS NULL THEN 'already' ELSE 'electrify' END,
        refused -> t::text ->> 'message', refused -> t::text ->> 'hint', refused -> t::text ->> 'state'
    FROM unnest(targets) AS t LEFT JOIN ordered o ON o.relid = t
    ORDER BY 4, o.step, 3;
END
$$;

-- For people: SELECT * FROM electric.plan('app.users', 'app.orders'), or of all tables of the application without any name.
CREATE OR REPLACE FUNCTION electric.plan(VARIADIC names text[] DEFAULT '{}')
RETURNS TABLE (step integer, name text, action text, message text, hint text)
LANGUAGE sql STABLE AS $$
SELECT p.step, p.name, p.action, p.message, p.hint
FROM electric.plan_of(CASE WHEN names = '{}' THEN electric.tables_of() ELSE electric.tables_named(names) END) AS p
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

-- Opens these tables, which nothing keeps from it, at once: to devices they are one migration, so that they may refer to one
-- another in a circle. Their merge functions are still to be made.
CREATE OR REPLACE FUNCTION electric.open_together(targets oid[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    target oid;
    descriptions jsonb := '[]';
    described jsonb;
BEGIN
    FOREACH target IN ARRAY targets LOOP
        PERFORM electric.publish(target);
        INSERT INTO electric.partitions (root, relid, filenode) SELECT target, l.relid, l.filenode FROM electric.leaves(target) AS l;
        described := electric.with_policies(electric.describe(target), target);
        descriptions := descriptions || described;
        -- A table of this name that was dropped since leaves its entry behind.
        DELETE FROM electric.tables t
            WHERE t.schema_name = described ->> 'schema' AND t.table_name = described ->> 'table'
              AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relid);
        INSERT INTO electric.tables (relid, schema_name, table_name, description, depth)
            SELECT target, described ->> 'schema', described ->> 'table', described, coalesce(max(p.depth) + 1, 0)
            FROM electric.tables p
            JOIN pg_constraint f ON f.contype = 'f' AND f.conrelid = target AND f.confrelid = p.relid AND f.confrelid <> target;
    END LOOP;
    INSERT INTO electric.migrations (version, tables) VALUES (electric.next_version(), descriptions);
END
$$;

-- Puts what a table is made of into the stream, with whole old rows.
CREATE OR REPLACE FUNCTION electric.publish(target oid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    part oid;
BEGIN
    FOR part IN SELECT p FROM electric.parts(target) AS p JOIN pg_class c ON c.oid = p WHERE c.relreplident <> 'f' LOOP
        EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY FULL', part::regclass);
    END LOOP;
    IF NOT EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                   WHERE p.pubname = 'electric_publication' AND r.prrelid = target) THEN
        EXECUTE format('ALTER PUBLICATION electric_publication ADD TABLE %s', electric.own_rows(target));
    END IF;
END
$$;

-- Opens these tables. Raises what keeps one of them from it.
CREATE OR REPLACE FUNCTION electric.open_all(targets oid[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    planned record;
BEGIN
    PERFORM pg_advisory_xact_lock(x'656c656374726966'::bigint);  -- "electrif": one at a time
    FOR planned IN
        SELECT p.action, p.message, p.hint, p.state, array_agg(p.relid ORDER BY p.name) AS relids
        FROM electric.plan_of(targets) AS p WHERE p.action <> 'already'
        GROUP BY p.action, p.step, p.message, p.hint, p.state ORDER BY p.action DESC, p.step
    LOOP
        IF planned.action = 'refused' THEN
            RAISE EXCEPTION USING MESSAGE = planned.message, HINT = planned.hint, ERRCODE = planned.state;
        END IF;
        PERFORM electric.open_together(planned.relids);
    END LOOP;
    PERFORM electric.generate_merge(targets);
END
$$;

-- Opens what a plan of these tables opens, and says what of them it does not; raises it, if there is but one.
CREATE OR REPLACE FUNCTION electric.open_planned(targets oid[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    planned record;
    opened oid[] := '{}';
BEGIN
    PERFORM pg_advisory_xact_lock(x'656c656374726966'::bigint);
    FOR planned IN SELECT * FROM electric.plan_of(targets) LOOP
        IF planned.action = 'electrify' THEN
            opened := opened || planned.relid;
        ELSIF planned.action = 'already' THEN
            RAISE NOTICE 'table % is already electrified', planned.name;
        ELSIF cardinality(targets) = 1 THEN
            RAISE EXCEPTION USING MESSAGE = planned.message, HINT = planned.hint, ERRCODE = planned.state;
        ELSE
            RAISE WARNING USING MESSAGE = planned.message, HINT = planned.hint;
        END IF;
    END LOOP;
    IF opened <> '{}' THEN
        PERFORM electric.open_all(opened);
    END IF;
END
$$;

CREATE OR REPLACE PROCEDURE electric.electrify(VARIADIC targets text[])
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM electric.open_planned(electric.tables_named(targets));
END
$$;

-- All tables of these schemas.
CREATE OR REPLACE PROCEDURE electric.electrify_schema(VARIADIC schemas text[])
LANGUAGE plpgsql AS $$
DECLARE
    missing CONSTANT text := (SELECT min(s) FROM unnest(schemas) AS s WHERE to_regnamespace(quote_ident(s)) IS NULL);
BEGIN
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'schema % does not exist', missing USING ERRCODE = 'invalid_schema_name',
            HINT = 'Give its name without quotes, as it is in pg_namespace.';
    END IF;
    PERFORM electric.open_planned(electric.tables_of(schemas));
END
$$;

-- All tables of the application.
CREATE OR REPLACE PROCEDURE electric.electrify_all()
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM electric.open_planned(electric.tables_of());
END
$$;
