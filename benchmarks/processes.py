"""Of which processes a service consists: one under the runtime ``local``, the hosts and Ray's own under ``ray``."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import psutil

LOCAL = "local"


def hosts(data_dir: Path) -> dict[str, psutil.Process]:
    """Host name -> its process, under the runtime ray: whoever writes the log of that host; the newest if it is being
    replaced."""
    logs = f"{data_dir / 'logs'}/"
    found: dict[str, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if not process.name().startswith("ray::"):
                continue
            for path in _open_paths(process.pid):
                if path.startswith(logs):
                    name = path.removeprefix(logs).removesuffix(".log")
                    other = found.get(name)
                    if other is None or other.create_time() < process.create_time():
                        found[name] = process
    return found


def cluster(data_dir: Path) -> list[psutil.Process]:
    """All that the Ray cluster of a service's own started, hosts included; empty when there is none."""
    with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
        head = psutil.Process(json.loads((data_dir / "ray.json").read_text())["pid"])
        return [head, *head.children(recursive=True)]
    return []


def of_cluster(data_dir: Path, name: str) -> psutil.Process:
    """Ray's own process of that program (``raylet``, ``gcs_server``). Raises LookupError."""
    for process in cluster(data_dir):
        with contextlib.suppress(psutil.Error):
            if process.name() == name:
                return process
    raise LookupError(name)


def lives(process: psutil.Process) -> bool:
    """Whether it still runs, or is stopped: not ended, and not merely waited for."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds it has used; 0 for one that has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def postgres_cpu_s(backend_pid: int) -> float:
    """CPU seconds that the whole Postgres server of this backend has used, sessions included that have ended."""
    server = psutil.Process(backend_pid).parent()
    assert server is not None, "backends have a postmaster"
    ended = server.cpu_times()
    return (
        cpu_s(server)
        + float(ended.children_user + ended.children_system)
        + sum(map(cpu_s, server.children(recursive=True)))
    )


def rss_bytes(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_info().rss)
    return 0


def open_files(process: psutil.Process) -> int:
    """How many descriptors it has; 0 for one that has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.num_fds())
    return 0


def disk_bytes(folder: Path) -> int:
    """What all files below ``folder`` take on the disk; one that goes away meanwhile takes nothing."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            size += path.lstat().st_blocks * 512
    return size


def _open_paths(pid: int) -> list[str]:
    paths = []
    for file in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            paths.append(os.readlink(file.path))
    return paths
