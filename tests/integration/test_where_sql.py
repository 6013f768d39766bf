"""Where clauses that Postgres evaluates: what it is trusted with, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from syncline.actors.postgres import where_sql
from syncline.actors.postgres.bootstrap import bootstrap
from syncline.actors.postgres.catalog import Collation, TableInfo, load_catalog
from syncline.actors.postgres.typemap import SESSION_SETTINGS, to_wire
from syncline.actors.postgres.where_sql import check, evaluate
from syncline.actors.shapes.where import WhereRefused, parse
from syncline.proto.values import Row

pytestmark = pytest.mark.every_major

SCHEMA = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s fine');
CREATE TABLE items (
    id int PRIMARY KEY, title text, rank int, small int2, done bool, at timestamptz, moment timestamp, day date,
    clock time, mood mood, owner uuid, ratio float8, single float4, raw bytea, doc jsonb, plain json, short varchar(20),
    "The Title" text, posix text COLLATE "C"
);
CREATE FUNCTION public.twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
CREATE FUNCTION public.count_items(int) RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) FROM items';
CREATE FUNCTION public.careless(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION public.slow(int) RETURNS int IMMUTABLE LANGUAGE sql
    AS 'SELECT CASE WHEN $1 = 3 THEN (SELECT 1 FROM pg_sleep(30)) ELSE 1 END';
INSERT INTO items VALUES
    (1, 'Anna', 1, 1, true, '2024-01-02 03:04:05.678+00', '2024-01-02 03:04:05', '2024-01-02', '03:04:05', 'ok',
     'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 1.5, 0.1, '\\x00ff', '{"a": {"b": "c"}, "n": 3}', '{"a":1}', 'x',
     'STRASSE', 'b'),
    (2, 'berta', 0, -1, false, 'infinity', '-infinity', '0044-03-15 BC', '24:00', 'sad',
     '00000000-0000-0000-0000-000000000000', 'NaN', 'Infinity', '', '[1, 2]', '[]', '', 'strasse', 'B'),
    (3, 'ÄRGER', 2147483647, 3, NULL, '2024-07-01 23:30:00+00', NULL, '2024-12-31', '00:00', 'it''s fine',
     NULL, '-0', NULL, '\\x41', 'null', NULL, 'it''s', 'Straße', 'a'),
    (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
"""


@dataclass
class Scene:
    pool: asyncpg.Pool
    table: TableInfo
    rows: list[Row]

    async def check(self, text: str) -> None:
        await check(self.pool, parse(text, self.table), self.table)

    async def refused(self, text: str) -> WhereRefused:
        with pytest.raises(WhereRefused) as refused:
            await self.check(text)
        return refused.value

    async def evaluated(self, text: str) -> tuple[list[int], int]:
        """Ids of the rows inside; how many raised an error."""
        errors: list[int] = []
        inside = await evaluate(
            self.pool, parse(text, self.table), self.table, self.rows, lambda count, _: errors.append(count)
        )
        return [int(row[0] or b"") for row, is_inside in zip(self.rows, inside, strict=True) if is_inside], sum(errors)

    async def selected(self, text: str) -> list[int]:
        """Ids of the rows of a query of the table."""
        where = parse(text, self.table)
        return [row[0] for row in await self.pool.fetch(f"SELECT t.id FROM items t WHERE {where.sql('t')} ORDER BY 1")]


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    await bootstrap(database)
    async with asyncpg.create_pool(database, min_size=1, max_size=4, server_settings=SESSION_SETTINGS) as pool:
        await pool.execute(SCHEMA)
        await pool.execute("CALL electric.electrify('public.items')")
        table = (await load_catalog(pool)).named("items")
        assert table is not None
        shown = ", ".join(
            f'CASE WHEN t."{name}" IS NOT NULL THEN format(\'%s\', t."{name}") END' for name in table.relation.names
        )
        rows: list[Row] = []
        for record in await pool.fetch(f"SELECT {shown} FROM items t ORDER BY id"):
            cells = []
            for value, column in zip(record, table.relation.columns, strict=True):
                convert = to_wire(column.type_name)
                cell = None if value is None else value.encode()
                cells.append(convert(cell) if convert is not None and cell is not None else cell)
            rows.append(tuple(cells))
        yield Scene(pool, table, rows)


FINE = [
    "this.title ILIKE 'an%'",
    "this.title < 'b' OR upper(this.title) = 'BERTA' OR lower(this.title) LIKE 'ä%'",
    "this.posix < 'a' AND this.posix COLLATE \"C\" > 'A'",
    "this.\"The Title\" ILIKE 'stras%'",
    "this.rank & 1 = 1",
    "this.single > 0.05",
    "this.at > '2024-01-01'::timestamptz + interval '1 day'",
    "this.at AT TIME ZONE 'Europe/Vienna' > '2024-07-02'",
    "this.at > this.day AND this.moment < this.at",
    "extract(year from this.day) = 2024 AND date_part('month', this.at) = 7",
    "date_trunc('month', this.at) = '2024-07-01' AND age(this.at, '2024-01-01') > '1 month'",
    "this.day - date '2024-01-01' BETWEEN 0 AND 10 AND this.clock + interval '1 hour' > '04:00'",
    "this.moment + interval '1-2' year to month > '2025-01-01'",
    "to_char(this.day, 'YYYY-MM-DD') = '2024-01-02' AND to_date(this.id::text, 'YYYY') < this.day",
    "to_timestamp(1700000000) < this.at AND make_date(2024, 1, 2) = this.day",
    "this.doc -> 'a' ->> 'b' = 'c' OR this.doc #>> '{a,b}' = 'd'",
    "this.doc @> '{\"n\": 3}' AND this.doc ? 'a' AND this.doc ?| ARRAY['a', 'z'] AND this.doc ?& '{a,n}'",
    "(this.doc ->> 'n')::int > 2 AND jsonb_typeof(this.doc) = 'object' AND this.doc @? '$.n'",
    "this.id = ANY ('{1,3}') AND this.title <> ALL (ARRAY['x', 'y'])",
    "(string_to_array(this.title, 'n'))[1] = 'A' AND array_length(string_to_array(this.title, 'n'), 1) = 3",
    "this.title ~ '^A' AND this.title !~* 'B$' AND regexp_replace(this.title, 'n+', '-') = 'A-a'",
    "this.title SIMILAR TO '(A|B)%' AND substring(this.title from 2 for 2) = 'nn' AND position('n' in this.title) = 2",
    "concat(this.title, this.rank) = 'Anna1' AND this.title || this.rank = 'Anna1' AND format('%s', this.id) = '1'",
    "this.mood > 'sad' AND this.mood::text LIKE 'o%' AND this.mood = 'ok'::mood",
    "this.rank::numeric / 3 < 0.5 AND round(this.ratio::numeric, 1) = 1.5",
    "GREATEST(this.rank, this.small, 0) = 1 AND LEAST(this.day, '2024-06-01') = this.day",
    "public.twice(this.small) = 2",
    "this.raw = '\\x00ff' AND encode(this.raw, 'hex') = '00ff' AND length(this.raw) = 2",
    "this.title = 'now' OR this.title = 'today' OR this.done",
    "'epoch' < this.moment OR this.day < 'infinity'",
    "this.plain ->> 'a' = '1' AND this.short = 'x'",
    "md5(this.title) <> '' AND CASE WHEN this.done THEN this.rank ELSE 0 END = 1 AND NULLIF(this.id, 0) > 0",
    "overlay(this.title placing 'x' from 1) = 'xnna' AND trim(both 'a' from this.title) = 'Ann'",
    "this.owner::text LIKE 'a0%' AND NOT this.done IS FALSE",
    "make_interval(days => this.id) > interval '0'",
    "true",
]


async def test_what_depends_on_the_row_alone_is_fine_and_rows_of_the_stream_are_judged_as_the_table(
    scene: Scene,
) -> None:
    counts = []
    for text in FINE:
        await scene.check(text)
        selected = await scene.selected(text)
        assert await scene.evaluated(text) == (selected, 0), text
        counts.append(len(selected))
    assert sum(count > 0 for count in counts) > len(FINE) * 0.8, dict(zip(FINE, counts, strict=True))


REFUSED = [
    ("this.rank", "must be type boolean", 1),
    ("this.title = 1", "operator does not exist", 12),
    ("true AND this.rank = 'x'", 'invalid input syntax for type integer: "x"', 22),
    ("this.mood = 'furious'", 'invalid input value for enum mood: "furious"', 13),
    ("this.owner = 'x'", "uuid", 14),
    ("this.rank = 99999999999999999999 AND no_such(this.id)", "no_such", 38),
    ("this.rank::nothing = 1", '"nothing" does not exist', 10),
    ("coalesce(this.rank, 'a') = 1", "integer", 21),
    ("this.title COLLATE \"nowhere\" = 'a'", "nowhere", 12),
    ("pg_catalog.now() > this.at", "something else", 1),
    ("this.at > 'yesterday'", "another time", 11),
    ("this.day = ANY ('{today}')", "another time", 17),
    ("this.day IN ('2024-01-01', 'tomorrow')", "another time", 28),
    ("timestamptz 'today 12:00' > this.at", "another time", 13),
    ("this.title::date = '2024-01-02'", "'today'", None),
    ("('to' || 'day')::date = this.day", "'today'", None),
    ("this.at::timetz > '03:00+00'", "time with time zone", None),
    ("this.day > this.clock", "operator does not exist", 10),
    ("public.count_items(this.id) > 1", "public.count_items() is STABLE", 1),
    ("this.done AND careless(this.id) = 1", "public.careless() is VOLATILE", 15),
    ("pg_sleep(this.id) IS NULL", "something else", 1),
    ("pg_advisory_lock(this.id) IS NULL", "VOLATILE", 1),
    ("current_setting('work_mem') = this.title", "STABLE", 1),
    ("set_config('work_mem', '1', false) = this.title", "VOLATILE", 1),
    ("pg_read_file('x') = this.title", "VOLATILE", 1),
    ("version() = this.title", "STABLE", 1),
    ("to_tsvector(this.title) @@ 'a'", "STABLE", 1),
    ("to_char(this.day, 'TMMonth') = 'x'", "locale", 19),
    ("to_char(this.rank, 'L999') = 'x'", "locale", 20),
    ("to_char(this.day, this.title) = 'x'", "literal", 19),
    ("generate_series(1, this.id) = 1", "set-returning", 1),
    ("jsonb_array_elements(this.doc) IS NULL", "set-returning", 1),
    ("string_agg(this.title, ',') = 'x'", "aggregate", 1),
    ("variance(this.rank) > 1", "aggregate", 1),
    ("percent_rank() = 1", "", 1),
    ("query_to_xml('SELECT 1', true, true, '') IS NULL", "", 1),
    ("pg_catalog.lo_import('/etc/passwd') IS NULL", "VOLATILE", 1),
]


async def test_what_depends_on_more_is_refused_with_reason_and_place(scene: Scene) -> None:
    for text, message, position in REFUSED:
        refused = await scene.refused(text)
        assert (message in refused.message, refused.position) == (True, position), (text, refused.args)
    assert await scene.pool.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE 'where %'") == 0


async def test_a_place_is_that_of_the_text_as_written_not_as_brought_into_order(scene: Scene) -> None:
    refused = await scene.refused("this.title = 'b' AND 'é€' = this.title AND this.rank = 'x' AND this.done")
    assert refused.position == 56
    assert refused.hint == ""
    assert "explicit type casts" in (await scene.refused("this.title = this.rank")).hint


ERRORS = [
    ("1 / this.rank >= 1", [1], 1),
    ("this.rank + 1 > 0", [1, 2], 1),
    ("this.title::int > 0", [], 3),
    ("this.title::int > 0 OR this.id = 1", [], 3),
    ("this.id = 1 OR this.title::int > 0", [1], 2),
    ("this.id > 2 AND 1 / this.rank >= 0", [3], 0),
    ("1 / 0 = this.id", [], 4),
    ("this.ratio > 1e400", [], 4),
    ("this.title LIKE 'A\\'", [], 1),
    ("(this.doc ->> 'n')::int = 3 AND this.title ~ ('(' || this.short)", [], 3),
    ("repeat(this.title, 1000000000) = 'x'", [], 3),
]


async def test_a_row_that_raises_an_error_is_outside_and_counted_and_disturbs_no_other(scene: Scene) -> None:
    for text, inside, failed in ERRORS:
        await scene.check(text)
        assert parse(text, scene.table).can_raise, text
        assert await scene.evaluated(text) == (inside, failed), text


async def test_rows_in_any_number_are_judged_in_batches(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(str(i).encode(), *scene.rows[0][1:2], str(i % 7).encode(), *scene.rows[0][3:]) for i in range(2_500)]
    where = parse("10 / this.rank >= 3", scene.table)
    errors: list[int] = []
    inside = await evaluate(scene.pool, where, scene.table, rows, lambda count, _: errors.append(count))
    assert inside == [i % 7 in (1, 2, 3) for i in range(2_500)]
    assert sum(errors) == sum(i % 7 == 0 for i in range(2_500))
    monkeypatch.setattr(where_sql, "BATCH_BYTES_MAX", 10)
    assert await evaluate(scene.pool, where, scene.table, rows[:20]) == inside[:20]
    assert await evaluate(scene.pool, where, scene.table, []) == []


async def test_a_row_that_takes_for_ever_is_outside_and_the_others_are_not(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where_sql, "EVALUATION_S", 0.5)
    assert await scene.evaluated("slow(this.id) = 1") == ([1, 2, 4], 1)
    assert await scene.pool.fetchval("SELECT 1") == 1


async def test_what_is_not_there_any_more_is_the_fault_of_no_row(scene: Scene) -> None:
    await scene.check("twice(this.id) = 2 AND 1 / this.rank > 0")
    await scene.pool.execute("DROP FUNCTION twice(int)")
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await scene.evaluated("twice(this.id) = 2 AND 1 / this.rank > 0")


async def test_a_check_leaves_nothing_and_many_may_run_at_a_time(scene: Scene) -> None:
    clauses = [f"this.title ILIKE 'a%' AND this.rank + {i} > 0" for i in range(12)]
    await asyncio.gather(*(scene.check(text) for text in clauses))
    assert await scene.pool.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE 'where%'") == 0


async def test_a_table_may_have_any_names(scene: Scene) -> None:
    await scene.pool.execute("""
        CREATE TYPE public."Odd Type" AS ENUM ('a', 'b');
        CREATE TABLE "Odd ""Table" (place int PRIMARY KEY, "na""me" "Odd Type", this text, place_ text);
        CALL electric.electrify('"Odd ""Table"');
    """)
    table = (await load_catalog(scene.pool)).named('Odd "Table')
    assert table is not None
    where = parse("this.\"na\"\"me\" > 'a' AND this.this ILIKE 'x%' AND this.place > 0", table)
    await check(scene.pool, where, table)
    rows: list[Row] = [(b"1", b"b", b"X", None), (b"2", b"a", b"x", None)]
    assert await evaluate(scene.pool, where, table, rows) == [True, False]


async def test_the_catalog_knows_types_and_collations_of_columns(scene: Scene) -> None:
    assert scene.table.sql_types["posix"] == 'pg_catalog.text COLLATE pg_catalog."C"'
    assert scene.table.sql_types["title"] == "pg_catalog.text"
    assert scene.table.sql_types["mood"] == "public.mood"
    assert scene.table.collations["posix"] == Collation('pg_catalog."C"', by_bytes=True, ascii_case=True)
    assert set(scene.table.collations) == {"title", "short", "The Title", "posix"}
    assert scene.table.collations["title"].name == ""
    assert scene.table.collations["title"].ascii_case


async def test_texts_with_an_equality_of_their_own_are_compared_by_postgres(scene: Scene) -> None:
    try:
        await scene.pool.execute(
            "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
    except asyncpg.FeatureNotSupportedError:
        pytest.skip("this Postgres is built without ICU, which alone has such collations")
    await scene.pool.execute("""
        CREATE TABLE names (id int PRIMARY KEY, name text COLLATE ci);
        INSERT INTO names VALUES (1, 'STRASSE');
        CALL electric.electrify('public.names');
    """)
    table = (await load_catalog(scene.pool)).named("names")
    assert table is not None
    assert table.sql_types["name"] == "pg_catalog.text COLLATE public.ci"
    assert not table.collations["name"].deterministic
    where = parse("this.name = 'strasse'", table)
    assert (where.compiled, where.equalities) == (False, ())
    await check(scene.pool, where, table)
    rows: list[Row] = [(b"1", b"STRASSE"), (b"2", b"x")]
    assert await evaluate(scene.pool, where, table, rows) == [True, False]
