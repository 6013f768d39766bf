-- CALL electric.apply(batch, results, context): transactions of devices, in order, each wholly or not at all, each exactly
-- once.
--
-- batch:   [{"client", "lsn", "ms", "ops": [{"rel", "op": "I"|"U"|"D"|"C", "row", "modified", "tags"}]}]
--          row: Postgres input texts in the column order of the description, null in cells a compensation leaves out;
--          modified: what an update changed, null for what its author does not hold; what an insert gives;
--          tags: what the operation had observed.
--          With "refuse": {"sqlstate", "message"} a transaction is rejected untried.
--          "absorbed": {"xmins", "gone"}: what it was to wait for, and has; see below.
--          "patient": true: it is to wait for the stream where it is, with its rows locked; see electric.await_stream.
--          "final": true: there has been patience enough, and what a function of the application's raises is its fault.
--          One whose lsn or ms is no bigint is rejected too, but cannot be recorded.
--          A transaction that comes again is a duplicate, or rejected if it was.
--          "other" of an operation: see electric.with_other_value.
-- results: one a transaction, {"status": "applied" | "unheeded" | "duplicate" | "rejected" | "retry" | "unabsorbed",
--          "sqlstate", "message", ...}; "raised": true with a retry: a function of the application's has raised the error
-- context: {"horizon": an xid, "skew_ms", "kept_ms"}. Without a horizon nothing that direct SQL wrote is waited for. kept_ms: how
--          old what is recorded of a row may be that is not there any more, see electric.unrecorded.
--
-- "unheeded" is applied, too, but for operations that triggers of the application's kept Postgres from doing. Such a
-- transaction is tried again with a message before its own that says so: then the stream does not pass for its echo.
--
-- "unabsorbed" is a transaction that touches rows of which direct SQL wrote or deleted the last version, and it is not known
-- that the stream has brought that here (electric.direct). {"lsn": how far the stream has to be, as a number; "xmins": [xid],
-- "gone": [key]}. It is to be sent again then, with "absorbed": {"xmins": {xid: when it committed, in ms}, "gone"}.
--
-- No device is ahead: its time counts at most as that of our clock, and skew_ms more.
--
-- Every device transaction runs in a block of its own that ends by checking deferred constraints, because a violation at
-- COMMIT could not be caught, and commits after the block. So a transaction Postgres refuses is rejected alone. The
-- commits do not wait for the disk; one closing transaction does, and it always writes WAL, because a commit that wrote
-- none flushes nothing. The answer comes after it: whatever is answered is durable.
--
-- A transaction first says whose it is (the message syncline.tx and the device's row in electric.clients change
-- together), so that the stream can attribute it, and so that a repetition finds itself done.
--
-- Must be called outside a transaction, at READ COMMITTED, under the session settings in typemap.py.
--
-- PL/pgSQL makes every expression ready anew in each transaction, and each device transaction is one: so there are few on the
-- common way, and no PERFORM, which costs a query where an assignment does not.

CREATE OR REPLACE PROCEDURE electric.apply(batch jsonb, INOUT results jsonb, context jsonb DEFAULT '{}')
LANGUAGE plpgsql AS $$
DECLARE
    applied CONSTANT jsonb := '{"status": "applied"}';
    skew_ms CONSTANT bigint := coalesce((context ->> 'skew_ms')::bigint, 0);
    absorbed_before CONSTANT jsonb := CASE WHEN context ? 'horizon' THEN context END;
    durable CONSTANT text := CASE current_setting('synchronous_commit')
        WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END;
    tx jsonb;
    client text;
    client_lsn bigint;
    client_ms bigint;
    ops jsonb;
    mending integer;
    waiting jsonb[];
    postponed jsonb[];
    again jsonb[];
    absorbed jsonb;
    patience jsonb;
    note jsonb;
    stamp_ms bigint;
    repeated boolean := false;
    unheeding boolean;
    unheeded boolean;
    answer jsonb;
    answers jsonb[] := '{}';
    held text[] := '{}';
    e_state text;
    e_message text;
    e_detail text;
    e_hint text;
    e_table text;
    e_constraint text;
    e_context text;
    e_schema text;
    e_column text;
    at_op jsonb;
    at_place integer;
    violated oid;
    untangled oid[];
    parked text[];
    other jsonb;
    refreshing boolean;
    refreshed boolean;
    raised boolean;
BEGIN
    IF current_setting('TimeZone') <> 'UTC' OR current_setting('DateStyle') NOT LIKE 'ISO%'
        OR current_setting('bytea_output') <> 'hex' OR current_setting('extra_float_digits')::integer < 1
    THEN
        RAISE EXCEPTION 'this session would spell row keys otherwise than the stream does'
            USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'SET TimeZone = ''UTC''; SET DateStyle = ''ISO''; SET bytea_output = ''hex''; SET extra_float_digits = 1;';
    END IF;
    FOR i IN 0 .. jsonb_array_length(batch) - 1 LOOP
        tx := batch -> i;
        client := tx ->> 'client';
        IF client = ANY (held) THEN
            answers := answers || '{"status": "retry", "message": "waits for an earlier transaction of its device"}'::jsonb;
            CONTINUE;
        END IF;
        BEGIN
            client_lsn := tx -> 'lsn';
            client_ms := tx -> 'ms';
        EXCEPTION WHEN data_exception OR cannot_coerce THEN
            answers := answers || jsonb_build_object('status', 'rejected', 'sqlstate', SQLSTATE, 'message', SQLERRM);
            CONTINUE;
        END;
        ops := tx -> 'ops';
        mending := 0;
        refreshing := true;
        unheeded := false;
        untangled := '{}';
        absorbed := CASE WHEN tx ? 'absorbed' THEN absorbed_before || (tx -> 'absorbed') ELSE absorbed_before END;
        stamp_ms := least(client_ms, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + skew_ms);
        answer := NULL;
        IF tx ? 'refuse' THEN
            answer := tx -> 'refuse' || '{"status": "rejected"}';
            repeated := NOT electric.reject(client, client_lsn, client_ms, ops, answer);
        END IF;
        WHILE answer IS NULL LOOP
            refreshed := false;
            unheeding := false;
            BEGIN
                IF unheeded THEN
                    PERFORM pg_logical_emit_message(true, 'syncline.tx', json_build_object(
                        'client', client, 'ms', client_ms, 'lsn', client_lsn, 'unheeded', true)::text);
                END IF;
                IF electric.advance(client, client_lsn, client_ms) THEN
                    IF untangled <> '{}' THEN
                        SET CONSTRAINTS ALL DEFERRED;
                        parked := '{}';
                        FOREACH violated IN ARRAY untangled LOOP
                            parked := parked || electric.park(ops, violated);
                        END LOOP;
                    END IF;
                    FOR j IN 0 .. jsonb_array_length(ops) - 1 LOOP
                        at_place := j;
                        at_op := ops -> j;
                        note := electric.merge(at_op, client, stamp_ms, absorbed, mending);
                        WHILE tx ? 'patient' AND note ?| '{xmin,gone}' AND waiting IS NULL LOOP
                            patience := electric.await_stream(note, absorbed);
                            EXIT WHEN patience IS NULL;
                            absorbed := patience;
                            note := electric.merge(at_op, client, stamp_ms, absorbed, mending);
                        END LOOP;
                        IF at_op ? 'other' THEN
                            PERFORM electric.tag_other_value(at_op, client, stamp_ms);
                        END IF;
                        IF note IS NULL THEN
                            CONTINUE;
                        ELSIF note ? 'mend' THEN
                            RAISE EXCEPTION 'rows refer to what is deleted' USING ERRCODE = 'SY001';
                        ELSIF note ? 'children' THEN
                            postponed := postponed || at_op;
                        ELSIF note ? 'unheeded' THEN
                            unheeding := true;
                        ELSE
                            waiting := waiting || note;
                        END IF;
                    END LOOP;
                    IF postponed IS NOT NULL THEN
                        -- Of rows that refer to one another the last goes first; what then is still referred to stays.
                        WHILE cardinality(postponed) > 0 LOOP
                            again := '{}';
                            FOREACH at_op IN ARRAY postponed LOOP
                                note := electric.merge(at_op, client, stamp_ms, absorbed, 1);
                                IF note ? 'children' THEN
                                    again := again || at_op;
                                ELSIF note ? 'unheeded' THEN
                                    unheeding := true;
                                END IF;
                            END LOOP;
                            EXIT WHEN cardinality(again) = cardinality(postponed);
                            postponed := again;
                        END LOOP;
                        FOREACH at_op IN ARRAY postponed LOOP
                            note := electric.merge(at_op, client, stamp_ms, absorbed, 2);
                            unheeding := unheeding OR coalesce(note ? 'unheeded', false);
                        END LOOP;
                        postponed := NULL;
                    END IF;
                    at_op := NULL;
                    at_place := NULL;
                    IF waiting IS NOT NULL THEN
                        RAISE EXCEPTION 'the stream has to come further' USING ERRCODE = 'SY002';
                    END IF;
                    IF unheeding AND NOT unheeded THEN
                        RAISE EXCEPTION 'triggers kept Postgres from doing it all' USING ERRCODE = 'SY004';
                    END IF;
                    SET CONSTRAINTS ALL IMMEDIATE;
                    IF untangled <> '{}' AND electric.is_parked(parked) THEN
                        RAISE unique_violation USING MESSAGE = 'a value that was given up is there again';
                    END IF;
                    answer := CASE WHEN unheeded THEN '{"status": "unheeded"}' ELSE applied END;
                ELSE
                    repeated := true;
                    answer := '{}';
                END IF;
            EXCEPTION WHEN OTHERS OR assert_failure THEN
                GET STACKED DIAGNOSTICS e_state = RETURNED_SQLSTATE, e_message = MESSAGE_TEXT,
                    e_detail = PG_EXCEPTION_DETAIL, e_hint = PG_EXCEPTION_HINT, e_table = TABLE_NAME,
                    e_constraint = CONSTRAINT_NAME, e_context = PG_EXCEPTION_CONTEXT, e_schema = SCHEMA_NAME,
                    e_column = COLUMN_NAME;
                IF refreshing AND waiting IS NULL
                    AND (e_state ~ '^(22|23|42)' AND NOT (e_state IN ('23001', '23503') AND mending = 0) OR e_state = 'SY003')
                THEN
                    -- It may be because the tables have changed since their merge functions were made.
                    refreshing := false;
                    refreshed := electric.refresh_merges(ARRAY(
                        SELECT DISTINCT (o ->> 'rel')::oid FROM jsonb_array_elements(ops) AS o), e_state ~ '^42');
                    IF refreshed IS NULL THEN
                        e_state := '55P03';
                        e_message := 'merge functions are being made anew';
                        e_context := '';
                    END IF;
                END IF;
                IF e_state = 'SY003' THEN
                    e_state := '55000';
                END IF;
                violated := NULL;
                other := NULL;
                IF e_state IN ('23505', '23P01') AND NOT refreshed AND waiting IS NULL THEN
                    violated := electric.violated_index(e_schema, e_constraint);
                    IF violated = ANY (untangled) OR jsonb_array_length(ops) < 2 THEN
                        at_place := coalesce(at_place, electric.in_the_way(ops, violated));
                        other := electric.with_other_value(ops -> at_place, violated);
                    END IF;
                END IF;
                IF refreshed THEN
                    mending := 0;
                    ops := tx -> 'ops';
                ELSIF waiting IS NOT NULL THEN
                    -- Whatever else went wrong may be because some operations were passed over.
                    answer := jsonb_build_object('status', 'unabsorbed', 'lsn', pg_current_wal_insert_lsn() - '0/0'::pg_lsn,
                        'xmins', (SELECT coalesce(jsonb_agg(DISTINCT w -> 'xmin'), '[]') FROM unnest(waiting) AS w WHERE w ? 'xmin'),
                        'gone', (SELECT coalesce(jsonb_agg(DISTINCT w -> 'gone'), '[]') FROM unnest(waiting) AS w WHERE w ? 'gone'));
                    held := held || client;
                ELSIF e_state = 'SY004' AND NOT unheeded THEN
                    unheeded := true;
                ELSIF violated <> ALL (untangled) AND jsonb_array_length(ops) > 1 THEN
                    -- Another row of the transaction may be about to give up what is taken.
                    untangled := untangled || violated;
                ELSIF other IS NOT NULL THEN
                    ops := jsonb_set(ops, ARRAY[at_place::text], other);
                ELSIF e_state IN ('23001', '23503', 'SY001') AND mending = 0 THEN
                    -- A device may check foreign keys later than we do, or keep a parent alive after using it. Others may
                    -- have deleted what it refers to, or refer to what it deletes, and neither had seen the other. Or it may
                    -- delete what it had written in a transaction that was rejected.
                    mending := 1;
                    ops := electric.parents_first(electric.after_rejected(ops, client));
                ELSE
                    answer := jsonb_strip_nulls(jsonb_build_object('sqlstate', e_state, 'message', e_message,
                        'detail', nullif(e_detail, ''), 'hint', nullif(e_hint, ''), 'table', nullif(e_table, ''),
                        'constraint', nullif(e_constraint, '')));
                    raised := electric.raised(e_context);
                    IF electric.passes(e_state, e_context) AND NOT (raised AND tx ? 'final')
                        -- A value may name a relation or a function that is not there.
                        AND NOT (e_state LIKE '42%' AND e_state <> '42501' AND electric.unassignable(at_op) ? 'columns') THEN
                        answer := answer || CASE WHEN raised THEN '{"status": "retry", "raised": true}'
                            ELSE '{"status": "retry"}' END::jsonb;
                        held := held || client;
                    ELSE
                        answer := answer || electric.fault(at_op, e_schema, e_table, e_constraint, e_column)
                            || '{"status": "rejected"}';
                        IF e_state ~ '^(22|42|3F)' AND NOT answer ? 'columns' THEN
                            answer := answer || electric.unassignable(at_op);
                        END IF;
                        answer := electric.explained(
                            answer, at_op, ops, client, violated, CASE e_state WHEN 'SY005' THEN e_detail::bigint END);
                        PERFORM electric.reject(client, client_lsn, client_ms, tx -> 'ops', answer);
                    END IF;
                END IF;
                at_op := NULL;
                waiting := NULL;
                postponed := NULL;
            END;
            IF refreshed THEN
                COMMIT;
            END IF;
        END LOOP;
        IF answer = applied THEN
            COMMIT;
        ELSIF repeated THEN
            answer := electric.decided(client, client_lsn, client_ms);
            repeated := false;
            ROLLBACK;
        ELSIF answer ->> 'status' IN ('retry', 'unabsorbed') THEN
            ROLLBACK;
        ELSE
            COMMIT;
        END IF;
        answers := answers || answer;
    END LOOP;

    IF current_setting('syncline.merged_new', true) = 'true' AND electric.refresh_merges('{}') IS NOT NULL THEN
        PERFORM set_config('syncline.merged_new', 'false', false);
    END IF;
    PERFORM set_config('synchronous_commit', durable, true);
    PERFORM pg_logical_emit_message(true, 'syncline.flush', '');
    COMMIT;
    results := to_jsonb(answers);
END
$$;

-- Waits for the stream to bring what "note" of a merge says is missing, as electric.progress tells: "absorbed" with that. NULL: it
-- has not come in time. Whatever committed before is to be there; of what is locked nothing more can come.
CREATE OR REPLACE FUNCTION electric.await_stream(note jsonb, absorbed jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    wanted CONSTANT pg_lsn := pg_current_wal_insert_lsn();
    until CONSTANT timestamptz := clock_timestamp() + interval '2 s';
    xmin CONSTANT bigint := note ->> 'xmin';
    commits jsonb;
BEGIN
    LOOP
        SELECT p.commits INTO commits FROM electric.progress p WHERE p.lsn >= wanted;
        EXIT WHEN FOUND;
        IF clock_timestamp() > until THEN
            RETURN NULL;
        END IF;
        PERFORM pg_sleep(0.005);
    END LOOP;
    IF xmin IS NULL THEN
        RETURN absorbed || jsonb_build_object('gone', coalesce(absorbed -> 'gone', '[]') || jsonb_build_array(note -> 'gone'));
    END IF;
    -- One of a savepoint counts as of the latest that it may be of: as in absorption.py.
    RETURN absorbed || jsonb_build_object('xmins', coalesce(absorbed -> 'xmins', '{}') || jsonb_build_object(xmin, coalesce(
        (commits ->> xmin::text)::bigint,
        (SELECT max((commits ->> before::text)::bigint) FROM generate_series(xmin - 15, xmin - 1) AS before),
        0)));
END
$$;

-- Begins a device transaction: says in the WAL whose it is and advances the device. False: it was decided before.
-- A rejected one is not to be passed for applied when it comes by in the stream: its author is told otherwise.
--
-- From here to its end it does not wait for the disk, nor long for a lock: a few times what a foreign key check or a unique
-- index takes when nobody is in the way. Rows are never waited for.
CREATE OR REPLACE FUNCTION electric.advance(
    client text, client_lsn bigint, client_ms bigint, rejected boolean DEFAULT false
) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    setting text;
    message pg_lsn;
BEGIN
    setting := set_config('synchronous_commit', 'off', true) || set_config('lock_timeout', '5ms', true);
    message := pg_logical_emit_message(true, 'syncline.tx',
        json_build_object('client', client, 'ms', client_ms, 'lsn', client_lsn, 'rejected', rejected)::text);
    INSERT INTO electric.clients AS c (client_id, lsn, ms) VALUES (client, client_lsn, client_ms)
        ON CONFLICT (client_id) DO UPDATE
        SET lsn = excluded.lsn, ms = greatest(c.ms, excluded.ms), last_seen = now()
        WHERE excluded.lsn > c.lsn OR excluded.ms > c.ms;
    RETURN FOUND;
END
$$;

-- Records a rejection and advances the device past it. False: the transaction was decided before.
CREATE OR REPLACE FUNCTION electric.reject(
    client text, client_lsn bigint, client_ms bigint, ops jsonb, reason jsonb
) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    IF NOT electric.advance(client, client_lsn, client_ms, true) THEN
        RETURN false;
    END IF;
    INSERT INTO electric.rejections
        (client_id, lsn, ms, sqlstate, message, detail, hint, table_name, constraint_name, ops, columns, key, winner, follows)
    VALUES (client, client_lsn, client_ms, reason ->> 'sqlstate', reason ->> 'message', reason ->> 'detail',
        reason ->> 'hint', reason ->> 'table', reason ->> 'constraint', ops,
        reason -> 'columns', reason -> 'key', reason -> 'winner', (reason ->> 'follows')::bigint);
    RETURN true;
END
$$;

-- The answer to a repetition: what was decided before. A device that never heard of a rejection must hear of it now.
CREATE OR REPLACE FUNCTION electric.decided(client text, tx_lsn bigint, tx_ms bigint) RETURNS jsonb
LANGUAGE sql STABLE AS $$
SELECT coalesce(
    (SELECT jsonb_strip_nulls(jsonb_build_object('status', 'rejected', 'sqlstate', sqlstate, 'message', message,
        'detail', detail, 'hint', hint, 'table', table_name, 'constraint', constraint_name, 'columns', columns, 'key', key,
        'winner', winner, 'follows', follows))
     FROM electric.rejections WHERE client_id = client AND lsn = tx_lsn AND ms = tx_ms
     ORDER BY id DESC LIMIT 1),
    '{"status": "duplicate"}')
$$;

-- Whether the innermost function of the context of an error is ours.
--
-- The context is in the language of the server (lc_messages), except for the name PL/pgSQL and the signature of the
-- function, which may stand on either side of it: the first line with both tells the innermost function. Our schema is
-- named there unless it is in the search path, as it is for a role called electric.
CREATE OR REPLACE FUNCTION electric.within_ours(context text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
SELECT coalesce((
    SELECT line ~ ('(^|[^a-z0-9_.])(electric\.)?(apply\(jsonb,jsonb,jsonb\)|advance\(text,bigint,bigint,boolean\)'
        '|merge\(jsonb,text,bigint,jsonb,integer\)|merge_new\(bigint,jsonb,text,bigint,jsonb,integer\)'
        '|moved\(oid\)|merge_[0-9]+\(text,jsonb,jsonb,jsonb,text,bigint,jsonb,integer\))')
    FROM unnest(string_to_array(context, E'\n')) WITH ORDINALITY AS l (line, place)
    WHERE line LIKE '%PL/pgSQL%' AND line LIKE '%(%)%' ORDER BY place LIMIT 1), false)
$$;

-- Whether an error says nothing about the transaction itself, so that it will pass: the connection (08), a conflict with
-- others (40, 55P03, 55006), resources (53), an operator (57), the system (58), a standby (25006), a Postgres defect (XX,
-- the writer counts those), or a right or an object our own role lacks, which is the operator's to mend. An application's trigger
-- may raise the last kind too: then the innermost function is not ours, and it is the transaction's fault. Whether others
-- of these were raised by one, electric.raised tells: such an error may pass, but is not waited for for ever.
CREATE OR REPLACE FUNCTION electric.passes(state text, context text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
SELECT left(state, 2) IN ('08', '40', '53', '57', '58', 'XX') OR state IN ('55P03', '55006', '25006')
    OR state IN ('42501', '42P01', '42703', '42883', '55000') AND electric.within_ours(context)
$$;

-- Whether the error of this context is none that Postgres has met, but one that a function of the application's has raised.
-- Then the first line is of that function, at its statement RAISE, which no language translates.
CREATE OR REPLACE FUNCTION electric.raised(context text) RETURNS boolean
LANGUAGE sql IMMUTABLE AS $$
SELECT coalesce(line LIKE '%PL/pgSQL%' AND line ~ '(^|[^A-Za-z0-9_."])RAISE($|[^A-Za-z0-9_("])', false)
    AND NOT electric.within_ours(context)
FROM split_part(context, E'\n', 1) AS line
$$;

-- The cells of the key of the row that an operation on a table of this description is about.
CREATE OR REPLACE FUNCTION electric.operation_key(op jsonb, description jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
SELECT jsonb_agg(op -> 'row' -> (c.i - 1)::integer ORDER BY c.i)
FROM jsonb_array_elements(description -> 'columns') WITH ORDINALITY AS c (column_, i)
WHERE c.column_ ->> 'pk' IS NOT NULL
$$;

-- The same operations with parents written before their children and deleted after them. Within a table the order stays,
-- but parents kept alive by compensation come first unless this transaction itself inserts them, and rows that it writes,
-- which may make them, before those of the table that refer to them; not of those that refer to one another in a circle. A
-- delete that a later write to the same row takes back is left out; that write then has observed what the delete had.
--
-- There may be hundreds of thousands of them, which the planner cannot know: every join of theirs is to be a hash join. A merge
-- join would go by the table alone, and compare each row with all others of it.
CREATE OR REPLACE FUNCTION electric.parents_first(ops jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET enable_nestloop = off SET enable_mergejoin = off AS $$
WITH RECURSIVE op AS MATERIALIZED (
    SELECT o.op, o.place, o.op ->> 'op' AS kind, t.relid, coalesce(t.depth, 0) AS depth,
        electric.operation_key(o.op, t.description) AS key
    FROM jsonb_array_elements(ops) WITH ORDINALITY AS o (op, place)
    LEFT JOIN electric.tables t ON t.relid = (o.op ->> 'rel')::oid
), inserted AS (
    SELECT relid, key, min(place) AS place FROM op WHERE kind = 'I' GROUP BY relid, key
), written AS (
    SELECT relid, key, max(place) AS place FROM op WHERE kind <> 'D' GROUP BY relid, key
), taken_back AS MATERIALIZED (
    SELECT a.op, a.place, b.place AS by
    FROM op a JOIN written b ON b.relid = a.relid AND b.key = a.key AND b.place > a.place
    WHERE a.kind = 'D'
), own_key AS (
    SELECT f.conrelid AS relid, array_agg(k.place::integer ORDER BY c.i) AS places  -- in the order of the primary key
    FROM electric.tables t
    JOIN pg_constraint f ON f.contype = 'f' AND f.conrelid = t.relid AND f.confrelid = t.relid
    CROSS JOIN jsonb_array_elements(t.description -> 'columns') WITH ORDINALITY AS c (column_, i)
    LEFT JOIN LATERAL electric.key_pairs(f.oid, t.description) k ON k.parent = c.column_ ->> 'name'
    WHERE t.relid IN (SELECT relid FROM op) AND c.column_ ->> 'pk' IS NOT NULL
    GROUP BY f.oid, f.conrelid HAVING bool_and(k.place IS NOT NULL)
), pointing AS MATERIALIZED (
    SELECT op.relid, op.key,
        (SELECT jsonb_agg(op.op -> 'row' -> (place - 1) ORDER BY i) FROM unnest(own.places) WITH ORDINALITY AS p (place, i)) AS parent
    FROM op JOIN own_key own ON own.relid = op.relid WHERE op.kind IN ('I', 'U')
), refers AS MATERIALIZED (
    SELECT DISTINCT pointing.relid, pointing.key, pointing.parent
    FROM pointing JOIN written ON written.relid = pointing.relid AND written.key = pointing.parent
    WHERE pointing.parent <> pointing.key
), below (relid, key, level) AS (
    SELECT relid, parent, 0 FROM refers
    WHERE NOT EXISTS (SELECT FROM refers above WHERE above.relid = refers.relid AND above.key = refers.parent)
    UNION
    SELECT refers.relid, refers.key, below.level + 1
    FROM below JOIN refers ON refers.relid = below.relid AND refers.parent = below.key
    WHERE below.level < (SELECT count(*) FROM written)
), nested AS (
    SELECT relid, key, max(level) AS level FROM below GROUP BY relid, key
), back AS (
    SELECT by, jsonb_agg(seen) AS tags FROM taken_back, jsonb_array_elements(op -> 'tags') AS seen GROUP BY by
)
SELECT jsonb_agg(
    CASE WHEN back.tags IS NULL THEN op.op ELSE jsonb_set(op.op, '{tags}', (op.op -> 'tags') || back.tags) END
    ORDER BY op.kind = 'D', CASE WHEN op.kind = 'D' THEN -op.depth ELSE op.depth END,
        op.kind <> 'C' OR own.place IS NOT NULL, CASE WHEN op.kind <> 'D' THEN coalesce(nested.level, 0) END, op.place)
FROM op
LEFT JOIN back ON back.by = op.place
LEFT JOIN inserted own ON own.relid = op.relid AND own.key = op.key AND own.place < op.place
LEFT JOIN nested ON nested.relid = op.relid AND nested.key = op.key
LEFT JOIN taken_back gone ON gone.place = op.place
WHERE gone.place IS NULL
$$;

-- The same operations, each having observed, too, what operations on its row had that were rejected of the same device. One
-- that was written when these were still on their way names the tags of theirs alone, which nobody knows: published clients
-- do not say what was there before. Looked at are the newest rejections, as many as have some size: that of a value
-- computed from them, for of a stored one it is the compressed one. Those beyond are not read for it.
CREATE OR REPLACE FUNCTION electric.after_rejected(ops jsonb, client text) RETURNS jsonb
LANGUAGE sql STABLE SET enable_nestloop = off SET enable_mergejoin = off AS $$
WITH RECURSIVE newest AS MATERIALIZED (
    SELECT r.ops, row_number() OVER (ORDER BY r.lsn DESC) AS place
    FROM electric.rejections r WHERE r.client_id = client ORDER BY r.lsn DESC LIMIT 100
), upto (place, ops, octets) AS (
    SELECT 0::bigint, NULL::jsonb, 0::bigint
    UNION ALL
    SELECT newest.place, newest.ops, upto.octets + pg_column_size(newest.ops || '[]')
    FROM upto JOIN newest ON newest.place = upto.place + 1 WHERE upto.octets < 64 << 20
), rejected AS MATERIALIZED (
    SELECT ops FROM upto WHERE place > 0 AND octets < 64 << 20
), seen AS (
    SELECT t.relid, electric.operation_key(o.op, t.description) AS key, jsonb_agg(DISTINCT tag) AS tags
    FROM rejected CROSS JOIN jsonb_array_elements(rejected.ops) AS o (op)
    JOIN electric.tables t ON t.relid = (o.op ->> 'rel')::oid
    CROSS JOIN jsonb_array_elements(o.op -> 'tags') AS tag
    GROUP BY 1, 2
)
SELECT CASE WHEN NOT EXISTS (SELECT FROM rejected) THEN ops ELSE (
    SELECT jsonb_agg(
        CASE WHEN seen.tags IS NULL THEN o.op ELSE jsonb_set(o.op, '{tags}', (o.op -> 'tags') || seen.tags) END
        ORDER BY o.place)
    FROM jsonb_array_elements(ops) WITH ORDINALITY AS o (op, place)
    LEFT JOIN electric.tables t ON t.relid = (o.op ->> 'rel')::oid
    LEFT JOIN seen ON seen.relid = t.relid AND seen.key = electric.operation_key(o.op, t.description)) END
$$;
