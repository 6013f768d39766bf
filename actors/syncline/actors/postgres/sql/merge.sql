-- How one operation of a device meets one row. The rules are those of syncline.proto.merge, which is the oracle of this
-- file: rows are observed-remove by their tags, columns last-writer-wins by their column tags, a compensation keeps or
-- revives a row without changing a column.
--
-- Each electrified table gets a merge function of its own, generated from its description, so that every statement is
-- static and its plan is kept: about four cached statements an operation, where EXECUTE would plan each anew.
--
-- Locks: rows are locked with NOWAIT. Whoever fails to get one gives up the whole device transaction and comes back later
-- with empty hands, so no application transaction ever waits for us in a circle.

-- Whether a write tagged (origin, ms) beats the tag that holds a column. The later wins; at the same millisecond
-- Postgres wins over devices, then the larger origin in byte order. A write never loses to its own tag.
CREATE OR REPLACE FUNCTION electric.beats(origin text, ms bigint, holder text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    holder_ms bigint := split_part(holder, '@', -1)::bigint;
    holder_origin text;
BEGIN
    IF holder IS NULL OR ms > holder_ms THEN
        RETURN true;
    ELSIF ms < holder_ms THEN
        RETURN false;
    END IF;
    holder_origin := left(holder, -length(split_part(holder, '@', -1)) - 1);
    IF holder_origin = 'postgres_1' OR origin = 'postgres_1' THEN
        RETURN origin = 'postgres_1';
    END IF;
    RETURN origin COLLATE "C" >= holder_origin COLLATE "C";
END
$$;

-- The tags that stay after an operation that had observed the JSON array of tags "observed". Whoever observed o@t has
-- observed every earlier tag of o too.
CREATE OR REPLACE FUNCTION electric.unobserved(tags text[], observed jsonb) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    tag text;
    kept text[] := '{}';
BEGIN
    FOREACH tag IN ARRAY tags LOOP
        IF observed ? tag THEN
            CONTINUE;
        END IF;
        IF NOT EXISTS (
            SELECT FROM jsonb_array_elements_text(observed) AS seen
            WHERE left(seen, -length(split_part(seen, '@', -1))) = left(tag, -length(split_part(tag, '@', -1)))
              AND split_part(seen, '@', -1)::bigint >= split_part(tag, '@', -1)::bigint
        ) THEN
            kept := kept || tag;
        END IF;
    END LOOP;
    RETURN kept;
END
$$;

-- Whether a write that had observed the JSON array of tags "observed" has seen direct SQL write the row after buried_ms.
--
-- A row may live again and again. Of a life that devices end a tombstone is kept, of one that direct SQL ends there is no
-- record, and then the tombstone is of an earlier life. Its values were overwritten by the insert that began the later
-- one, so they are not for a write that has seen that one: its own row is nearest to what is lost. It tells itself by a
-- tag of Postgres that is later than the burial, both by the clock of this server. And if a device wrote in the later
-- life, the entry in electric.shadow still has that tag. The oracle, which is told of every write, needs no such rule.
CREATE OR REPLACE FUNCTION electric.saw_direct_after(buried_ms bigint, observed jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT EXISTS (
    SELECT FROM jsonb_array_elements_text(observed) AS seen
    WHERE left(seen, -length(split_part(seen, '@', -1))) = 'postgres_1@' AND split_part(seen, '@', -1)::bigint > buried_ms
)
$$;

-- The text of the merge function of an electrified table.
CREATE OR REPLACE FUNCTION electric.merge_function(target oid, description jsonb) RETURNS text
LANGUAGE plpgsql STABLE AS $generator$
DECLARE
    template CONSTANT text := $template$
CREATE OR REPLACE FUNCTION electric.%FUNCTION%(
    op text, cells jsonb, modified jsonb, observed jsonb, origin text, ms bigint
) RETURNS void LANGUAGE plpgsql AS $merge$
#variable_conflict use_column
DECLARE
    tag text := origin || '@' || ms;
    row_key text := %CELLS_KEY%;
    row_xid xid;
    alive boolean;
    entry record;
    unknown boolean := false;
    tags_now text[];
    column_tags_now text[];
    wins boolean[];
    holder text;
    holder_loses boolean;
    grave text[];
    buried_ms bigint;
    setters text;
BEGIN
    IF op = 'I' THEN
        INSERT INTO electric.shadow (relid, key, tags, column_tags)
            VALUES (%RELID%, row_key, ARRAY[tag], array_fill(tag, ARRAY[%WIDTH%])) ON CONFLICT (relid, key) DO NOTHING;
        unknown := FOUND;
    END IF;
    IF op = 'D' THEN
        SELECT t.xmin INTO row_xid FROM %TABLE% t WHERE %IS_ROW% FOR UPDATE NOWAIT;
    ELSE
        SELECT t.xmin INTO row_xid FROM %TABLE% t WHERE %IS_ROW% FOR NO KEY UPDATE NOWAIT;
    END IF;
    alive := FOUND;
    IF unknown AND NOT alive THEN
        -- The common insert: a key never seen. No entry means no tombstone either.
        INSERT INTO %TABLE% (%COLUMNS%) OVERRIDING SYSTEM VALUE VALUES (%CELLS%) ON CONFLICT (%KEY%) DO NOTHING;
        IF NOT FOUND AND EXISTS (SELECT FROM %TABLE% t WHERE %IS_ROW%) THEN
            RAISE EXCEPTION 'the row appeared meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
        RETURN;
    END IF;
    SELECT s.tags, s.column_tags, coalesce(s.row_xmin, s.xmin) AS row_xid INTO entry
        FROM electric.shadow s WHERE s.relid = %RELID% AND s.key = row_key FOR NO KEY UPDATE NOWAIT;
    unknown := unknown OR NOT FOUND;

    IF unknown THEN
        column_tags_now := array_fill('postgres_1@0'::text, ARRAY[%WIDTH%]);
    ELSE
        column_tags_now := entry.column_tags;
    END IF;
    IF NOT alive THEN
        tags_now := '{}';
    ELSIF unknown OR entry.row_xid <> row_xid THEN
        -- direct SQL wrote the row last, and had observed everything
        tags_now := electric.unobserved('{postgres_1@0}', observed);
    ELSE
        tags_now := electric.unobserved(entry.tags, observed);
    END IF;

    IF op = 'D' THEN
        IF NOT alive THEN
            IF NOT unknown AND entry.tags <> '{}' THEN
                UPDATE electric.shadow SET tags = '{}', row_xmin = NULL WHERE relid = %RELID% AND key = row_key;
                DELETE FROM electric.tombstones WHERE relid = %RELID% AND key = row_key;  -- of an earlier life
            END IF;
            RETURN;
        END IF;
    ELSE
        IF NOT tag = ANY (tags_now) THEN
            tags_now := tags_now || tag;
        END IF;
        wins := array_fill(false, ARRAY[%WIDTH%]);
        IF op <> 'C' THEN
            FOR i IN 1..%WIDTH% LOOP
                IF coalesce((modified -> (i - 1))::boolean, op = 'I') THEN
                    IF holder_loses IS NULL OR column_tags_now[i] IS DISTINCT FROM holder THEN
                        holder := column_tags_now[i];
                        holder_loses := electric.beats(origin, ms, holder);
                    END IF;
                    wins[i] := holder_loses;
                END IF;
            END LOOP;
            FOR i IN 1..%WIDTH% LOOP
                IF wins[i] THEN
                    column_tags_now[i] := tag;
                END IF;
            END LOOP;
        END IF;
    END IF;

    -- Before the row itself: whoever reads the stream then has a row's tags when the row comes.
    INSERT INTO electric.shadow (relid, key, tags, column_tags)
        VALUES (%RELID%, row_key, tags_now, column_tags_now)
        ON CONFLICT (relid, key) DO UPDATE
        SET tags = excluded.tags, column_tags = excluded.column_tags, row_xmin = NULL;

    IF op = 'D' AND tags_now = '{}' THEN
        INSERT INTO electric.tombstones (relid, key, "row", deleted_ms, buried_at)
            SELECT %RELID%, row_key, ARRAY[%IMAGE%], ms, clock_timestamp() FROM %TABLE% t WHERE %IS_ROW%
            ON CONFLICT (relid, key) DO UPDATE
            SET "row" = excluded."row", deleted_ms = excluded.deleted_ms, buried_at = excluded.buried_at;
        DELETE FROM %TABLE% t WHERE %IS_ROW%;
    ELSIF op = 'D' THEN
        UPDATE %TABLE% t SET %TOUCH% WHERE %IS_ROW%;  -- somebody else's write keeps it: tell the author
    ELSIF NOT alive THEN
        DELETE FROM electric.tombstones WHERE relid = %RELID% AND key = row_key
            RETURNING "row", floor(extract(epoch FROM buried_at) * 1000) INTO grave, buried_ms;
        IF grave IS NOT NULL AND (entry.tags <> '{}' OR electric.saw_direct_after(buried_ms, observed)) THEN
            grave := NULL;
        END IF;
        INSERT INTO %TABLE% (%COLUMNS%) OVERRIDING SYSTEM VALUE VALUES (%REVIVED%) ON CONFLICT (%KEY%) DO NOTHING;
        IF NOT FOUND AND EXISTS (SELECT FROM %TABLE% t WHERE %IS_ROW%) THEN
            RAISE EXCEPTION 'the row appeared meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
    ELSIF true = ANY (wins) AND EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = %RELID% AND g.tgattr::text <> '') THEN
        -- A trigger that is for certain columns shall not see the others named.
        SELECT string_agg(setter, ', ') INTO setters
            FROM unnest(%SETTERS%, wins) AS winning (setter, wins) WHERE winning.wins;
        EXECUTE format('UPDATE %TABLE% t SET %s WHERE %IS_ROW_TEXT%', coalesce(setters, %TOUCH_TEXT%)) USING cells;
    ELSIF true = ANY (wins) THEN
        UPDATE %TABLE% t SET %MERGED% WHERE %IS_ROW%;
    ELSE
        UPDATE %TABLE% t SET %TOUCH% WHERE %IS_ROW%;  -- nothing changes, but row and tags travel
    END IF;
END
$merge$;
$template$;
    table_name text := format('%I.%I', description ->> 'schema', description ->> 'table');
    part record;
    filled text := template;
BEGIN
    SELECT
        string_agg(format('%I', c.name), ', ' ORDER BY c.i) AS columns,
        string_agg(replace(c.inserted, '%CELL%', format('(cells ->> %s)::%s', c.i - 1, c.type)), ', ' ORDER BY c.i) AS cells,
        string_agg(
            CASE
                WHEN c.pk THEN format('(cells ->> %s)::%s', c.i - 1, c.type)
                ELSE replace(
                    c.revived, '%CELL%',
                    format('(CASE WHEN grave IS NULL OR wins[%s] THEN cells ->> %s ELSE grave[%s] END)::%s', c.i, c.i - 1, c.i, c.type))
            END, ', ' ORDER BY c.i) AS revived,
        string_agg(format('%I', c.name), ', ' ORDER BY c.i) FILTER (WHERE c.pk) AS key,
        format('array_to_json(ARRAY[%s])::text',
            string_agg(format('format(''%%s'', (cells ->> %s)::%s)', c.i - 1, c.type), ', ' ORDER BY c.i) FILTER (WHERE c.pk)
        ) AS cells_key,
        string_agg(format('t.%I = (cells ->> %s)::%s', c.name, c.i - 1, c.type), ' AND ' ORDER BY c.i) FILTER (WHERE c.pk) AS is_row,
        string_agg(format('%I = t.%I', c.name, c.name), ', ' ORDER BY c.i) FILTER (WHERE c.pk AND NOT c.fixed) AS touch,
        string_agg(format('%I = t.%I', c.name, c.name), ', ' ORDER BY c.i) FILTER (WHERE NOT c.fixed) AS touch_any,
        string_agg(
            format('%I = CASE WHEN wins[%s] THEN (cells ->> %s)::%s ELSE t.%I END', c.name, c.i, c.i - 1, c.type, c.name),
            ', ' ORDER BY c.i) FILTER (WHERE NOT c.pk AND NOT c.fixed) AS merged,
        string_agg(
            CASE WHEN c.is_bool THEN format('CASE t.%I WHEN true THEN ''t'' WHEN false THEN ''f'' END', c.name)
                 ELSE format('t.%I::text', c.name) END, ', ' ORDER BY c.i) AS image,
        format('ARRAY[%s]::text[]', string_agg(
            CASE WHEN c.pk OR c.fixed THEN 'NULL'
                 ELSE quote_literal(format('%I = ($1 ->> %s)::%s', c.name, c.i - 1, c.type)) END, ', ' ORDER BY c.i)) AS setters,
        count(*) AS width
    INTO part
    FROM (
        SELECT d.i, d.c ->> 'name' AS name, d.c ->> 'pk' IS NOT NULL AS pk,
            format('%I.%I', n.nspname, y.typname) AS type, y.oid = 'bool'::regtype AS is_bool, a.attidentity = 'a' AS fixed,
            -- What an insert leaves out takes its default.
            CASE WHEN f.adbin IS NULL THEN '%CELL%' ELSE format(
                'CASE WHEN (modified -> %s)::boolean IS FALSE THEN %s ELSE %%CELL%% END', d.i - 1, pg_get_expr(f.adbin, f.adrelid))
            END AS inserted,
            CASE WHEN f.adbin IS NULL THEN '%CELL%' ELSE format(
                'CASE WHEN op = ''I'' AND grave IS NULL AND (modified -> %s)::boolean IS FALSE THEN %s ELSE %%CELL%% END',
                d.i - 1, pg_get_expr(f.adbin, f.adrelid))
            END AS revived
        FROM jsonb_array_elements(description -> 'columns') WITH ORDINALITY AS d (c, i)
        JOIN pg_attribute a ON a.attrelid = target AND a.attname = d.c ->> 'name' AND NOT a.attisdropped
        JOIN pg_type y ON y.oid = a.atttypid
        JOIN pg_namespace n ON n.oid = y.typnamespace
        LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
    ) c;
    filled := replace(filled, '%FUNCTION%', 'merge_' || target);
    filled := replace(filled, '%RELID%', target::text);
    filled := replace(filled, '%WIDTH%', part.width::text);
    filled := replace(filled, '%CELLS_KEY%', part.cells_key);
    filled := replace(filled, '%COLUMNS%', part.columns);
    filled := replace(filled, '%CELLS%', part.cells);
    filled := replace(filled, '%REVIVED%', part.revived);
    filled := replace(filled, '%KEY%', part.key);
    -- Twice quoted: a text in the function, and a format there.
    filled := replace(filled, '''UPDATE %TABLE% t SET %s WHERE %IS_ROW_TEXT%''', quote_literal(format(
        'UPDATE %s t SET %%s WHERE %s', replace(table_name, '%', '%%'),
        replace(replace(part.is_row, '(cells ->>', '($1 ->>'), '%', '%%'))));
    filled := replace(filled, '%SETTERS%', part.setters);
    filled := replace(filled, '%TOUCH_TEXT%', quote_literal(coalesce(part.touch, part.touch_any)));
    filled := replace(filled, '%IS_ROW%', part.is_row);
    filled := replace(filled, '%TOUCH%', coalesce(part.touch, part.touch_any));
    filled := replace(filled, '%MERGED%', coalesce(part.merged, part.touch, part.touch_any));
    filled := replace(filled, '%TABLE%', table_name);
    RETURN replace(filled, '%IMAGE%', part.image);
END
$generator$;

-- Nested IFs that find the merge function of a table in as many steps as a binary search takes.
CREATE OR REPLACE FUNCTION electric.dispatch_branch(relids oid[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    size integer := cardinality(relids);
    middle integer := size / 2;
BEGIN
    IF size = 0 THEN
        RETURN 'RAISE EXCEPTION ''table % is not electrified'', rel USING ERRCODE = ''undefined_table'';';
    ELSIF size = 1 THEN
        RETURN format(
            'IF rel = %1$s THEN '
            'PERFORM electric.merge_%1$s(op ->> ''op'', op -> ''row'', op -> ''modified'', op -> ''tags'', origin, ms);'
            ' ELSE %2$s END IF;', relids[1], electric.dispatch_branch('{}'));
    END IF;
    RETURN format('IF rel <= %s THEN %s ELSE %s END IF;', relids[middle],
        electric.dispatch_branch(relids[1:middle]), electric.dispatch_branch(relids[middle + 1:]));
END
$$;

-- electric.merge(op, origin, ms): one operation of a batch (see apply.sql) to the merge function of its table.
CREATE OR REPLACE FUNCTION electric.generate_dispatch() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION electric.merge(op jsonb, origin text, ms bigint) RETURNS void LANGUAGE plpgsql AS '
        '$merge$ DECLARE rel bigint := (op ->> ''rel'')::bigint; BEGIN %s END $merge$',
        (SELECT electric.dispatch_branch(coalesce(array_agg(t.relid ORDER BY t.relid), '{}'))
         FROM electric.tables t JOIN pg_class c ON c.oid = t.relid));
END
$$;

CREATE OR REPLACE FUNCTION electric.generate_merge(target oid) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE (SELECT electric.merge_function(t.relid, t.description) FROM electric.tables t WHERE t.relid = target);
    PERFORM electric.generate_dispatch();
END
$$;

-- Everything generated, anew: after the generator itself has changed.
CREATE OR REPLACE FUNCTION electric.generate_all() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT electric.merge_function(t.relid, t.description) FROM electric.tables t JOIN pg_class c ON c.oid = t.relid
    LOOP
        EXECUTE statement;
    END LOOP;
    PERFORM electric.generate_dispatch();
END
$$;
