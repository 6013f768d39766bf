-- What devices are told of a table's constraints: the expressions of its CHECKs and of its domains', and which columns are valid
-- together only. Whatever is outside pg_catalog is printed with its schema, and constants as the service reads them, so that the
-- text is the same in every session and says which function, operator and type is meant. In PL/pgSQL, which plans a query once a
-- session, as all of it is asked of every table.

CREATE OR REPLACE FUNCTION electric.printed(expression pg_node_tree, target oid) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' SET intervalstyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = 1 SET quote_all_identifiers = off AS $$
SELECT pg_get_expr(expression, target)
$$;

-- Whether a collation takes the letters of ASCII for those of ASCII: in Turkish the lower case of I is none.
CREATE OR REPLACE FUNCTION electric.has_ascii_case(target oid) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
DECLARE
    ascii text;
    alike boolean;
BEGIN
    IF target IS NOT NULL THEN
        ascii := (SELECT string_agg(chr(i), '' ORDER BY i) FROM generate_series(1, 127) AS i);
        EXECUTE format('SELECT lower($1 COLLATE %1$s) COLLATE "C" = $2 AND upper($1 COLLATE %1$s) COLLATE "C" = $3',
            (SELECT format('%I.%I', n.nspname, k.collname) FROM pg_collation k JOIN pg_namespace n ON n.oid = k.collnamespace
             WHERE k.oid = target))
            INTO alike USING ascii, lower(ascii COLLATE "C"), upper(ascii COLLATE "C");
    END IF;
    RETURN coalesce(alike, false);
EXCEPTION WHEN OTHERS THEN
    RETURN false;  -- a locale that the system has not any more
END
$$;

-- A column as far as it tells what an expression means: the type (that under its domains), its length or precision and its scale,
-- and of its collation whether equal texts have equal bytes, whether texts are ordered by their bytes, and whether it knows other
-- letters of ASCII to be upper and lower case than ASCII does. Of a domain the outermost modifier there is.
CREATE OR REPLACE FUNCTION electric.check_column(target oid, number smallint) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
    WITH RECURSIVE under (type, modifier, depth) AS (
        SELECT a.atttypid, a.atttypmod, 0 FROM pg_attribute a WHERE a.attrelid = target AND a.attnum = number
        UNION ALL
        SELECT y.typbasetype, y.typtypmod, under.depth + 1 FROM under JOIN pg_type y ON y.oid = under.type WHERE y.typtype = 'd'
    )
    SELECT jsonb_build_object(
        'name', a.attname,
        'type', format('%s.%s', n.nspname, y.typname),
        'modifier', coalesce((SELECT u.modifier FROM under u WHERE u.modifier >= 0 ORDER BY u.depth LIMIT 1), -1),
        'enum', y.typtype = 'e',
        'deterministic', k.collisdeterministic AND d.encoding = 6,
        'by_bytes', d.encoding = 6 AND (
            k.collprovider = 'b' OR k.collprovider = 'c' AND k.collcollate IN ('C', 'POSIX')
            OR k.collprovider = 'd' AND coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'b'
            OR k.collprovider = 'd' AND coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' AND d.datcollate IN ('C', 'POSIX')),
        'ascii_case', electric.has_ascii_case(k.oid))
    FROM pg_attribute a
    JOIN pg_type y ON y.oid = (SELECT u.type FROM under u ORDER BY u.depth DESC LIMIT 1)
    JOIN pg_namespace n ON n.oid = y.typnamespace
    JOIN pg_database d ON d.datname = current_database()
    LEFT JOIN pg_collation k ON k.oid = a.attcollation
    WHERE a.attrelid = target AND a.attnum = number
    );
END
$$;

-- Whether a trigger or a rule may put something else in place of what is written to a column, before a CHECK sees it. In doubt it
-- does: it is in another language than PL/pgSQL, or has the name of the column in it or what reaches columns without naming them.
-- What is written in C is told its columns by arguments. Of a partitioned table those of its partitions count.
CREATE OR REPLACE FUNCTION electric.rewritten(target oid, column_name text) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
    SELECT EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = target) OR EXISTS (
        SELECT FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_language l ON l.oid = p.prolang
        WHERE g.tgrelid = ANY (ARRAY(SELECT electric.parts(target)))
          AND g.tgenabled IN ('O', 'A')
          AND g.tgtype & 1 = 1 AND g.tgtype & 2 = 2 AND g.tgtype & (4 | 16) <> 0  -- before, each row, insert or update
          AND CASE
            WHEN l.lanname = 'plpgsql' THEN position(lower(column_name) IN lower(p.prosrc)) > 0
                OR p.prosrc ~* '\m(execute|populate_record|json_\w+|jsonb_\w+|hstore)\M|\mnew\s*:?=|\minto\s+(strict\s+)?new\M'
            WHEN l.lanname IN ('c', 'internal') THEN position(column_name IN encode(g.tgargs, 'escape')) > 0
            ELSE true END)
    );
END
$$;

-- The columns of a table that are of a domain, each with all domains under it.
CREATE OR REPLACE FUNCTION electric.domains_of(target oid) RETURNS TABLE (number smallint, type oid)
LANGUAGE plpgsql STABLE ROWS 1 AS $$
BEGIN
    FOR number, type IN
        SELECT a.attnum, a.atttypid FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
        WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND y.typtype = 'd'
    LOOP
        WHILE type <> 0 LOOP
            RETURN NEXT;
            type := (SELECT y.typbasetype FROM pg_type y WHERE y.oid = domains_of.type);
        END LOOP;
    END LOOP;
END
$$;

-- The CHECKs that rows of a table have to pass, those that do not hold for the rows there too: of the table, and of the domains of
-- its columns, where VALUE stands for the column. Not those of which Postgres may see other values than are written.
CREATE OR REPLACE FUNCTION electric.checks(target oid) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
    WITH found (name, numbers, expression, of_domain) AS (
        SELECT k.conname, k.conkey, electric.printed(k.conbin, k.conrelid), false
        FROM pg_constraint k WHERE k.conrelid = target AND k.contype = 'c' AND cardinality(k.conkey) > 0
        UNION ALL
        SELECT k.conname, ARRAY[domain.number], electric.printed(k.conbin, 0), true
        FROM electric.domains_of(target) AS domain JOIN pg_constraint k ON k.contypid = domain.type AND k.contype = 'c'
    )
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'name', f.name,
        'expression', f.expression,
        'of_domain', f.of_domain,
        'columns', (SELECT jsonb_agg(electric.check_column(target, number) ORDER BY number) FROM unnest(f.numbers) AS number)
    ) ORDER BY f.of_domain, f.name, f.numbers), '[]')
    FROM found f
    WHERE NOT EXISTS (
        SELECT FROM unnest(f.numbers) AS number JOIN pg_attribute a ON a.attrelid = target AND a.attnum = number
        WHERE a.attgenerated <> '' OR electric.rewritten(target, a.attname))
    );
END
$$;

-- The columns whose type says how long or how precise their values are.
CREATE OR REPLACE FUNCTION electric.limited_columns(target oid) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
    SELECT coalesce(jsonb_agg(c.described ORDER BY a.attnum), '[]')
    FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT electric.check_column(target, a.attnum) AS described OFFSET 0) AS c
    WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        AND (a.atttypmod >= 0 OR y.typtype = 'd') AND (c.described ->> 'modifier')::integer >= 0
        AND c.described ->> 'type' IN ('pg_catalog.varchar', 'pg_catalog.bpchar', 'pg_catalog.numeric')
        AND NOT electric.rewritten(target, a.attname)
    );
END
$$;

-- The sets of columns that are valid together only, by name (see electric.ties, which is made later).
CREATE OR REPLACE FUNCTION electric.tied_names(target oid) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN coalesce((
        SELECT jsonb_agg(DISTINCT tied.names)
        FROM (
            SELECT jsonb_agg(DISTINCT a.attname) AS names
            FROM electric.ties(target) AS tie
            CROSS JOIN LATERAL unnest(electric.inputs(target, tie.numbers)) AS n (number)
            JOIN pg_attribute a ON a.attrelid = target AND a.attnum = n.number
            GROUP BY tie.kind, tie.id HAVING count(DISTINCT a.attnum) > 1
        ) AS tied), '[]');
END
$$;

-- The unique constraints and indexes of a table that a device can look after among the rows that it has: of columns, without a
-- condition, and checked with each row. Not that of the key, nor of columns of which Postgres may see other values than are written.
CREATE OR REPLACE FUNCTION electric.uniques(target oid) RETURNS jsonb
LANGUAGE sql STABLE AS $$
SELECT coalesce(jsonb_agg(jsonb_build_object('name', c.relname, 'columns', electric.column_names(target, k.numbers)) ORDER BY c.relname), '[]')
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
CROSS JOIN LATERAL (SELECT (i.indkey::smallint[])[0:i.indnkeyatts - 1] AS numbers) AS k
WHERE i.indrelid = target AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indexprs IS NULL AND i.indpred IS NULL
    AND k.numbers <> electric.key_of(target)
    AND NOT EXISTS (
        SELECT FROM unnest(k.numbers) AS number JOIN pg_attribute a ON a.attrelid = target AND a.attnum = number
        WHERE a.attgenerated <> '' OR electric.rewritten(target, a.attname))
$$;

-- All of it, as it is in a description.
CREATE OR REPLACE FUNCTION electric.constraints_of(target oid) RETURNS jsonb
LANGUAGE sql STABLE AS $$
SELECT jsonb_build_object('checks', electric.checks(target), 'limited', electric.limited_columns(target),
    'ties', electric.tied_names(target), 'uniques', electric.uniques(target))
$$;

-- What of it depends on more than the table and its constraints, as a text that is another one after any change.
CREATE OR REPLACE FUNCTION electric.constraints_basis(target oid) RETURNS text
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
    SELECT concat_ws(E'\n',
        (SELECT string_agg(format('%s %s', a.atttypmod, a.attcollation), ',' ORDER BY a.attnum) FROM pg_attribute a
         WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped),
        (SELECT string_agg(k.oid::text, ',' ORDER BY k.oid)
         FROM electric.domains_of(target) AS domain JOIN pg_constraint k ON k.contypid = domain.type),
        (SELECT string_agg(format('%s %s %s', g.oid, g.tgenabled, p.xmin), ',' ORDER BY g.oid)
         FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
         WHERE g.tgrelid = ANY (ARRAY(SELECT electric.parts(target))) AND g.tgtype & 2 = 2))
    );
END
$$;

-- What is told of constraints, without the unique ones that have a policy of their own: what violates them is not for the device to
-- refuse.
CREATE OR REPLACE FUNCTION electric.with_policies(described jsonb, target oid) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN described || jsonb_build_object('uniques', (
        SELECT coalesce(jsonb_agg(u.told ORDER BY u.place), '[]')
        FROM jsonb_array_elements(described -> 'uniques') WITH ORDINALITY AS u (told, place)
        WHERE NOT EXISTS (
            SELECT FROM electric.unique_policies p JOIN pg_index i ON i.indexrelid = p.indexrelid
            JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = target AND c.relname = u.told ->> 'name')));
END
$$;

-- A description that tells of other constraints than the table has now is brought up to date, and devices are told.
CREATE OR REPLACE FUNCTION electric.renew_constraints(target oid) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    now_has CONSTANT jsonb := electric.with_policies(electric.constraints_of(target), target);
    renewed jsonb;
BEGIN
    UPDATE electric.tables t SET description = t.description || now_has
        WHERE t.relid = target AND EXISTS (
            SELECT FROM jsonb_each(now_has) AS now WHERE now.value <> coalesce(t.description -> now.key, '[]'))
        RETURNING t.description INTO renewed;
    IF FOUND THEN
        INSERT INTO electric.migrations (version, tables) VALUES (electric.next_version(), jsonb_build_array(renewed));
    END IF;
END
$$;
