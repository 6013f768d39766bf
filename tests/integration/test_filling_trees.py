"""A shape of many rows is filled a part at a time, however much hangs on each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.test_shape_trees import SQL, TABLES, request
from tests.integration.tree_scene import running
from tests.rawdevice import RawDevice

from syncline.actors.shapes import treeconsumer
from syncline.actors.shapes.membership import Step, advance
from syncline.actors.shapes.treeconsumer import FILL_ROWS, roots_at_once

PROJECTS, ISSUES = 300, 40


async def test_many_projects_with_many_issues_come_in_parts(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def noted(*arguments: object) -> object:
        found = advance(*arguments)  # type: ignore[arg-type]
        if isinstance(found, Step):
            sizes.append(len(found.changes))
        return found

    monkeypatch.setattr(treeconsumer, "advance", noted)
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
    assert max(sizes) <= 2 * FILL_ROWS


@pytest.mark.parametrize(
    ("roots", "rows", "following"),
    [(10, 10, 20), (10, 0, 20), (10, 10 * FILL_ROWS, 1), (1, 10**6, 1), (100, 4_000, 25)],
)
def test_as_many_roots_come_next_as_bring_some_rows(roots: int, rows: int, following: int) -> None:
    assert roots_at_once(roots, rows) == following
