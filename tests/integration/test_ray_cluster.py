"""A Ray cluster of our own is no more than our hosts need: what else Ray starts may fail, and its end ends all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.patience import PATIENCE_S

from syncline.cluster.ray_cluster import NOTE, RayCluster


def test_it_starts_beside_others_with_a_ray_that_has_no_extras_and_runs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grpc.py").write_text("raise ModuleNotFoundError('the extra of Ray that brings it is not there')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    clusters = []
    try:
        for name in ("first", "second"):
            clusters.append(RayCluster.open(tmp_path / name))
            assert clusters[-1].started
            assert clusters[-1].head is not None
            children = psutil.Process(clusters[-1].head.pid).children()
            commands = " ".join(word for child in children for word in child.cmdline())
            for unwanted in ("ray.util.client.server", "log_monitor.py", "monitor.py"):
                assert unwanted not in commands
        assert len({cluster.address for cluster in clusters}) == 2
    finally:
        for cluster in clusters:
            cluster.stop()


def test_what_a_dead_head_has_left_is_ended_by_whoever_opens_the_next(tmp_path: Path) -> None:
    first = RayCluster.open(tmp_path)
    clusters = [first]
    try:
        assert first.head is not None
        leader = psutil.Process(first.head.pid)
        parts = leader.children(recursive=True)
        leader.kill()
        leader.wait()
        clusters.append(RayCluster.open(tmp_path))
        assert clusters[-1].started
        assert [part for part in parts if part.is_running()] == []
        assert not Path(first.head.temp_dir).exists()
    finally:
        for cluster in clusters:
            cluster.stop()


def test_a_head_whose_command_was_killed_while_it_started_is_found_by_its_note(tmp_path: Path) -> None:
    program = (
        f"from pathlib import Path; from {RayCluster.__module__} import *; RayCluster.open(Path({str(tmp_path)!r}))"
    )
    command = psutil.Popen([sys.executable, "-c", program])
    started: list[psutil.Process] = []
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not any("gcs_server" in process.name() for process in started):  # long before it has an address
            assert time.monotonic() < deadline_s
            time.sleep(0.01)  # nobody tells of a process that another one starts
            started = command.children(recursive=True)
        command.kill()
        command.wait()
        assert RayCluster.find(tmp_path) is None
        assert RayCluster.clear(tmp_path)
        alive = [process for process in started if process.is_running()]
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
        assert not RayCluster.clear(tmp_path)
    finally:
        for process in [command, *started]:
            if process.is_running():
                process.kill()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """The leader of a session of its own."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_a_stranger_who_has_the_number_of_a_dead_head_is_left_alone(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.2", 0))
        address = f"127.0.0.2:{closed.getsockname()[1]}"
    left = tmp_path / "left"
    left.mkdir()
    head = {"address": address, "pid": stranger.pid, "token": "0" * 64, "temp_dir": str(left)}
    (tmp_path / NOTE).write_text(json.dumps(head))
    RayCluster.clear(tmp_path)
    assert stranger.poll() is None
    assert not left.exists()


def test_a_stranger_with_the_number_and_the_port_of_a_dead_head_is_not_taken_for_it(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        head = {"address": address, "pid": stranger.pid, "token": "0" * 64, "temp_dir": str(tmp_path / "left")}
        (tmp_path / NOTE).write_text(json.dumps(head))
        assert RayCluster.find(tmp_path) is None
