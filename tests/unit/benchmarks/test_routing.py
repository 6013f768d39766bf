"""The benchmark of routing measures what it says: each change belongs to one shape, and that one is asked."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import pytest
from benchmarks.issuetree import dealt, request
from benchmarks.routing import CATALOG, PROGRAM, PROJECT_AT, Routed, equality, project, transactions

from syncline.actors.devices.planning import selected_shape
from syncline.proto.values import ShapeRequest


def test_every_change_is_found_by_the_one_shape_it_belongs_to() -> None:
    shapes = [equality(n) for n in range(5)]
    routed = Routed(shapes, shapes)
    parts = transactions([project(n).encode() for n in (1, 3)], PROJECT_AT, 8)
    assert asyncio.run(routed.find(parts)) == asyncio.run(routed.judge(parts)) == 8
    nobodys = transactions([project(7).encode()], PROJECT_AT, 8)
    assert asyncio.run(routed.find(nobodys)) == 0


def test_the_shapes_are_those_that_devices_get() -> None:
    asked = ShapeRequest("request", "items", f"this.project = '{project(12)}'")
    assert equality(12) == selected_shape(asked, CATALOG)
    assert equality(12).one_of == selected_shape(asked, CATALOG).one_of == ("project", (project(12),))


def test_a_small_run_compares_each_figure_with_one_shape(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    PROGRAM.options(parser)
    options = parser.parse_args(["--shapes", "1,200", "--ilike", "3", "--changes", "400", "--repeats", "1"])
    figures = {figure.name: figure for figure in asyncio.run(PROGRAM.measure(options, tmp_path))}
    assert figures["200 equality shapes: found and judged"].limit == "1 equality shapes: found and judged"
    assert figures["3 ILIKE shapes: found and judged"].limit == "1 ILIKE shapes: found and judged"


@pytest.mark.parametrize(("devices", "sizes"), [(2, [2, 1]), (3, [1, 1, 1]), (5, [1, 1, 1])])
def test_shapes_are_dealt_out_evenly(devices: int, sizes: list[int]) -> None:
    asked = [request("notes", f"this.id = {n}") for n in range(3)]
    parts = dealt(asked, devices)
    assert [len(part) for part in parts] == sizes
    assert {shape.request_id for part in parts for shape in part} == {shape.request_id for shape in asked}
