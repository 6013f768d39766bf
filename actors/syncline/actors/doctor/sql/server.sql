-- The server, the role that asks, and what is there already that has to do with logical replication.
SELECT jsonb_build_object(
    'database', current_database(),
    'quoted_database', quote_ident(current_database()),
    'version', current_setting('server_version_num')::integer,
    'version_text', current_setting('server_version'),
    'encoding', (SELECT pg_encoding_to_char(d.encoding) FROM pg_database d WHERE d.datname = current_database()),
    'settings', (
        SELECT jsonb_object_agg(s.name, s.setting) FROM pg_settings s
        WHERE s.name IN ('wal_level', 'max_replication_slots', 'max_wal_senders', 'max_slot_wal_keep_size', 'idle_replication_slot_timeout')
    ),
    'senders', (SELECT count(*) FROM pg_stat_replication),
    'slots', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'name', s.slot_name, 'kind', s.slot_type, 'plugin', s.plugin, 'database', s.database, 'active', s.active,
            'wal_status', s.wal_status, 'kept_bytes', greatest(0, pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn))::bigint
        ) ORDER BY s.slot_name)
        FROM pg_replication_slots s
    ), '[]'),
    'role', (
        SELECT jsonb_build_object(
            'name', current_user,
            'quoted', quote_ident(current_user),
            'login', session_user,
            'replicates', r.rolreplication OR r.rolsuper OR EXISTS (
                SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(current_user, g.oid, 'MEMBER')),
            'creates', has_database_privilege(current_database(), 'CREATE'),
            'bypasses_row_security', r.rolbypassrls OR r.rolsuper)
        FROM pg_roles r WHERE r.rolname = current_user
    ),
    'schema', (
        SELECT jsonb_build_object(
            'owner', n.nspowner::regrole::text,
            'owned', pg_has_role(n.nspowner, 'USAGE'),
            'ours', meta.relid IS NOT NULL,
            'readable', has_schema_privilege(n.oid, 'USAGE') AND NOT EXISTS (
                SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND NOT has_table_privilege(c.oid, 'SELECT')
                    AND c.relname IN ('meta', 'tables', 'migrations', 'unique_policies')))
        FROM pg_namespace n
        LEFT JOIN LATERAL (
            SELECT c.oid AS relid FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'value'
            WHERE c.relnamespace = n.oid AND c.relname = 'meta'
        ) AS meta ON true
        WHERE n.nspname = 'electric'
    ),
    'publications', coalesce((
        SELECT jsonb_agg(jsonb_build_object(
            'name', p.pubname, 'owner', p.pubowner::regrole::text, 'owned', pg_has_role(p.pubowner, 'USAGE'), 'all_tables', p.puballtables,
            'tables', (SELECT count(*) FROM pg_publication_rel r WHERE r.prpubid = p.oid)
        ) ORDER BY p.pubname)
        FROM pg_publication p
    ), '[]'),
    'event_triggers', coalesce((
        SELECT jsonb_agg(jsonb_build_object('name', e.evtname, 'event', e.evtevent) ORDER BY e.evtname)
        FROM pg_event_trigger e WHERE e.evtenabled IN ('O', 'A') AND e.evtevent <> 'login'
    ), '[]')
)
