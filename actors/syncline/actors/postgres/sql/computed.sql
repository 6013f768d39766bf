-- Postgres 18 refuses UPDATE and DELETE on a published table of REPLICA IDENTITY FULL whose stored generated columns are not
-- published. Devices are not told of them in any case: the stream is read by the names of electric.tables.
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 180000
        AND EXISTS (SELECT FROM pg_publication WHERE pubname = 'electric_publication')  -- else the service makes it
    THEN
        ALTER PUBLICATION electric_publication SET (publish_generated_columns = stored);
    END IF;
END
$$;
