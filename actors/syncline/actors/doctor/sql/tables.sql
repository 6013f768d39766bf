-- Each of the tables $1 (oid[]), as JSON. To print an expression Postgres waits for whoever has its table locked (of some kinds in
-- later majors alone), so of one that is locked there are no expressions, and no description, which has some.
WITH held AS MATERIALIZED (
    SELECT DISTINCT l.relation FROM pg_locks l WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
), target AS MATERIALIZED (
    SELECT c.*, n.nspname, c.oid IN (SELECT relation FROM held) AS locked
    FROM unnest($1::oid[]) AS t (relid) JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
), decided AS MATERIALIZED (
    SELECT t.oid, pg_temp.key_of(t.oid) AS key, o.message, o.hint, o.state,
        CASE WHEN o.message IS NULL AND NOT t.locked THEN pg_temp.describe(t.oid) END AS description
    FROM target t CROSS JOIN LATERAL pg_temp.obstacle(t.oid) AS o
), key_column AS MATERIALIZED (
    SELECT d.oid AS relid, a FROM decided d JOIN pg_attribute a ON a.attrelid = d.oid AND a.attnum = ANY (d.key)
), ambiguous AS MATERIALIZED (  -- asked once for all columns that are alike
    SELECT (k.a).atttypid, (k.a).atttypmod, (k.a).attcollation, pg_temp.is_ambiguous((array_agg(k.a))[1]) AS ambiguous
    FROM key_column k GROUP BY 1, 2, 3
), columns AS (
    SELECT a.attrelid, jsonb_agg(jsonb_build_object(
        'name', a.attname,
        'type', format_type(a.atttypid, a.atttypmod),
        'not_null', a.attnotnull,
        'generated', a.attgenerated,
        'default', CASE WHEN NOT t.locked THEN pg_get_expr(d.adbin, d.adrelid) END,
        'sequence', s.name
    ) ORDER BY a.attnum) AS list
    FROM target t
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN LATERAL (  -- that of an identity column, or one that its default takes values of
        SELECT min(format('%I.%I', sn.nspname, sc.relname)) AS name
        FROM (
            SELECT p.objid AS oid FROM pg_depend p
            WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = a.attrelid AND p.refobjsubid = a.attnum
                AND p.classid = 'pg_class'::regclass AND p.deptype = 'i'
            UNION ALL
            SELECT p.refobjid FROM pg_depend p
            WHERE p.classid = 'pg_attrdef'::regclass AND p.objid = d.oid AND p.refclassid = 'pg_class'::regclass
        ) AS u JOIN pg_class sc ON sc.oid = u.oid AND sc.relkind = 'S' JOIN pg_namespace sn ON sn.oid = sc.relnamespace
    ) AS s ON true
    GROUP BY a.attrelid
), constraints AS (
    SELECT c.conrelid, jsonb_agg(jsonb_build_object(
        'name', c.conname,
        'kind', c.contype,
        'columns', coalesce(pg_temp.column_names(c.conrelid, c.conkey), '[]'),
        'definition', CASE WHEN NOT t.locked AND c.contype IN ('c', 'x') THEN pg_get_constraintdef(c.oid) END,
        'refers_to', c.confrelid::bigint,
        'refers_to_name', pg_temp.full_name(nullif(c.confrelid, 0)),
        'refers_to_columns', pg_temp.column_names(c.confrelid, c.confkey)
    ) ORDER BY c.conname) AS list
    FROM target t JOIN pg_constraint c ON c.conrelid = t.oid AND c.contype IN ('p', 'u', 'c', 'f', 'x') AND c.conparentid = 0
    GROUP BY c.conrelid
), indexes AS (
    SELECT i.indrelid, jsonb_agg(jsonb_build_object(
        'oid', i.indexrelid::bigint,
        'name', ic.relname,
        'columns', pg_temp.column_names(i.indrelid, (i.indkey::smallint[])[0:i.indnkeyatts - 1]),
        'partial', i.indpred IS NOT NULL,
        'expressions', i.indexprs IS NOT NULL
    ) ORDER BY ic.relname) AS list
    FROM target t JOIN pg_index i ON i.indrelid = t.oid AND i.indisunique AND NOT i.indisprimary AND i.indisvalid
    JOIN pg_class ic ON ic.oid = i.indexrelid
    GROUP BY i.indrelid
), triggers AS (
    SELECT g.tgrelid, jsonb_agg(g.tgname ORDER BY g.tgname) AS list
    FROM target t JOIN pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A')
    GROUP BY g.tgrelid
)
SELECT t.oid::bigint AS relid, jsonb_build_object(
    'schema', t.nspname,
    'quoted_schema', quote_ident(t.nspname),
    'table', t.relname,
    'name', format('%I.%I', t.nspname, t.relname),
    'kind', t.relkind,
    'persistence', t.relpersistence,
    'owner', t.relowner::regrole::text,
    'owned', pg_has_role(t.relowner, 'USAGE'),
    'schema_usage', has_schema_privilege(t.relnamespace, 'USAGE'),
    'obstacle', CASE WHEN d.message IS NOT NULL THEN jsonb_build_object('message', d.message, 'hint', d.hint, 'state', d.state) END,
    'description', d.description,
    'columns', coalesce(columns.list, '[]'),
    'ambiguous_key', coalesce((
        SELECT jsonb_agg((k.a).attname ORDER BY (k.a).attnum) FROM key_column k JOIN ambiguous m
            ON (m.atttypid, m.atttypmod, m.attcollation) = ((k.a).atttypid, (k.a).atttypmod, (k.a).attcollation) AND m.ambiguous
        WHERE k.relid = t.oid), '[]'),
    'ties', CASE WHEN d.description IS NOT NULL AND EXISTS (  -- otherwise there are none
        SELECT FROM pg_temp.ties(t.oid) AS tie WHERE tie.kind = 'generated' OR cardinality(tie.numbers) > 1) THEN coalesce((
        SELECT jsonb_agg(ARRAY(SELECT d.description -> 'columns' -> (place - 1) ->> 'name' FROM unnest(tied) AS place) ORDER BY tied)
        FROM pg_temp.tied_columns(t.oid, d.description) AS tied), '[]') ELSE '[]' END,
    'constraints', coalesce(constraints.list, '[]'),
    'unique_indexes', coalesce(indexes.list, '[]'),
    'triggers', coalesce(triggers.list, '[]'),
    'rules', coalesce((SELECT jsonb_agg(r.rulename ORDER BY r.rulename) FROM pg_rewrite r WHERE r.ev_class = t.oid AND r.ev_enabled <> 'D'), '[]'),
    'partitions', CASE t.relkind WHEN 'p' THEN (
        SELECT count(*) FROM pg_temp.parts(t.oid) AS p (relid) JOIN pg_class c ON c.oid = p.relid WHERE c.relkind <> 'p') ELSE 0 END,
    'inherits_from', coalesce((SELECT jsonb_agg(pg_temp.full_name(i.inhparent) ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = t.oid), '[]'),
    'inherited_by', CASE t.relkind WHEN 'r' THEN coalesce((
        SELECT jsonb_agg(pg_temp.full_name(i.inhrelid) ORDER BY 1) FROM pg_inherits i WHERE i.inhparent = t.oid), '[]') ELSE '[]' END,
    'row_security_holds', row_security_active(t.oid),
    'policies', (SELECT count(*) FROM pg_policy p WHERE p.polrelid = t.oid),
    'replica_identity', t.relreplident,
    'replica_identity_index', CASE t.relreplident WHEN 'i' THEN (
        SELECT ic.relname FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid WHERE i.indrelid = t.oid AND i.indisreplident) END
)::text AS facts
FROM target t
JOIN decided d ON d.oid = t.oid
LEFT JOIN columns ON columns.attrelid = t.oid
LEFT JOIN constraints ON constraints.conrelid = t.oid
LEFT JOIN indexes ON indexes.indrelid = t.oid
LEFT JOIN triggers ON triggers.tgrelid = t.oid
ORDER BY t.nspname COLLATE "C", t.relname COLLATE "C"
