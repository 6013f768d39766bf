"""The rig of the npm client is told at once that a device is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.npm.rig import NpmDevice, NpmDiedError


async def test_a_call_after_the_last_word_of_a_process_whose_end_is_not_known_yet_fails_at_once(
    tmp_path: Path,
) -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("sh", "-c", "exec >&-; exec sleep 60", stdin=pipe, stdout=pipe)
    device = NpmDevice(process, tmp_path / "device.db", tmp_path / "device.log")
    first = asyncio.create_task(device.call("query"))
    with pytest.raises(NpmDiedError):
        await first
    assert process.returncode is None
    with pytest.raises(NpmDiedError):
        await device.call("query", within_s=5)
    await device.kill()
