-- The rules of syncline.proto.tags and syncline.proto.merge, as far as one row's tags are concerned, for the merge functions
-- (merge.sql). A tag is the text origin@ms; of a column, where direct SQL counts as of a later time than that at which it
-- wrote, postgres_1@written@ms. No device's id begins with postgres_1@.

-- Whether a write tagged (origin, ms) beats the tag that holds a column. The later wins; at the same millisecond
-- Postgres wins over devices, then the larger origin in byte order. A write never loses to its own tag.
CREATE OR REPLACE FUNCTION electric.beats(origin text, ms bigint, holder text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    holder_ms bigint := split_part(holder, '@', -1)::bigint;
BEGIN
    IF holder IS NULL OR ms > holder_ms THEN
        RETURN true;
    ELSIF ms < holder_ms THEN
        RETURN false;
    END IF;
    IF holder LIKE 'postgres\_1@%' OR origin = 'postgres_1' THEN
        RETURN origin = 'postgres_1';
    END IF;
    RETURN origin COLLATE "C" >= left(holder, -length(holder_ms::text) - 1) COLLATE "C";
END
$$;

-- Whether a write by origin that had observed the JSON array of tags "observed" knew of "tag": one's own always; whoever
-- observed o@t has observed every earlier tag of o too; a row without a record is known to whoever knows anything of it.
CREATE OR REPLACE FUNCTION electric.covers(observed jsonb, origin text, tag text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    ms text := split_part(tag, '@', -1);
    author text := left(tag, -length(ms) - 1);
BEGIN
    RETURN observed ? tag OR author = origin OR EXISTS (
        SELECT FROM jsonb_array_elements_text(observed) AS seen
        WHERE CASE WHEN left(seen, length(author) + 1) = author || '@'
                    AND left(seen, -length(split_part(seen, '@', -1)) - 1) = author
                   THEN split_part(seen, '@', -1)::bigint >= ms::bigint
                   ELSE tag = 'postgres_1@0' AND left(seen, -length(split_part(seen, '@', -1)) - 1) <> origin END);
END
$$;

-- The tags that stay after an operation of origin that had observed the JSON array of tags "observed".
CREATE OR REPLACE FUNCTION electric.unobserved(tags text[], observed jsonb, origin text) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    tag text;
    kept text[] := '{}';
BEGIN
    FOREACH tag IN ARRAY tags LOOP
        IF NOT electric.covers(observed, origin, tag) THEN
            kept := kept || tag;
        END IF;
    END LOOP;
    RETURN kept;
END
$$;

-- The time as of which a write of origin at ms counts, among the tags known of a row and of its columns: later than every
-- one of them that it had observed, whatever the clocks said. anew: no tag of origin's is of the same transaction.
CREATE OR REPLACE FUNCTION electric.stamp(origin text, ms bigint, known text[], observed jsonb, anew boolean) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    tag text;
    before text;
    tag_ms bigint;
    stamped bigint := ms;
BEGIN
    FOREACH tag IN ARRAY known LOOP
        IF tag = before THEN
            CONTINUE;
        END IF;
        before := tag;
        tag_ms := split_part(tag, '@', -1)::bigint;
        IF tag_ms >= stamped AND electric.covers(observed, origin, CASE
            WHEN tag LIKE 'postgres\_1@%@%' THEN left(tag, -length(tag_ms::text) - 1) ELSE tag END)
        THEN
            stamped := tag_ms + (anew OR left(tag, -length(tag_ms::text) - 1) <> origin)::integer;
        END IF;
    END LOOP;
    RETURN stamped;
END
$$;

-- Whether a write that had observed the JSON array of tags "observed" has seen direct SQL write the row since, by a tag of
-- Postgres that is later, both by the clock of this server.
CREATE OR REPLACE FUNCTION electric.saw_direct_since(since timestamptz, observed jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT EXISTS (
    SELECT FROM jsonb_array_elements_text(observed) AS seen
    WHERE seen LIKE 'postgres\_1@%' AND split_part(seen, '@', -1)::bigint > extract(epoch FROM since) * 1000)
$$;

-- Column tags with what direct SQL has changed, as far as it did behind the position "since", or with "everywhere" in all
-- columns. It has overwritten what stood there, and counts as of no earlier time than that. "past_ms": of its newest write
-- to the row. That had seen all of it, and so has whoever has seen that write, also what counts as of a later time.
CREATE OR REPLACE FUNCTION electric.overlaid(
    column_tags text[], past_ms bigint, column_ms bigint[], column_lsn bigint[], since pg_lsn, everywhere boolean
) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT array_agg(CASE
    WHEN w.ms IS NULL THEN c.tag
    WHEN w.ms < w.as_of_ms THEN 'postgres_1@' || w.ms || '@' || w.as_of_ms
    ELSE 'postgres_1@' || w.ms END ORDER BY c.place)
FROM (SELECT coalesce(t.tag, 'postgres_1@0') AS tag, t.place FROM unnest(column_tags) WITH ORDINALITY AS t (tag, place)) AS c
LEFT JOIN unnest(column_ms, column_lsn) WITH ORDINALITY AS o (ms, lsn, place)
    ON o.place = c.place AND (since IS NULL OR o.lsn IS NULL OR o.lsn > since - '0/0')
CROSS JOIN LATERAL (SELECT
    CASE WHEN everywhere THEN past_ms
         WHEN o.ms IS NOT NULL THEN least(o.ms, past_ms)
         WHEN c.tag LIKE 'postgres\_1@%' THEN least(split_part(c.tag, '@', 2)::bigint, past_ms)
         WHEN split_part(c.tag, '@', -1)::bigint > past_ms THEN past_ms END,
    greatest(o.ms, split_part(c.tag, '@', -1)::bigint)) AS w (ms, as_of_ms)
$$;

-- The tags of a row without a record, for a delete by origin. Records go when they are kept_ms old and their authors have been
-- away as long (pruning.py): so an author who names his own write of then knows of the row, which he had written.
CREATE OR REPLACE FUNCTION electric.unrecorded(observed jsonb, origin text, kept_ms bigint) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE AS $$
SELECT coalesce(
    (SELECT ARRAY[min(seen)] FROM jsonb_array_elements_text(observed) AS seen
     WHERE left(seen, -length(split_part(seen, '@', -1)) - 1) = origin
       AND split_part(seen, '@', -1)::bigint < extract(epoch FROM now()) * 1000 - kept_ms
     HAVING count(*) > 0),
    '{postgres_1@0}')
$$;

-- The whole id of the transaction that left this xmin, which is its last 32 bits, on a row that we see. It is the nearest to our
-- own, but for one so old that it seems to be yet to come: a row that is frozen keeps its xmin.
CREATE OR REPLACE FUNCTION electric.whole_xid(row_xid xid) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    this CONSTANT bigint := pg_current_xact_id()::text::bigint;
    whole bigint := this - this % (1::bigint << 32) + row_xid::text::bigint;
BEGIN
    IF whole - this > 1::bigint << 31 THEN
        RETURN whole - (1::bigint << 32);
    ELSIF this - whole > 1::bigint << 31 THEN
        whole := whole + (1::bigint << 32);
    END IF;
    IF whole > this THEN
        BEGIN
            PERFORM pg_xact_status(whole::text::xid8);
        EXCEPTION WHEN invalid_parameter_value THEN
            RETURN whole - (1::bigint << 32);
        END;
    END IF;
    RETURN whole;
END
$$;

-- A time, in ms, after which the transaction committed that left this xmin on a row; 0 when none is known.
CREATE OR REPLACE FUNCTION electric.committed_after(row_xid xid) RETURNS bigint
LANGUAGE sql VOLATILE AS $$
SELECT coalesce((
    SELECT x.ms FROM electric.xids x WHERE x.xid <= electric.whole_xid(row_xid)
    ORDER BY x.xid DESC LIMIT 1), 0)
$$;

-- Whether the row that has this xmin, and that we see, was written by this transaction, or within it.
CREATE OR REPLACE FUNCTION electric.is_ours(row_xid xid) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
SELECT whole >= pg_current_xact_id()::text::bigint AND pg_xact_status(whole::text::xid8) = 'in progress'
FROM electric.whole_xid(row_xid) AS whole
$$;

-- Whether the stream is known to have brought whatever the transaction wrote that left this xmin on a row we have locked.
-- absorbed: {"horizon": an xid, whole, before which all are, "xmins": {xid: its commit in ms}, "gone": [keys]}; NULL: it always
-- has. What this transaction itself wrote, by a trigger say, nobody has to wait for.
CREATE OR REPLACE FUNCTION electric.is_absorbed(row_xid xid, absorbed jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    whole bigint;
BEGIN
    IF absorbed IS NULL OR absorbed -> 'xmins' ? row_xid::text THEN
        RETURN true;
    END IF;
    whole := electric.whole_xid(row_xid);
    RETURN coalesce(whole < (absorbed ->> 'horizon')::bigint, false) OR electric.is_ours(row_xid);
END
$$;
