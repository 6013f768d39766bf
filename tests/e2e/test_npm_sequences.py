"""A table with a serial key, and the published client, which has no values of its own: it has to give the key."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest
from tests.npm.rig import NpmError, devices, eventually
from tests.npm.service import serving

from syncline.client import open_db

SQL = """
CREATE TABLE orders (id serial PRIMARY KEY, place bigserial, title text NOT NULL, done bool NOT NULL DEFAULT false);
CREATE TABLE big (id bigserial PRIMARY KEY, n int8 NOT NULL DEFAULT -9223372036854775808);
INSERT INTO orders (title) VALUES ('first');
"""


@pytest.mark.parametrize("migrations", ["server", "none"])
async def test_a_key_that_is_left_out_is_refused_there_and_other_columns_wait_for_the_echo(
    database: str, tmp_path: Path, migrations: str
) -> None:
    schema = (
        None if migrations == "server" else {"orders": {"columns": {"id": "int4", "place": "int8", "title": "text"}}}
    )
    async with (
        serving(database, tmp_path, sql=SQL, electrified=("orders", "big")) as (service, postgres),
        devices(tmp_path, service.url, "ann", migrations=migrations, schema=schema) as [ann],
        open_db(tmp_path / "eve.db", service.url.replace("http", "ws")) as eve,
    ):
        await eve.connect(jwt.encode({"sub": "eve"}, "", "none"))
        await (await eve.sync("orders")).synced()
        await ann.sync("orders")
        await eve.execute("INSERT INTO orders (title) VALUES ('of eve')")
        with pytest.raises(NpmError, match=r"NOT NULL constraint failed: orders\.id"):
            await ann.execute(("INSERT INTO orders (title) VALUES ('no key')",))
        await ann.execute(("INSERT INTO orders (id, title) VALUES (1000, 'given')",))
        [row] = await ann.query("SELECT place, done FROM orders WHERE id = 1000")
        assert row == {"place": None, "done": 0}

        async def agree() -> bool:
            columns = "id, place, title, CAST(done AS INTEGER) AS done"
            there = [tuple(row) for row in await postgres.fetch(f"SELECT {columns} FROM orders ORDER BY id")]
            assert len(there) == 3
            assert [tuple(row) for row in await eve.sql(f"SELECT {columns} FROM orders ORDER BY id")] == there
            assert [
                tuple(row.values()) for row in await ann.query(f"SELECT {columns} FROM orders ORDER BY id")
            ] == there
            assert None not in (row[1] for row in there)
            return await ann.pending() == 0

        await eventually(agree)
        await ann.execute(("UPDATE orders SET done = 1 WHERE id = 1000",), ("DELETE FROM orders WHERE id = 1",))

        async def gone() -> bool:
            there = await postgres.fetch("SELECT id, done FROM orders ORDER BY id")
            return [tuple(row) for row in there] == [(2, False), (1000, True)]

        await eventually(gone)
        assert ann.unhandled == []


async def test_large_keys_are_exact(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=SQL, electrified=("big",)) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("big")
        await ann.execute(("INSERT INTO big (id) VALUES (9007199254740993)",))

        async def has_come() -> bool:
            return [tuple(row) for row in await postgres.fetch("SELECT * FROM big")] == [(2**53 + 1, -(2**63))]

        await eventually(has_come)
