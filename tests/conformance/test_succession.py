"""A host that Ray keeps is followed by its next generation, which may be gone before it has ended the one before it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance.actors import HERE, Signs
from tests.patience import PATIENCE_S

from syncline.cluster.ray_host import HostEnded, HostSpec, RayHost
from syncline.cluster.ray_names import RayName


class Scene:
    """An earlier generation that ends when it may, and a later one that asks it to. ``signs``: what they say."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.signs = Signs(folder)
        self.hosts: list[RayHost] = []

    def bring_up(self, generation: int, program: str) -> RayHost:
        name = RayName("succession", self._folder.name, generation)
        self.hosts.append(RayHost.bring_up(HostSpec(name, f"{HERE}:{program}", str(self._folder))))
        return self.hosts[-1]

    def successor(self) -> int:
        """The process of the later one, which has said so."""
        return int(self.signs.text("successor") or "")

    async def ended(self, pid: int) -> None:
        """Returns when that process is no more: Ray ends it some time after it was told to."""
        async with asyncio.timeout(PATIENCE_S):
            while lives(pid):  # noqa: ASYNC110 - it is no child of this process
                await asyncio.sleep(0.01)  # and nothing tells others of its end

    async def asked(self) -> None:
        """Returns when the earlier one has been asked to stop."""
        async with asyncio.timeout(PATIENCE_S):
            await self.signs.given("asked")


@pytest.fixture
def scene(ray: None, tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path)
    yield found
    for host in found.hosts:
        host.end()


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def pid_of(host: RayHost) -> int:
    async with asyncio.timeout(PATIENCE_S):
        return int(str((await host.ready())["pid"]))


async def test_who_was_asked_to_stop_goes_on_when_its_successor_is_given_up(scene: Scene) -> None:
    earlier = scene.bring_up(1, "slow_to_end")
    before = await pid_of(earlier)
    later = scene.bring_up(2, "succeeds")
    await scene.asked()
    later.end()
    await scene.ended(scene.successor())  # else it may end the earlier one for good in its last moment
    scene.signs.give("may end")
    await asyncio.wrap_future(earlier.actor.stop.remote().future())  # its program has ended
    assert await pid_of(earlier) != before


async def test_a_successor_that_is_killed_meanwhile_takes_the_place_all_the_same(scene: Scene) -> None:
    earlier = scene.bring_up(1, "slow_to_end")
    await pid_of(earlier)
    later = scene.bring_up(2, "succeeds")
    await scene.asked()
    os.kill(scene.successor(), signal.SIGKILL)
    scene.signs.give("may end")
    await pid_of(later)
    with pytest.raises(HostEnded):
        await pid_of(earlier)
