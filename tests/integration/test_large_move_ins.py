"""A change of one row brings thousands of others: they come in its transaction, and nobody else waits for that long."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_shape_trees import SQL, TABLES, request
from tests.integration.tree_scene import running
from tests.patience import until
from tests.rawdevice import RawDevice

from syncline.actors.shapes import treeconsumer
from syncline.proto.values import Gone, Insert, ShapeRequest

ISSUES, COMMENTS = 300, 10
ROWS_BETWEEN_TURNS_MAX = 1_000


async def test_a_large_subtree_moves_in_and_out_as_one_transaction_with_pauses(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: dict[str, int] = {}
    paced = treeconsumer.paced

    async def counted(steps: Generator[None, None, Any]) -> Any:
        def noted() -> Generator[None, None, Any]:
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    return end.value
                turns[steps.__name__] = turns.get(steps.__name__, 0) + 1
                yield

        return await paced(noted())

    monkeypatch.setattr(treeconsumer, "paced", counted)
    include = request("issues", issue=request("comments"))
    wanted = ShapeRequest("1", "projects", "this.name = 'ours'", include=((("project",), include),))
    async with running(database, tmp_path, SQL, TABLES) as tree, RawDevice.connected(tree.url) as device:
        await tree.postgres.execute(
            "INSERT INTO projects VALUES (1, NULL, 'theirs');"
            f"INSERT INTO issues SELECT n, 1, 'i' FROM generate_series(0, {ISSUES - 1}) n;"
            f"INSERT INTO comments SELECT n, n / {COMMENTS}, NULL, 'c' "
            f"FROM generate_series(0, {ISSUES * COMMENTS - 1}) n"
        )
        await device.start()
        await device.subscribe(wanted)
        rows = 1 + ISSUES * (1 + COMMENTS)
        for name, kind in (("ours", Insert), ("theirs", Gone)):
            turns.clear()
            before = len(device.transactions)
            await tree.postgres.execute("UPDATE projects SET name = $1", name)
            await until(lambda: _have(device, before + 1))  # noqa: B023
            changes = device.transactions[before].changes
            assert len(changes) == rows
            assert all(isinstance(change, kind) for change in changes)
            assert min(turns["advancing"], turns["applying"]) >= rows // ROWS_BETWEEN_TURNS_MAX, turns


async def _have(device: RawDevice, transactions: int) -> bool:
    await asyncio.sleep(0)
    return len(device.transactions) >= transactions
