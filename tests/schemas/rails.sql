-- As Rails would have generated it: bigserial ids, timestamp(6), indexes named index_..._on_..., join tables without a
-- primary key, single-table inheritance, polymorphic associations, counter caches, attachments, and its own two tables.

CREATE TABLE public.schema_migrations (
    version character varying NOT NULL
);
ALTER TABLE ONLY public.schema_migrations ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (version);

CREATE TABLE public.ar_internal_metadata (
    key character varying NOT NULL,
    value character varying,
    created_at timestamp(6) without time zone NOT NULL,
    updated_at timestamp(6) without time zone NOT NULL,
    CONSTRAINT ar_internal_metadata_pkey PRIMARY KEY (key)
);

CREATE TABLE public.users (
    id bigint NOT NULL,
    email character varying DEFAULT ''::character varying NOT NULL,
    encrypted_password character varying DEFAULT ''::character varying NOT NULL,
    reset_password_token character varying,
    reset_password_sent_at timestamp(6) without time zone,
    sign_in_count integer DEFAULT 0 NOT NULL,
    current_sign_in_ip inet,
    role integer DEFAULT 0 NOT NULL,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    articles_count integer DEFAULT 0 NOT NULL,
    created_at timestamp(6) without time zone NOT NULL,
    updated_at timestamp(6) without time zone NOT NULL
);
CREATE SEQUENCE public.users_id_seq START WITH 1 INCREMENT BY 1 NO MINVALUE NO MAXVALUE CACHE 1;
ALTER SEQUENCE public.users_id_seq OWNED BY public.users.id;
ALTER TABLE ONLY public.users ALTER COLUMN id SET DEFAULT nextval('public.users_id_seq'::regclass);
ALTER TABLE ONLY public.users ADD CONSTRAINT users_pkey PRIMARY KEY (id);
CREATE UNIQUE INDEX index_users_on_email ON public.users USING btree (email);
CREATE UNIQUE INDEX index_users_on_reset_password_token ON public.users USING btree (reset_password_token);

CREATE TABLE public.categories (
    id bigserial PRIMARY KEY,
    name character varying NOT NULL,
    ancestry character varying,
    "position" integer,
    created_at timestamp(6) without time zone NOT NULL,
    updated_at timestamp(6) without time zone NOT NULL
);
CREATE INDEX index_categories_on_ancestry ON public.categories USING btree (ancestry varchar_pattern_ops);

CREATE TABLE public.articles (
    id bigserial PRIMARY KEY,
    type character varying,
    title character varying(255),
    body text,
    slug character varying,
    status character varying DEFAULT 'draft'::character varying NOT NULL,
    user_id bigint NOT NULL,
    category_id bigint,
    published_at timestamp(6) without time zone,
    comments_count integer DEFAULT 0 NOT NULL,
    rating numeric(3,1) DEFAULT 0.0,
    metadata json,
    lock_version integer DEFAULT 0 NOT NULL,
    deleted_at timestamp(6) without time zone,
    created_at timestamp(6) without time zone NOT NULL,
    updated_at timestamp(6) without time zone NOT NULL,
    CONSTRAINT chk_rails_2b0b9a6d11 CHECK (((status)::text = ANY (ARRAY[('draft'::character varying)::text, ('published'::character varying)::text])))
);
CREATE UNIQUE INDEX index_articles_on_slug ON public.articles USING btree (slug) WHERE (deleted_at IS NULL);
CREATE INDEX index_articles_on_user_id_and_published_at ON public.articles USING btree (user_id, published_at DESC);
ALTER TABLE ONLY public.articles ADD CONSTRAINT fk_rails_3d31dad1cc FOREIGN KEY (user_id) REFERENCES public.users(id);
ALTER TABLE ONLY public.articles ADD CONSTRAINT fk_rails_af09d53ead FOREIGN KEY (category_id) REFERENCES public.categories(id) ON DELETE SET NULL;

CREATE TABLE public.comments (
    id bigserial PRIMARY KEY,
    commentable_type character varying NOT NULL,
    commentable_id bigint NOT NULL,
    user_id bigint NOT NULL,
    parent_id bigint,
    body text DEFAULT ''::text NOT NULL,
    created_at timestamp(6) without time zone DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at timestamp(6) without time zone DEFAULT CURRENT_TIMESTAMP NOT NULL
);
CREATE INDEX index_comments_on_commentable ON public.comments USING btree (commentable_type, commentable_id);
ALTER TABLE ONLY public.comments ADD CONSTRAINT fk_rails_03de2dc08c FOREIGN KEY (user_id) REFERENCES public.users(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.comments ADD CONSTRAINT fk_rails_31554e7034 FOREIGN KEY (parent_id) REFERENCES public.comments(id) ON DELETE CASCADE;

CREATE TABLE public.tags (
    id bigserial PRIMARY KEY,
    name character varying NOT NULL,
    taggings_count integer DEFAULT 0
);
CREATE UNIQUE INDEX index_tags_on_lower_name ON public.tags USING btree (lower((name)::text));

-- create_join_table: no key of its own.
CREATE TABLE public.articles_tags (
    article_id bigint NOT NULL,
    tag_id bigint NOT NULL
);
CREATE UNIQUE INDEX index_articles_tags_on_article_id_and_tag_id ON public.articles_tags USING btree (article_id, tag_id);
CREATE INDEX index_articles_tags_on_tag_id ON public.articles_tags USING btree (tag_id);
ALTER TABLE ONLY public.articles_tags ADD CONSTRAINT fk_rails_b7d1e6b0aa FOREIGN KEY (article_id) REFERENCES public.articles(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.articles_tags ADD CONSTRAINT fk_rails_0cdb3b1f5b FOREIGN KEY (tag_id) REFERENCES public.tags(id) ON DELETE CASCADE;

-- No foreign keys, as of old.
CREATE TABLE public.categories_users (
    category_id bigint NOT NULL,
    user_id bigint NOT NULL
);
CREATE UNIQUE INDEX index_categories_users_on_category_id_and_user_id ON public.categories_users USING btree (category_id, user_id);

CREATE TABLE public.active_storage_blobs (
    id bigserial PRIMARY KEY,
    key character varying NOT NULL,
    filename character varying NOT NULL,
    content_type character varying,
    metadata text,
    service_name character varying NOT NULL,
    byte_size bigint NOT NULL,
    checksum character varying,
    created_at timestamp(6) without time zone NOT NULL
);
CREATE UNIQUE INDEX index_active_storage_blobs_on_key ON public.active_storage_blobs USING btree (key);

CREATE TABLE public.active_storage_attachments (
    id bigserial PRIMARY KEY,
    name character varying NOT NULL,
    record_type character varying NOT NULL,
    record_id bigint NOT NULL,
    blob_id bigint NOT NULL CONSTRAINT fk_rails_c3b3935057 REFERENCES public.active_storage_blobs(id),
    created_at timestamp(6) without time zone NOT NULL
);
CREATE UNIQUE INDEX index_active_storage_attachments_uniqueness ON public.active_storage_attachments USING btree (record_type, record_id, name, blob_id);

CREATE TABLE public.friendly_id_slugs (
    id serial PRIMARY KEY,
    slug character varying NOT NULL,
    sluggable_id integer NOT NULL,
    sluggable_type character varying(50),
    scope character varying,
    created_at timestamp(6) without time zone
);
CREATE UNIQUE INDEX index_friendly_id_slugs_on_slug_and_sluggable_type_and_scope ON public.friendly_id_slugs USING btree (slug, sluggable_type, scope);

CREATE TABLE public.versions (
    id uuid DEFAULT gen_random_uuid() NOT NULL PRIMARY KEY,
    item_type character varying NOT NULL,
    item_id bigint NOT NULL,
    event character varying NOT NULL,
    whodunnit character varying,
    object text,
    created_at timestamp(6) without time zone
);

INSERT INTO schema_migrations VALUES ('20240102030405'), ('20240203040506'), ('20240304050607');
INSERT INTO ar_internal_metadata VALUES ('environment', 'test', '2024-01-02 03:04:05.123456', '2024-01-02 03:04:05.123456');
INSERT INTO users (email, encrypted_password, reset_password_token, current_sign_in_ip, created_at, updated_at)
SELECT 'user' || n || '@rails.example', md5(n::text), CASE WHEN n = 2 THEN 'token' END, inet '192.0.2.0' + n,
    timestamp '2024-03-01 10:00:00.123456' + n * interval '1 hour', '2024-03-02 00:00' FROM generate_series(1, 6) n;
INSERT INTO categories (name, ancestry, "position", created_at, updated_at)
SELECT 'Category ' || n, CASE WHEN n > 2 THEN '1/' || n - 1 END, n, '2024-01-01', '2024-01-01' FROM generate_series(1, 5) n;
INSERT INTO articles (type, title, body, slug, status, user_id, category_id, metadata, created_at, updated_at)
SELECT CASE n % 2 WHEN 0 THEN 'NewsItem' END, 'Article ' || n, repeat('Lorem ', n), 'article-' || n,
    CASE n % 3 WHEN 0 THEN 'published' ELSE 'draft' END, 1 + n % 6, 1 + n % 5, '{"n":  1}', '2024-03-03', '2024-03-03'
FROM generate_series(1, 12) n;
INSERT INTO comments (commentable_type, commentable_id, user_id, body)
SELECT 'Article', 1 + n % 12, 1 + n % 6, 'Comment ' || n FROM generate_series(1, 12) n;
INSERT INTO tags (name) SELECT 'Tag ' || n FROM generate_series(1, 5) n;
INSERT INTO articles_tags SELECT a.id, t.id FROM articles a, tags t WHERE (a.id + t.id) % 3 = 0;
INSERT INTO categories_users SELECT c.id, u.id FROM categories c, users u WHERE c.id = u.id;
INSERT INTO active_storage_blobs (key, filename, content_type, metadata, service_name, byte_size, checksum, created_at)
SELECT md5('blob' || n), 'photo ' || n || '.jpg', 'image/jpeg', '{"identified":true}', 'local', 1000 * n, md5(n::text), now()
FROM generate_series(1, 4) n;
INSERT INTO active_storage_attachments (name, record_type, record_id, blob_id, created_at)
SELECT 'cover', 'Article', id, id, '2024-03-04' FROM active_storage_blobs;
INSERT INTO friendly_id_slugs (slug, sluggable_id, sluggable_type) SELECT slug, id, 'Article' FROM articles;
INSERT INTO versions (item_type, item_id, event, whodunnit, object, created_at)
SELECT 'Article', id, 'create', user_id::text, E'---\ntitle: ' || title, now() FROM articles WHERE id < 6;
