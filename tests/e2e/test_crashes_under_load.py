"""Whatever is killed or cut while devices write: every write is executed once, and everyone is current again soon."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.e2e.journal import journal_scene

from syncline.actors.postgres.embedded import EmbeddedPostgres

ROUNDS = 3
LOAD_S = 1.0


async def test_the_service_is_killed_while_devices_write(database: str, tmp_path: Path) -> None:
    async with journal_scene(database, tmp_path, devices=3) as scene:
        for _ in range(ROUNDS):
            await asyncio.sleep(LOAD_S)
            await scene.service.kill()
            await asyncio.sleep(LOAD_S / 4)
            await scene.restart_service()
        await asyncio.sleep(LOAD_S)
        for writer in scene.writers:
            await writer.stop()
        await scene.current()
        assert await scene.check_journal() > 100


async def test_postgres_crashes_while_devices_write(postgres: EmbeddedPostgres, database: str, tmp_path: Path) -> None:
    async with journal_scene(database, tmp_path, devices=3) as scene:
        for _ in range(ROUNDS):
            await asyncio.sleep(LOAD_S)
            await asyncio.to_thread(postgres.stop, "immediate")
            await asyncio.to_thread(postgres.start)
        await asyncio.sleep(LOAD_S)
        for writer in scene.writers:
            await writer.stop()
        await scene.current()
        assert await scene.check_journal() > 100


async def test_sockets_are_cut_while_devices_write(database: str, tmp_path: Path) -> None:
    async with journal_scene(database, tmp_path, devices=3) as scene:
        cut = 0
        for _ in range(3 * ROUNDS):
            await asyncio.sleep(LOAD_S / 3)
            cut += scene.proxy.cut()
        for writer in scene.writers:
            await writer.stop()
        await scene.current()
        assert cut >= 3 * ROUNDS
        assert await scene.check_journal() > 100


async def test_a_half_open_link_is_given_up_and_replaced(database: str, tmp_path: Path) -> None:
    async with journal_scene(database, tmp_path, devices=2) as scene:
        await asyncio.sleep(LOAD_S)
        scene.proxy.black_hole()
        await asyncio.sleep(LOAD_S)
        scene.proxy.cut()  # the network forgets the old flows, as it does when a phone changes networks
        scene.proxy.heal()
        await asyncio.sleep(LOAD_S)
        for writer in scene.writers:
            await writer.stop()
        await scene.current()
        assert await scene.check_journal() > 50
