-- A music library in which the database checks everything: lengths, patterns, ranges, lists, and what columns have to do
-- with one another.

CREATE DOMAIN mbid AS uuid CHECK (VALUE <> '00000000-0000-0000-0000-000000000000');
CREATE DOMAIN isrc AS char(12) CHECK (VALUE ~ '^[A-Z]{2}[A-Z0-9]{3}[0-9]{7}$');
CREATE DOMAIN barcode AS text CHECK (VALUE ~ '^[0-9]{8,14}$');
CREATE DOMAIN title AS text
    CHECK (VALUE <> '') CHECK (char_length(VALUE) <= 300) CHECK (VALUE = btrim(VALUE)) CHECK (VALUE !~ '[\n\r\t]');
CREATE DOMAIN edits_pending AS integer DEFAULT 0 NOT NULL CHECK (VALUE >= 0);
CREATE DOMAIN part_of_date AS smallint;
CREATE TYPE fade AS ENUM ('in', 'out', 'both');

CREATE TABLE areas (
    id serial PRIMARY KEY CHECK (id > 0),
    gid mbid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    name title NOT NULL,
    iso char(2) CHECK (iso ~ '^[A-Z]{2}$'),
    kind smallint NOT NULL DEFAULT 1 CHECK (kind IN (1, 2, 3, 4)),
    part_of integer REFERENCES areas CHECK (part_of <> id),
    edits_pending edits_pending,
    CHECK (kind <> 1 OR iso IS NOT NULL),
    CHECK (kind <> 1 OR part_of IS NULL)
);

CREATE TABLE artists (
    id serial PRIMARY KEY CHECK (id > 0),
    gid mbid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    name title NOT NULL,
    sort_name title NOT NULL,
    kind varchar(10) NOT NULL DEFAULT 'person' CHECK (kind IN ('person', 'group', 'orchestra', 'choir', 'other')),
    gender varchar(10) CHECK (gender IN ('female', 'male', 'other')),
    area integer REFERENCES areas,
    begin_year part_of_date CHECK (begin_year BETWEEN 1000 AND 2100),
    begin_month part_of_date CHECK (begin_month BETWEEN 1 AND 12),
    begin_day part_of_date CHECK (begin_day BETWEEN 1 AND 31),
    end_year part_of_date CHECK (end_year BETWEEN 1000 AND 2100),
    end_month part_of_date CHECK (end_month BETWEEN 1 AND 12),
    end_day part_of_date CHECK (end_day BETWEEN 1 AND 31),
    ended boolean NOT NULL DEFAULT false,
    comment varchar(255) NOT NULL DEFAULT '' CHECK (comment = btrim(comment)),
    edits_pending edits_pending,
    last_updated timestamptz DEFAULT now() CHECK (last_updated > '2000-01-01 00:00+00'),
    CONSTRAINT only_people_have_a_gender CHECK (gender IS NULL OR kind = 'person'),
    CONSTRAINT month_of_a_year CHECK (begin_month IS NULL OR begin_year IS NOT NULL),
    CONSTRAINT day_of_a_month CHECK (begin_day IS NULL OR begin_month IS NOT NULL),
    CONSTRAINT end_month_of_a_year CHECK (end_month IS NULL OR end_year IS NOT NULL),
    CONSTRAINT end_day_of_a_month CHECK (end_day IS NULL OR end_month IS NOT NULL),
    CONSTRAINT begins_before_end CHECK (begin_year IS NULL OR end_year IS NULL OR begin_year <= end_year),
    CONSTRAINT what_has_an_end_has_ended CHECK (end_year IS NULL OR ended)
);

CREATE TABLE artist_credits (
    id serial PRIMARY KEY CHECK (id > 0),
    name title NOT NULL,
    artist_count smallint NOT NULL CHECK (artist_count > 0 AND artist_count < 100),
    ref_count integer NOT NULL DEFAULT 0 CHECK (ref_count >= 0)
);
CREATE TABLE artist_credit_names (
    credit integer NOT NULL REFERENCES artist_credits ON DELETE CASCADE,
    position smallint NOT NULL CHECK (position >= 0) CHECK (position < 100),
    artist integer NOT NULL REFERENCES artists,
    name title NOT NULL,
    join_phrase text NOT NULL DEFAULT '' CHECK (char_length(join_phrase) < 50),
    PRIMARY KEY (credit, position)
);

CREATE TABLE labels (
    id serial PRIMARY KEY CHECK (id > 0),
    gid mbid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    name title NOT NULL,
    label_code integer CHECK (label_code > 0 AND label_code < 1000000),
    founded smallint CHECK (founded >= 1800) CHECK (founded <= 2100),
    edits_pending edits_pending
);

CREATE TABLE release_groups (
    id serial PRIMARY KEY CHECK (id > 0),
    gid mbid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    name title NOT NULL,
    credit integer NOT NULL REFERENCES artist_credits,
    kind text NOT NULL DEFAULT 'album' CHECK (kind IN ('album', 'single', 'ep', 'broadcast')),
    rating smallint CHECK (rating >= 0 AND rating <= 100),
    rating_count integer CHECK (rating_count > 0),
    CHECK ((rating IS NULL) = (rating_count IS NULL))
);

CREATE TABLE releases (
    id serial PRIMARY KEY CHECK (id > 0),
    gid mbid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    release_group integer NOT NULL REFERENCES release_groups ON DELETE CASCADE,
    name title NOT NULL,
    status text CHECK (status = ANY (ARRAY['official', 'promotion', 'bootleg'])),
    barcode barcode,
    language char(3) DEFAULT 'eng' CHECK (language ~ '^[a-z]{3}$'),
    quality smallint NOT NULL DEFAULT -1 CHECK (quality IN (-1, 0, 1, 2)),
    released date CHECK (released >= '1900-01-01') CHECK (released < '2200-01-01'),
    price numeric(8, 2) CHECK (price > 0) CHECK (price < 100000),
    notes text CHECK (notes IS NULL OR length(notes) BETWEEN 1 AND 10000),
    edits_pending edits_pending
);
CREATE TABLE release_labels (
    id serial PRIMARY KEY CHECK (id > 0),
    release integer NOT NULL REFERENCES releases ON DELETE CASCADE,
    label integer REFERENCES labels ON DELETE SET NULL,
    catalog_number text CHECK (catalog_number <> '') CHECK (catalog_number = upper(catalog_number)),
    CHECK (label IS NOT NULL OR catalog_number IS NOT NULL)
);

CREATE TABLE media (
    id serial PRIMARY KEY CHECK (id > 0),
    release integer NOT NULL REFERENCES releases ON DELETE CASCADE,
    position smallint NOT NULL CHECK (position > 0) CHECK (position < 200),
    format text CHECK (format IN ('cd', 'vinyl', 'cassette', 'digital', 'reel')),
    track_count smallint NOT NULL DEFAULT 0 CHECK (track_count >= 0) CHECK (track_count < 1000),
    name varchar(100) NOT NULL DEFAULT '' CHECK (name = btrim(name)),
    UNIQUE (release, position)
);

CREATE TABLE recordings (
    id serial PRIMARY KEY CHECK (id > 0),
    gid mbid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    name title NOT NULL,
    credit integer NOT NULL REFERENCES artist_credits,
    length_ms integer CHECK (length_ms IS NULL OR length_ms > 0) CHECK (length_ms < 100000000),
    video boolean NOT NULL DEFAULT false,
    tempo real CHECK (tempo > 0 AND tempo < 1000),
    loudness double precision CHECK (loudness BETWEEN -100 AND 10),
    tuning numeric(6, 2) NOT NULL DEFAULT 440.00 CHECK (tuning BETWEEN 300 AND 600),
    fades fade CHECK (fades <> 'both' OR NOT video),
    markers integer[] NOT NULL DEFAULT '{}' CHECK (cardinality(markers) <= 10) CHECK (0 < ALL (markers)),
    CHECK (NOT video OR tempo IS NULL OR tempo < 400)
);
CREATE TABLE isrcs (
    isrc isrc PRIMARY KEY,
    recording integer NOT NULL REFERENCES recordings ON DELETE CASCADE,
    source smallint CHECK (source IN (0, 1, 2))
);

CREATE TABLE tracks (
    id serial PRIMARY KEY CHECK (id > 0),
    medium integer NOT NULL REFERENCES media ON DELETE CASCADE,
    recording integer NOT NULL REFERENCES recordings,
    position smallint NOT NULL CHECK (position >= 0) CHECK (position < 1000),
    number text NOT NULL CHECK (number ~ '^[A-Z]?[0-9]{1,3}$'),
    name title NOT NULL,
    length_ms integer CHECK (length_ms > 0),
    is_data boolean NOT NULL DEFAULT false,
    UNIQUE (medium, position),
    CHECK (NOT is_data OR length_ms IS NULL)
);

CREATE TABLE works (
    id serial PRIMARY KEY CHECK (id > 0),
    name title NOT NULL,
    opus varchar(20) CHECK (opus ~ '^(Op|BWV|KV|D)\. ?[0-9]+[a-z]?$'),
    key_signature varchar(8) CHECK (key_signature ~ '^[A-G][#b]? (maj|min)$'),
    composed int4range CHECK (lower(composed) >= 800) CHECK (upper(composed) <= 2101),
    iswc char(11) UNIQUE CHECK (iswc ~ '^T[0-9]{10}$')
);
CREATE TABLE performances (
    recording integer NOT NULL REFERENCES recordings ON DELETE CASCADE,
    work integer NOT NULL REFERENCES works ON DELETE CASCADE,
    live boolean NOT NULL DEFAULT false,
    partial boolean NOT NULL DEFAULT false,
    instrument text CHECK (instrument = lower(instrument)) CHECK (instrument <> ''),
    PRIMARY KEY (recording, work),
    CHECK (NOT (live AND partial))
);

CREATE TABLE ratings (
    recording integer NOT NULL REFERENCES recordings ON DELETE CASCADE,
    listener text NOT NULL CHECK (listener ~ '^[a-z][a-z0-9_]{2,19}$'),
    stars numeric(2, 1) NOT NULL CHECK (stars BETWEEN 0.5 AND 5) CHECK (stars * 2 = trunc(stars * 2)),
    rated_at timestamptz NOT NULL DEFAULT now() CHECK (rated_at > '2001-01-01 00:00+00'),
    PRIMARY KEY (recording, listener)
);

CREATE TABLE instruments (
    id smallserial PRIMARY KEY CHECK (id > 0),
    name title NOT NULL UNIQUE,
    family text NOT NULL DEFAULT 'strings' CHECK (family IN ('strings', 'winds', 'brass', 'keys', 'percussion', 'voice')),
    hornbostel_sachs varchar(12) CHECK (hornbostel_sachs ~ '^[1-5][0-9.]*$') CHECK (right(hornbostel_sachs, 1) <> '.'),
    lowest smallint CHECK (lowest BETWEEN 0 AND 127),
    highest smallint CHECK (highest BETWEEN 0 AND 127),
    transposes smallint NOT NULL DEFAULT 0 CHECK (transposes BETWEEN -24 AND 24),
    invented int4range CHECK (NOT isempty(invented)) CHECK (lower(invented) > -4000),
    CHECK (lowest <= highest)
);

CREATE TABLE venues (
    id serial PRIMARY KEY CHECK (id > 0),
    gid mbid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    name title NOT NULL,
    area integer REFERENCES areas CHECK (area > 0),
    capacity integer CHECK (capacity > 0) CHECK (capacity <= 500000),
    seats integer CHECK (seats >= 0),
    lat numeric(8, 5) CHECK (lat BETWEEN -90 AND 90),
    lon numeric(8, 5) CHECK (lon BETWEEN -180 AND 180),
    postcode varchar(10) CHECK (postcode ~ '^[A-Z0-9 -]+$') CHECK (length(postcode) >= 3),
    phone text CHECK (phone ~ '^[+][0-9 ]{6,20}$'),
    website text CHECK (website LIKE 'http%') CHECK (website NOT LIKE '% %') CHECK (length(website) < 200),
    opened date CHECK (opened > '1500-01-01'),
    closed date CHECK (closed < '2200-01-01'),
    CHECK ((lat IS NULL) = (lon IS NULL)),
    CHECK (seats <= capacity),
    CHECK (opened <= closed)
);
CREATE TABLE concerts (
    id serial PRIMARY KEY CHECK (id > 0),
    venue integer NOT NULL REFERENCES venues ON DELETE CASCADE CHECK (venue > 0),
    starts timestamptz NOT NULL CHECK (starts > '1850-01-01 00:00+00'),
    ends timestamptz CHECK (ends < '2200-01-01 00:00+00'),
    doors time CHECK (doors BETWEEN '06:00' AND '23:59'),
    ticket numeric(7, 2) NOT NULL DEFAULT 0 CHECK (ticket >= 0) CHECK (ticket < 10000),
    reduced numeric(7, 2) CHECK (reduced >= 0),
    currency char(3) NOT NULL DEFAULT 'EUR' CHECK (currency IN ('EUR', 'NOK', 'BRL', 'GBP')),
    sold integer NOT NULL DEFAULT 0 CHECK (sold >= 0),
    state varchar(9) NOT NULL DEFAULT 'planned' CHECK (state IN ('planned', 'sold out', 'cancelled', 'over')),
    rating real CHECK (rating >= 0) CHECK (rating <= 5),
    poster bytea CHECK (octet_length(poster) <= 1000000),
    setlist jsonb NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(setlist) = 'array'),
    CHECK (ends > starts),
    CHECK (reduced <= ticket),
    CHECK (state <> 'sold out' OR sold > 0),
    CHECK (ticket * 100 = trunc(ticket * 100))
);
CREATE TABLE appearances (
    concert integer NOT NULL REFERENCES concerts ON DELETE CASCADE CHECK (concert > 0),
    artist integer NOT NULL REFERENCES artists CHECK (artist > 0),
    instrument smallint REFERENCES instruments CHECK (instrument > 0),
    position smallint NOT NULL DEFAULT 1 CHECK (position BETWEEN 1 AND 500),
    billing text CHECK (billing IN ('headline', 'support', 'guest')),
    minutes smallint CHECK (minutes > 0) CHECK (minutes < 1440) CHECK (minutes % 5 = 0),
    fee numeric(10, 2) CHECK (fee >= 0),
    PRIMARY KEY (concert, artist),
    CHECK (billing <> 'guest' OR minutes IS NULL OR minutes <= 60)
);

CREATE TABLE listeners (
    name text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{2,19}$'),
    email text NOT NULL CHECK (email LIKE '%_@_%') CHECK (email NOT LIKE '% %') CHECK (email = lower(email)),
    born smallint CHECK (born BETWEEN 1900 AND 2020),
    country char(2) CHECK (country = upper(country)) CHECK (country ~ '^[A-Z]+$'),
    language varchar(5) NOT NULL DEFAULT 'en' CHECK (language ~ '^[a-z]{2}(-[A-Z]{2})?$'),
    plan text NOT NULL DEFAULT 'free' CHECK (plan IN ('free', 'single', 'family')),
    seats smallint NOT NULL DEFAULT 1 CHECK (seats BETWEEN 1 AND 6),
    volume smallint NOT NULL DEFAULT 80 CHECK (volume >= 0) CHECK (volume <= 100),
    bass smallint NOT NULL DEFAULT 0 CHECK (bass BETWEEN -12 AND 12),
    treble smallint NOT NULL DEFAULT 0 CHECK (treble BETWEEN -12 AND 12),
    crossfade_s numeric(3, 1) NOT NULL DEFAULT 0 CHECK (crossfade_s BETWEEN 0 AND 12),
    colour char(7) NOT NULL DEFAULT '#000000' CHECK (colour ~ '^#[0-9a-f]{6}$'),
    muted text[] NOT NULL DEFAULT '{}' CHECK (cardinality(muted) < 100) CHECK (NOT 'everything' = ANY (muted)),
    balance double precision NOT NULL DEFAULT 0 CHECK (balance >= -1) CHECK (balance <= 1),
    CHECK (plan = 'family' OR seats = 1)
);
CREATE TABLE playlists (
    id bigserial PRIMARY KEY CHECK (id > 0),
    listener text NOT NULL REFERENCES listeners ON DELETE CASCADE CHECK (listener <> ''),
    name varchar(100) NOT NULL CHECK (name <> '') CHECK (name = btrim(name)),
    kind char(1) NOT NULL DEFAULT 'p' CHECK (kind IN ('p', 's', 'c')),
    followers integer NOT NULL DEFAULT 0 CHECK (followers >= 0),
    length_ms bigint NOT NULL DEFAULT 0 CHECK (length_ms >= 0) CHECK (length_ms < 10000000000),
    rule jsonb CHECK (jsonb_typeof(rule) = 'object'),
    cover bytea CHECK (octet_length(cover) BETWEEN 1 AND 100000),
    is_public boolean NOT NULL DEFAULT false,
    slug text CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$') CHECK (length(slug) <= 60),
    made_on date NOT NULL DEFAULT CURRENT_DATE CHECK (made_on >= '2001-01-01'),
    UNIQUE (listener, name),
    CHECK ((kind = 's') = (rule IS NOT NULL)),
    CHECK (NOT is_public OR slug IS NOT NULL)
);
CREATE TABLE playlist_tracks (
    playlist bigint NOT NULL REFERENCES playlists ON DELETE CASCADE CHECK (playlist > 0),
    position integer NOT NULL CHECK (position > 0) CHECK (position <= 10000),
    recording integer NOT NULL REFERENCES recordings ON DELETE CASCADE CHECK (recording > 0),
    starts_ms integer NOT NULL DEFAULT 0 CHECK (starts_ms >= 0),
    ends_ms integer CHECK (ends_ms > 0),
    gain_db numeric(4, 1) NOT NULL DEFAULT 0 CHECK (gain_db BETWEEN -60 AND 12),
    note varchar(140) CHECK (note <> '') CHECK (note !~ '[<>]'),
    PRIMARY KEY (playlist, position),
    CHECK (starts_ms < ends_ms)
);
CREATE TABLE plays (
    listener text NOT NULL REFERENCES listeners ON DELETE CASCADE CHECK (length(listener) > 2),
    at timestamptz NOT NULL CHECK (at > '2001-01-01 00:00+00') CHECK (at < '2200-01-01 00:00+00'),
    recording integer NOT NULL REFERENCES recordings ON DELETE CASCADE CHECK (recording > 0),
    ms integer NOT NULL CHECK (ms >= 0) CHECK (ms < 100000000),
    device text NOT NULL DEFAULT 'phone' CHECK (device IN ('phone', 'desktop', 'speaker', 'car', 'web')),
    quality smallint CHECK (quality IN (96, 160, 320)),
    offline boolean NOT NULL DEFAULT false,
    skipped boolean NOT NULL DEFAULT false,
    PRIMARY KEY (listener, at),
    CHECK (NOT skipped OR ms < 600000),
    CHECK (NOT (offline AND device = 'web'))
);

CREATE FUNCTION count_tracks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE media m SET track_count = (SELECT count(*) FROM tracks t WHERE t.medium = m.id)
    WHERE m.id IN (new.medium, old.medium);
    RETURN NULL;
END $$;
CREATE TRIGGER counted AFTER INSERT OR DELETE OR UPDATE OF medium ON tracks
    FOR EACH ROW EXECUTE FUNCTION count_tracks();

INSERT INTO areas (name, iso, kind, part_of) VALUES
    ('Norway', 'NO', 1, NULL), ('Brazil', 'BR', 1, NULL), ('Oslo', NULL, 3, 1), ('Bahia', 'BA', 2, 2);
INSERT INTO artists (name, sort_name, kind, gender, area, begin_year, begin_month, begin_day, end_year, ended) VALUES
    ('Siri Holm', 'Holm, Siri', 'person', 'female', 1, 1971, 2, 28, NULL, false),
    ('João Prado', 'Prado, João', 'person', 'male', 4, 1935, NULL, NULL, 2001, true),
    ('The Quiet Hours', 'Quiet Hours, The', 'group', NULL, 3, 1999, 9, NULL, NULL, false),
    ('Fjordkoret', 'Fjordkoret', 'choir', NULL, 1, NULL, NULL, NULL, NULL, true);
INSERT INTO artist_credits (name, artist_count) SELECT name, 1 FROM artists;
INSERT INTO artist_credits (name, artist_count) VALUES ('Siri Holm & João Prado', 2);
INSERT INTO artist_credit_names (credit, position, artist, name) SELECT id, 0, id, name FROM artists;
INSERT INTO artist_credit_names VALUES (5, 0, 1, 'Siri Holm', ' & '), (5, 1, 2, 'João Prado', DEFAULT);
INSERT INTO labels (name, label_code, founded) VALUES ('Nordlys', 1234, 1968), ('Tropicália', NULL, 1959);
INSERT INTO release_groups (name, credit, kind, rating, rating_count)
SELECT 'Album ' || n, n, CASE WHEN n = 3 THEN 'ep' ELSE 'album' END, nullif(n, 2) * 20, nullif(n, 2)
FROM generate_series(1, 5) n;
INSERT INTO releases (release_group, name, status, barcode, released, price, notes)
SELECT id, name, CASE id % 2 WHEN 0 THEN 'official' END, '73' || lpad(id::text, 10, '0'), date '1999-12-31' + id * 100,
    9.50 * id, nullif(repeat('x', id - 1), '') FROM release_groups;
INSERT INTO release_labels (release, label, catalog_number)
SELECT id, CASE WHEN id > 2 THEN 1 + id % 2 END, 'NL ' || id FROM releases;
INSERT INTO media (release, position, format) SELECT id, n, 'cd' FROM releases, generate_series(1, 2) n;
INSERT INTO recordings (name, credit, length_ms, tempo, loudness, fades, markers)
SELECT 'Song ' || n, 1 + n % 5, 180000 + n, 90.5 + n, -14.25, CASE n % 3 WHEN 0 THEN 'out'::fade END, ARRAY[n, n + 10]
FROM generate_series(1, 12) n;
INSERT INTO isrcs SELECT 'NOAB1' || lpad(id::text, 7, '0'), id, id % 3 FROM recordings WHERE id < 9;
INSERT INTO tracks (medium, recording, position, number, name, length_ms)
SELECT m.id, r.id, r.id, 'A' || r.id, r.name, r.length_ms FROM media m JOIN recordings r ON r.id % 10 = m.id % 10;
INSERT INTO works (name, opus, key_signature, composed, iswc) VALUES
    ('Nocturne', 'Op. 9', 'Eb maj', '[1830,1833)', 'T0101974597'), ('Fugue', 'BWV. 578', 'G min', '[1703,1708)', NULL),
    ('Improvisation', NULL, NULL, NULL, 'T9000000001');
INSERT INTO performances (recording, work, live, instrument) SELECT id, 1 + id % 3, id % 2 = 0, 'piano' FROM recordings;
INSERT INTO ratings (recording, listener, stars)
SELECT id, l, 0.5 * (1 + id % 9) FROM recordings, unnest('{ann_1,bob_2}'::text[]) l WHERE id < 8;
INSERT INTO instruments (name, family, hornbostel_sachs, lowest, highest, transposes, invented) VALUES
    ('Hardanger fiddle', 'strings', '321.322', 57, 93, 0, '[1600,1651)'), ('Berimbau', 'strings', '311.121', NULL, NULL, 0, NULL),
    ('Clarinet in A', 'winds', '422.211', 49, 91, -3, '[1700,1711)'), ('Celesta', 'keys', '111.222', 60, 108, 12, '[1886,1887)');
INSERT INTO venues (name, area, capacity, seats, lat, lon, postcode, phone, website, opened) VALUES
    ('Operaen', 3, 1400, 1364, 59.90743, 10.75310, '0150', '+47 21 42 21 00', 'https://opera.example', '2008-04-12'),
    ('Concha', 4, 5000, NULL, NULL, NULL, '40015-170', NULL, NULL, NULL), ('Cellar', NULL, 80, 0, NULL, NULL, NULL, NULL, NULL, '1999-01-01');
INSERT INTO concerts (venue, starts, ends, doors, ticket, reduced, currency, sold, state, rating, setlist)
SELECT 1 + n % 3, timestamptz '2024-05-01 18:00+00' + n * interval '7 days', timestamptz '2024-05-01 20:30+00' + n * interval '7 days',
    '17:00', 20.50 + n, 10.25, 'NOK', n, CASE n % 3 WHEN 0 THEN 'sold out' ELSE 'over' END, n / 4.0, jsonb_build_array(n, 'Encore')
FROM generate_series(1, 6) n;
INSERT INTO appearances (concert, artist, instrument, billing, minutes, fee)
SELECT c.id, a.id, 1 + a.id % 4, CASE a.id WHEN 1 THEN 'headline' ELSE 'support' END, 30, 100.50 * a.id
FROM concerts c JOIN artists a ON (a.id + c.id) % 2 = 0;
INSERT INTO listeners (name, email, born, country, plan, seats, muted)
SELECT 'fan_' || n, 'fan' || n || '@music.example', 1970 + n, 'NO', CASE n % 2 WHEN 0 THEN 'family' ELSE 'single' END,
    1 + (n + 1) % 2 * 3, ARRAY['artist ' || n] FROM generate_series(1, 5) n;
INSERT INTO playlists (listener, name, kind, rule, is_public, slug)
SELECT name, 'List ' || k, k, CASE k WHEN 's' THEN '{"tempo": "> 90"}'::jsonb END, k = 'p', 'list-' || k || '-' || right(name, 1)
FROM listeners, unnest('{p,s}'::text[]) k;
INSERT INTO playlist_tracks (playlist, position, recording, ends_ms) SELECT p.id, n, 1 + (p.id + n) % 12, 100000
FROM playlists p, generate_series(1, 3) n;
INSERT INTO plays (listener, at, recording, ms, quality)
SELECT name, timestamptz '2024-05-01 08:00+00' + n * interval '3 min', n, 150000 + n, 320 FROM listeners, generate_series(1, 4) n;
