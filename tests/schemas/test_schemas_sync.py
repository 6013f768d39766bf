"""Whole schemas, in the manner of real applications: every table syncs as it is, and everybody writes all of them.

Each ``*.sql`` of this folder is one. What devices cannot hold of it is a failure, and is listed with the reason. Other
schemas are tried in the same way: ``SYNCLINE_TEST_SCHEMAS`` names a folder of them. ``SYNCLINE_TEST_SEED`` makes them
write something else.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.schemas.scene import Scene, run_file, schema_scene

SEED = int(os.environ.get("SYNCLINE_TEST_SEED", "1"))
"""Of everything that is written."""
RUNNING = ".running.sql"
"""How files end that are run while devices are away: a new partition, say."""


def _schemas() -> list[Path]:
    folders = [Path(__file__).parent]
    if "SYNCLINE_TEST_SCHEMAS" in os.environ:
        folders.append(Path(os.environ["SYNCLINE_TEST_SCHEMAS"]))
    return [path for folder in folders for path in sorted(folder.glob("*.sql")) if not path.name.endswith(RUNNING)]


@pytest.mark.parametrize("schema", _schemas(), ids=lambda path: path.stem)
async def test_a_whole_schema_syncs(schema: Path, database: str, tmp_path: Path) -> None:
    async with schema_scene(database, tmp_path, schema, seed=SEED) as scene:
        await everybody_writes(scene, database, schema)
        assert scene.refused == {}


@pytest.mark.parametrize("name", ["forum", "laravel"])
async def test_a_device_of_the_npm_client_holds_and_writes_a_whole_schema(
    name: str, database: str, tmp_path: Path
) -> None:
    schema = Path(__file__).with_name(f"{name}.sql")
    async with schema_scene(database, tmp_path, schema, kinds=("python", "npm"), seed=SEED) as scene:
        await everybody_writes(scene, database, schema)
        assert scene.refused == {}


async def everybody_writes(scene: Scene, database: str, schema: Path) -> None:
    """While devices are away, and while they are not: all end with the rows of Postgres, and what it refused of them is
    what the schema forbids."""
    await scene.equal()

    await scene.offline()
    await scene.write()
    running = schema.with_suffix(RUNNING)
    if running.exists():
        await run_file(database, running)
    await scene.online()
    await scene.equal()

    await scene.write()
    await scene.equal()

    rejections, kept = await scene.rejections(), await scene.kept()
    print(f"{len(scene.tables)} tables, {dict(scene.tally)}, {len(rejections)} rejected, {kept:.0%} kept")
    print(*scene.complaints, *rejections, sep="\n")
    assert [one for one in rejections if not one.explained] == []
    assert len(rejections) < scene.tally["device transactions"] / 2, "most of what devices write holds"
    assert kept > 0.5, "most of what devices write is in Postgres"
