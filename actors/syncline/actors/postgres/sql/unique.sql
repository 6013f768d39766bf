-- Unique constraints and indexes, and what a device's write comes to that violates one (23505; 23P01 of an exclusion constraint).
--
-- Postgres knows who was first: who has committed. So the write of the later one is rejected (first-wins), or another value is put
-- in its place (electric.unique_policy). Within a transaction only its end has to be valid: a row whose value another takes, before
-- it is its own turn to give it up, is parked: it gets a value of no meaning for a moment.

-- Sets what is done with devices' writes that violate a unique constraint or index: "first-wins", the write is rejected; "rename",
-- a text is made another by a suffix that the row's key determines; "nullify", it becomes NULL. on_column: whose value it is; without
-- it the only column of the index that is fit for it.
CREATE OR REPLACE FUNCTION electric.unique_policy(of_index text, policy text, on_column text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    index_oid CONSTANT oid := to_regclass(of_index);
    unique_index pg_index;
    fit text[];
BEGIN
    SELECT * INTO unique_index FROM pg_index i WHERE i.indexrelid = index_oid AND i.indisunique;
    IF NOT FOUND THEN
        RAISE EXCEPTION '% is no unique constraint or index', coalesce(of_index, 'NULL') USING ERRCODE = 'undefined_object',
            HINT = 'Give its name with its schema, as pg_indexes has it.';
    ELSIF policy = 'first-wins' THEN
        DELETE FROM electric.unique_policies p WHERE p.indexrelid = index_oid;
        RETURN;
    ELSIF policy IS NULL OR policy NOT IN ('rename', 'nullify') THEN
        RAISE EXCEPTION 'there is no policy %', coalesce(policy, 'NULL') USING ERRCODE = 'invalid_parameter_value',
            HINT = 'It is one of first-wins, rename and nullify.';
    END IF;
    -- What a row is known by does not change.
    fit := ARRAY(
        SELECT a.attname::text FROM unnest(electric.index_columns(index_oid)) WITH ORDINALITY AS n (number, place)
        JOIN pg_attribute a ON a.attrelid = unique_index.indrelid AND a.attnum = n.number
        JOIN pg_type y ON y.oid = electric.base_type(a.atttypid)
        WHERE a.attnum <> ALL (electric.key_of(unique_index.indrelid)) AND a.attgenerated = ''
            AND CASE policy WHEN 'rename' THEN y.typcategory = 'S' AND y.oid <> 'bpchar'::regtype ELSE NOT (a.attnotnull OR y.typnotnull) END
        ORDER BY n.place);
    IF on_column IS NOT NULL THEN
        fit := ARRAY(SELECT f FROM unnest(fit) AS f WHERE f = on_column);
    END IF;
    IF cardinality(fit) <> 1 THEN
        RAISE EXCEPTION '%', CASE cardinality(fit) WHEN 0
            THEN format('%s has no column that could be %s', of_index, CASE policy WHEN 'rename' THEN 'renamed' ELSE 'NULL' END)
            ELSE format('%s has several columns for that: %s', of_index, array_to_string(fit, ', ')) END
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is to be outside of the key, '
                || CASE policy WHEN 'rename' THEN 'and a text' ELSE 'and allow NULL' END || '; name one as the third argument.';
    END IF;
    INSERT INTO electric.unique_policies AS p (indexrelid, policy, column_name) VALUES (index_oid, policy, fit[1])
        ON CONFLICT (indexrelid) DO UPDATE SET policy = excluded.policy, column_name = excluded.column_name;
END
$$;

-- The index of a violation, of a partition that of the whole table. NULL: it is none of an electrified table.
CREATE OR REPLACE FUNCTION electric.violated_index(in_schema text, in_constraint text) RETURNS oid
LANGUAGE sql STABLE AS $$
SELECT i.indexrelid
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT a.relid::oid FROM pg_partition_ancestors(c.oid) AS a UNION SELECT c.oid
) AS up (relid)
JOIN pg_index i ON i.indexrelid = up.relid JOIN electric.tables t ON t.relid = i.indrelid
WHERE n.nspname = in_schema AND c.relname = in_constraint AND c.relkind IN ('i', 'I')
$$;

-- A query for the row of an operation, $1, as it would be with what that writes: one row with the columns of the table.
CREATE OR REPLACE FUNCTION electric.written_row(target oid, description jsonb) RETURNS text
LANGUAGE sql STABLE AS $$
SELECT format('SELECT %s FROM (SELECT) AS one LEFT JOIN %s t ON %s',
    string_agg(CASE WHEN d.i IS NULL THEN format('t.%I', a.attname)
        WHEN d.c ->> 'pk' IS NOT NULL THEN format('%s AS %I', cell, a.attname)
        ELSE format('CASE WHEN $1 ->> ''op'' = ''I'' OR %s THEN %s ELSE t.%I END AS %I',
            x.modified, cell, a.attname, a.attname) END, ', ' ORDER BY a.attnum),
    electric.own_rows(target),
    string_agg(format('t.%I = %s', a.attname, cell), ' AND ' ORDER BY d.i) FILTER (WHERE d.c ->> 'pk' IS NOT NULL))
FROM pg_attribute a
LEFT JOIN jsonb_array_elements(description -> 'columns') WITH ORDINALITY AS d (c, i) ON d.c ->> 'name' = a.attname
CROSS JOIN LATERAL (
    SELECT electric.reading(a.atttypid, format('$1 -> ''row'' ->> %s', d.i - 1)) AS cell,
        -- Columns that are tied are written together.
        (SELECT string_agg(format('coalesce(($1 -> ''modified'' ->> %s)::boolean, false)', place - 1), ' OR ')
         FROM unnest(coalesce((SELECT s FROM electric.tied_columns(target, description) AS s WHERE d.i = ANY (s)), ARRAY[d.i::integer])) AS place
        ) AS modified
) AS x
WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- What of a row an index compares, as SQL: its columns and expressions, in order; and the condition of its rows.
CREATE OR REPLACE FUNCTION electric.index_elements(index_oid oid, OUT elements text[], OUT condition text)
LANGUAGE sql STABLE AS $$
SELECT ARRAY(SELECT pg_get_indexdef(index_oid, n, true) FROM generate_series(1, i.indnkeyatts) AS n ORDER BY n),
    coalesce(pg_get_expr(i.indpred, i.indrelid), 'true')
FROM pg_index i WHERE i.indexrelid = index_oid
$$;

-- The key of the row that has what the operation would have, in the order of its columns. NULL: it cannot be told.
CREATE OR REPLACE FUNCTION electric.winner(op jsonb, index_oid oid) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    told CONSTANT electric.tables := (
        SELECT t FROM electric.tables t JOIN pg_index i ON i.indrelid = t.relid
        WHERE i.indexrelid = index_oid AND t.relid = (op ->> 'rel')::oid);
    operators CONSTANT oid[] := (SELECT c.conexclop FROM pg_constraint c WHERE c.conindid = index_oid AND c.contype = 'x');
    compared record;
    winner jsonb;
BEGIN
    IF told IS NULL THEN
        RETURN NULL;
    END IF;
    compared := electric.index_elements(index_oid);
    EXECUTE format('SELECT held.key FROM (SELECT %s FROM (%s) AS w WHERE %s) AS wanted '
        'JOIN (SELECT %s AS key, %s FROM %s AS t WHERE %s) AS held ON %s WHERE held.key <> $2 LIMIT 1',
        (SELECT string_agg(format('%s AS e%s', e, n), ', ') FROM unnest(compared.elements) WITH ORDINALITY AS u (e, n)),
        electric.written_row(told.relid, told.description), compared.condition,
        (SELECT format('jsonb_build_array(%s)', string_agg(format('format(''%%s'', %I)', d.c ->> 'name'), ', ' ORDER BY d.i))
         FROM jsonb_array_elements(told.description -> 'columns') WITH ORDINALITY AS d (c, i) WHERE d.c ->> 'pk' IS NOT NULL),
        (SELECT string_agg(format('%s AS e%s', e, n), ', ') FROM unnest(compared.elements) WITH ORDINALITY AS u (e, n)),
        electric.own_rows(told.relid), compared.condition,
        (SELECT string_agg(format('held.e%s %s wanted.e%s', n, coalesce((
            SELECT format('OPERATOR(%I.%s)', s.nspname, o.oprname) FROM pg_operator o JOIN pg_namespace s ON s.oid = o.oprnamespace
            WHERE o.oid = operators[n]), 'IS NOT DISTINCT FROM'), n), ' AND ') FROM unnest(compared.elements) WITH ORDINALITY AS u (e, n)))
        INTO winner USING op, coalesce(electric.operation_key(op, told.description), '[]');
    RETURN winner;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;  -- it is only said for comfort
END
$$;

-- What an operation's row has in an index, as texts, and what it would have; NULL where there is no row, or it is not in the index.
CREATE OR REPLACE FUNCTION electric.index_cells(op jsonb, index_oid oid, description jsonb, OUT before text[], OUT after text[])
LANGUAGE plpgsql STABLE AS $$
DECLARE
    target CONSTANT oid := op ->> 'rel';
    compared CONSTANT record := electric.index_elements(index_oid);
    cells CONSTANT text := format('SELECT ARRAY[%s] FROM (%%s) AS w WHERE %s',
        (SELECT string_agg(format('(%s)::text', e), ', ' ORDER BY n) FROM unnest(compared.elements) WITH ORDINALITY AS u (e, n)),
        compared.condition);
BEGIN
    EXECUTE format(cells, format('SELECT t.* FROM %s t JOIN (%s) AS k USING (%s)', electric.own_rows(target),
            electric.written_row(target, description),
            (SELECT string_agg(format('%I', c ->> 'name'), ', ') FROM jsonb_array_elements(description -> 'columns') AS c
             WHERE c ->> 'pk' IS NOT NULL)))
        INTO before USING op;
    IF op ->> 'op' <> 'D' THEN
        EXECUTE format(cells, electric.written_row(target, description)) INTO after USING op;
    END IF;
END
$$;

-- Parks rows of the index's table, which has a violation: those that one of the operations takes something of before another has
-- them give it up. A query for each tells whether it is parked still; none: there is nothing that would help.
CREATE OR REPLACE FUNCTION electric.park(ops jsonb, index_oid oid) RETURNS text[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    told CONSTANT electric.tables := (
        SELECT t FROM electric.tables t JOIN pg_index i ON i.indrelid = t.relid WHERE i.indexrelid = index_oid);
    parking record;
    giving record;
    same text;
    value text;
    parked text[] := '{}';
BEGIN
    SELECT format('%I', a.attname) AS name, CASE
            WHEN NOT (a.attnotnull OR y.typnotnull) THEN 'NULL'
            WHEN y.typcategory = 'S' THEN format('left(md5(random()::text), %s)', greatest(a.atttypmod - 4, 32 * (a.atttypmod < 0)::integer))
            WHEN y.oid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype, 'float4'::regtype, 'float8'::regtype)
                THEN '-(random() * 32767)::int2'
            WHEN y.oid = 'uuid'::regtype THEN 'gen_random_uuid()' END AS value
        INTO parking
        FROM unnest(electric.index_columns(index_oid)) WITH ORDINALITY AS n (number, place)
        JOIN pg_attribute a ON a.attrelid = told.relid AND a.attnum = n.number AND a.attgenerated = ''
        JOIN pg_type y ON y.oid = electric.base_type(a.atttypid)
        WHERE a.attname::text <> ALL (ARRAY(
            SELECT c ->> 'name' FROM jsonb_array_elements(told.description -> 'columns') AS c WHERE c ->> 'pk' IS NOT NULL))
        ORDER BY a.attnotnull OR y.typnotnull, n.place LIMIT 1;
    IF parking.value IS NULL THEN
        RETURN parked;
    END IF;
    FOR giving IN
        WITH cells AS MATERIALIZED (
            SELECT o.op, o.place, c.before, c.after
            FROM jsonb_array_elements(ops) WITH ORDINALITY AS o (op, place)
            CROSS JOIN LATERAL electric.index_cells(o.op, index_oid, told.description) AS c
            WHERE (o.op ->> 'rel')::oid = told.relid AND o.op ->> 'op' IN ('I', 'U', 'D')
        )
        SELECT DISTINCT ON (electric.operation_key(given.op, told.description)) given.op
        FROM cells AS given JOIN cells AS taken ON taken.after = given.before AND taken.place < given.place
        WHERE given.after IS DISTINCT FROM given.before
            AND electric.operation_key(given.op, told.description) <> electric.operation_key(taken.op, told.description)
    LOOP
        same := (
            SELECT string_agg(format('t.%I = %L', c ->> 'name', giving.op -> 'row' ->> (i - 1)::integer), ' AND ')
            FROM jsonb_array_elements(told.description -> 'columns') WITH ORDINALITY AS d (c, i) WHERE c ->> 'pk' IS NOT NULL);
        EXECUTE format('UPDATE %s t SET %s = %s WHERE %s RETURNING t.%s::text',
            electric.own_rows(told.relid), parking.name, parking.value, same, parking.name) INTO value;
        parked := parked || format('SELECT FROM %s t WHERE %s AND t.%s::text IS NOT DISTINCT FROM %L',
            electric.own_rows(told.relid), same, parking.name, value);
    END LOOP;
    RETURN parked;
END
$$;

-- Whether one of these rows is parked still.
CREATE OR REPLACE FUNCTION electric.is_parked(parked text[]) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
DECLARE
    still text;
    found_one boolean;
BEGIN
    FOREACH still IN ARRAY parked LOOP
        EXECUTE format('SELECT EXISTS (%s)', still) INTO found_one;
        IF found_one THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END
$$;

-- The operation with another value where it violates the index of a policy; NULL: there is none, or enough has been tried. The value is
-- the same whenever that is done for this row.
CREATE OR REPLACE FUNCTION electric.with_other_value(op jsonb, index_oid oid) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    tries CONSTANT integer := coalesce((op ->> 'tries')::integer, 0) + 1;
    policy record;
    value text;
    suffix text;
BEGIN
    SELECT p.policy, d.i::integer AS place, a.atttypmod - 4 AS chars, t.relid, electric.operation_key(op, t.description) AS key
        INTO policy
        FROM electric.unique_policies p JOIN pg_index x ON x.indexrelid = p.indexrelid
        JOIN electric.tables t ON t.relid = x.indrelid
        JOIN pg_attribute a ON a.attrelid = t.relid AND a.attname = p.column_name AND NOT a.attisdropped
        CROSS JOIN jsonb_array_elements(t.description -> 'columns') WITH ORDINALITY AS d (c, i)
        WHERE p.indexrelid = index_oid AND d.c ->> 'name' = p.column_name AND t.relid = (op ->> 'rel')::oid;
    IF NOT FOUND OR tries > 8 OR op ->> 'op' NOT IN ('I', 'U') THEN
        RETURN NULL;
    END IF;
    IF policy.policy = 'rename' THEN
        value := coalesce(op ->> 'wanted', op -> 'row' ->> policy.place - 1, '');
        suffix := ' ~' || left(md5(policy.relid || policy.key::text), 4 * tries);
        op := op || jsonb_build_object('wanted', value);
        value := CASE WHEN policy.chars > 0 THEN left(value, greatest(policy.chars - length(suffix), 0)) ELSE value END || suffix;
        value := CASE WHEN policy.chars > 0 THEN right(value, policy.chars) ELSE value END;
    END IF;
    RETURN jsonb_set(jsonb_set(op, ARRAY['row', (policy.place - 1)::text], coalesce(to_jsonb(value), 'null')),
            ARRAY['modified', (policy.place - 1)::text], 'true')
        || jsonb_build_object('tries', tries, 'other', policy.place);
END
$$;

-- The value that an operation got in place of its own is a later write, and Postgres': whoever had seen the one of the device does not
-- have seen that.
CREATE OR REPLACE FUNCTION electric.tag_other_value(op jsonb, client text, stamp_ms bigint) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    told CONSTANT electric.tables := (SELECT t FROM electric.tables t WHERE t.relid = (op ->> 'rel')::oid);
    place CONSTANT integer := op -> 'other';
    row_key text;
BEGIN
    EXECUTE format('SELECT array_to_json(ARRAY[%s])::text FROM (%s) AS w',
        (SELECT string_agg(format('format(''%%s'', w.%I)', c ->> 'name'), ', ' ORDER BY i)
         FROM jsonb_array_elements(told.description -> 'columns') WITH ORDINALITY AS d (c, i) WHERE c ->> 'pk' IS NOT NULL),
        electric.written_row(told.relid, told.description)) INTO row_key USING op;
    UPDATE electric.shadow s
        SET column_tags[place] = 'postgres_1@' || greatest(stamp_ms, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) + 1
        WHERE s.relid = told.relid AND s.key = row_key AND s.column_tags[place] LIKE replace(client, '_', '\_') || '@%';
END
$$;

-- The place, from 0, of the first of these operations that another row is in the way of. NULL: none is known to be.
CREATE OR REPLACE FUNCTION electric.in_the_way(ops jsonb, index_oid oid) RETURNS integer
LANGUAGE sql STABLE AS $$
SELECT min(o.place)::integer - 1 FROM jsonb_array_elements(ops) WITH ORDINALITY AS o (op, place)
WHERE o.op ->> 'op' IN ('I', 'U') AND electric.winner(o.op, index_oid) IS NOT NULL
$$;

-- The ms of a rejected transaction of this device that had inserted a row with these cells in these places, the latest. Looked at are
-- its newest hundred.
CREATE OR REPLACE FUNCTION electric.rejected_insert(client text, target oid, places integer[], cells jsonb) RETURNS bigint
LANGUAGE sql STABLE AS $$
SELECT r.ms FROM (
    SELECT r.ms, r.lsn, r.ops FROM electric.rejections r WHERE r.client_id = client ORDER BY r.lsn DESC LIMIT 100
) AS r CROSS JOIN jsonb_array_elements(r.ops) AS o (op)
WHERE o.op ->> 'op' = 'I' AND o.op ->> 'rel' = target::text
    AND (SELECT jsonb_agg(o.op -> 'row' -> (p.place - 1) ORDER BY i) FROM unnest(places) WITH ORDINALITY AS p (place, i)) = cells
ORDER BY r.lsn DESC LIMIT 1
$$;

-- Raises for a write of a device to a row that there is not, and that it had inserted itself in a transaction that was rejected.
CREATE OR REPLACE FUNCTION electric.require_not_rejected(client text, target oid, places integer[], cells jsonb) RETURNS void
LANGUAGE plpgsql STABLE AS $$
DECLARE
    rejected_ms CONSTANT bigint := electric.rejected_insert(client, target, places, cells);
BEGIN
    IF rejected_ms IS NOT NULL THEN
        RAISE EXCEPTION 'its row was inserted by a transaction that was rejected' USING ERRCODE = 'SY005', DETAIL = rejected_ms::text;
    END IF;
END
$$;

-- The ms of the rejected transaction of this device that had inserted a row to which one of these operations refers.
CREATE OR REPLACE FUNCTION electric.followed(ops jsonb, client text) RETURNS bigint
LANGUAGE sql STABLE AS $$
SELECT electric.rejected_insert(client, f.confrelid, pairs.places, pairs.cells)
FROM jsonb_array_elements(ops) AS o (op)
JOIN electric.tables t ON t.relid = (o.op ->> 'rel')::oid
JOIN pg_constraint f ON f.contype = 'f' AND f.conrelid = t.relid AND f.conparentid = 0
JOIN electric.tables p ON p.relid = f.confrelid
CROSS JOIN LATERAL (
    SELECT array_agg(c.i::integer ORDER BY c.i) AS places, jsonb_agg(o.op -> 'row' -> (k.place - 1)::integer ORDER BY c.i) AS cells
    FROM electric.key_pairs(f.oid, t.description) k
    JOIN jsonb_array_elements(p.description -> 'columns') WITH ORDINALITY AS c (c, i) ON c.c ->> 'name' = k.parent
) AS pairs
WHERE o.op ->> 'op' IN ('I', 'U') AND EXISTS (SELECT FROM electric.rejections r WHERE r.client_id = client)
    AND electric.rejected_insert(client, f.confrelid, pairs.places, pairs.cells) IS NOT NULL
LIMIT 1
$$;

-- What there is to say of a rejected transaction beside what Postgres says, as part of the answer to it.
CREATE OR REPLACE FUNCTION electric.explained(answer jsonb, op jsonb, ops jsonb, client text, violated oid, follows bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE AS $$
DECLARE
    before record;
    place integer;
BEGIN
    IF follows IS NOT NULL THEN
        SELECT r.sqlstate, r.message INTO before FROM electric.rejections r
            WHERE r.client_id = client AND r.ms = explained.follows ORDER BY r.id DESC LIMIT 1;
        RETURN (answer - 'detail') || jsonb_build_object('sqlstate', before.sqlstate, 'follows', follows,
            'message', 'it depends on a transaction that was rejected: ' || before.message);
    ELSIF answer ->> 'sqlstate' IN ('23503', '23001') THEN
        follows := electric.followed(CASE WHEN op IS NULL THEN ops ELSE jsonb_build_array(op) END, client);
        RETURN answer || CASE WHEN follows IS NULL THEN '{}' ELSE jsonb_build_object('follows', follows) END;
    ELSIF violated IS NOT NULL THEN
        place := CASE WHEN op IS NULL THEN electric.in_the_way(ops, violated) END;
        RETURN answer || jsonb_strip_nulls(jsonb_build_object('winner', electric.winner(coalesce(op, ops -> place), violated)));
    END IF;
    RETURN answer;
END
$$;
