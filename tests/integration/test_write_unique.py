"""Unique constraints: who was first, swaps, other values by policy, and what follows a rejection."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from tests.integration.write_scene import Scene, scene, written

pytestmark = pytest.mark.every_major

USERS = """
CREATE TABLE users (
    id int PRIMARY KEY, email text UNIQUE, team int NOT NULL DEFAULT 1, place int NOT NULL DEFAULT 0,
    active bool DEFAULT true);
CREATE UNIQUE INDEX users_folded ON users (lower(email)) WHERE active;
CREATE UNIQUE INDEX users_place ON users (team, place) WHERE place > 0;
CREATE TABLE notes (id int PRIMARY KEY, author int NOT NULL REFERENCES users, note text);
INSERT INTO users VALUES (1, 'a@x', 1, 1), (2, 'b@x', 1, 2), (3, 'c@x', 1, 3);
"""


def user(s: Scene, id: int, email: str | None, place: int = 0) -> dict[str, Any]:
    return s.insert("users", str(id), email, "1", str(place), "t")


@pytest.mark.parametrize(
    ("email", "place", "constraint", "winner"),
    [
        ("b@x", 0, "users_email_key", ["2"]),
        ("C@X", 0, "users_folded", ["3"]),
        ("d@x", 1, "users_place", ["1"]),
    ],
)
async def test_the_later_one_is_rejected_alone_and_told_which_row_won(
    database: str, email: str, place: int, constraint: str, winner: list[str]
) -> None:
    async with scene(database, USERS, "users") as s:
        late = written("ann", 100, user(s, 9, email, place))
        (answer,) = await s.apply(late)
        assert (answer["status"], answer["sqlstate"]) == ("rejected", "23505")
        assert (answer["constraint"], answer["key"], answer["winner"]) == (constraint, ["9"], winner)
        assert await s.apply(late) == [answer]


async def test_an_update_that_violates_names_the_winner_by_what_the_row_would_be(database: str) -> None:
    async with scene(database, USERS, "users") as s:
        taken = s.update("users", "3", "c@x", "1", "2", "t", changed=[3])
        (answer,) = await s.apply(written("ann", 100, taken))
        assert (answer["sqlstate"], answer["constraint"], answer["winner"]) == ("23505", "users_place", ["2"])


ROOMS = """
CREATE TABLE bookings (id int PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&));
INSERT INTO bookings VALUES (1, '[10,20)');
"""


async def test_of_an_exclusion_constraint_the_winner_is_named_too(database: str) -> None:
    async with scene(database, ROOMS, "bookings") as s:
        (answer,) = await s.apply(written("ann", 100, s.insert("bookings", "2", "[15,30)")))
        assert (answer["sqlstate"], answer["winner"]) == ("23P01", ["1"])


async def test_two_rows_of_a_transaction_may_swap_what_is_unique(database: str) -> None:
    async with scene(database, USERS, "users") as s:
        swap = written(
            "ann",
            100,
            s.update("users", "1", "b@x", "1", "1", "t", changed=[1]),
            s.update("users", "2", "a@x", "1", "2", "t", changed=[1]),
        )
        assert await s.statuses(swap) == ["applied"]
        turned = written(
            "ann",
            200,
            *(s.update("users", str(n), None, "1", str(n % 3 + 1), None, changed=[3]) for n in (1, 2, 3)),
        )
        assert await s.statuses(turned) == ["applied"]
        assert [row[:4] for row in await s.rows("users")] == [(1, "b@x", 1, 2), (2, "a@x", 1, 3), (3, "c@x", 1, 1)]


async def test_a_value_may_be_taken_before_its_row_is_deleted_in_the_same_transaction(database: str) -> None:
    async with scene(database, USERS, "users") as s:
        moved = written("ann", 100, user(s, 9, "a@x"), s.delete("users", "1", *[None] * 4, seen=["postgres_1@0"]))
        assert await s.statuses(moved) == ["applied"]
        assert [row[:2] for row in await s.rows("users")] == [(2, "b@x"), (3, "c@x"), (9, "a@x")]


async def test_a_swap_of_which_half_loses_to_a_later_write_is_rejected_and_nothing_stays_parked(database: str) -> None:
    async with scene(database, USERS, "users") as s:
        later = written("bob", 900, s.update("users", "2", None, "1", "2", None, changed=[3]))
        assert await s.statuses(later) == ["applied"]
        swap = written(
            "ann",
            100,
            s.update("users", "1", None, "1", "2", None, changed=[3]),
            s.update("users", "2", None, "1", "1", None, changed=[3]),
        )
        (answer,) = await s.apply(swap)
        assert (answer["status"], answer["sqlstate"]) == ("rejected", "23505")
        assert [row[3] for row in await s.rows("users")] == [1, 2, 3]


async def test_what_was_written_to_a_rejected_row_or_refers_to_it_is_rejected_with_it_and_says_so(
    database: str,
) -> None:
    async with scene(database, USERS, "users", "notes") as s:
        first, wrote, noted, other, mended = await s.apply(
            written("ann", 100, user(s, 9, "a@x")),
            written("ann", 200, s.update("users", "9", "z@x", "1", "0", "t", changed=[1])),
            written("ann", 300, s.insert("notes", "1", "9", "hello")),
            written("ann", 400, s.insert("notes", "2", "1", "hello")),
            written("ann", 500, user(s, 9, "y@x")),
        )
        assert (first["status"], first.get("follows")) == ("rejected", None)
        assert (wrote["status"], wrote["sqlstate"], wrote["follows"]) == ("rejected", "23505", 100)
        assert "it depends on a transaction that was rejected" in wrote["message"]
        assert (wrote["table"], wrote["key"]) == ("users", ["9"])
        assert (noted["status"], noted["sqlstate"], noted["follows"]) == ("rejected", "23503", 100)
        assert (other["status"], mended["status"]) == ("applied", "applied")
        # And from now on the row is one like any other.
        assert await s.statuses(written("ann", 600, s.insert("notes", "3", "9", "hello"))) == ["applied"]
        seen = ["ann@500"]
        assert (
            await s.statuses(
                written("bob", 700, s.delete("notes", "3", None, None, seen=["ann@600"])),
                written("bob", 701, s.delete("users", "9", *[None] * 4, seen=seen)),
                written("ann", 800, s.update("users", "9", "x@x", "1", "0", "t", changed=[1], seen=seen)),
            )
            == ["applied"] * 3
        ), "an update revives it"


async def test_rename_gives_the_later_one_a_suffix_that_its_key_determines(database: str) -> None:
    async with scene(database, USERS, "users") as s:
        await s.connection.execute("""
            SELECT electric.unique_policy('users_email_key', 'rename');
            SELECT electric.unique_policy('users_folded', 'rename', 'email');
        """)
        assert await s.statuses(written("ann", 100, user(s, 9, "a@x"))) == ["applied"]
        renamed = (await s.rows("users"))[3][1]
        assert renamed.startswith("a@x ~")
        tags = await s.connection.fetchval("SELECT column_tags FROM electric.shadow WHERE key = '[\"9\"]'")
        assert tags[0] == "ann@100"
        assert tags[1].startswith("postgres_1@"), "a later write, of Postgres'"
        # Two rows of one transaction, each with a value that is there.
        both = written("bob", 200, user(s, 10, "a@x"), user(s, 11, "a@x"))
        assert await s.statuses(both) == ["applied"]
        emails = [row[1] for row in await s.rows("users")]
        assert len(set(emails)) == 6
        assert all(email.startswith("a@x ~") for email in emails[3:])


async def test_a_renamed_text_keeps_to_its_length(database: str) -> None:
    tables = """
    CREATE TABLE tags (id int PRIMARY KEY, label varchar(8) NOT NULL UNIQUE);
    INSERT INTO tags VALUES (1, 'eightchr'), (2, 'ab');
    SELECT electric.unique_policy('tags_label_key', 'rename');
    """
    async with scene(database, tables, "tags") as s:
        assert await s.statuses(written("ann", 100, s.insert("tags", "3", "eightchr"))) == ["applied"]
        assert await s.statuses(written("ann", 200, s.insert("tags", "4", "ab"))) == ["applied"]
        labels = [row[1] for row in await s.rows("tags")]
        assert labels[2][:4] == "ei ~"
        assert labels[3][:4] == "ab ~"
        assert all(len(label) <= 8 for label in labels)


async def test_nullify_takes_the_value_away_from_the_later_one(database: str) -> None:
    async with scene(database, USERS, "users") as s:
        for name in ("users_email_key", "users_folded"):
            await s.connection.execute("SELECT electric.unique_policy($1, 'nullify', 'email')", name)
        taken = s.update("users", "2", "a@x", "1", "2", "t", changed=[1], seen=["postgres_1@0"])
        assert await s.statuses(written("ann", 100, taken)) == ["applied"]
        assert [row[1] for row in await s.rows("users")] == ["a@x", None, "c@x"]
        await s.connection.execute("SELECT electric.unique_policy('users_email_key', 'first-wins')")
        assert await s.statuses(written("ann", 200, user(s, 9, "c@x"))) == ["rejected"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("'no_such', 'rename'", "no_such is no unique constraint or index"),
        ("'users_email_key', 'drop'", "there is no policy drop"),
        ("'users_place', 'rename'", "users_place has no column that could be renamed"),
        ("'users_place', 'nullify'", "users_place has no column that could be NULL"),
        ("'users_pkey', 'nullify'", "users_pkey has no column that could be NULL"),
        ("'users_folded', 'nullify'", "has several columns for that: email, active"),
        ("'users_email_key', 'rename', 'team'", "no column that could be renamed"),
    ],
)
async def test_a_policy_that_makes_no_sense_is_an_error(database: str, arguments: str, error: str) -> None:
    async with scene(database, USERS, "users") as s:
        with pytest.raises(asyncpg.PostgresError, match=error):
            await s.connection.execute(f"SELECT electric.unique_policy({arguments})")
