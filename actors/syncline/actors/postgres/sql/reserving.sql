-- Values of sequences for devices: from what was given back, and then from the sequence itself, as any insert takes them.

CREATE OR REPLACE FUNCTION electric.sequence_of_column(target oid, column_name text) RETURNS oid
LANGUAGE sql STABLE AS $$
SELECT electric.sequence_of(target, a.attnum)
FROM electric.tables t JOIN pg_attribute a ON a.attrelid = t.relid
WHERE t.relid = target AND a.attname = column_name AND a.attnum > 0 AND NOT a.attisdropped
$$;

-- Of a sequence what was given back is the device's now, as many values as are wanted: how many that were. What others are
-- about to take is left to them.
CREATE OR REPLACE FUNCTION electric.reserve_returned(device text, target oid, current_storage text, wanted bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    one record;
    returned bigint := 0;
    taken bigint;
BEGIN
    FOR one IN
        SELECT * FROM electric.blocks b WHERE b.client_id IS NULL AND b.sequence = target
        ORDER BY b.id FOR UPDATE SKIP LOCKED
    LOOP
        EXIT WHEN returned >= wanted;
        DELETE FROM electric.blocks b WHERE b.id = one.id;
        CONTINUE WHEN one.storage <> current_storage;
        taken := least(wanted - returned, (one.last - one.first) / one.step + 1);
        INSERT INTO electric.blocks (sequence, storage, client_id, first, last, step)
            VALUES (target, current_storage, device, one.first, one.first + (taken - 1) * one.step, one.step);
        INSERT INTO electric.blocks (sequence, storage, first, last, step)
            SELECT target, current_storage, one.first + taken * one.step, one.last, one.step
            WHERE one.first + (taken - 1) * one.step <> one.last;
        returned := returned + taken;
    END LOOP;
    RETURN returned;
END
$$;

-- The next values of a sequence, up to so many, in their order: fewer where it comes to its end, or to a value that the column
-- cannot hold. Whoever inserts meanwhile takes others.
CREATE OR REPLACE FUNCTION electric.next_values(sequence regclass, column_type oid, wanted integer) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    beyond CONSTANT bigint := CASE column_type WHEN 'int2'::regtype THEN 32768 WHEN 'int4'::regtype THEN 2147483648 END;
    taken bigint[] := '{}';
    value bigint;
BEGIN
    FOR i IN 1..wanted LOOP
        value := nextval(sequence);
        EXIT WHEN value >= beyond OR value < -beyond;
        taken := taken || value;
    END LOOP;
    RETURN taken;
EXCEPTION WHEN sequence_generator_limit_exceeded THEN
    RETURN taken;
END
$$;

-- Reserves up to "wanted" values of the sequence of a column for a device that has so many left: {"blocks": [[first, last,
-- step], ...]}, or {"refused": code, "message": why}. Durable at COMMIT.
CREATE OR REPLACE FUNCTION electric.reserve(device text, target oid, column_name text, wanted integer, remaining bigint)
RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    source CONSTANT oid := electric.sequence_of_column(target, column_name);
    of_column CONSTANT text := format('%s.%I', target::regclass, column_name);
    before CONSTANT bigint := coalesce((SELECT max(b.id) FROM electric.blocks b), 0);
    settings record;
    returned bigint;
    answer jsonb;
BEGIN
    SELECT s.seqincrement AS step, s.seqcycle AS cycles, electric.under_domains(a.atttypid) AS type,
            format('%s %s', c.relfilenode, electric.full_name(c.oid)) AS storage
        INTO settings
        FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
        JOIN pg_attribute a ON a.attrelid = target AND a.attname = column_name WHERE s.seqrelid = source;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('refused', 'NO_SEQUENCE', 'message', format('%s has no sequence', of_column));
    ELSIF settings.cycles THEN
        RETURN jsonb_build_object('refused', 'NO_SEQUENCE', 'message', format('the values of %s come again', source::regclass));
    END IF;
    PERFORM set_config('synchronous_commit', 'on', true);
    -- Of what the device was given before, the newest are what it has left.
    DELETE FROM electric.blocks b USING (
        SELECT m.id, sum((m.last - m.first) / m.step + 1) OVER (ORDER BY m.id DESC) - (m.last - m.first) / m.step - 1 AS newer
        FROM electric.blocks m WHERE m.client_id = device AND m.sequence = source
    ) AS mine WHERE b.id = mine.id AND mine.newer >= remaining;

    returned := electric.reserve_returned(device, source, settings.storage, wanted);
    INSERT INTO electric.blocks (sequence, storage, client_id, first, last, step)
        SELECT source, settings.storage, device, (array_agg(v.value ORDER BY v.place))[1],
            (array_agg(v.value ORDER BY v.place DESC))[1], settings.step
        FROM (
            SELECT u.value, u.place, u.value - u.place * settings.step AS stretch
            FROM unnest(electric.next_values(source, settings.type, (wanted - returned)::integer))
                WITH ORDINALITY AS u (value, place)
        ) AS v
        GROUP BY v.stretch ORDER BY min(v.place);
    SELECT jsonb_agg(jsonb_build_array(b.first, b.last, b.step) ORDER BY b.id) INTO answer
        FROM electric.blocks b WHERE b.client_id = device AND b.sequence = source AND b.id > before;
    RETURN CASE
        WHEN answer IS NOT NULL THEN jsonb_build_object('blocks', answer)
        ELSE jsonb_build_object('refused', 'EXHAUSTED', 'message',
            format('%s has come to its end, for %s', source::regclass, of_column)) END;
END
$$;

-- A device gives back the blocks [[first, last, step], ...] that it has not used: each the end of one that it has, or all of it.
CREATE OR REPLACE FUNCTION electric.release(device text, target oid, column_name text, blocks jsonb) RETURNS void
LANGUAGE sql AS $$
WITH given AS (
    SELECT (g ->> 0)::bigint AS first, (g ->> 1)::bigint AS last, (g ->> 2)::bigint AS step
    FROM jsonb_array_elements(blocks) AS g
), returned AS (
    DELETE FROM electric.blocks b USING given g
    WHERE b.client_id = device AND b.sequence = electric.sequence_of_column(target, column_name)
        AND (b.last, b.step) = (g.last, g.step) AND (g.first - b.first) % b.step = 0
        AND (g.first - b.first) / b.step BETWEEN 0 AND (b.last - b.first) / b.step
    RETURNING b.sequence, b.storage, g.first, b.last, b.step
)
INSERT INTO electric.blocks (sequence, storage, first, last, step) SELECT sequence, storage, first, last, step FROM returned
$$;
