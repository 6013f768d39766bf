"""When a device asks for values of sequences, and for how many."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.client.client_scene import ITEMS, MEMBERS, PROJECTS

from syncline.client.schema import by_name
from syncline.client.sequences import FIRST_SIZE, Held, Wanted, columns_used, to_reserve
from syncline.client.shape_spec import Include, shape_spec
from syncline.proto.blocks import RESERVED_MAX

COLUMN = ("items", "rank")


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        (None, Wanted(FIRST_SIZE, 0)),
        (Held(100, 100), None),
        (Held(50, 100), None),
        (Held(49, 100), Wanted(151, 49)),
        (Held(0, 100), Wanted(200, 0)),
        (Held(99, 200), Wanted(301, 99)),
        (Held(2_999, 6_000), Wanted(7_001, 2_999)),
        (Held(4_999, 10_000), Wanted(5_001, 4_999)),
        (Held(0, 10_000), Wanted(10_000, 0)),
        (Held(0, 3), Wanted(100, 0)),
    ],
)
def test_more_is_wanted_when_less_than_half_is_left(held: Held | None, wanted: Wanted | None) -> None:
    found = to_reserve([COLUMN], {} if held is None else {COLUMN: held}, {})
    assert found == ({} if wanted is None else {COLUMN: wanted})


@pytest.mark.parametrize(
    ("held", "least", "wanted"),
    [
        (Held(), 500, Wanted(500, 0)),
        (Held(100, 100), 101, Wanted(1, 100)),
        (Held(100, 100), 100, None),
        (Held(10, 100), 150, Wanted(190, 10)),
        (Held(10, 100), 50_000, Wanted(9_990, 10)),
        (Held(10_000, 10_000), 50_000, None),
    ],
)
def test_more_is_wanted_when_somebody_needs_more(held: Held, least: int, wanted: Wanted | None) -> None:
    found = to_reserve([COLUMN], {COLUMN: held}, {COLUMN: least})
    assert found == ({} if wanted is None else {COLUMN: wanted})


def test_a_device_never_has_more_than_it_may() -> None:
    held, most = Held(), 0
    for left in range(0, 3 * RESERVED_MAX, 37):
        here = replace(held, left=min(left % (held.size or 1), held.size))
        for wanted in to_reserve([COLUMN], {COLUMN: here}, {}).values():
            assert 1 <= wanted.count <= RESERVED_MAX
            held = Held(wanted.size, wanted.size)
            most = max(most, held.size)
    assert most == RESERVED_MAX


def test_values_are_for_the_tables_of_shapes_and_what_these_refer_to() -> None:
    tables = by_name(
        [
            replace(PROJECTS, sequences=("name",)),
            replace(ITEMS, sequences=("rank", "weight"), lacking=("weight",)),
            replace(MEMBERS, sequences=("number",)),
        ]
    )
    used = {
        "items": [("items", "rank"), ("projects", "name")],
        "projects": [("projects", "name")],
        "unknown": [],
    }
    for table, columns in used.items():
        assert sorted(columns_used([shape_spec(table)], tables)) == columns
    spec = shape_spec("members", include=[Include("projects", on="boss")])
    assert sorted(columns_used([spec], tables)) == [("members", "number"), ("projects", "name")]
