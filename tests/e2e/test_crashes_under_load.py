"""Whatever is killed or cut while devices write: every write is executed once, and everyone is current again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.e2e.journal import journal_scene
from tests.e2e.proxy import Flow
from tests.patience import PATIENCE_S
from tests.rawdevice import RawDevice

from syncline.actors.postgres.embedded import EmbeddedPostgres

ROUNDS = 3
WRITES = 60


@pytest.mark.each_runtime
async def test_the_service_is_killed_while_devices_write(database: str, tmp_path: Path) -> None:
    async with journal_scene(database, tmp_path, devices=3) as scene:
        for _ in range(ROUNDS):
            await scene.carried_out(WRITES)
            await scene.service.kill()
            await scene.noticed()
            await scene.restart_service()
        await scene.carried_out(WRITES)
        for writer in scene.writers:
            await writer.stop()
        await scene.current()
        assert await scene.check_journal() > ROUNDS * WRITES


async def test_postgres_crashes_while_devices_write(postgres: EmbeddedPostgres, database: str, tmp_path: Path) -> None:
    async with journal_scene(database, tmp_path, devices=3) as scene:
        for _ in range(ROUNDS):
            await scene.carried_out(WRITES)
            await asyncio.to_thread(postgres.stop, "immediate")
            await asyncio.to_thread(postgres.start)
        await scene.carried_out(WRITES)
        for writer in scene.writers:
            await writer.stop()
        await scene.current()
        assert await scene.check_journal() > ROUNDS * WRITES


async def test_sockets_are_cut_while_devices_write(database: str, tmp_path: Path) -> None:
    async with journal_scene(database, tmp_path, devices=3) as scene:
        cut = 0
        for _ in range(3 * ROUNDS):
            await scene.carried_out(WRITES // 3)
            cut += scene.proxy.cut()
        await scene.carried_out(WRITES // 3)
        for writer in scene.writers:
            await writer.stop()
        await scene.current()
        assert cut >= 3 * ROUNDS
        assert await scene.check_journal() > ROUNDS * WRITES


async def test_a_half_open_link_is_noticed_at_both_ends_and_replaced(
    database: str, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    """Nobody tells either end: the devices find out by their pings and come back on new connections; of the device
    that does not come back the service finds out by its own. It gives a silent peer up to a minute, and so long this
    takes."""
    async with (
        journal_scene(database, tmp_path, devices=2) as scene,
        RawDevice.connected(f"http://127.0.0.1:{scene.proxy.port}") as vanished,
    ):
        await vanished.start()
        await scene.carried_out(WRITES)
        began = time.monotonic()
        flows = scene.proxy.forsake()
        assert len(flows) == len(scene.writers) + 1
        vanished_flow = await _last_to_end(flows)
        devices_s = time.monotonic() - began
        await scene.carried_out(WRITES)
        for writer in scene.writers:
            await writer.stop()
        current_s = await scene.current()
        for flow in flows:
            async with asyncio.timeout(PATIENCE_S):
                await flow.service_ended.wait()
        service_s = time.monotonic() - began
        assert not vanished_flow.device_ended.is_set(), "its device asks for nothing and waits"
        assert await scene.check_journal() > 2 * WRITES
    measured = {"devices noticed": devices_s, "current": current_s, "service noticed": service_s}
    for name, seconds in measured.items():
        record_property(name, round(seconds, 2))
        print(f"{name} after {seconds:.2f} s")


async def _last_to_end(flows: Iterable[Flow]) -> Flow:
    """The flow whose device still believes in it when the devices of all others have given theirs up."""
    waiting = {asyncio.create_task(flow.device_ended.wait()): flow for flow in flows}
    try:
        async with asyncio.timeout(PATIENCE_S):
            while len(pending := [task for task in waiting if not task.done()]) > 1:
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        return waiting[pending[0]]
    finally:
        for task in waiting:
            task.cancel()
