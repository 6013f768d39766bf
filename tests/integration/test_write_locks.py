"""The writer never waits for an application's transaction, and never makes one wait for long."""

from __future__ import annotations

import asyncpg
import pytest
from tests.integration.write_scene import scene, written

pytestmark = pytest.mark.every_major

SCHEMA = """
CREATE TABLE parents (id int PRIMARY KEY, name text);
CREATE TABLE items (id int PRIMARY KEY, code int UNIQUE, parent int REFERENCES parents);
INSERT INTO parents VALUES (1, 'p');
INSERT INTO items VALUES (1, 1, 1);
"""

HELD = {
    "a row": "UPDATE items SET code = 5 WHERE id = 1",
    "a key about to be inserted": "INSERT INTO items VALUES (2, 9, NULL)",
    "a unique value": "INSERT INTO items VALUES (7, 2, NULL)",
    "a parent": "DELETE FROM items; DELETE FROM parents",
    "the table": "LOCK TABLE items IN ACCESS EXCLUSIVE MODE",
}


@pytest.mark.parametrize("lock", HELD)
async def test_a_lock_of_the_application_delays_that_transaction_alone(database: str, lock: str) -> None:
    async with scene(database, SCHEMA, "parents", "items") as s:
        blocked = {
            "a row": s.update("items", "1", "6", "1", changed=[1]),
            "a key about to be inserted": s.insert("items", "2", "8", None),
            "a unique value": s.insert("items", "3", "2", None),
            "a parent": s.insert("items", "4", "4", "1"),
            "the table": s.insert("items", "4", "4", None),
        }[lock]
        first, second = written("a", 100, blocked), written("a", 101, s.insert("parents", "3", "after"))
        free = written("b", 100, s.insert("parents", "2", "free"))
        application = await asyncpg.connect(database)
        transaction = application.transaction()
        await transaction.start()
        await application.execute(HELD[lock])
        waiting, behind, other = await s.apply(first, second, free)
        assert (waiting["status"], waiting["sqlstate"]) == ("retry", "55P03")
        assert behind["status"] == "retry"
        assert other["status"] == "applied"
        await transaction.rollback()
        await application.close()
        assert await s.statuses(first, second) == ["applied", "applied"]


async def test_a_foreign_key_check_of_the_application_does_not_delay_an_update_of_its_parent(database: str) -> None:
    async with scene(database, SCHEMA, "parents", "items") as s:
        application = await asyncpg.connect(database)
        transaction = application.transaction()
        await transaction.start()
        await application.execute("INSERT INTO items VALUES (9, 9, 1)")
        assert await s.statuses(written("a", 100, s.update("parents", "1", "new", changed=[1]))) == ["applied"]
        await transaction.rollback()
        await application.close()


async def test_a_batch_holds_no_lock_when_it_returns(database: str) -> None:
    async with scene(database, SCHEMA, "parents", "items") as s:
        await s.statuses(
            written("a", 100, s.update("items", "1", "6", "1", changed=[1])),
            written("a", 101, s.insert("items", "1x", None, None)),
        )
        application = await asyncpg.connect(database)
        await application.execute("SET lock_timeout = '1ms'; LOCK TABLE items, parents, electric.clients")
        await application.close()
