"""The host under test on each runtime, and who looks at it from this process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conformance.actors import application
from tests.conformance.kept import FAR, ROOT, Child, Kept, KeptByRay, Place, local_host

from syncline.cluster.host import Host, LocalHost
from syncline.cluster.ray_cluster import RayCluster


@dataclass(frozen=True)
class Hosted:
    """``there``: the host under test. ``here``: that of the probes, which may be the same."""

    here: LocalHost
    there: Host
    kept: Kept | None = None


@pytest.fixture(scope="session")
def sockets() -> Iterator[Path]:
    """A folder with a short name, as sockets need."""
    folder = Path(tempfile.mkdtemp(prefix="syncline-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray cluster of our own, whose workers find what the tests have for them; this process is connected to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
        cluster = RayCluster.open(tmp_path_factory.mktemp("ray"))
        try:
            with cluster.connected():
                yield
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
def processes(sockets: Path) -> Iterator[Child]:
    child = Child(Place(listen=f"unix:{sockets}/child.sock"))
    yield child
    child.end()


@pytest.fixture(scope="session")
def kept_by_ray(ray: None, sockets: Path) -> Iterator[KeptByRay]:
    host = KeptByRay(Place(listen=f"unix:{sockets}/ray.sock"))
    yield host
    host.end()  # a cluster whose hosts still live takes its time to end


async def _fresh(kept: Kept) -> Kept:
    """As from its start, whatever a test before did to it."""
    await kept.running()
    async with local_host() as host:
        far = host.connect(FAR, kept.address)
        await far.stop()
        await far.start(application(host))
    return kept


@pytest.fixture(params=["processes", "kept_by_ray"])
async def far(request: pytest.FixtureRequest) -> Kept:
    """A host in another process, with its application."""
    return await _fresh(request.getfixturevalue(request.param))


@pytest.fixture(params=["local", "processes", "kept_by_ray"])
async def hosted(request: pytest.FixtureRequest) -> AsyncIterator[Hosted]:
    """A host with nothing in it."""
    async with local_host() as here:
        if request.param == "local":
            yield Hosted(here, here)
            return
        kept: Kept = request.getfixturevalue(request.param)
        await kept.running()
        there = here.connect(FAR, kept.address)
        await there.stop()
        yield Hosted(here, there, kept)
