"""A service is ended for good, whatever is brought up at that moment, and whoever restarts it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from tests.conformance.actors import HERE, Signs
from tests.patience import PATIENCE_S, until

from syncline.actors import ray_restart
from syncline.actors.faults import Fault
from syncline.actors.hosts import Role
from syncline.actors.layout import Layout
from syncline.actors.ray_found import stop_hosts
from syncline.cluster import ray_host
from syncline.cluster.ray_host import CALLS_AT_ONCE, HostEnded, HostSpec, RayHost
from syncline.cluster.ray_names import RayName


@dataclass(frozen=True, slots=True)
class Plain(Role):
    """The role of a host with a ``program`` of these tests, which says things in ``folder``."""

    program: str = field(kw_only=True)
    folder: str = field(kw_only=True)

    def spec(self, service: str, generation: int = 1) -> HostSpec:
        return HostSpec(RayName(service, self.id, generation), f"{HERE}:{self.program}", self.folder)


class Scene:
    """A service whose hosts are of these tests."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.signs = Signs(folder)
        layout = Layout("slot", 1, 1, "")
        self._role = Plain("", layout, cast("Any", None), {}, "", program="", folder=str(folder))
        self.said: list[str] = []

    def role(self, id: str, program: str) -> Role:
        return replace(self._role, id=id, program=program)

    async def bring_up(self, id: str, program: str) -> RayHost:
        """Returns when its program runs."""
        host = RayHost.bring_up(self.role(id, program).spec(self.name))
        await host.node()
        return host

    async def follow(self, id: str, program: str) -> None:
        """As the command ``restart`` does it. Raises Fault."""
        await ray_restart._follow(self.name, self.role(id, program), self.said.append)

    def left(self) -> list[str]:
        """The hosts there are."""
        return [str(name).partition("/")[2] for name in RayHost.names() if name.service == self.name]

    async def until_left(self, *hosts: str) -> None:
        """Waits until there are these and no others: Ray takes note of an end a moment after it was told."""

        async def left() -> bool:
            return self.left() == list(hosts)

        await until(left)

    async def given(self, sign: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self.signs.given(sign)


@pytest.fixture
async def scene(ray: None, tmp_path: Path) -> AsyncIterator[Scene]:
    found = Scene(tmp_path)
    yield found
    found.signs.give("may end")
    await stop_hosts(found.name)


async def test_a_successor_that_comes_while_its_service_is_stopped_is_stopped_too(scene: Scene) -> None:
    await scene.bring_up("origin", "slow_to_end")
    stopping = asyncio.create_task(stop_hosts(scene.name))
    await scene.given("asked")
    following = asyncio.create_task(scene.follow("origin", "never_ready"))
    await scene.until_left("origin", "origin@2")
    scene.signs.give("may end")
    assert await stopping == ["origin"]
    assert scene.left() == []
    with pytest.raises(Fault, match="has been stopped meanwhile"):
        await asyncio.wait_for(following, PATIENCE_S)
    await scene.until_left()


async def test_no_host_of_a_service_that_has_been_stopped_is_followed(scene: Scene) -> None:
    await scene.bring_up("origin", "never_ready")
    assert await stop_hosts(scene.name) == ["origin"]
    with pytest.raises(Fault, match="has been stopped meanwhile"):
        await asyncio.wait_for(scene.follow("origin", "never_ready"), PATIENCE_S)
    await scene.until_left()


async def test_a_successor_that_finds_itself_alone_is_ended_again(scene: Scene) -> None:
    """The service was stopped between two looks."""
    with pytest.raises(Fault, match="has been stopped meanwhile"):
        ray_restart._brought_up(scene.name, scene.role("origin", "never_ready"), 2, None)
    await scene.until_left()


async def test_a_successor_that_does_not_come_to_serve_is_given_up_and_the_one_before_it_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = await scene.bring_up("origin", "slow_to_end")
    before = (await earlier.ready())["pid"]
    monkeypatch.setattr(ray_restart, "SUCCESSION_S", 5.0)
    with pytest.raises(Fault, match="the old one goes on"):
        await scene.follow("origin", "never_ready")
    await scene.until_left("origin")
    assert (await earlier.ready())["pid"] == before
    assert scene.signs.text("asked") is None


async def test_many_who_wait_for_a_host_do_not_keep_it_from_being_stopped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_host, "STOP_S", PATIENCE_S / 4)
    host = await scene.bring_up("origin", "never_ready")
    waiting = [asyncio.ensure_future(host.ready()) for _ in range(2 * CALLS_AT_ONCE)]
    await asyncio.sleep(0)  # they ask before we do
    await host.stop()
    assert "did not end in order" not in caplog.text
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(each) for each in ended} == {HostEnded}
