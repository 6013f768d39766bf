"""The embedded server starts, is found again, and survives what it should."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from syncline.actors.postgres.embedded import EmbeddedPostgres


async def test_it_offers_logical_decoding_and_asks_for_a_password(postgres: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(postgres.dsn())
    assert await connection.fetchval("SHOW wal_level") == "logical"
    assert await connection.fetchval("SHOW password_encryption") == "scram-sha-256"
    await connection.close()
    assert "127.0.0.1" in postgres.dsn()


def test_a_second_start_on_the_same_folder_finds_the_running_server(server_dir: Path) -> None:
    first = EmbeddedPostgres(server_dir / "found-again")
    dsn = first.start()
    try:
        assert EmbeddedPostgres(server_dir / "found-again").start() == dsn
    finally:
        first.stop()
    assert first.running_port() is None


async def test_rows_survive_an_immediate_stop(server_dir: Path) -> None:
    server = EmbeddedPostgres(server_dir / "crashes")
    connection = await asyncpg.connect(server.start())
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
    server.stop("immediate")
    connection.terminate()
    again = await asyncpg.connect(server.start())
    assert await again.fetchval("SELECT id FROM kept") == 1
    await again.close()
    server.stop("immediate")
