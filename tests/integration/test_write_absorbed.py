"""The service was killed, and the stream brings once more what devices' writes have been merged with since."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.integration.write_scene import Scene, scene, written

from syncline.actors.postgres.absorption import Entry

pytestmark = pytest.mark.every_major

X, Y = 1, 2


@pytest.fixture
async def s(database: str) -> AsyncIterator[Scene]:
    async with scene(database, "CREATE TABLE points (id text PRIMARY KEY, x text, y text)", "points") as opened:
        yield opened


async def applied(s: Scene, *transactions: dict[str, object]) -> None:
    assert set(await s.statuses(*transactions)) == {"applied"}


async def test_an_old_time_of_a_column_does_not_count_again(s: Scene) -> None:
    await applied(s, written("a", 100, s.insert("points", "1", "x", "y")))
    await s.connection.execute("UPDATE points SET y = 'direct'")
    old = await s.entry("points", 140, changed=[Y])
    await s.absorb_entry("points", "1", old)
    later = s.update("points", "1", "x", "later", changed=[Y], seen=["a@100", "postgres_1@140"])
    await applied(s, written("b", 150, later))
    await s.connection.execute("UPDATE points SET x = 'direct'")
    new = await s.entry("points", 160, changed=[X])
    together = Entry(new.lsn, new.ms, (None, 160, 140), (None, new.lsn, old.lsn))
    for entry in (old, new, together):
        await s.absorb_entry("points", "1", entry)
    await applied(s, written("c", 145, s.update("points", "1", "x", "earlier", changed=[Y], seen=["a@100"])))
    assert await s.rows("points") == [("1", "direct", "later")]


async def test_nor_does_an_old_delete_that_a_device_has_undone(s: Scene) -> None:
    """What direct SQL has inserted in place of what it deleted came whole; what came back here did not."""
    await applied(s, written("a", 100, s.insert("points", "1", "x", "y")))
    await s.connection.execute("DELETE FROM points")
    old = await s.entry("points", 140, gone=["1", "x", "y"])
    await s.absorb_entry("points", "1", old)
    await applied(s, written("b", 150, s.update("points", "1", "x", "back", changed=[Y], seen=["a@100"])))
    await s.connection.execute("UPDATE points SET x = 'direct'")
    new = await s.entry("points", 160, changed=[X])
    for entry in (old, new):
        await s.absorb_entry("points", "1", entry)
    await applied(s, written("c", 155, s.update("points", "1", "x", "later", changed=[Y], seen=["a@100"])))
    assert await s.rows("points") == [("1", "direct", "later")]


async def test_the_pieces_of_a_large_transaction_of_direct_sql_add_up(s: Scene) -> None:
    """All have the position of its commit. When the stream comes again, so do all of them."""
    await s.connection.execute("INSERT INTO points VALUES ('1', 'x', 'y')")
    await s.connection.execute("UPDATE points SET x = 'direct', y = 'direct'")
    whole = await s.entry("points", 300, changed=[X, Y])
    first = replace(whole, column_ms=(None, 300, None), column_lsn=(None, whole.lsn, None))
    second = replace(whole, column_ms=(None, None, 300), column_lsn=(None, None, whole.lsn), piece=5_000)
    for entry in (first, second, first, second):
        await s.absorb_entry("points", "1", entry)
    await applied(s, written("ann", 200, s.update("points", "1", "x", "earlier", changed=[Y], seen=["postgres_1@5"])))
    await applied(s, written("bob", 200, s.update("points", "1", "earlier", "y", changed=[X], seen=["postgres_1@5"])))
    assert await s.rows("points") == [("1", "direct", "direct")]


async def test_a_piece_that_deletes_is_later_than_one_before_it(s: Scene) -> None:
    await s.connection.execute("INSERT INTO points VALUES ('1', 'x', 'y')")
    await s.connection.execute("DELETE FROM points")
    gone = await s.entry("points", 300, gone=["1", "changed", "y"])
    updated = replace(gone, column_ms=(None, 300, None), column_lsn=(None, gone.lsn, None), row=None)
    for entry in (updated, replace(gone, piece=5_000), updated):
        await s.absorb_entry("points", "1", entry)
    await applied(s, written("ann", 400, s.update("points", "1", "x", "anew", changed=[Y], seen=["postgres_1@5"])))
    assert await s.rows("points") == [("1", "changed", "anew")]
