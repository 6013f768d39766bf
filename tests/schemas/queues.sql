-- Queues in tables: jobs that workers fetch with SKIP LOCKED, retries, schedules, an outbox, locks, and what is dead.

CREATE TYPE job_state AS ENUM ('available', 'scheduled', 'executing', 'retryable', 'completed', 'discarded', 'cancelled');

CREATE TABLE queues (
    name text PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false,
    max_workers integer NOT NULL DEFAULT 10 CHECK (max_workers > 0),
    rate_limit interval
);

CREATE TABLE workers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    queue text NOT NULL DEFAULT 'default' REFERENCES queues ON DELETE SET DEFAULT,
    host text NOT NULL DEFAULT 'localhost',
    pid integer NOT NULL DEFAULT pg_backend_pid(),
    started_at timestamp without time zone NOT NULL DEFAULT timezone('UTC', now()),
    heartbeat timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE jobs (
    id bigserial PRIMARY KEY,
    state job_state NOT NULL DEFAULT 'available',
    queue text NOT NULL DEFAULT 'default' REFERENCES queues,
    worker text NOT NULL CHECK (char_length(worker) > 0 AND char_length(worker) < 128),
    args jsonb NOT NULL DEFAULT '{}',
    meta jsonb DEFAULT '{}',
    tags character varying(255)[] DEFAULT ARRAY[]::character varying[],
    errors jsonb[] NOT NULL DEFAULT ARRAY[]::jsonb[],
    attempt integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL DEFAULT 20,
    priority integer NOT NULL DEFAULT 0 CHECK (priority >= 0 AND priority <= 9),
    inserted_at timestamp NOT NULL DEFAULT timezone('UTC', now()),
    scheduled_at timestamp NOT NULL DEFAULT timezone('UTC', now()),
    attempted_at timestamp,
    attempted_by text[],
    finished_at timestamp,
    CONSTRAINT attempt_range CHECK (attempt BETWEEN 0 AND max_attempts),
    CONSTRAINT positive_max CHECK (max_attempts > 0)
);
CREATE INDEX jobs_next ON jobs (state, queue, priority, scheduled_at, id);
CREATE INDEX jobs_args ON jobs USING gin (args);

CREATE TABLE unique_jobs (
    fingerprint bytea PRIMARY KEY DEFAULT decode(md5(random()::text), 'hex'),
    job_id bigint NOT NULL UNIQUE REFERENCES jobs ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
    until timestamptz NOT NULL DEFAULT 'infinity'
);

CREATE TABLE dependencies (
    job_id bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
    needs bigint NOT NULL REFERENCES jobs ON DELETE CASCADE,
    on_failure text NOT NULL DEFAULT 'wait' CHECK (on_failure IN ('wait', 'skip', 'fail')),
    PRIMARY KEY (job_id, needs),
    CHECK (job_id > needs)
);

CREATE TABLE schedules (
    name varchar(100) PRIMARY KEY,
    cron varchar(50) NOT NULL DEFAULT '* * * * *',
    job_template json NOT NULL,
    next_run timestamptz,
    last_job bigint REFERENCES jobs ON DELETE SET NULL,
    enabled boolean NOT NULL DEFAULT true,
    CHECK (enabled = (next_run IS NOT NULL))
);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    partition_key text,
    payload bytea NOT NULL,
    headers jsonb NOT NULL DEFAULT jsonb_build_object('v', 1),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at timestamptz
);
CREATE INDEX outbox_unpublished ON outbox (id) WHERE published_at IS NULL;

-- What has been handled: no key, for nobody ever looks one up; the index says that it is once.
CREATE TABLE inbox (
    source text NOT NULL,
    message_id text NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX inbox_once ON inbox (source, message_id);

CREATE TABLE locks (
    name text PRIMARY KEY,
    holder uuid REFERENCES workers ON DELETE CASCADE,
    expires_at timestamptz NOT NULL DEFAULT now() + interval '30 seconds',
    token bigint NOT NULL DEFAULT (random() * 1000000)::bigint
);

CREATE TABLE dead_letters (
    LIKE jobs INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    died_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id)
);

CREATE TABLE counters (
    queue text PRIMARY KEY REFERENCES queues ON DELETE CASCADE,
    available bigint NOT NULL DEFAULT 0,
    total bigint NOT NULL DEFAULT 0
);

CREATE FUNCTION fetch_jobs(from_queue text, demand integer) RETURNS SETOF jobs LANGUAGE sql AS $$
UPDATE jobs SET state = 'executing', attempt = attempt + 1, attempted_at = timezone('UTC', now())
WHERE id IN (
    SELECT id FROM jobs WHERE state = 'available' AND queue = from_queue
    ORDER BY priority, scheduled_at, id LIMIT demand FOR UPDATE SKIP LOCKED)
RETURNING *
$$;

CREATE FUNCTION jobs_are_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO counters AS c (queue, available, total)
    VALUES (new.queue, (new.state = 'available')::integer, 1)
    ON CONFLICT (queue) DO UPDATE SET available = c.available + excluded.available, total = c.total + 1;
    PERFORM pg_notify('jobs', new.queue);
    RETURN NULL;
END $$;
CREATE TRIGGER counted AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_are_counted();

CREATE FUNCTION discarded_are_buried() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dead_letters SELECT new.* ON CONFLICT (id) DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER buried AFTER UPDATE OF state ON jobs
    FOR EACH ROW WHEN (new.state = 'discarded') EXECUTE FUNCTION discarded_are_buried();

INSERT INTO queues VALUES
    ('default', DEFAULT, DEFAULT, NULL), ('mail', false, 5, '00:00:01'), ('media', true, 2, NULL);
INSERT INTO workers (queue, host, pid) SELECT name, 'host-' || n, 4000 + n FROM queues, generate_series(1, 2) n;
INSERT INTO jobs (queue, worker, args, tags, errors, priority, scheduled_at)
SELECT CASE n % 3 WHEN 0 THEN 'mail' ELSE 'default' END, 'Worker' || n % 4, jsonb_build_object('user_id', n, 'to', '😀'),
    ARRAY['tag ' || n], CASE WHEN n % 5 = 0 THEN ARRAY['{"at": 1}'::jsonb] ELSE '{}' END, n % 10,
    timestamp '2024-05-01 10:00:00.123456' + n * interval '1 min' FROM generate_series(1, 20) n;
SELECT count(*) FROM fetch_jobs('default', 3);
UPDATE jobs SET state = 'discarded', finished_at = '2024-05-01 11:00' WHERE id IN (1, 4);
INSERT INTO unique_jobs (fingerprint, job_id) SELECT decode(md5(id::text), 'hex'), id FROM jobs WHERE id <= 6;
INSERT INTO dependencies SELECT id, id - 1 FROM jobs WHERE id % 4 = 0;
INSERT INTO schedules VALUES
    ('nightly', '0 3 * * *', '{"worker":  "Report"}', '2024-06-01 03:00+00', 2, true),
    ('weekly', '0 3 * * 1', '{"worker": "Digest", "args": []}', NULL, NULL, false);
INSERT INTO outbox (topic, partition_key, payload, published_at)
SELECT 'jobs', CASE WHEN n % 2 = 0 THEN 'k' || n END, ('payload ' || n)::bytea, CASE WHEN n < 4 THEN now() END
FROM generate_series(1, 8) n;
INSERT INTO inbox (source, message_id) SELECT 'billing', 'm-' || n FROM generate_series(1, 5) n;
INSERT INTO locks (name, holder) SELECT 'leader of ' || queue, id FROM workers WHERE host = 'host-1';
