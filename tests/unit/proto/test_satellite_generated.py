from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from syncline.proto import satellite_pb2

PACKAGE = Path(satellite_pb2.__file__).parent
ROOT = PACKAGE.parent.parent


def test_the_generated_code_is_what_the_specification_generates(tmp_path: Path) -> None:
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", "-I", str(ROOT)),
            *(f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", str(PACKAGE / "satellite.proto")),
        ],
        check=True,
    )
    for name in ("satellite_pb2.py", "satellite_pb2.pyi"):
        assert (tmp_path / "syncline" / "proto" / name).read_bytes() == (PACKAGE / name).read_bytes()


def test_the_package_is_the_one_old_peers_know() -> None:
    assert satellite_pb2.DESCRIPTOR.package == "Electric.Satellite"
