-- Rows and bytes of the tables $1 (oid[]) as Postgres has counted them, and of what they are made of: no row is read. To look at
-- its files waits for whoever has a table locked, so one that is locked is taken by the last count of its pages. rows NULL: nobody
-- has ever counted.
WITH part AS MATERIALIZED (
    SELECT t.root, p.relid FROM unnest($1::oid[]) AS t (root) CROSS JOIN LATERAL pg_temp.parts(t.root) AS p (relid)
), held AS MATERIALIZED (
    SELECT l.relation FROM pg_locks l WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
), measured AS (
    SELECT part.root, c.relkind, c.reltuples, c.relpages, pg_stat_get_live_tuples(c.oid) AS live,
        coalesce(toast.relpages, 0) AS toast_pages, current_setting('block_size')::bigint AS page,
        c.oid NOT IN (SELECT relation FROM held) AND coalesce(toast.oid, 0) NOT IN (SELECT relation FROM held) AS free,
        c.oid AS relid, toast.oid AS toast
    FROM part JOIN pg_class c ON c.oid = part.relid LEFT JOIN pg_class toast ON toast.oid = c.reltoastrelid
), sized AS (
    SELECT m.*,
        CASE WHEN m.free THEN coalesce(pg_relation_size(m.relid), 0) ELSE m.relpages * m.page END AS main_bytes,
        CASE WHEN m.free AND m.toast IS NOT NULL THEN coalesce(pg_relation_size(m.toast), 0) ELSE m.toast_pages * m.page END AS toast_bytes
    FROM measured m WHERE m.relkind = 'r'
), counted AS (
    SELECT s.*, CASE
        WHEN s.reltuples >= 0 AND s.relpages > 0 THEN (s.reltuples / s.relpages * s.main_bytes / s.page)::bigint
        WHEN s.main_bytes = 0 THEN 0
        WHEN s.live > 0 THEN s.live
        WHEN s.reltuples > 0 THEN s.reltuples::bigint END AS rows
    FROM sized s
)
SELECT root::bigint AS relid,
    CASE WHEN bool_and(rows IS NOT NULL) THEN sum(rows)::bigint END AS rows,
    sum(main_bytes + toast_bytes)::bigint AS bytes,
    sum(toast_bytes)::bigint AS toast_bytes,
    bool_and(main_bytes = 0 OR reltuples >= 0 AND relpages > 0) AS analysed
FROM counted GROUP BY root
