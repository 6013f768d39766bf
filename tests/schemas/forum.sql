-- A forum: members, boards in a tree, topics and posts, votes, badges, private messages. Counters and the search text are
-- kept by triggers; names of members are compared without regard to case.

CREATE EXTENSION citext;
CREATE EXTENSION pg_trgm;

CREATE DOMAIN slug AS text CHECK (VALUE ~ '^[a-z0-9]+(-[a-z0-9]+)*$');
CREATE TYPE member_role AS ENUM ('guest', 'member', 'moderator', 'admin');
CREATE TYPE topic_state AS ENUM ('open', 'locked', 'archived');

CREATE TABLE members (
    id serial PRIMARY KEY,
    name citext NOT NULL UNIQUE CHECK (length(name) BETWEEN 2 AND 40),
    email varchar(120) NOT NULL,
    role member_role NOT NULL DEFAULT 'member',
    signature text NOT NULL DEFAULT '',
    reputation integer NOT NULL DEFAULT 0,
    post_count integer NOT NULL DEFAULT 0,
    joined_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz,
    last_ip inet,
    preferences jsonb NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX members_email_key ON members (lower(email));

CREATE TABLE bans (
    member_id integer PRIMARY KEY REFERENCES members ON DELETE CASCADE,
    reason text NOT NULL,
    during tstzrange NOT NULL DEFAULT tstzrange(now(), NULL),
    by_member integer REFERENCES members ON DELETE SET NULL,
    CHECK (member_id <> by_member)
);

CREATE TABLE boards (
    id serial PRIMARY KEY,
    parent_id integer REFERENCES boards ON DELETE RESTRICT,
    slug slug NOT NULL UNIQUE,
    title varchar(80) NOT NULL,
    description text,
    place smallint NOT NULL DEFAULT 0,
    topic_count integer NOT NULL DEFAULT 0
);
CREATE INDEX boards_by_place ON boards (parent_id, place);

CREATE TABLE topics (
    id bigserial PRIMARY KEY,
    board_id integer NOT NULL REFERENCES boards ON DELETE CASCADE,
    author_id integer REFERENCES members ON DELETE SET NULL,
    title varchar(200) NOT NULL CHECK (title <> ''),
    state topic_state NOT NULL DEFAULT 'open',
    pinned boolean NOT NULL DEFAULT false,
    views integer NOT NULL DEFAULT 0 CHECK (views >= 0),
    reply_count integer NOT NULL DEFAULT 0,
    tags text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    bumped_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX topics_by_activity ON topics (board_id, pinned DESC, bumped_at DESC);
CREATE INDEX topics_tags ON topics USING gin (tags);
CREATE INDEX topics_title_trgm ON topics USING gin (title gin_trgm_ops);
-- One pinned topic of a title on a board.
CREATE UNIQUE INDEX topics_pinned_title ON topics (board_id, title) WHERE pinned;

CREATE TABLE posts (
    id bigserial PRIMARY KEY,
    topic_id bigint NOT NULL REFERENCES topics ON DELETE CASCADE,
    author_id integer REFERENCES members ON DELETE SET NULL,
    reply_to bigint REFERENCES posts ON DELETE SET NULL,
    body text NOT NULL,
    body_length integer GENERATED ALWAYS AS (length(body)) STORED,
    search tsvector,
    score integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    edited_at timestamptz
);
CREATE INDEX posts_search ON posts USING gin (search);
CREATE INDEX posts_of_topic ON posts (topic_id, created_at);

CREATE TABLE votes (
    post_id bigint NOT NULL REFERENCES posts ON DELETE CASCADE,
    member_id integer NOT NULL REFERENCES members ON DELETE CASCADE,
    value smallint NOT NULL CHECK (value IN (-1, 1)),
    cast_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (post_id, member_id)
);

CREATE TABLE badges (
    code slug PRIMARY KEY,
    title text NOT NULL,
    colour char(7) NOT NULL DEFAULT '#808080' CHECK (colour ~ '^#[0-9a-f]{6}$')
);
CREATE TABLE awarded (
    badge slug NOT NULL REFERENCES badges ON UPDATE CASCADE ON DELETE CASCADE,
    member_id integer NOT NULL REFERENCES members ON DELETE CASCADE,
    awarded_on date NOT NULL DEFAULT current_date,
    PRIMARY KEY (badge, member_id)
);

CREATE TABLE conversations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    subject text,
    started_at timestamp(3) NOT NULL DEFAULT now()
);
CREATE TABLE participants (
    conversation_id uuid REFERENCES conversations ON DELETE CASCADE,
    member_id integer REFERENCES members ON DELETE CASCADE,
    muted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (conversation_id, member_id)
);
CREATE TABLE messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    conversation_id uuid NOT NULL,
    member_id integer NOT NULL,
    body text NOT NULL,
    attachment bytea,
    sent_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (conversation_id, member_id) REFERENCES participants ON DELETE CASCADE
);

CREATE FUNCTION posts_are_searchable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    new.search := to_tsvector('english', new.body);
    IF tg_op = 'UPDATE' AND new.body <> old.body THEN
        new.edited_at := now();
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER searchable BEFORE INSERT OR UPDATE OF body ON posts
    FOR EACH ROW EXECUTE FUNCTION posts_are_searchable();

CREATE FUNCTION posts_are_counted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF tg_op IN ('INSERT', 'UPDATE') THEN
        UPDATE topics SET reply_count = reply_count + 1, bumped_at = greatest(bumped_at, new.created_at)
            WHERE id = new.topic_id;
        UPDATE members SET post_count = post_count + 1 WHERE id = new.author_id;
    END IF;
    IF tg_op IN ('DELETE', 'UPDATE') THEN
        UPDATE topics SET reply_count = reply_count - 1 WHERE id = old.topic_id;
        UPDATE members SET post_count = post_count - 1 WHERE id = old.author_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER counted AFTER INSERT OR DELETE OR UPDATE OF topic_id, author_id ON posts
    FOR EACH ROW EXECUTE FUNCTION posts_are_counted();

CREATE FUNCTION votes_are_fair() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM posts WHERE id = new.post_id AND author_id = new.member_id) THEN
        RAISE EXCEPTION 'member % votes for a post of their own', new.member_id;
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER fair BEFORE INSERT OR UPDATE ON votes FOR EACH ROW EXECUTE FUNCTION votes_are_fair();

CREATE VIEW board_activity AS
    SELECT board_id, count(*) AS topics, max(bumped_at) AS newest FROM topics GROUP BY board_id;

INSERT INTO members (name, email, role, last_ip, preferences)
SELECT name, lower(name) || '@forum.example', role::member_role, ip::inet, preferences::jsonb
FROM (VALUES
    ('Ada', 'admin', '192.0.2.1', '{"theme": "dark"}'), ('Berit', 'moderator', '192.0.2.0/24', '{}'),
    ('Carlos', 'member', NULL, '{"mail": {"weekly": true}}'), ('dmitri', 'member', '2001:db8::4', '{}'),
    ('Eun-ji', 'member', NULL, '{}'), ('Fatou', 'guest', '198.51.100.7', '[]')
) AS m (name, role, ip, preferences);
INSERT INTO bans VALUES (6, 'spam', '[2024-03-01 00:00+00,2024-04-01 00:00+00)', 1);
INSERT INTO boards (parent_id, slug, title, place) VALUES
    (NULL, 'general', 'General', 0), (1, 'welcome', 'Say hello', 0), (1, 'off-topic', 'Off topic', 1),
    (NULL, 'help', 'Help', 1);
INSERT INTO topics (board_id, author_id, title, pinned, tags)
SELECT 1 + n % 4, 1 + n % 5, 'Topic ' || n, n % 6 = 0, ARRAY['t' || n % 3, 'it''s "quoted"']
FROM generate_series(1, 12) n;
INSERT INTO posts (topic_id, author_id, reply_to, body)
SELECT 1 + n % 12, 1 + n % 5, CASE WHEN n > 20 THEN n - 20 END, 'Post ' || n || ' about cats and their naïve 😀 owners'
FROM generate_series(1, 36) n;
INSERT INTO votes (post_id, member_id, value)
SELECT n, 1 + (n + 1) % 5, CASE WHEN n % 4 = 0 THEN -1 ELSE 1 END FROM generate_series(1, 20) n;
INSERT INTO badges VALUES ('first-post', 'First post', '#00ff00'), ('old-hand', 'Old hand', DEFAULT);
INSERT INTO awarded (badge, member_id) SELECT 'first-post', n FROM generate_series(1, 4) n;
INSERT INTO conversations (subject) VALUES ('Lunch?'), (NULL), ('Rules');
INSERT INTO participants SELECT c.id, m.id FROM conversations c CROSS JOIN members m WHERE m.id <= 3;
INSERT INTO messages (conversation_id, member_id, body, attachment)
SELECT conversation_id, member_id, 'Hello from ' || member_id, CASE WHEN member_id = 2 THEN '\x00ff10'::bytea END
FROM participants;
