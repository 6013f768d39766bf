-- Merge functions (merge.sql) are made when a table is electrified, and made anew when what they were made from has
-- changed: constraints, foreign keys of other tables, defaults, which the application may change at any time.

-- Nested IFs that find the merge function of a table in as many steps as a binary search takes.
CREATE OR REPLACE FUNCTION electric.dispatch_branch(relids oid[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    size integer := cardinality(relids);
    middle integer := size / 2;
BEGIN
    IF size = 0 THEN
        RETURN 'RETURN electric.merge_new(rel, op, origin, ms, absorbed, mending);';
    ELSIF size = 1 THEN
        RETURN format(
            'IF rel = %1$s THEN '
            'RETURN electric.merge_%1$s(op ->> ''op'', op -> ''row'', op -> ''modified'', op -> ''tags'', origin, ms, absorbed, mending);'
            ' ELSE %2$s END IF;', relids[1], electric.dispatch_branch('{}'));
    END IF;
    RETURN format('IF rel <= %s THEN %s ELSE %s END IF;', relids[middle],
        electric.dispatch_branch(relids[1:middle]), electric.dispatch_branch(relids[middle + 1:]));
END
$$;

-- electric.merge(op, origin, ms, absorbed, mending): one operation of a batch (see apply.sql) to the merge function of its
-- table.
CREATE OR REPLACE FUNCTION electric.generate_dispatch() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION electric.merge(op jsonb, origin text, ms bigint, absorbed jsonb, mending integer) '
        'RETURNS jsonb LANGUAGE plpgsql AS '
        '$merge$ DECLARE rel bigint := (op ->> ''rel'')::bigint; BEGIN %s END $merge$',
        (SELECT electric.dispatch_branch(coalesce(array_agg(t.relid ORDER BY t.relid), '{}'))
         FROM electric.tables t JOIN pg_class c ON c.oid = t.relid));
    UPDATE electric.tables SET dispatched = true WHERE NOT dispatched;
END
$$;

-- The same for a table that has been electrified since. That is slower: after the batch electric.merge is made anew.
CREATE OR REPLACE FUNCTION electric.merge_new(
    rel bigint, op jsonb, origin text, ms bigint, absorbed jsonb, mending integer
) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    answer jsonb;
BEGIN
    IF NOT EXISTS (SELECT FROM electric.tables t WHERE t.relid = rel) THEN
        RAISE EXCEPTION 'table % is not electrified', rel USING ERRCODE = 'undefined_table';
    END IF;
    PERFORM set_config('syncline.merged_new', 'true', false);
    EXECUTE format('SELECT electric.merge_%s($1, $2, $3, $4, $5, $6, $7, $8)', rel) INTO answer
        USING op ->> 'op', op -> 'row', op -> 'modified', op -> 'tags', origin, ms, absorbed, mending;
    RETURN answer;
END
$$;

-- What the merge function of a table was made from, apart from its description, as a text that is another one after any change
-- of it: its name; constraints and unique indexes of the table, defaults, identities and types of its columns; the tables that
-- it refers to, and which of them are electrified; the foreign keys that refer to it, by the triggers they leave here.
CREATE OR REPLACE FUNCTION electric.merge_basis(target oid) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT concat_ws(E'\n',
    (SELECT format('%s %s', c.relnamespace, c.relname) FROM pg_class c WHERE c.oid = target),
    (SELECT string_agg(format('%s %s %s', k.oid, p.relname, t.relid), ',' ORDER BY k.oid)
     FROM pg_constraint k LEFT JOIN pg_class p ON p.oid = k.confrelid LEFT JOIN electric.tables t ON t.relid = k.confrelid
     WHERE k.conrelid = target AND k.contype IN ('c', 'f', 'u', 'x')),
    (SELECT string_agg(i.indexrelid::text, ',' ORDER BY i.indexrelid) FROM pg_index i
     WHERE i.indrelid = target AND i.indisunique),
    (SELECT string_agg(w.oid::text, ',' ORDER BY w.oid) FROM pg_rewrite w WHERE w.ev_class = target),
    (SELECT string_agg(d.oid::text, ',' ORDER BY d.oid) FROM pg_attrdef d WHERE d.adrelid = target),
    (SELECT string_agg(format('%s %s %s %s', a.attname, a.atttypid, a.attidentity, y.typdefault), ',' ORDER BY a.attnum)
     FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
     WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped),
    (SELECT string_agg(format('%s %s %s', g.tgconstraint, c.relname, c.relnamespace), ',' ORDER BY g.tgconstraint, g.oid)
     FROM pg_trigger g LEFT JOIN pg_class c ON c.oid = g.tgconstrrelid
     WHERE g.tgrelid = target AND g.tgtype & 8 <> 0 AND g.tgconstraint <> 0),
    (SELECT string_agg(format('%s %s', p.indexrelid, p.policy), ',' ORDER BY p.indexrelid)
     FROM electric.unique_policies p JOIN pg_index i ON i.indexrelid = p.indexrelid WHERE i.indrelid = target),
    electric.constraints_basis(target))
$$;

-- The merge functions of these tables, made. What they are made from is read first: what changes meanwhile is noticed later.
CREATE OR REPLACE FUNCTION electric.generate_merges(targets oid[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    made record;
BEGIN
    FOR made IN
        SELECT t.relid, t.description, electric.merge_basis(t.relid) AS basis
        FROM electric.tables t JOIN pg_class c ON c.oid = t.relid WHERE t.relid = ANY (targets)
    LOOP
        EXECUTE electric.merge_function(made.relid, made.description);
        UPDATE electric.tables t SET merge_basis = made.basis WHERE t.relid = made.relid;
        PERFORM electric.renew_constraints(made.relid);
    END LOOP;
END
$$;

-- How deep tables are that refer to others, after foreign keys have come. Those of a circle count for nothing.
CREATE OR REPLACE FUNCTION electric.deepen() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    keys CONSTANT jsonb := (
        WITH RECURSIVE key AS (
            SELECT DISTINCT f.conrelid AS child, f.confrelid AS parent
            FROM pg_constraint f JOIN electric.tables c ON c.relid = f.conrelid JOIN electric.tables p ON p.relid = f.confrelid
            WHERE f.contype = 'f'
        ), above (child, parent) AS (
            SELECT child, parent FROM key
            UNION
            SELECT above.child, key.parent FROM above JOIN key ON key.child = above.parent
        )
        SELECT coalesce(jsonb_agg(key), '[]') FROM key
        WHERE NOT EXISTS (SELECT FROM above WHERE above.child = key.parent AND above.parent = key.child));
BEGIN
    LOOP
        UPDATE electric.tables t SET depth = deeper.depth
            FROM (SELECT k.child, max(p.depth) + 1 AS depth
                  FROM jsonb_to_recordset(keys) AS k (child oid, parent oid) JOIN electric.tables p ON p.relid = k.parent
                  GROUP BY k.child) AS deeper
            WHERE t.relid = deeper.child AND t.depth < deeper.depth;
        EXIT WHEN NOT FOUND;
    END LOOP;
END
$$;

-- Merge functions whose tables have changed since they were made are made anew: of these tables and those they refer to, or of
-- all (NULL). And electric.merge, if it does not know all tables. True: some were; NULL: some functions are to be, and somebody
-- else is at it. thorough: their texts are compared, which takes milliseconds a table.
CREATE OR REPLACE FUNCTION electric.refresh_merges(targets oid[] DEFAULT NULL, thorough boolean DEFAULT false)
RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '200ms' AS $$
DECLARE
    changed oid[];
BEGIN
    changed := ARRAY(
        WITH RECURSIVE concerned (relid) AS (
            SELECT t.relid FROM electric.tables t WHERE targets IS NULL OR t.relid = ANY (targets)
            UNION
            SELECT f.confrelid FROM concerned JOIN pg_constraint f ON f.contype = 'f' AND f.conrelid = concerned.relid
        )
        SELECT t.relid FROM electric.tables t JOIN concerned USING (relid) JOIN pg_class c ON c.oid = t.relid
        WHERE CASE
            WHEN thorough THEN split_part(electric.merge_function(t.relid, t.description), '$merge$', 2) IS DISTINCT FROM
                (SELECT p.prosrc FROM pg_proc p WHERE p.pronamespace = 'electric'::regnamespace AND p.proname = 'merge_' || t.relid)
            ELSE t.merge_basis IS DISTINCT FROM electric.merge_basis(t.relid) END
        ORDER BY t.relid);
    IF cardinality(changed) = 0 AND NOT EXISTS (SELECT FROM electric.tables WHERE NOT dispatched) THEN
        RETURN false;
    ELSIF NOT pg_try_advisory_xact_lock(x'656c656374726966'::bigint) THEN  -- see electric.electrify
        RETURN CASE WHEN cardinality(changed) > 0 THEN NULL ELSE false END;
    END IF;
    IF cardinality(changed) > 0 THEN
        PERFORM electric.generate_merges(changed);
        PERFORM electric.deepen();
    END IF;
    IF EXISTS (SELECT FROM electric.tables WHERE NOT dispatched) THEN
        PERFORM electric.generate_dispatch();
    END IF;
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'merge functions of changed tables cannot be made anew: %', SQLERRM;
    RETURN false;
END
$$;

-- Those of tables that have been opened, with those they refer to, which have to know who refers to them, and those that refer to
-- them, which may keep them.
CREATE OR REPLACE FUNCTION electric.generate_merge(targets oid[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM electric.generate_merges(ARRAY(
        SELECT unnest(targets)
        UNION SELECT confrelid FROM pg_constraint WHERE contype = 'f' AND conrelid = ANY (targets)
        UNION SELECT conrelid FROM pg_constraint WHERE contype = 'f' AND confrelid = ANY (targets)));
END
$$;

-- Everything generated, anew: after the generator itself has changed.
CREATE OR REPLACE FUNCTION electric.generate_all() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM electric.generate_merges(ARRAY(SELECT relid FROM electric.tables));
    PERFORM electric.generate_dispatch();
END
$$;
