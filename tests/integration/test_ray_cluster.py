"""A Ray cluster of our own is no more than our hosts need: what else Ray starts may fail, and its end ends all."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from syncline.cluster.ray_cluster import RayCluster


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
