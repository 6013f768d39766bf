"""NOT NULL leaves a table's definition, and nothing else does."""

from __future__ import annotations

import sqlite3

import pytest

from syncline.client.ddl import with_asked_defaults, with_sequences, without_not_null

CREATED = [
    (
        'CREATE TABLE "items" (\n  "id" TEXT NOT NULL,\n  "title" TEXT NOT NULL,\n  "rank" INTEGER,\n'
        '  CONSTRAINT "items_pkey" PRIMARY KEY ("id")\n);',
        ("title",),
    ),
    ("create table items(id text not null primary key, a int not  null default 1, b default (1 is not null))", ("a",)),
    ("CREATE TABLE items (id PRIMARY KEY, a TEXT CONSTRAINT filled NOT NULL ON CONFLICT FAIL UNIQUE, b)", ("a",)),
    ("CREATE TABLE items (id PRIMARY KEY, a TEXT NOT /* never */ NULL -- , b NOT NULL\n, c)", ("a",)),
    (
        "CREATE TABLE items (id, a CHECK (a NOT NULL), b CHECK ((b) NOT NULL), PRIMARY KEY (id), CHECK (a NOT NULL))",
        (),
    ),
    (
        "CREATE TABLE items (id PRIMARY KEY, a DEFAULT 'x NOT NULL,', \"b NOT NULL\" TEXT, [c NOT NULL] NOT NULL)",
        ("c NOT NULL",),
    ),
    ('CREATE TABLE IF NOT EXISTS items ("id" PRIMARY KEY, `a``b` decimal(10, 2) NOT NULL) WITHOUT ROWID', ("a`b",)),
    (
        'CREATE TABLE items (ID TEXT NOT NULL PRIMARY KEY, é TEXT NOT NULL, "say ""so""" TEXT NOT NULL)',
        ("é", 'say "so"'),
    ),
    ("CREATE TABLE items (id PRIMARY KEY, a REFERENCES items (id) NOT DEFERRABLE NOT NULL)", ("a",)),
]


def columns(sql: str) -> list[tuple[object, ...]]:
    """What SQLite makes of a table: per column name, type, NOT NULL, default, place in the key."""
    connection = sqlite3.connect(":memory:")
    connection.execute(sql)
    return [tuple(row)[1:] for row in connection.execute("PRAGMA table_xinfo(items)")]


@pytest.mark.parametrize(("sql", "names"), CREATED)
def test_a_table_is_what_it_was_but_for_not_null(sql: str, names: tuple[str, ...]) -> None:
    relaxed, found = without_not_null(sql, ("id",))
    assert found == names
    before, after = columns(sql), columns(relaxed)
    assert [row[0] for row in before if row[2] and row[0].lower() != "id"] == list(names)  # type: ignore[attr-defined]
    assert after == [(*row[:2], 0 if row[0] in names else row[2], *row[3:]) for row in before]
    assert without_not_null(relaxed, ("id",)) == (relaxed, ())


@pytest.mark.parametrize(
    ("sql", "relaxed", "names"),
    [
        (
            "ALTER TABLE items ADD COLUMN a INTEGER NOT NULL DEFAULT 0;",
            "ALTER TABLE items ADD COLUMN a INTEGER DEFAULT 0;",
            ("a",),
        ),
        (
            'ALTER TABLE "items" ADD "a" TEXT DEFAULT \'\' NOT NULL',
            'ALTER TABLE "items" ADD "a" TEXT DEFAULT \'\'',
            ("a",),
        ),
        ("ALTER TABLE items RENAME TO add_things", "ALTER TABLE items RENAME TO add_things", ()),
    ],
)
def test_a_column_that_is_added_too(sql: str, relaxed: str, names: tuple[str, ...]) -> None:
    assert without_not_null(sql, ("id",)) == (relaxed, names)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE INDEX i ON items (a) WHERE a NOT NULL",
        "INSERT INTO items VALUES ('a INTEGER NOT NULL')",
        "UPDATE items SET a = 1 WHERE b NOT NULL",
        "CREATE VIEW v AS SELECT a FROM items WHERE a NOT NULL",
        "",
    ],
)
def test_other_statements_stay_as_they_are(sql: str) -> None:
    assert without_not_null(sql, ("id",)) == (sql, ())


def test_defaults_in_brackets_are_asked_whether_they_may() -> None:
    sql = (
        'CREATE TABLE "it\'s" (\n  "id" TEXT NOT NULL DEFAULT (lower(hex(randomblob(4)))),\n'
        """  "a ""b" TEXT NOT NULL DEFAULT ('it''s (1, DEFAULT (2))'), c INTEGER DEFAULT 3,\n"""
        """  d CHECK (d <> 'DEFAULT (4)'), e DEFAULT (-5),\n  PRIMARY KEY ("id")\n);"""
    )
    connection = sqlite3.connect(":memory:")
    asked: list[tuple[object, ...]] = []
    connection.create_function("may", 3, lambda *of: asked.append(of) if of[1] == "e" else of[2])
    connection.execute(with_asked_defaults(sql, "it's", "may"))
    connection.execute('INSERT INTO "it\'s" (d) VALUES (4)')
    [(id, *others)] = connection.execute('SELECT * FROM "it\'s"')
    assert len(id) == 8
    assert others == ["it's (1, DEFAULT (2))", 3, 4, None]
    assert asked == [("it's", "e", -5)]


@pytest.mark.parametrize("sql", ["CREATE INDEX i ON items (a)", "ALTER TABLE items ADD COLUMN a DEFAULT 0"])
def test_what_has_no_such_default_stays_as_it_is(sql: str) -> None:
    assert with_asked_defaults(sql, "items", "may") == sql


def test_a_column_with_a_sequence_takes_its_next_value() -> None:
    sql = (
        'CREATE TABLE "items" (\n  "id" INT NOT NULL,\n  "place" INTEGER,\n  n INTEGER DEFAULT 5,\n  t TEXT,\n'
        '  CONSTRAINT "items_pkey" PRIMARY KEY ("id")\n);'
    )
    connection = sqlite3.connect(":memory:")
    values = {("items", "id"): 7, ("items", "place"): 8}
    connection.create_function("taken", 2, lambda *column: values[column])
    connection.execute(with_sequences(sql, "items", ("id", "place", "n"), "taken"))
    connection.execute("INSERT INTO items (t) VALUES ('x')")
    assert connection.execute("SELECT * FROM items").fetchall() == [(7, 8, 5, "x")]
