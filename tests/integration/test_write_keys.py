"""Devices' writes to tables whose key is no ordinary primary key, and to those that are made of several."""

from __future__ import annotations

import pytest
from tests.integration.write_scene import scene, written

pytestmark = pytest.mark.every_major

JOINED = """
CREATE TABLE tags (a int NOT NULL, b int NOT NULL, note text);
CREATE UNIQUE INDEX ON tags (b, a);
"""


async def test_without_a_primary_key_a_unique_index_tells_rows_apart(database: str) -> None:
    async with scene(database, JOINED, "tags") as s:
        both = written("ann", 100, s.insert("tags", "1", "2", "x"), s.insert("tags", "1", "3", "y"))
        assert await s.statuses(both) == ["applied"]
        assert await s.statuses(written("bob", 200, s.update("tags", "1", "2", "z", changed=[2]))) == ["applied"]
        assert await s.statuses(written("ann", 300, s.delete("tags", "1", "3", None, seen=["ann@100"]))) == ["applied"]
        assert await s.rows("tags") == [(1, 2, "z")]


async def test_of_several_unique_indexes_the_smallest_is_the_key_and_a_primary_key_before_all(database: str) -> None:
    tables = """
    CREATE TABLE one (a int NOT NULL, b int NOT NULL, c int NOT NULL, UNIQUE (a, b), UNIQUE (c));
    CREATE TABLE two (a int, b int, c int NOT NULL UNIQUE, PRIMARY KEY (b, a));
    """
    async with scene(database, tables, "one", "two") as s:
        rows = await s.connection.fetch("""
            SELECT table_name, (
                SELECT string_agg(c ->> 'name', ',' ORDER BY c ->> 'pk')
                FROM jsonb_array_elements(description -> 'columns') AS c WHERE c ->> 'pk' IS NOT NULL)
            FROM electric.tables""")
        assert dict(rows) == {"one": "c", "two": "b,a"}


@pytest.mark.parametrize("key", ["PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED", "UNIQUE (id) DEFERRABLE"])
async def test_a_key_may_be_deferrable(database: str, key: str) -> None:
    async with scene(database, f"CREATE TABLE t (id int NOT NULL, n int, {key})", "t") as s:
        assert await s.statuses(written("ann", 100, s.insert("t", "1", "1"))) == ["applied"]
        assert await s.statuses(written("bob", 200, s.insert("t", "1", "2"))) == ["applied"]
        assert await s.statuses(written("ann", 300, s.update("t", "1", "3", changed=[1]))) == ["applied"]
        assert await s.rows("t") == [(1, 3)]


RULED = """
CREATE TABLE t (id int PRIMARY KEY, n int);
CREATE TABLE log (id int, n int);
CREATE RULE also_inserted AS ON INSERT TO t DO ALSO INSERT INTO log VALUES (NEW.id, NEW.n);
CREATE RULE also_updated AS ON UPDATE TO t WHERE NEW.n <> OLD.n DO ALSO INSERT INTO log VALUES (NEW.id, NEW.n);
CREATE RULE kept AS ON DELETE TO t WHERE OLD.id = 2 DO INSTEAD NOTHING;
"""


async def test_rules_are_heeded_as_for_any_other_client(database: str) -> None:
    async with scene(database, RULED, "t") as s:
        assert await s.statuses(written("ann", 100, s.insert("t", "1", "1"), s.insert("t", "2", "2"))) == ["applied"]
        assert await s.statuses(written("bob", 200, s.update("t", "1", "3", changed=[1], seen=["ann@100"]))) == [
            "applied"
        ]
        removed = written(
            "ann",
            300,
            s.delete("t", "1", None, seen=["ann@100", "bob@200"]),
            s.delete("t", "2", None, seen=["ann@100"]),
        )
        assert await s.statuses(removed) == ["unheeded"]
        assert await s.rows("t") == [(2, 2)]
        assert await s.rows("log") == [(1, 1), (1, 3), (2, 2)]


SPELLED = """
CREATE TABLE prices (amount numeric PRIMARY KEY, n int);
INSERT INTO prices VALUES (1.0, 1);
"""


async def test_where_two_texts_are_one_key_each_is_another_row_and_the_later_is_rejected(database: str) -> None:
    async with scene(database, SPELLED, "prices") as s:
        (other,) = await s.apply(written("ann", 100, s.insert("prices", "1.00", "2")))
        assert (other["status"], other["sqlstate"], other["constraint"]) == ("rejected", "23505", "prices_pkey")
        assert await s.statuses(written("ann", 200, s.update("prices", "1.00", "3", changed=[1]))) == ["rejected"]
        assert await s.statuses(written("ann", 300, s.update("prices", "1.0", "4", changed=[1]))) == ["applied"]
        assert await s.statuses(written("ann", 400, s.insert("prices", "2.50", "5"))) == ["applied"]
        removed = written("ann", 500, s.delete("prices", "2.5", None, seen=["ann@400"]))
        assert await s.statuses(removed) == ["applied"]
        assert [(str(amount), n) for amount, n in await s.rows("prices")] == [("1.0", 4), ("2.50", 5)]


INHERITED = """
CREATE TABLE pages (id int PRIMARY KEY, title text);
CREATE TABLE posts (PRIMARY KEY (id), body text) INHERITS (pages);
INSERT INTO pages VALUES (1, 'page');
INSERT INTO posts VALUES (1, 'post', 'body'), (2, 'other', 'body');
"""


async def test_tables_that_inherit_are_tables_of_their_own(database: str) -> None:
    async with scene(database, INHERITED, "pages", "posts") as s:
        assert await s.statuses(written("ann", 100, s.update("pages", "1", "mine", changed=[1]))) == ["applied"]
        assert await s.statuses(written("ann", 200, s.insert("pages", "2", "second"))) == ["applied"]
        seen = ["postgres_1@0"]
        assert await s.statuses(written("bob", 300, s.delete("posts", "1", None, None, seen=seen))) == ["applied"]
        assert await s.rows("ONLY pages") == [(1, "mine"), (2, "second")]
        assert await s.rows("posts") == [(2, "other", "body")]


PARTED = """
CREATE TABLE events (at date, id int, note text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY HASH (id);
CREATE TABLE events_2a PARTITION OF events_2 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE notes (
    id int PRIMARY KEY, at date, event int, FOREIGN KEY (at, event) REFERENCES events ON DELETE CASCADE
);
"""


async def test_a_partitioned_table_is_one_table(database: str) -> None:
    async with scene(database, PARTED, "events", "notes") as s:
        full = await s.connection.fetch(
            "SELECT relname FROM pg_class WHERE relreplident = 'f' AND relname ~ '^events' ORDER BY 1"
        )
        assert [row[0] for row in full] == ["events", "events_1", "events_2", "events_2a"]
        one, two = ("2024-05-05", "1", "x"), ("2025-05-05", "2", "y")
        first = written(
            "ann", 100, s.insert("events", *one), s.insert("events", *two), s.insert("notes", "1", *two[:2])
        )
        assert await s.statuses(first) == ["applied"]
        assert await s.statuses(written("bob", 200, s.update("events", *one[:2], "z", changed=[2]))) == ["applied"]
        (nowhere,) = await s.apply(written("bob", 300, s.insert("events", "2020-05-05", "3", "x")))
        assert (nowhere["status"], nowhere["sqlstate"]) == ("rejected", "23514")
        # The note keeps what it refers to.
        unseen = written("bob", 400, s.delete("events", *two[:2], None, seen=["ann@100"]))
        assert await s.statuses(unseen) == ["applied"]
        assert [(str(at), id, note) for at, id, note in await s.rows("events")] == [
            ("2024-05-05", 1, "z"),
            ("2025-05-05", 2, "y"),
        ]
        gone = written("ann", 500, s.delete("notes", "1", None, None, seen=["ann@100"]))
        assert await s.statuses(gone) == ["applied"]
        assert await s.statuses(written("ann", 600, s.delete("events", *one[:2], None, seen=["bob@200"]))) == [
            "applied"
        ]
        assert await s.connection.fetchval("SELECT count(*) FROM events_1") == 0


async def test_a_partitions_own_triggers_count(database: str) -> None:
    trigger = """
    CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.note := upper(NEW.note); RETURN NEW; END $$;
    CREATE TRIGGER shout BEFORE UPDATE ON events_1 FOR EACH ROW EXECUTE FUNCTION shout();
    """
    async with scene(database, PARTED + trigger, "events") as s:
        assert await s.statuses(written("ann", 100, s.insert("events", "2024-05-05", "1", "x"))) == ["applied"]
        loud = written("ann", 200, s.update("events", "2024-05-05", "1", "loud", changed=[2]))
        assert await s.statuses(loud) == ["applied"]
        assert [row[2] for row in await s.rows("events")] == ["LOUD"]


BURIED = """
CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, name text);
CREATE TABLE notes (id int PRIMARY KEY, author text REFERENCES users (email));
"""


async def test_what_is_referred_to_by_another_unique_column_is_brought_back(database: str) -> None:
    async with scene(database, BURIED, "users", "notes") as s:
        assert await s.statuses(written("ann", 100, s.insert("users", "1", "a@x", "ann"))) == ["applied"]
        removed = written("ann", 200, s.delete("users", "1", None, None, seen=["ann@100"]))
        assert await s.statuses(removed) == ["applied"]
        assert await s.statuses(written("bob", 300, s.insert("notes", "1", "a@x"))) == ["applied"]
        assert await s.rows("users") == [(1, "a@x", "ann")]
        (unknown,) = await s.apply(written("bob", 400, s.insert("notes", "2", "b@x")))
        assert (unknown["status"], unknown["sqlstate"]) == ("rejected", "23503")


CIRCLE = """
CREATE TABLE pages (id int PRIMARY KEY, slug text UNIQUE, current int, author text);
CREATE TABLE revisions (
    id int PRIMARY KEY, page int REFERENCES pages DEFERRABLE INITIALLY DEFERRED, handle text UNIQUE);
ALTER TABLE pages ADD FOREIGN KEY (current) REFERENCES revisions DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE pages ADD FOREIGN KEY (author) REFERENCES revisions (handle) DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE links (id int PRIMARY KEY, page int REFERENCES pages, slug text REFERENCES pages (slug));
"""


@pytest.mark.parametrize("link", [("1", "1", None), ("1", None, "home")])
@pytest.mark.parametrize("page", [("1", "home", "1", None), ("1", "home", None, "ann")])
async def test_of_rows_that_refer_to_one_another_in_a_circle_all_are_brought_back(
    database: str, link: tuple[str | None, ...], page: tuple[str | None, ...]
) -> None:
    async with scene(database, CIRCLE) as s:
        await s.connection.execute("CALL electric.electrify_all()")
        for table in ("pages", "revisions", "links"):
            s.relids[table] = await s.connection.fetchval("SELECT to_regclass($1)::oid", table)
        revision = ("1", "1", "ann")
        assert await s.statuses(written("ann", 100, s.insert("pages", *page), s.insert("revisions", *revision))) == [
            "applied"
        ]
        seen = ["ann@100"]
        removed = s.delete("pages", "1", *[None] * 3, seen=seen), s.delete("revisions", "1", None, None, seen=seen)
        assert await s.statuses(written("ann", 200, *removed)) == ["applied"]
        assert await s.rows("pages") == []
        assert await s.statuses(written("bob", 300, s.insert("links", *link))) == ["applied"]
        assert [row[:2] for row in await s.rows("pages")] == [(1, "home")]
        assert await s.rows("revisions") == [(1, 1, "ann")]
