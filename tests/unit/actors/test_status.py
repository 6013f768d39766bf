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
