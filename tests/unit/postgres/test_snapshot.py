from __future__ import annotations

import pytest

from syncline.actors.postgres.catalog import table_info
from syncline.actors.postgres.copytext import CopyText
from syncline.actors.postgres.snapshot import ROW_TAGS_SQL, Visibility, rows_query

DESCRIPTION = {
    "schema": "public",
    "table": "t",
    "oid": 7,
    "columns": [
        {"name": "id", "type": "int4", "not_null": True, "pk": 1, "enum": None},
        {"name": "m", "type": "mood", "not_null": False, "pk": None, "enum": ["sad", "ok"]},
    ],
}
ERA = 1 << 32


def test_a_snapshot_sees_what_ended_before_it() -> None:
    seen = Visibility.parse("10:20:12,15", 0)
    assert [xid for xid in range(8, 23) if not seen.visible(xid)] == [12, 15, 20, 21, 22]


def test_a_snapshot_without_running_transactions() -> None:
    seen = Visibility.parse("10:10:", 0)
    assert seen.visible(9)
    assert not seen.visible(10)


def test_xids_widen_to_the_era_of_the_snapshot() -> None:
    seen = Visibility(3 * ERA + 100, 3 * ERA + 200, frozenset({3 * ERA + 150}))
    assert seen.widen(150) == 3 * ERA + 150
    assert not seen.visible(150)
    assert seen.visible(151)


def test_xids_widen_across_a_wraparound() -> None:
    after = Visibility(3 * ERA - 10, 3 * ERA + 5, frozenset())
    assert after.widen(2**32 - 3) == 3 * ERA - 3
    before = Visibility(3 * ERA - 20, 3 * ERA - 10, frozenset())
    assert before.widen(4) == 3 * ERA + 4
    assert after.visible(2**32 - 3)
    assert not before.visible(4)


COPY = b"1\tplain\n2\t\\N\n\\\\N\ta\\tb\\nc\\\\\\r\\b\\f\\v\n\t\n"
ROWS = [[b"1", b"plain"], [b"2", None], [b"\\N", b"a\tb\nc\\\r\b\f\v"], [b"", b""]]


def test_copy_text_becomes_cells() -> None:
    copy = CopyText(2)
    assert copy.feed(COPY) == ROWS
    copy.finish()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_copy_text_may_be_split_anywhere(size: int) -> None:
    copy = CopyText(2)
    assert [row for i in range(0, len(COPY), size) for row in copy.feed(COPY[i : i + size])] == ROWS
    copy.finish()


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="3 columns, not 2"):
        CopyText(2).feed(b"1\t2\t3\n")


def test_an_end_inside_a_row_is_noticed() -> None:
    copy = CopyText(2)
    copy.feed(b"1\t2\n3")
    with pytest.raises(ValueError, match="inside a row"):
        copy.finish()


def test_the_query_names_columns_in_catalog_order_and_joins_shadow_only_when_asked() -> None:
    table = table_info(DESCRIPTION)
    assert rows_query(table, tracked=False) == 'SELECT t."id", t."m" FROM "public"."t" t'
    tracked = rows_query(table, tracked=True)
    assert tracked.startswith(f'SELECT t."id", t."m", {ROW_TAGS_SQL} AS tags FROM "public"."t" t LEFT JOIN')
    assert "s.relid = 7 AND s.key = array_to_json" in tracked
