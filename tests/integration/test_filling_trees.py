"""A shape of many rows is filled a part at a time, however much hangs on each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_shape_trees import SQL, TABLES, request
from tests.integration.tree_scene import running
from tests.rawdevice import RawDevice

from syncline.actors.shapes.bulk import Bulk
from syncline.actors.shapes.filling import PART_ROWS

PROJECTS, ISSUES = 300, 40


async def test_many_projects_with_many_issues_come_in_parts(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    add = Bulk.add

    def noted(self: Bulk, relation_id: int, keys: Sequence[bytes], nodes: int, rows: Any, *, once: bool) -> None:
        sizes.append(len(rows))
        add(self, relation_id, keys, nodes, rows, once=once)

    monkeypatch.setattr(Bulk, "add", noted)
    async with running(database, tmp_path, SQL, TABLES) as tree:
        await tree.postgres.execute(
            f"INSERT INTO projects SELECT n, NULL, 'p' FROM generate_series(0, {PROJECTS - 1}) n;"
            f"INSERT INTO issues SELECT n, n / {ISSUES}, 'i' FROM generate_series(0, {PROJECTS * ISSUES - 1}) n"
        )
        async with RawDevice.connected(tree.url) as device:
            await device.start()
            await device.subscribe(request("projects", project=request("issues")))
            assert sum(map(len, device.rows.values())) == PROJECTS * (1 + ISSUES)
    assert sum(sizes) == PROJECTS * (1 + ISSUES)
    assert max(sizes) <= PART_ROWS
