"""What a restart costs that nobody can spare us: a process that does nothing is killed, until the next one answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

from benchmarks.processes import LOCAL
from benchmarks.side import beside
from benchmarks.stand import ServiceProcess
from syncline.cluster.ray_cluster import RayCluster

RETRY_S = 0.02


async def restarts_s(service: ServiceProcess, times: int) -> Sequence[float]:
    """Under ray: an actor of the service's cluster that only answers, kept by Ray. Under local: a bare Python."""
    if service.deployment.runtime == LOCAL:
        return [await asyncio.to_thread(_bare_python) for _ in range(times)]
    async with beside(restart_actors, str(service.data_dir), times) as side:
        found: Sequence[float] = await side.receive()
        return found


def _bare_python() -> float:
    started_s = time.monotonic()
    subprocess.run([sys.executable, "-c", "import asyncio"], check=True)
    return time.monotonic() - started_s


def restart_actors(pipe: Connection, data_dir: str, times: int) -> None:
    """For a process of its own: sends the seconds of each restart."""
    cluster = RayCluster.find(Path(data_dir))
    assert cluster is not None, "the service runs"
    with cluster.connected():
        import ray
        from ray.exceptions import RayError

        class Bare:
            def pid(self) -> int:
                return os.getpid()

        actor = cast("Any", ray.remote(Bare)).options(max_restarts=-1, num_cpus=0).remote()
        found = []
        pid = ray.get(actor.pid.remote())
        for _ in range(times):
            os.kill(pid, signal.SIGKILL)
            killed_s, now = time.monotonic(), pid
            while now == pid:
                with contextlib.suppress(RayError):
                    now = ray.get(actor.pid.remote())
                    continue
                time.sleep(RETRY_S)
            found.append(time.monotonic() - killed_s)
            pid = now
        pipe.send(found)
