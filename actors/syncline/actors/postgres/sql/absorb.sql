-- electric.absorb(places, entries): what the stream says of direct SQL writes (electric.direct), an entry a row.
--
-- An entry that is there and as new is kept: the stream comes again after a restart. Column times add up, unless the row was
-- deleted before: then it is another one, all of which came later. The arrays are texts, because each table has its own width.
CREATE OR REPLACE FUNCTION electric.absorb(
    relids oid[], keys text[], lsns bigint[], times bigint[], column_times text[], images text[]
) RETURNS void
LANGUAGE sql AS $$
INSERT INTO electric.direct AS d (relid, key, lsn, ms, column_ms, "row")
SELECT relid, key, '0/0'::pg_lsn + lsn, ms, column_ms::bigint[], image::text[]
FROM unnest(relids, keys, lsns, times, column_times, images) AS e (relid, key, lsn, ms, column_ms, image)
ORDER BY relid, key  -- two that absorb at once do not wait for each other in a circle
ON CONFLICT (relid, key) DO UPDATE SET
    lsn = excluded.lsn, ms = excluded.ms, "row" = excluded."row", absorbed_at = excluded.absorbed_at,
    column_ms = CASE WHEN d."row" IS NOT NULL THEN array_fill(excluded.ms, ARRAY[cardinality(excluded.column_ms)]) ELSE (
        SELECT coalesce(array_agg(coalesce(n.ms, o.ms) ORDER BY coalesce(n.place, o.place)), '{}')
        FROM unnest(excluded.column_ms) WITH ORDINALITY AS n (ms, place)
        FULL JOIN unnest(d.column_ms) WITH ORDINALITY AS o (ms, place) USING (place)) END
WHERE excluded.lsn > d.lsn
$$;
