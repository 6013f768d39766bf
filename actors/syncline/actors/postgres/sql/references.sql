-- What constraints of the application's tables mean for the merge functions (merge.sql): text for their bodies.

CREATE OR REPLACE FUNCTION electric.type_name(target oid, column_name text) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT format('%I.%I', n.nspname, y.typname)
FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid JOIN pg_namespace n ON n.oid = y.typnamespace
WHERE a.attrelid = target AND a.attname = column_name AND NOT a.attisdropped
$$;

-- The pairs of columns of a foreign key that the table "target" has. place: of the column in its description; of one that was
-- added since there is none.
CREATE OR REPLACE FUNCTION electric.key_pairs(constraint_oid oid, description jsonb)
RETURNS TABLE (child text, parent text, place bigint, type text)
LANGUAGE sql STABLE AS $$
SELECT ca.attname, pa.attname, d.i, electric.type_name(f.conrelid, ca.attname)
FROM pg_constraint f
CROSS JOIN LATERAL unnest(f.conkey, f.confkey) AS u (child, parent)
JOIN pg_attribute ca ON ca.attrelid = f.conrelid AND ca.attnum = u.child
JOIN pg_attribute pa ON pa.attrelid = f.confrelid AND pa.attnum = u.parent
LEFT JOIN jsonb_array_elements(description -> 'columns') WITH ORDINALITY AS d (c, i) ON d.c ->> 'name' = ca.attname
WHERE f.oid = constraint_oid
$$;

-- For each foreign key that refers to the table: the condition that some row refers to the row t for which is_row holds,
-- and whether Postgres would change that row with the one it refers to.
CREATE OR REPLACE FUNCTION electric.references_to(target oid, is_row text)
RETURNS TABLE (referring text, cascades boolean)
LANGUAGE sql STABLE AS $$
SELECT format('EXISTS (SELECT FROM %s c, %s t WHERE %s AND %s%s)', electric.own_rows(f.conrelid), electric.own_rows(f.confrelid), is_row,
        (SELECT string_agg(format('c.%I = t.%I', k.child, k.parent), ' AND ') FROM electric.key_pairs(f.oid, NULL) k),
        CASE WHEN f.conrelid = f.confrelid THEN ' AND (c.tableoid, c.ctid) <> (t.tableoid, t.ctid)' ELSE '' END),
    f.confdeltype IN ('c', 'n', 'd')
FROM pg_constraint f
WHERE f.contype = 'f' AND f.confrelid = target AND f.conparentid = 0
ORDER BY f.oid
$$;

-- Statements that bring back what the row "final" refers to and is gone, where it is known what it was. Whoever refers to
-- a row wants it there, and with it what that one refers to in turn, but none of those that are coming: sy_chain. Where a foreign key is not to
-- the key that devices know rows by, it is the one that was deleted last of those that had these values. A foreign key of columns
-- that devices do not have says nothing of theirs.
CREATE OR REPLACE FUNCTION electric.parents_text(target oid, description jsonb) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT coalesce(string_agg(format(
    'IF %s AND %s AND NOT EXISTS (SELECT FROM %s p WHERE %s) THEN %s '
    'answer := electric.merge_%s(''R'', jsonb_build_array(%s), sy_chain, ''[]'', origin, sy_ms, absorbed, mending); '
    'IF answer IS NOT NULL THEN RETURN answer; END IF; END IF;%s',
    pairs.given,
    CASE WHEN f.conrelid <> f.confrelid THEN 'true' ELSE (
        SELECT format('NOT (%s)', string_agg(format('sy_final[%s]::%s = sy_final[%s]::%s', k.place, k.type, o.i, k.type), ' AND '))
        FROM electric.key_pairs(f.oid, parents_text.description) k
        JOIN jsonb_array_elements(parents_text.description -> 'columns') WITH ORDINALITY AS o (c, i) ON o.c ->> 'name' = k.parent)
    END,
    electric.own_rows(f.confrelid),
    pairs.met,
    CASE WHEN by_key THEN '' ELSE format('sy_buried := electric.buried(%s, %L, ARRAY[%s]); IF sy_buried IS NOT NULL THEN',
        f.confrelid, pairs.parent_places, pairs.finals) END,
    f.confrelid,
    CASE WHEN by_key THEN (
        SELECT string_agg(coalesce('sy_final[' || k.place || ']', 'NULL'), ', ' ORDER BY c.i)
        FROM jsonb_array_elements(p.description -> 'columns') WITH ORDINALITY AS c (c, i)
        LEFT JOIN electric.key_pairs(f.oid, parents_text.description) k ON k.parent = c.c ->> 'name')
    ELSE (
        SELECT string_agg(CASE WHEN c.c ->> 'pk' IS NULL THEN 'NULL' ELSE format('sy_buried[%s]', c.i) END, ', ' ORDER BY c.i)
        FROM jsonb_array_elements(p.description -> 'columns') WITH ORDINALITY AS c (c, i)) END,
    CASE WHEN by_key THEN '' ELSE ' END IF;' END
    ), ' ' ORDER BY f.oid), '')
FROM pg_constraint f
JOIN electric.tables p ON p.relid = f.confrelid
CROSS JOIN LATERAL (
    SELECT string_agg(format('sy_final[%s] IS NOT NULL', k.place), ' AND ') AS given,
        string_agg(format('p.%I = sy_final[%s]::%s', k.parent, k.place, k.type), ' AND ') AS met,
        array_agg(c.i ORDER BY c.i) AS parent_places,
        string_agg(format('sy_final[%s]', k.place), ', ' ORDER BY c.i) AS finals,
        bool_and(k.place IS NOT NULL AND c.i IS NOT NULL) AS held,
        bool_and(c.c ->> 'pk' IS NOT NULL) AND count(*) = (
            SELECT count(*) FROM jsonb_array_elements(p.description -> 'columns') AS d WHERE d ->> 'pk' IS NOT NULL) AS by_key
    FROM electric.key_pairs(f.oid, parents_text.description) k
    LEFT JOIN jsonb_array_elements(p.description -> 'columns') WITH ORDINALITY AS c (c, i) ON c.c ->> 'name' = k.parent
) AS pairs
WHERE f.contype = 'f' AND f.conrelid = target AND f.conparentid = 0 AND pairs.held
$$;

-- Of the rows of a table that had these values in the columns of these places the one that was deleted last, as texts.
CREATE OR REPLACE FUNCTION electric.buried(target oid, places integer[], cells text[]) RETURNS text[]
LANGUAGE sql STABLE AS $$
SELECT gone."row" FROM (
    SELECT b."row", b.deleted_ms AS ms FROM electric.tombstones b WHERE b.relid = target
    UNION ALL
    SELECT d."row", d.ms FROM electric.direct d WHERE d.relid = target AND d."row" IS NOT NULL
) AS gone
WHERE ARRAY(SELECT gone."row"[place] FROM unnest(places) WITH ORDINALITY AS p (place, i) ORDER BY i) = cells
ORDER BY gone.ms DESC LIMIT 1
$$;

-- These columns of a table, and in place of generated ones what they are computed from.
CREATE OR REPLACE FUNCTION electric.inputs(target oid, numbers smallint[]) RETURNS smallint[]
LANGUAGE sql STABLE AS $$
SELECT ARRAY(
    SELECT input.attnum
    FROM unnest(numbers) WITH ORDINALITY AS n (number, place)
    JOIN pg_attribute g ON g.attrelid = target AND g.attnum = n.number
    JOIN pg_attribute input ON input.attrelid = target AND input.attnum > 0 AND input.attgenerated = ''
        AND (input.attnum = g.attnum OR EXISTS (
        SELECT FROM pg_depend d
        WHERE g.attgenerated <> '' AND d.refclassid = 'pg_class'::regclass AND d.refobjid = target AND d.refobjsubid = input.attnum
          AND (d.classid = 'pg_class'::regclass AND d.objid = target AND d.objsubid = g.attnum  -- until Postgres 14
            OR d.classid = 'pg_attrdef'::regclass
            AND d.objid = (SELECT f.oid FROM pg_attrdef f WHERE f.adrelid = target AND f.adnum = g.attnum))))
    GROUP BY input.attnum ORDER BY min(n.place), input.attnum)
$$;

-- The columns that an index is about: those of its key, and those that its expressions and its condition make use of. What it
-- includes besides is none of them: on such a column it depends once, and once more for each of these two that has it, but not
-- at all if it is that of a constraint.
CREATE OR REPLACE FUNCTION electric.index_columns(index_oid oid) RETURNS smallint[]
LANGUAGE sql STABLE AS $$
SELECT CASE WHEN i.indexprs IS NULL AND i.indpred IS NULL THEN k.key ELSE k.key || ARRAY(
    SELECT d.refobjsubid::smallint FROM pg_depend d
    WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid AND d.refclassid = 'pg_class'::regclass
        AND d.refobjid = i.indrelid AND d.refobjsubid <> ALL (k.key || 0::smallint)
    GROUP BY d.refobjsubid
    HAVING count(*) > CASE WHEN d.refobjsubid = ANY (i.indkey::smallint[])
        AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x')) THEN 1 ELSE 0 END
    ORDER BY d.refobjsubid) END
FROM pg_index i CROSS JOIN LATERAL (SELECT (i.indkey::smallint[])[0:i.indnkeyatts - 1] AS key) AS k
WHERE i.indexrelid = index_oid
$$;

-- What is about columns of a table that are valid together only: constraints, unique indexes, and generated columns, as what
-- one is computed from may fail it.
CREATE OR REPLACE FUNCTION electric.ties(target oid) RETURNS TABLE (kind text, id oid, numbers smallint[])
LANGUAGE sql STABLE AS $$
SELECT 'constraint', oid, conkey FROM pg_constraint WHERE conrelid = target AND contype IN ('c', 'f') AND conparentid = 0
UNION ALL
SELECT 'index', indexrelid, electric.index_columns(indexrelid) FROM pg_index
    WHERE indrelid = target AND (indisunique OR indisexclusion)
UNION ALL
SELECT 'generated', attnum::oid, ARRAY[attnum] FROM pg_attribute WHERE attrelid = target AND attgenerated <> ''
$$;

-- The columns that are tied together, by their places in the description. Each set is one register, and those that have a column
-- in common are one set. Columns of the primary key never change.
CREATE OR REPLACE FUNCTION electric.tied_columns(target oid, description jsonb) RETURNS SETOF integer[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
    found_sets jsonb := '[]';
    columns integer[];
    one integer[];
    others jsonb;
BEGIN
    FOR columns IN
        SELECT array_agg(DISTINCT d.i::integer)
        FROM electric.ties(target) AS tie
        CROSS JOIN LATERAL unnest(electric.inputs(target, tie.numbers)) AS n (number)
        JOIN pg_attribute a ON a.attrelid = target AND a.attnum = n.number
        JOIN jsonb_array_elements(description -> 'columns') WITH ORDINALITY AS d (c, i)
            ON d.c ->> 'name' = a.attname AND d.c ->> 'pk' IS NULL
        GROUP BY tie.kind, tie.id HAVING count(DISTINCT d.i) > 1
    LOOP
        others := '[]';
        FOR one IN SELECT ARRAY(SELECT jsonb_array_elements_text(e)::integer) FROM jsonb_array_elements(found_sets) AS e LOOP
            IF one OPERATOR(pg_catalog.&&) columns THEN
                columns := ARRAY(SELECT DISTINCT unnest(columns || one) ORDER BY 1);
            ELSE
                others := others || jsonb_build_array(to_jsonb(one));
            END IF;
        END LOOP;
        found_sets := others || jsonb_build_array(to_jsonb(columns));
    END LOOP;
    RETURN QUERY SELECT ARRAY(SELECT jsonb_array_elements_text(e)::integer ORDER BY 1) FROM jsonb_array_elements(found_sets) AS e;
END
$$;

-- Statements by which a write of one column of such a set is one of all of them, and wins in all of them or in none.
CREATE OR REPLACE FUNCTION electric.tied_text(target oid, description jsonb) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT coalesce(string_agg(format('IF %s THEN %s END IF;',
    (SELECT string_agg(format('coalesce((sy_modified ->> %s)::boolean, sy_op = ''I'')', place - 1), ' OR ') FROM unnest(tied) AS place),
    (SELECT string_agg(format('sy_wins[%s] := %s;', place, beaten), ' ') FROM unnest(tied) AS place)), ' '), '')
FROM electric.tied_columns(target, description) AS tied
CROSS JOIN LATERAL (
    SELECT string_agg(format('electric.beats(origin, sy_ms, column_tags_now[%s])', place), ' AND ') AS beaten FROM unnest(tied) AS place
) AS b
$$;

-- And that of those that its author does not hold the row keeps its values, when their tags have been taken: he has given none.
CREATE OR REPLACE FUNCTION electric.absent_text(target oid, description jsonb) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT coalesce('IF sy_modified @> (CASE sy_op WHEN ''U'' THEN ''[null]'' WHEN ''I'' THEN ''[false]'' END)::jsonb THEN ' || string_agg(format(
    'sy_wins[%1$s] := sy_wins[%1$s] AND sy_modified -> %2$s IS DISTINCT FROM CASE sy_op WHEN ''U'' THEN ''null'' ELSE ''false'' END::jsonb;',
    place, place - 1), ' ') || ' END IF;', '')
FROM electric.tied_columns(target, description) AS tied CROSS JOIN unnest(tied) AS place
$$;

-- And that direct SQL, where it has changed one of them, counts for all.
CREATE OR REPLACE FUNCTION electric.tied_direct_text(target oid, description jsonb) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT coalesce(string_agg(format(
    'past_column_ms := electric.spread(past_column_ms, %1$L); past_column_lsn := electric.spread(past_column_lsn, %1$L);', tied), ' '), '')
FROM electric.tied_columns(target, description) AS tied
$$;

-- The numbers with the greatest of those in the places that are tied in all of these.
CREATE OR REPLACE FUNCTION electric.spread(numbers bigint[], tied integer[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
SELECT ARRAY(
    SELECT CASE WHEN n.place = ANY (tied) THEN (SELECT max(numbers[place]) FROM unnest(tied) AS place) ELSE n.number END
    FROM unnest(numbers) WITH ORDINALITY AS n (number, place) ORDER BY n.place)
$$;
