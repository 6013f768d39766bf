"""What `syncline status` shows of a service in which each has a process of its own."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from syncline.actors.status import Answer, show_service


def shown(**details: Any) -> str:
    out = io.StringIO()
    show_service(Console(file=out, width=200), "http://127.0.0.1:5133", Answer(True, "up", details))
    return out.getvalue()


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(19, "20 connection hosts\n"), (20, "20 connection hosts all are taken: who comes is turned away\n")],
)
def test_how_many_devices_there_can_be_and_when_there_are_that_many(devices: int, expected: str) -> None:
    assert expected in shown(devices=devices, devices_max=20)


def test_shapes_that_share_though_they_are_to_be_alone() -> None:
    assert "4 shapes share a process" in shown(shapes=3, shapes_sharing=4)
    assert "share" not in shown(shapes=3, shapes_sharing=0)
    assert "connection hosts" not in shown(devices=3, devices_max=None, shapes_sharing=None)


def test_what_shapes_take_of_the_disk_and_how_far_those_are_that_are_being_read() -> None:
    told = shown(
        disk_bytes={"logs": 3 << 20, "images": 5 << 20, "other": 0},
        shapes_loading={"shapes": 2, "rows": 1_500, "rows_estimate": 90_000},
        shapes_asleep=2,
        shapes_slow=1,
        rows_outside=4,
    )
    assert "on disk: logs 3.0 MiB, images 5.0 MiB, other 0.0 MiB" in told
    assert "2 shapes being read: 1,500 rows of at most 90,000 or so" in told
    assert "2 shapes on the disk alone" in told
    assert "1 shape with a clause that Postgres evaluates" in told
    assert "4 rows left out" in told
    nothing = shown(disk_bytes=None, shapes_loading=None, shapes_slow=0, rows_outside=0)
    assert "disk" not in nothing
    assert "left out" not in nothing
