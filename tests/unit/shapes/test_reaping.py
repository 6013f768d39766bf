"""Which of the shapes that nobody needs go now."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.shapes.shape_scene import SHAPE

from syncline.actors.shapes.reaping import IdleShape, due


def idle(number: int, unasked_s: float, size_bytes: int = 10) -> IdleShape:
    return IdleShape(replace(SHAPE, where=str(number)), size_bytes, "", unasked_s)


NEW, OLD, OLDEST = idle(1, 5.0), idle(2, 50.0), idle(3, 500.0)
SINCE = {NEW.shape.hash: 95.0, OLD.shape.hash: 60.0, OLDEST.shape.hash: 40.0}


def chosen(kept_s: float, over_bytes: int = 0) -> list[IdleShape]:
    return due([OLD, NEW, OLDEST], SINCE, 100.0, kept_s, over_bytes)


def test_those_go_whose_time_is_over() -> None:
    assert chosen(kept_s=60.0) == [OLDEST]
    assert chosen(kept_s=61.0) == []
    assert chosen(kept_s=0.0) == [OLDEST, OLD, NEW]


def test_where_the_disk_is_too_full_as_many_as_it_takes_go_before_their_time() -> None:
    assert chosen(kept_s=1_000.0, over_bytes=1) == [OLDEST]
    assert chosen(kept_s=1_000.0, over_bytes=11) == [OLDEST, OLD]
    assert chosen(kept_s=60.0, over_bytes=-5) == [OLDEST]
    assert chosen(kept_s=1_000.0, over_bytes=1_000) == [OLDEST, OLD, NEW]
