"""The Postgres that a run of the tests asks for is the one it gets."""

from __future__ import annotations

import os
from pathlib import Path

import asyncpg
import pytest
from tests.postgres_majors import OLDEST, VARIABLE, WHEEL_MAJOR, NoBuildError, installation

from syncline.actors.postgres.embedded import EmbeddedPostgres


async def major_of(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SHOW server_version_num")) // 10000
    finally:
        await connection.close()


async def test_the_oldest_major_starts_and_says_its_version(server_dir: Path) -> None:
    try:
        server = EmbeddedPostgres(server_dir / "oldest", installation=installation(OLDEST))
    except NoBuildError as error:  # nobody builds it for this platform; one that cannot be fetched fails
        pytest.skip(str(error))
    try:
        assert await major_of(server.start()) == OLDEST
    finally:
        server.stop("immediate")


@pytest.mark.every_major
async def test_the_server_under_test_is_of_the_major_asked_for(postgres: EmbeddedPostgres) -> None:
    wanted = os.environ.get(VARIABLE) or str(WHEEL_MAJOR)
    if wanted.isdecimal():  # of a folder, nothing is known
        assert await major_of(postgres.dsn()) == int(wanted)
