-- electric.absorb(places, entries): what the stream says of direct SQL writes (electric.direct), an entry a row.
--
-- An entry that is there and as new is kept: the stream comes again after a restart. What is new goes by the position of the commit,
-- and in one transaction by its pieces. Column times add up, with the positions
-- that they are of, unless the row was deleted before: then it is another one, all of which came later than the delete. The
-- arrays are texts, because each table has its own width.
CREATE OR REPLACE FUNCTION electric.absorb(
    relids oid[], keys text[], lsns bigint[], pieces integer[], times bigint[], column_times text[], column_places text[], images text[]
) RETURNS void
LANGUAGE sql AS $$
INSERT INTO electric.direct AS d (relid, key, lsn, piece, ms, column_ms, column_lsn, "row")
SELECT relid, key, '0/0'::pg_lsn + lsn, piece, ms, column_ms::bigint[], column_lsn::bigint[], image::text[]
FROM unnest(relids, keys, lsns, pieces, times, column_times, column_places, images) AS e (relid, key, lsn, piece, ms, column_ms, column_lsn, image)
ORDER BY relid, key  -- two that absorb at once do not wait for each other in a circle
ON CONFLICT (relid, key) DO UPDATE SET
    lsn = excluded.lsn, piece = excluded.piece, ms = excluded.ms, "row" = excluded."row", absorbed_at = excluded.absorbed_at,
    (column_ms, column_lsn) = (
        SELECT coalesce(array_agg(greatest(coalesce(n.ms, CASE WHEN d."row" IS NOT NULL THEN excluded.ms END), o.ms)
                ORDER BY coalesce(n.place, o.place)), '{}'),
            coalesce(array_agg(CASE WHEN n.ms IS NOT NULL THEN n.lsn WHEN d."row" IS NULL THEN o.lsn ELSE d.lsn - '0/0' END
                ORDER BY coalesce(n.place, o.place)), '{}')
        FROM unnest(excluded.column_ms, excluded.column_lsn) WITH ORDINALITY AS n (ms, lsn, place)
        FULL JOIN unnest(d.column_ms, d.column_lsn) WITH ORDINALITY AS o (ms, lsn, place) USING (place))
WHERE (excluded.lsn, excluded.piece) > (d.lsn, d.piece)
$$;
