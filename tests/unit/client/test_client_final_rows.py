"""One transaction that stands for many: what waits for its echo stands, and the clock sees the last of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.property.test_client_shared_commit import written
from tests.unit.client.satellite_peer import ITEMS, item

from syncline.client.store import open_store
from syncline.proto.values import POSTGRES_ORIGIN, Transaction, Update


@pytest.mark.parametrize("tag", ["other@500", "postgres_1@500"])
async def test_a_write_that_waits_for_its_echo_stands_and_the_next_is_later_than_all_of_them(
    tmp_path: Path, tag: str
) -> None:
    async with open_store(tmp_path / "me.db") as store:
        local = ["INSERT INTO items (id, title) VALUES ('a', 'mine')"]
        replica, (first,) = await written(store, local)
        final = Update(ITEMS.id, item("a", "theirs"), None, (tag,))
        many = Transaction(1, b"7", (final,), POSTGRES_ORIGIN, 7, latest_ms=500)
        await replica.apply_transactions([many], {ITEMS.id: ITEMS})
        rows = await store.read(lambda connection: connection.execute("SELECT title FROM items").fetchall())
        assert [row[0] for row in rows] == ["mine"]
        later = await store.write(
            lambda connection: (connection.execute("UPDATE items SET rank = 3"), replica.stamp(connection))[1]
        )
        assert later is not None
        assert first < 500 < later.commit_ms
