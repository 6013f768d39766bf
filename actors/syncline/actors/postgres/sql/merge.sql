-- How one operation of a device meets one row. The rules are those of syncline.proto.merge, which is the oracle of this
-- file: rows are observed-remove by their tags, columns last-writer-wins by their column tags, a compensation keeps or
-- revives a row without changing a column.
--
-- What direct SQL wrote is in electric.direct, once the stream has brought it (absorb.sql). So before a row is merged that
-- direct SQL may have written last, or deleted, somebody has to know that the stream has come that far: by "absorbed", or
-- else the function returns what is to be waited for and has done nothing.
--
-- What meets columns of the application's in a statement has a prefix, since they may be called as it likes.
--
-- Each electrified table gets a merge function of its own, generated from its description, so that every statement is
-- static and its plan is kept: two or three cached statements an operation, where EXECUTE would plan each anew. The plan of
-- a condition with a subquery is kept only if it is no cheaper with the values of the moment: so nothing stands beside one
-- that may decide it without looking.
--
-- Locks: rows are locked with NOWAIT. Whoever fails to get one gives up the whole device transaction and comes back later
-- with empty hands, so no application transaction ever waits for us in a circle.

-- Raises that a table has another name than it was electrified by. NULL: it has been dropped; one that has been created anew
-- under the name is electrified anew.
CREATE OR REPLACE FUNCTION electric.moved(target oid) RETURNS text
LANGUAGE plpgsql STABLE AS $$
DECLARE
    name CONSTANT text := (SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target);
BEGIN
    IF name IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'undefined_table',
            MESSAGE = format('table %s was electrified under another name: %s', name,
                (SELECT format('%I.%I', schema_name, table_name) FROM electric.tables WHERE relid = target)),
            HINT = 'Rename it back, and what has come in its place: what devices have written since waits for that.';
    END IF;
    RETURN NULL;
END
$$;

-- Whether a table has the name in its description.
CREATE OR REPLACE FUNCTION electric.is_named(target oid, description jsonb) RETURNS boolean
LANGUAGE sql STABLE AS $$
SELECT (n.nspname, c.relname) = (description ->> 'schema', description ->> 'table')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target
$$;

-- The text of the merge function of an electrified table. It returns NULL when it has done its work, or why not:
-- {"xmin": xid} or {"gone": key} when the stream has to come further first; {"mend": true} when rows refer to the one that
-- is to be deleted, and the transaction is to be tried in the order of references, or when something keeps it that its author
-- may have seen before he wrote what was rejected; {"children": true} when rows refer to it, with mending = 1: this delete is
-- to be tried once more when the others are through, and with mending = 2 for good: who still refers to the row keeps it,
-- since the author of the delete had not seen that; {"unheeded": true} when a trigger of the application's kept Postgres from
-- doing it: then nothing of it is in the stream.
--
-- What such a trigger changes in the row besides is the operation's, as devices take it to be, to which the stream brings it.
--
-- Of a table that has not all columns any more that devices write, or not its name, or in which these columns do not tell rows
-- apart, it is one that says so, and they wait for the operator. Names are found anew after each rename: so that nothing is
-- written to a table that has come in the place of another, each call asks what the name stands for. While that is so, it is
-- known when the expression is made ready.
--
-- With a search path that makes every name in the text a qualified one.
CREATE OR REPLACE FUNCTION electric.merge_function(target oid, description jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $generator$
DECLARE
    template CONSTANT text := $template$
CREATE OR REPLACE FUNCTION electric.%FUNCTION%(
    sy_op text, sy_cells jsonb, sy_modified jsonb, observed jsonb, origin text, sy_ms bigint, absorbed jsonb, mending integer
) RETURNS jsonb LANGUAGE plpgsql AS $merge$
#variable_conflict use_column
DECLARE
    tag text := origin || '@' || sy_ms;
    sy_row_key text := CASE WHEN %TABLE_TEXT%::regclass = %RELID% OR electric.moved(%RELID%) IS NULL THEN %CELLS_KEY% END;
    row_xid xid;  -- NULL: there is none
    sy_alive boolean;
    known boolean := true;
    met boolean;
    triggers integer;  -- of the application's for updates and deletes, NULL: none; 2: one is for certain columns
    latest boolean;
    entry_tags text[];
    entry_column_tags text[];
    entry_xid xid;
    entry_lsn pg_lsn;
    entry_written timestamptz;
    past_lsn pg_lsn;
    past_piece integer;
    past_ms bigint;
    past_column_ms bigint[];
    past_column_lsn bigint[];
    past_row text[];
    truncated_lsn pg_lsn;
    truncated_piece integer;
    emptied boolean;  -- by a TRUNCATE, since the entry was made
    born boolean;
    born_ms bigint;
    tags_now text[];
    tags_before text[];
    column_tags_now text[];
    column_tags_before text[];
    sy_wins boolean[];
    holder text;
    holder_loses boolean;
    sy_grave text[];
    sy_buried text[];
    setters text;
    sy_final text[];
    sy_chain jsonb;  -- the rows that are coming, each because the one before refers to it
    done integer;  -- rows, by the statement
    changed boolean := false;  -- by a trigger
    sy_before text[];
    sy_after text[];
    answer jsonb;
BEGIN
    IF sy_op = 'I' THEN
        INSERT INTO electric.shadow (relid, key, tags, column_tags, at_lsn)
            VALUES (%RELID%, sy_row_key, ARRAY[tag], array_fill(tag, ARRAY[%WIDTH%]), pg_current_wal_insert_lsn())
            ON CONFLICT (relid, key) DO NOTHING
            RETURNING EXISTS (SELECT FROM %ROWS% t WHERE %IS_ROW%)
                OR EXISTS (SELECT FROM electric.direct d WHERE d.relid = %RELID% AND d.key = sy_row_key) INTO met;
        known := NOT FOUND;
        IF NOT known AND NOT met AND mending = 0 THEN
            -- The common insert, of a key never seen. Its entry is made.
            %INSERT%
            RETURN NULL;
        END IF;
    END IF;
    IF sy_op = 'D' THEN
        %LOCK_FOR_DELETE%
    ELSE
        %LOCK_FOR_UPDATE%
    END IF;
    sy_alive := row_xid IS NOT NULL;
    IF known AND entry_xid IS NULL THEN
        -- It may have been made while the row was being locked.
        SELECT s.tags, s.column_tags, coalesce(s.row_xmin, s.xmin), s.at_lsn, s.written_at
            INTO entry_tags, entry_column_tags, entry_xid, entry_lsn, entry_written
            FROM electric.shadow s WHERE s.relid = %RELID% AND s.key = sy_row_key FOR NO KEY UPDATE NOWAIT;
        known := FOUND;
    END IF;

    IF sy_alive AND known AND entry_xid = row_xid THEN
        -- a device wrote it last
        tags_now := entry_tags;
        column_tags_now := entry_column_tags;
    ELSE
        IF sy_alive AND NOT electric.is_absorbed(row_xid, absorbed) THEN
            %UNMAKE%
            RETURN jsonb_build_object('xmin', row_xid::text);
        END IF;
        IF known THEN
            SELECT d.lsn, d.piece, d.ms, d.column_ms, d.column_lsn, d."row"
                INTO past_lsn, past_piece, past_ms, past_column_ms, past_column_lsn, past_row FROM electric.direct d
                WHERE d.relid = %RELID% AND d.key = sy_row_key AND d.lsn > entry_lsn FOR UPDATE NOWAIT;
        ELSE
            SELECT d.lsn, d.piece, d.ms, d.column_ms, d.column_lsn, d."row"
                INTO past_lsn, past_piece, past_ms, past_column_ms, past_column_lsn, past_row FROM electric.direct d
                WHERE d.relid = %RELID% AND d.key = sy_row_key FOR UPDATE NOWAIT;
        END IF;
        -- Of a row without a record only whoever has not seen what came after it has to be told of a TRUNCATE.
        SELECT d.lsn, d.piece INTO truncated_lsn, truncated_piece FROM electric.direct d
            WHERE d.relid = %RELID% AND d.key = '' AND (entry_lsn IS NULL OR d.lsn > entry_lsn)
                AND (known OR NOT electric.saw_direct_since(to_timestamp(d.ms / 1000.0), observed));
        emptied := truncated_lsn IS NOT NULL;
        IF (truncated_lsn, truncated_piece) <= (past_lsn, past_piece) THEN
            truncated_lsn := NULL;
        ELSIF emptied THEN
            past_lsn := NULL;
        END IF;
        %TIED_DIRECT%
        -- Of columns that have been added since the entry was made it says nothing.
        column_tags_now := coalesce(entry_column_tags, '{}')
            || array_fill('postgres_1@0'::text, ARRAY[greatest(%WIDTH% - coalesce(cardinality(entry_column_tags), 0), 0)]);
        IF sy_alive THEN
            IF past_lsn IS NOT NULL AND past_row IS NULL THEN
                tags_now := ARRAY['postgres_1@' || past_ms];
                -- Of a row that direct SQL has inserted and updated since, it is not known when the other columns came.
                column_tags_now := electric.overlaid(
                    column_tags_now, past_ms, past_column_ms, past_column_lsn, entry_lsn,
                    known AND entry_tags = '{}' AND NOT electric.saw_direct_since(entry_written, observed)
                    OR sy_op = 'I' AND NOT known OR emptied);
            ELSIF known AND past_lsn IS NULL AND truncated_lsn IS NULL AND entry_tags <> '{}' THEN
                tags_now := entry_tags;  -- a trigger's doing, or the table was written anew
            ELSIF known OR emptied OR past_lsn IS NOT NULL OR sy_op = 'I' THEN
                born := true;  -- direct SQL has inserted it since
            ELSIF sy_op = 'D' THEN
                tags_now := electric.unrecorded(observed, origin, (absorbed ->> 'kept_ms')::bigint);
            ELSE
                tags_now := '{postgres_1@0}';
            END IF;
            IF born THEN
                IF absorbed IS NOT NULL AND NOT coalesce(absorbed -> 'xmins' ? row_xid::text, false) THEN
                    %UNMAKE%
                    RETURN jsonb_build_object('xmin', row_xid::text);  -- to be told when
                END IF;
                born_ms := coalesce((absorbed -> 'xmins' ->> row_xid::text)::bigint, 0);
                IF born_ms = 0 AND absorbed IS NOT NULL THEN
                    -- It is not known any more. But after what: whoever has seen the row has seen it later than that.
                    born_ms := greatest(electric.committed_after(row_xid), CASE
                        WHEN past_row IS NOT NULL THEN past_ms
                        WHEN known AND entry_tags = '{}' THEN floor(extract(epoch FROM entry_written) * 1000)::bigint END);
                END IF;
                tags_now := ARRAY['postgres_1@' || born_ms];
                column_tags_now := electric.overlaid(
                    electric.overlaid(column_tags_now, past_ms, past_column_ms, past_column_lsn, entry_lsn, false),
                    born_ms, '{}', '{}', NULL, true);
            END IF;
        ELSE
            tags_now := '{}'::text[];
            IF past_lsn IS NOT NULL THEN
                -- Direct SQL may have inserted it again, it is not known when, nor that the author has seen that.
                column_tags_now := electric.overlaid(
                    column_tags_now, past_ms, past_column_ms, past_column_lsn, entry_lsn,
                    known AND entry_tags = '{}' AND NOT electric.saw_direct_since(entry_written, observed));
                sy_grave := past_row;
            END IF;
            IF sy_op <> 'I' AND absorbed IS NOT NULL AND sy_grave IS NULL
                AND NOT (known AND entry_tags = '{}' AND NOT electric.saw_direct_since(entry_written, observed))
                AND NOT coalesce(absorbed -> 'gone' ? ('%RELID% ' || sy_row_key), false)
            THEN
                RETURN jsonb_build_object('gone', '%RELID% ' || sy_row_key);
            END IF;
            IF sy_op = 'I' THEN
                sy_grave := NULL;  -- it begins anew
            ELSIF known AND entry_tags = '{}' AND past_lsn IS NULL AND truncated_lsn IS NULL AND sy_op <> 'D' THEN
                SELECT b."row" INTO sy_grave FROM electric.tombstones b WHERE b.relid = %RELID% AND b.key = sy_row_key;
            END IF;
        END IF;
    END IF;
    IF sy_op = 'R' AND (sy_alive OR sy_grave IS NULL OR sy_modified ? ('%RELID% ' || sy_row_key)) THEN
        RETURN NULL;  -- nothing to bring back, or it is coming
    END IF;
    IF sy_op IN ('U', 'C') AND NOT sy_alive AND NOT known AND sy_grave IS NULL THEN
        PERFORM electric.require_not_rejected(origin, %RELID%, %KEY_PLACES%, %KEY_CELLS%);
    END IF;

    -- As a rule a write is later than all that is known of the row, and its author has seen it.
    latest := cardinality(tags_now) < 2 AND sy_ms > greatest(%KNOWN_MS%);
    tags_before := tags_now;
    column_tags_before := column_tags_now;
    IF observed ?& tags_now THEN
        tags_now := '{}'::text[];
    ELSE
        tags_now := electric.unobserved(tags_now, observed, origin);
    END IF;
    IF latest IS NOT TRUE THEN
        sy_ms := electric.stamp(
            origin, sy_ms, tags_before || column_tags_now, observed, entry_xid IS NULL OR NOT electric.is_ours(entry_xid));
        tag := origin || '@' || sy_ms;
    END IF;

    IF sy_op = 'D' THEN
        IF NOT sy_alive THEN
            IF known AND entry_tags <> '{}' AND sy_grave IS NULL THEN
                UPDATE electric.shadow SET tags = '{}', row_xmin = NULL, at_lsn = pg_current_wal_insert_lsn()
                    WHERE relid = %RELID% AND key = sy_row_key;
                DELETE FROM electric.tombstones WHERE relid = %RELID% AND key = sy_row_key;  -- of an earlier life
            END IF;
            RETURN NULL;
        END IF;
        IF tags_now <> '{}' THEN
            IF mending = 0 THEN
                IF EXISTS (SELECT FROM electric.rejections r WHERE r.client_id = origin) THEN  -- see electric.after_rejected
                    RETURN '{"mend": true}';
                END IF;
            END IF;
        ELSIF mending = 0 THEN
            IF %CASCADED% THEN
                RETURN '{"mend": true}';
            END IF;
        ELSIF %REFERRED_TO% THEN
            IF mending = 1 THEN
                RETURN '{"children": true}';
            END IF;
            tags_now := tags_before;
        END IF;
    ELSE
        tags_now := tags_now || tag;
        IF sy_op NOT IN ('I', 'U') THEN
            sy_wins := array_fill(false, ARRAY[%WIDTH%]);
        ELSIF sy_op = 'I' AND NOT sy_alive THEN
            sy_wins := ARRAY[%CHANGED%];
            column_tags_now := array_fill(tag, ARRAY[%WIDTH%]);
        ELSIF latest THEN
            sy_wins := ARRAY[%CHANGED%];
            %TIED%
            column_tags_now := ARRAY[%WON%];
        ELSE
            sy_wins := array_fill(false, ARRAY[%WIDTH%]);
            FOR i IN 1..%WIDTH% LOOP
                IF coalesce((sy_modified ->> (i - 1))::boolean, sy_op = 'I') THEN
                    IF holder_loses IS NULL OR column_tags_now[i] IS DISTINCT FROM holder THEN
                        holder := column_tags_now[i];
                        holder_loses := electric.beats(origin, sy_ms, holder);
                    END IF;
                    sy_wins[i] := holder_loses;
                END IF;
            END LOOP;
            %TIED%
            column_tags_now := ARRAY[%WON%];
        END IF;
        %ABSENT%
        IF mending > 0 THEN
            sy_chain := CASE sy_op WHEN 'R' THEN sy_modified ELSE '[]' END || to_jsonb('%RELID% ' || sy_row_key);
            SELECT ARRAY[%FINAL%] INTO sy_final FROM (SELECT 1) AS one LEFT JOIN %ROWS% t ON %IS_ROW%;
            %PARENTS%
        END IF;
    END IF;

    -- Before the row itself: whoever reads the stream then has a row's tags when the row comes.
    IF known THEN
        UPDATE electric.shadow s
            SET tags = tags_now, column_tags = column_tags_now, row_xmin = NULL, at_lsn = pg_current_wal_insert_lsn(),
                written_at = now()
            WHERE s.relid = %RELID% AND s.key = sy_row_key;
    ELSE
        INSERT INTO electric.shadow (relid, key, tags, column_tags, at_lsn)
            VALUES (%RELID%, sy_row_key, tags_now, column_tags_now, pg_current_wal_insert_lsn())
            ON CONFLICT (relid, key) DO UPDATE
            SET tags = excluded.tags, column_tags = excluded.column_tags, row_xmin = NULL, at_lsn = excluded.at_lsn,
                written_at = excluded.written_at;
    END IF;
    IF past_lsn IS NOT NULL THEN
        DELETE FROM electric.direct WHERE relid = %RELID% AND key = sy_row_key;
    END IF;
    IF sy_alive AND known AND entry_tags = '{}' THEN
        DELETE FROM electric.tombstones WHERE relid = %RELID% AND key = sy_row_key;  -- of an earlier life
    END IF;

    IF sy_alive AND triggers > 0 THEN
        SELECT ARRAY[%IMAGE%] INTO sy_before FROM %ROWS% t WHERE %IS_ROW%;
    END IF;
    IF sy_alive AND triggers IS DISTINCT FROM 2 AND true = ANY (sy_wins) THEN
        UPDATE %ROWS% t SET %MERGED% WHERE %IS_ROW%;
        GET DIAGNOSTICS done = ROW_COUNT;
    ELSIF sy_op = 'D' AND tags_now = '{}' THEN
        INSERT INTO electric.tombstones (relid, key, "row", deleted_ms, buried_at)
            SELECT %RELID%, sy_row_key, ARRAY[%IMAGE%], sy_ms, clock_timestamp() FROM %ROWS% t WHERE %IS_ROW%
            ON CONFLICT (relid, key) DO UPDATE
            SET "row" = excluded."row", deleted_ms = excluded.deleted_ms, buried_at = excluded.buried_at;
        DELETE FROM %ROWS% t WHERE %IS_ROW%;
        GET DIAGNOSTICS done = ROW_COUNT;
        -- Now that the table is locked, nobody adds a foreign key. One that was added before has not been asked about, nor one
        -- of a table in whose place another has come.
        IF EXISTS (SELECT FROM pg_trigger g LEFT JOIN pg_class c ON c.oid = g.tgconstrrelid
            WHERE g.tgrelid = %RELID% AND g.tgtype & 8 <> 0 AND g.tgconstraint <> 0
            AND concat_ws(' ', g.tgconstraint, c.relnamespace, c.relname) <> ALL (%ASKED%::text[]))
        THEN
            RAISE EXCEPTION 'constraints of table % have changed', %RELID%::regclass USING ERRCODE = 'SY003',
                HINT = 'Its merge function is to be made anew.';
        END IF;
    ELSIF sy_op = 'D' THEN
        UPDATE %ROWS% t SET %TOUCH% WHERE %IS_ROW%;  -- somebody else keeps it: tell the author
        GET DIAGNOSTICS done = ROW_COUNT;
    ELSIF NOT sy_alive THEN
        %INSERT%
        IF known THEN
            DELETE FROM electric.tombstones WHERE relid = %RELID% AND key = sy_row_key;
        END IF;
        RETURN NULL;
    ELSIF true = ANY (sy_wins) THEN
        -- A trigger that is for certain columns shall not see the others named.
        SELECT string_agg(setter, ', ') INTO setters
            FROM unnest(%SETTERS%, sy_wins) AS winning (setter, wins) WHERE winning.wins;
        EXECUTE format('UPDATE %ROWS% t SET %s WHERE %IS_ROW_TEXT%', coalesce(setters, %TOUCH_TEXT%)) USING sy_cells;
        GET DIAGNOSTICS done = ROW_COUNT;
    ELSE
        UPDATE %ROWS% t SET %TOUCH% WHERE %IS_ROW%;  -- nothing changes, but row and tags travel
        GET DIAGNOSTICS done = ROW_COUNT;
    END IF;
    IF done > 0 AND (sy_before IS NULL OR sy_op = 'D' AND tags_now = '{}') THEN
        RETURN NULL;
    END IF;

    SELECT ARRAY[%IMAGE%] INTO sy_after FROM %ROWS% t WHERE %IS_ROW%;
    sy_before := coalesce(sy_before, sy_after);  -- it was a rule
    IF done = 0 AND (sy_op = 'D' AND tags_now = '{}' OR true = ANY (sy_wins)) AND sy_after IS NOT NULL THEN
        -- It is as it was, or as the trigger has it.
        DELETE FROM electric.tombstones WHERE relid = %RELID% AND key = sy_row_key;
        column_tags_now := column_tags_before;
        IF sy_after = sy_before THEN
            tags_now := tags_before;
        ELSIF sy_op = 'D' THEN
            tags_now := ARRAY[tag];
        END IF;
        sy_wins := NULL;
        changed := true;
    END IF;
    FOR i IN 1..%WIDTH% LOOP
        IF sy_after[i] IS DISTINCT FROM sy_before[i] AND sy_wins[i] IS NOT TRUE THEN
            column_tags_now[i] := tag;
            changed := true;
        END IF;
    END LOOP;
    IF changed THEN
        UPDATE electric.shadow s
            SET tags = CASE WHEN sy_after IS NULL THEN '{}' ELSE tags_now END, column_tags = column_tags_now
            WHERE s.relid = %RELID% AND s.key = sy_row_key;
    END IF;
    RETURN CASE WHEN done = 0 OR sy_after IS NULL THEN '{"unheeded": true}'::jsonb END;
END
$merge$;
$template$;
    table_name text := format('%I.%I', description ->> 'schema', description ->> 'table');
    own_rows CONSTANT text := electric.own_rows(target);
    inserting CONSTANT text := $insert$
        INSERT INTO %TABLE% AS t (%COLUMNS%) OVERRIDING SYSTEM VALUE VALUES (%REVIVED%)%UNLESS_THERE%;%IS_THERE%
        IF met IS NOT TRUE THEN
            -- A trigger has another row in its place, or none; or somebody has been faster.
            SELECT t.xmin INTO row_xid FROM %ROWS% t WHERE %IS_ROW%;
            IF NOT FOUND THEN
                IF known THEN
                    UPDATE electric.shadow SET tags = '{}' WHERE relid = %RELID% AND key = sy_row_key;
                ELSE
                    DELETE FROM electric.shadow WHERE relid = %RELID% AND key = sy_row_key;
                END IF;
                RETURN '{"unheeded": true}';
            ELSIF NOT electric.is_ours(row_xid) THEN
                RAISE EXCEPTION 'the row appeared meanwhile' USING ERRCODE = 'serialization_failure';
            END IF;
        END IF;$insert$;
    known_by CONSTANT text[] := ARRAY(
        SELECT d ->> 'name' FROM jsonb_array_elements(description -> 'columns') AS d WHERE d ->> 'pk' IS NOT NULL);
    key_numbers CONSTANT smallint[] := ARRAY(
        SELECT a.attnum FROM pg_attribute a
        WHERE a.attrelid = target AND a.attname = ANY (known_by) AND NOT a.attisdropped ORDER BY a.attnum);
    -- ON CONFLICT goes neither with rules nor with a key that is deferrable. Where different texts are one key, it would pass over
    -- what is another row to devices: that of the later one is rejected.
    conflicts CONSTANT boolean := EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = target AND w.ev_type IN ('2', '3'))
        OR NOT EXISTS (
            SELECT FROM pg_index i WHERE i.indrelid = target AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indpred IS NULL
                AND i.indexprs IS NULL AND ARRAY(SELECT unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) ORDER BY 1) = key_numbers)
        OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target AND a.attnum = ANY (key_numbers) AND electric.is_ambiguous(a));
    -- The entry that an insert has made: it may be tried again in the same transaction.
    unmaking CONSTANT text :=
        'IF sy_op = ''I'' AND NOT known THEN DELETE FROM electric.shadow WHERE relid = %RELID% AND key = sy_row_key; END IF;';
    -- The row and its entry at once: this is most of the work.
    lock CONSTANT text := $lock$
        SELECT l.xid,
                (SELECT max(CASE g.tgattr::text WHEN '' THEN 1 ELSE 2 END) FROM pg_trigger g
                 WHERE g.tgrelid %TRIGGERED% AND NOT g.tgisinternal AND g.tgtype & 24 <> 0),
                e.tags, e.column_tags, e.xid, e.at_lsn, e.written_at
            INTO row_xid, triggers, entry_tags, entry_column_tags, entry_xid, entry_lsn, entry_written
            FROM (SELECT) AS one
            LEFT JOIN LATERAL (SELECT t.xmin AS xid FROM %ROWS% t WHERE %IS_ROW% %STRENGTH% NOWAIT) AS l ON true
            LEFT JOIN LATERAL (
                SELECT s.tags, s.column_tags, coalesce(s.row_xmin, s.xmin) AS xid, s.at_lsn, s.written_at
                FROM electric.shadow s WHERE s.relid = %RELID% AND s.key = sy_row_key AND known FOR NO KEY UPDATE NOWAIT
            ) AS e ON true;$lock$;
    -- What devices have and the table has not any more, or computes.
    lost CONSTANT text := (
        SELECT string_agg(format('%I', d ->> 'name'), ', ') FROM jsonb_array_elements(description -> 'columns') AS d
        WHERE NOT EXISTS (
            SELECT FROM pg_attribute a
            WHERE a.attrelid = target AND a.attname = d ->> 'name' AND NOT a.attisdropped AND a.attgenerated = ''));
    keyed CONSTANT boolean := EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = target AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
            AND ARRAY(SELECT unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) ORDER BY 1) = key_numbers);
    -- Why devices wait, and for what, raised.
    missing CONSTANT text := 'RAISE EXCEPTION USING ERRCODE = ''undefined_column'', MESSAGE = %L, HINT = %L;';
    held CONSTANT text := CASE
        WHEN NOT electric.is_named(target, description) THEN format(
            'PERFORM electric.moved(%s); RAISE undefined_table USING MESSAGE = %L;',
            target, format('table %s has been dropped', table_name))
        WHEN lost IS NOT NULL THEN format(missing,
            format('%s has no columns any more that devices write: %s', table_name, lost),
            'Bring them back by their names, or rename them back: what devices have written since waits for that.')
        WHEN NOT keyed THEN format(missing,
            format('%s has another key than devices know its rows by: %s', table_name, array_to_string(known_by, ', ')),
            'Make these columns its primary key again, or unique: what devices have written since waits for that.') END;
    part record;
    referring record;
    filled text := template;
BEGIN
    IF held IS NOT NULL THEN
        RETURN format(
            'CREATE OR REPLACE FUNCTION electric.merge_%s(sy_op text, sy_cells jsonb, sy_modified jsonb, observed jsonb, '
            'origin text, sy_ms bigint, absorbed jsonb, mending integer) RETURNS jsonb LANGUAGE plpgsql AS $merge$ BEGIN '
            '%s END $merge$', target, held);
    END IF;
    SELECT
        string_agg(format('%I', c.name), ', ' ORDER BY c.i) AS columns,
        string_agg(
            CASE
                WHEN c.pk THEN c.cell
                ELSE replace(
                    c.revived, '%CELL%',
                    electric.reading(c.type, format('CASE WHEN sy_grave IS NULL OR sy_wins[%s] THEN sy_cells ->> %s ELSE sy_grave[%s] END', c.i, c.i - 1, c.i)))
            END, ', ' ORDER BY c.i) AS revived,
        string_agg(format('%I', c.name), ', ' ORDER BY c.i) FILTER (WHERE c.pk) AS key,
        format('array_to_json(ARRAY[%s])::text',
            string_agg(format('format(''%%s'', %s)', c.cell), ', ' ORDER BY c.i) FILTER (WHERE c.pk)
        ) AS cells_key,
        string_agg(format(CASE WHEN c.ambiguous THEN 't.%1$I = %2$s AND format(''%%s'', t.%1$I) COLLATE "C" = format(''%%s'', %2$s) COLLATE "C"'
            ELSE 't.%1$I = %2$s' END, c.name, c.cell), ' AND ' ORDER BY c.i) FILTER (WHERE c.pk) AS is_row,
        format('''{%s}''', string_agg(c.i::text, ',' ORDER BY c.i) FILTER (WHERE c.pk)) AS key_places,
        format('jsonb_build_array(%s)', string_agg(format('sy_cells -> %s', c.i - 1), ', ' ORDER BY c.i) FILTER (WHERE c.pk)) AS key_cells,
        string_agg(format('%I = t.%I', c.name, c.name), ', ' ORDER BY c.i) FILTER (WHERE c.pk AND NOT c.fixed) AS touch,
        string_agg(format('%I = t.%I', c.name, c.name), ', ' ORDER BY c.i) FILTER (WHERE NOT c.fixed) AS touch_any,
        string_agg(
            format('%I = CASE WHEN sy_wins[%s] THEN %s ELSE t.%I END', c.name, c.i, c.cell, c.name),
            ', ' ORDER BY c.i) FILTER (WHERE NOT c.pk AND NOT c.fixed) AS merged,
        string_agg(c.printed, ', ' ORDER BY c.i) AS image,
        format('ARRAY[%s]::text[]', string_agg(
            CASE WHEN c.pk OR c.fixed THEN 'NULL'
                 ELSE quote_literal(format('%I = %s', c.name, electric.reading(c.type, format('$1 ->> %s', c.i - 1)))) END, ', ' ORDER BY c.i)) AS setters,
        -- The row as it is going to be, as texts.
        string_agg(CASE WHEN c.pk THEN format('sy_cells ->> %s', c.i - 1) ELSE format(
            'CASE WHEN sy_wins[%1$s] THEN sy_cells ->> %2$s WHEN sy_alive THEN %3$s WHEN sy_grave IS NULL THEN sy_cells ->> %2$s ELSE sy_grave[%1$s] END',
            c.i, c.i - 1, c.printed) END, ', ' ORDER BY c.i) AS final_row,
        -- When what is known of the row was written.
        string_agg(format('split_part(column_tags_now[%s], ''@'', -1)::bigint', c.i), ', ' ORDER BY c.i)
            || ', split_part(tags_now[1], ''@'', -1)::bigint' AS known_ms,
        string_agg(format('coalesce((sy_modified ->> %s)::boolean, sy_op = ''I'')', c.i - 1), ', ' ORDER BY c.i) AS changed,
        string_agg(format('CASE WHEN sy_wins[%1$s] THEN tag ELSE column_tags_now[%1$s] END', c.i), ', ' ORDER BY c.i) AS won,
        count(*) AS width
    INTO part
    FROM (
        SELECT d.i, d.c ->> 'name' AS name, d.c ->> 'pk' IS NOT NULL AS pk, a.atttypid AS type, a.attidentity = 'a' AS fixed,
            electric.is_ambiguous(a) AS ambiguous,
            electric.reading(a.atttypid, format('sy_cells ->> %s', d.i - 1)) AS cell,
            -- As its output function prints it: rowkey.py has the same.
            format('CASE WHEN t.%1$I IS DISTINCT FROM NULL THEN format(''%%s'', t.%1$I) END', d.c ->> 'name') AS printed,
            -- What an insert leaves out takes its default.
            CASE WHEN f.expression IS NULL THEN '%CELL%' ELSE format(
                'CASE WHEN sy_op = ''I'' AND (sy_modified ->> %s)::boolean IS FALSE THEN %s ELSE %%CELL%% END',
                d.i - 1, f.expression)
            END AS revived
        FROM jsonb_array_elements(description -> 'columns') WITH ORDINALITY AS d (c, i)
        JOIN pg_attribute a ON a.attrelid = target AND a.attname = d.c ->> 'name' AND NOT a.attisdropped
        CROSS JOIN electric.default_expression(target, a.attnum) AS f (expression)
    ) c;
    SELECT coalesce(string_agg(r.referring, ' OR ') FILTER (WHERE r.cascades), 'false') AS cascaded,
        coalesce(string_agg(r.referring, ' OR '), 'false') AS referred_to
        INTO referring FROM electric.references_to(target, part.is_row) r;
    filled := replace(filled, '%INSERT%', inserting);
    filled := replace(filled, '%UNLESS_THERE%', CASE WHEN conflicts THEN '' ELSE ' ON CONFLICT (%KEY%) DO NOTHING RETURNING %IS_ROW% INTO met' END);
    filled := replace(filled, '%IS_THERE%', CASE WHEN conflicts THEN ' met := EXISTS (SELECT FROM %ROWS% t WHERE %IS_ROW%);' ELSE '' END);
    filled := replace(filled, '%UNMAKE%', unmaking);
    filled := replace(filled, '%LOCK_FOR_DELETE%', replace(lock, '%STRENGTH%', 'FOR UPDATE'));
    filled := replace(filled, '%LOCK_FOR_UPDATE%', replace(lock, '%STRENGTH%', 'FOR NO KEY UPDATE'));
    filled := replace(filled, '%TRIGGERED%', CASE WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = target AND c.relkind = 'p')
        THEN 'IN (SELECT electric.parts(%RELID%))' ELSE '= %RELID%' END);
    filled := replace(filled, '%KNOWN_MS%', part.known_ms);
    filled := replace(filled, '%CHANGED%', part.changed);
    filled := replace(filled, '%WON%', part.won);
    filled := replace(filled, '%CASCADED%', referring.cascaded);
    filled := replace(filled, '%REFERRED_TO%', referring.referred_to);
    filled := replace(filled, '%PARENTS%', electric.parents_text(target, description));
    filled := replace(filled, '%TIED%', electric.tied_text(target, description));
    filled := replace(filled, '%ABSENT%', electric.absent_text(target, description));
    filled := replace(filled, '%TIED_DIRECT%', electric.tied_direct_text(target, description));
    filled := replace(filled, '%ASKED%', quote_literal(ARRAY(
        SELECT DISTINCT concat_ws(' ', g.tgconstraint, c.relnamespace, c.relname)
        FROM pg_trigger g LEFT JOIN pg_class c ON c.oid = g.tgconstrrelid
        WHERE g.tgrelid = target AND g.tgtype & 8 <> 0 AND g.tgconstraint <> 0)));
    filled := replace(filled, '%FINAL%', part.final_row);
    filled := replace(filled, '%FUNCTION%', 'merge_' || target);
    filled := replace(filled, '%RELID%', target::text);
    filled := replace(filled, '%WIDTH%', part.width::text);
    filled := replace(filled, '%CELLS_KEY%', part.cells_key);
    filled := replace(filled, '%KEY_PLACES%', part.key_places);
    filled := replace(filled, '%KEY_CELLS%', part.key_cells);
    filled := replace(filled, '%COLUMNS%', part.columns);
    filled := replace(filled, '%REVIVED%', part.revived);
    filled := replace(filled, '%KEY%', part.key);
    -- Twice quoted: a text in the function, and a format there.
    filled := replace(filled, '''UPDATE %ROWS% t SET %s WHERE %IS_ROW_TEXT%''', quote_literal(format(
        'UPDATE %s t SET %%s WHERE %s', replace(table_name, '%', '%%'),
        replace(replace(part.is_row, '(sy_cells ->>', '($1 ->>'), '%', '%%'))));
    filled := replace(filled, '%SETTERS%', part.setters);
    filled := replace(filled, '%TOUCH_TEXT%', quote_literal(coalesce(part.touch, part.touch_any)));
    filled := replace(filled, '%IS_ROW%', part.is_row);
    filled := replace(filled, '%TOUCH%', coalesce(part.touch, part.touch_any));
    filled := replace(filled, '%MERGED%', coalesce(part.merged, part.touch, part.touch_any));
    filled := replace(filled, '%TABLE_TEXT%', quote_literal(table_name));
    filled := replace(filled, '%TABLE%', table_name);
    filled := replace(filled, '%ROWS%', own_rows);
    RETURN replace(filled, '%IMAGE%', part.image);
END
$generator$;
