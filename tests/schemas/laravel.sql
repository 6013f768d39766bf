-- As Laravel's migrations would have made it: bigserial, varchar(255), enums that are CHECKs, timestamp(0), morphs, pivot
-- tables, soft deletes, and its own tables for jobs, the cache, sessions and tokens.

create table "migrations" ("id" serial not null primary key, "migration" varchar(255) not null, "batch" integer not null);

create table "users" ("id" bigserial not null primary key, "name" varchar(255) not null, "email" varchar(255) not null, "email_verified_at" timestamp(0) without time zone null, "password" varchar(255) not null, "remember_token" varchar(100) null, "created_at" timestamp(0) without time zone null, "updated_at" timestamp(0) without time zone null);
alter table "users" add constraint "users_email_unique" unique ("email");

create table "password_reset_tokens" ("email" varchar(255) not null, "token" varchar(255) not null, "created_at" timestamp(0) without time zone null);
alter table "password_reset_tokens" add primary key ("email");

create table "sessions" ("id" varchar(255) not null, "user_id" bigint null, "ip_address" varchar(45) null, "user_agent" text null, "payload" text not null, "last_activity" integer not null);
alter table "sessions" add primary key ("id");
create index "sessions_user_id_index" on "sessions" ("user_id");
create index "sessions_last_activity_index" on "sessions" ("last_activity");

create table "cache" ("key" varchar(255) not null, "value" text not null, "expiration" integer not null);
alter table "cache" add primary key ("key");
create table "cache_locks" ("key" varchar(255) not null, "owner" varchar(255) not null, "expiration" integer not null);
alter table "cache_locks" add primary key ("key");

create table "jobs" ("id" bigserial not null primary key, "queue" varchar(255) not null, "payload" text not null, "attempts" smallint not null, "reserved_at" integer null, "available_at" integer not null, "created_at" integer not null);
create index "jobs_queue_index" on "jobs" ("queue");
create table "job_batches" ("id" varchar(255) not null, "name" varchar(255) not null, "total_jobs" integer not null, "pending_jobs" integer not null, "failed_jobs" integer not null, "failed_job_ids" text not null, "options" text null, "cancelled_at" integer null, "created_at" integer not null, "finished_at" integer null);
alter table "job_batches" add primary key ("id");
create table "failed_jobs" ("id" bigserial not null primary key, "uuid" varchar(255) not null, "connection" text not null, "queue" text not null, "payload" text not null, "exception" text not null, "failed_at" timestamp(0) without time zone not null default CURRENT_TIMESTAMP);
alter table "failed_jobs" add constraint "failed_jobs_uuid_unique" unique ("uuid");

create table "personal_access_tokens" ("id" bigserial not null primary key, "tokenable_type" varchar(255) not null, "tokenable_id" bigint not null, "name" text not null, "token" varchar(64) not null, "abilities" text null, "last_used_at" timestamp(0) without time zone null, "expires_at" timestamp(0) without time zone null, "created_at" timestamp(0) without time zone null, "updated_at" timestamp(0) without time zone null);
create index "personal_access_tokens_tokenable_type_tokenable_id_index" on "personal_access_tokens" ("tokenable_type", "tokenable_id");
alter table "personal_access_tokens" add constraint "personal_access_tokens_token_unique" unique ("token");

-- The application: gardens, plants and what is done with them.
create table "gardens" ("id" bigserial not null primary key, "owner_id" bigint not null, "name" varchar(255) not null, "kind" varchar(255) check ("kind" in ('allotment', 'balcony', 'greenhouse')) not null default 'balcony', "area" decimal(8, 2) not null default '0', "is_public" boolean not null default '0', "location" json null, "created_at" timestamp(0) without time zone null, "updated_at" timestamp(0) without time zone null, "deleted_at" timestamp(0) without time zone null);
alter table "gardens" add constraint "gardens_owner_id_foreign" foreign key ("owner_id") references "users" ("id") on delete cascade;

create table "species" ("id" bigserial not null primary key, "latin" varchar(255) not null, "common" varchar(255) null, "hardiness" smallint not null default '5', "sow_from" date null, "sow_until" date null, "water_every" integer not null default '3');
alter table "species" add constraint "species_latin_unique" unique ("latin");

create table "plants" ("id" uuid not null, "garden_id" bigint not null, "species_id" bigint not null, "label" char(8) null, "planted_at" date not null default CURRENT_DATE, "height_cm" double precision null, "healthy" boolean not null default '1', "care" jsonb not null default '{}', "created_at" timestamp(0) with time zone null, "updated_at" timestamp(0) with time zone null);
alter table "plants" add primary key ("id");
alter table "plants" add constraint "plants_garden_id_foreign" foreign key ("garden_id") references "gardens" ("id") on delete cascade on update cascade;
alter table "plants" add constraint "plants_species_id_foreign" foreign key ("species_id") references "species" ("id") on delete restrict;

create table "waterings" ("id" bigserial not null primary key, "plant_id" uuid not null, "user_id" bigint null, "litres" decimal(5, 1) not null, "at_time" time(0) without time zone not null default '07:00:00', "created_at" timestamp(0) without time zone not null default CURRENT_TIMESTAMP);
alter table "waterings" add constraint "waterings_plant_id_foreign" foreign key ("plant_id") references "plants" ("id") on delete cascade;
alter table "waterings" add constraint "waterings_user_id_foreign" foreign key ("user_id") references "users" ("id") on delete set null;

-- Pivots: one by its two keys, one with an id and more columns.
create table "garden_user" ("garden_id" bigint not null, "user_id" bigint not null);
alter table "garden_user" add constraint "garden_user_garden_id_foreign" foreign key ("garden_id") references "gardens" ("id") on delete cascade;
alter table "garden_user" add constraint "garden_user_user_id_foreign" foreign key ("user_id") references "users" ("id") on delete cascade;
alter table "garden_user" add primary key ("garden_id", "user_id");
create table "companion_species" ("id" bigserial not null primary key, "species_id" bigint not null, "companion_id" bigint not null, "effect" varchar(255) check ("effect" in ('good', 'bad')) not null);
alter table "companion_species" add constraint "companion_species_species_id_foreign" foreign key ("species_id") references "species" ("id") on delete cascade;
alter table "companion_species" add constraint "companion_species_companion_id_foreign" foreign key ("companion_id") references "species" ("id") on delete cascade;
alter table "companion_species" add constraint "companion_species_species_id_companion_id_unique" unique ("species_id", "companion_id");

-- Morphs: of gardens and of plants.
create table "photos" ("id" bigserial not null primary key, "imageable_type" varchar(255) not null, "imageable_id" varchar(255) not null, "path" varchar(255) not null, "bytes" bigint not null default '0', "exif" jsonb null, "created_at" timestamp(0) without time zone null);
create index "photos_imageable_type_imageable_id_index" on "photos" ("imageable_type", "imageable_id");
create table "taggables" ("tag" varchar(50) not null, "taggable_type" varchar(255) not null, "taggable_id" varchar(255) not null);
alter table "taggables" add constraint "taggables_unique" unique ("tag", "taggable_type", "taggable_id");

insert into "migrations" ("migration", "batch") values ('0001_01_01_000000_create_users_table', 1), ('2024_05_01_100000_create_gardens_table', 2);
insert into "users" ("name", "email", "password", "created_at")
select 'User ' || n, 'user' || n || '@laravel.example', '$2y$12$' || md5(n::text), '2024-05-01 10:00:00' from generate_series(1, 6) n;
insert into "password_reset_tokens" select "email", md5("email"), '2024-05-02 00:00' from "users" where "id" < 3;
insert into "sessions" select md5('s' || "id"), "id", '192.0.2.' || "id", 'Browser', 'YTozOn' || md5("name"), 1714557600 + "id" from "users";
insert into "cache" select 'app:' || n, 's:5:"hello";', 1714557600 + n from generate_series(1, 4) n;
insert into "cache_locks" values ('lock:report', md5('owner'), 1714557600);
insert into "jobs" ("queue", "payload", "attempts", "available_at", "created_at")
select 'default', '{"job":"App\\Jobs\\Water","n":' || n || '}', n % 3, 1714557600, 1714557600 from generate_series(1, 5) n;
insert into "job_batches" values ('batch-1', 'import', 10, 2, 1, '[]', null, null, 1714557600, null);
insert into "failed_jobs" ("uuid", "connection", "queue", "payload", "exception")
select md5('f' || n)::uuid::text, 'database', 'default', '{}', E'Exception: no water\n#0 {main}' from generate_series(1, 3) n;
insert into "personal_access_tokens" ("tokenable_type", "tokenable_id", "name", "token", "abilities")
select 'App\Models\User', "id", 'phone', md5("name") || md5("email"), '["*"]' from "users";
insert into "gardens" ("owner_id", "name", "kind", "area", "location", "created_at")
select 1 + n % 6, 'Garden ' || n, (array['allotment', 'balcony', 'greenhouse'])[1 + n % 3], 12.5 * n, '{"lat": 52.5,  "lon": 13.4}', '2024-05-03 08:00'
from generate_series(1, 6) n;
insert into "species" ("latin", "common", "hardiness", "sow_from", "sow_until") values
    ('Solanum lycopersicum', 'Tomato', 10, '2024-02-29', '2024-04-15'), ('Ocimum basilicum', 'Basil', 10, '2024-03-01', null),
    ('Allium sativum', 'Garlic', 6, null, null), ('Pisum sativum', null, 4, '2024-03-15', '2024-05-31');
insert into "plants" ("id", "garden_id", "species_id", "label", "height_cm", "created_at")
select md5('plant' || n)::uuid, 1 + n % 6, 1 + n % 4, 'P' || lpad(n::text, 3, '0'), 1.25 * n, '2024-05-04 09:00:00+02' from generate_series(1, 12) n;
insert into "waterings" ("plant_id", "user_id", "litres") select "id", "garden_id", 0.5 + "garden_id" from "plants";
insert into "garden_user" select g."id", u."id" from "gardens" g, "users" u where g."id" + 1 = u."id" or u."id" = 1;
insert into "companion_species" ("species_id", "companion_id", "effect") values (1, 2, 'good'), (1, 4, 'bad'), (3, 4, 'bad');
insert into "photos" ("imageable_type", "imageable_id", "path", "bytes", "exif")
select 'plant', "id"::text, 'photos/' || "id" || '.jpg', 123456, '{"iso": 100}' from "plants" where "species_id" = 1;
insert into "taggables" select 'sunny', 'garden', "id"::text from "gardens" where "id" < 4;
