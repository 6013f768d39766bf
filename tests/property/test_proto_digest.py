"""Digests of rows: equal for equal rows in any order, different in the buckets of those that differ, on both ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncline.proto import codec
from syncline.proto.digest import (
    BUCKETS_MAX,
    ROWS_PER_BUCKET,
    SALT_BYTES,
    Digests,
    TableDifference,
    bucket_of,
    buckets_for,
    held_body,
    held_tags,
)
from syncline.proto.ops import body_of, insert_body
from syncline.proto.values import Insert

TAGS = st.sampled_from([("postgres_1@0",), ("a@7",), ("b@8", "a@7")])
CELLS = st.none() | st.binary(max_size=300)
ROWS = st.dictionaries(st.binary(min_size=1, max_size=4), st.tuples(CELLS, TAGS), max_size=30)
BUCKETS = st.sampled_from([1, 2, 4, 16, 64])
SALT = bytes(range(SALT_BYTES))
Rows = dict[bytes, tuple[bytes | None, tuple[str, ...]]]


def digests(rows: Rows, buckets: int) -> Digests:
    made = Digests(buckets, SALT)
    for key, (cell, tags) in rows.items():
        made.add((key,), insert_body((key, cell), tags))
    return made


@given(ROWS, BUCKETS, st.randoms())
def test_the_order_of_rows_does_not_matter(rows: Rows, buckets: int, random: object) -> None:
    shuffled = list(rows.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert digests(rows, buckets).sums() == digests(dict(shuffled), buckets).sums()


@given(ROWS, ROWS, BUCKETS)
def test_those_buckets_differ_in_which_rows_do(here: Rows, there: Rows, buckets: int) -> None:
    there = {**here, **there}
    for key in list(there)[::3]:
        del there[key]
    found = digests(there, buckets).difference(7, digests(here, buckets).sums())
    different = {key for key in here.keys() | there.keys() if here.get(key) != there.get(key)}
    places = {bucket_of((key,), buckets) for key in different}
    assert found.any == bool(different)
    for key in here.keys() | there.keys():
        assert found.includes((key,)) == (bucket_of((key,), buckets) in places)
    in_places = sum(bucket_of((key,), buckets) in places for key in there)
    assert digests(there, buckets).rows_in(found) == in_places


@given(st.integers(0, 2**32 - 1), st.lists(CELLS, min_size=1, max_size=20), TAGS)
def test_a_device_digests_the_bytes_that_a_service_has_stored(
    relation_id: int, cells: list[bytes | None], tags: tuple[str, ...]
) -> None:
    row = tuple(cells)
    assert body_of(codec.encode_ops([Insert(relation_id, row, tags)]), relation_id) == insert_body(row, tags)


@given(st.lists(st.integers(1, 10_000_000), max_size=50))
def test_buckets_are_few_enough_and_rows_in_them_where_that_allows(rows: list[int]) -> None:
    buckets = buckets_for(rows)
    assert sum(buckets) <= BUCKETS_MAX
    assert all(count & (count - 1) == 0 for count in buckets)
    if sum(rows) <= BUCKETS_MAX * ROWS_PER_BUCKET // 4:
        assert all(count * ROWS_PER_BUCKET >= its for count, its in zip(buckets, rows, strict=True))


def test_what_postgres_wrote_last_is_digested_alike_by_those_who_saw_it_and_those_who_did_not() -> None:
    assert held_tags(("postgres_1@17",)) == held_tags(("postgres_1@0",)) == ("postgres_1@0",)
    assert held_tags(("a@1", "postgres_1@0")) == ("a@1", "postgres_1@0")


ORIGINS = st.sampled_from(["postgres_1", "a", "postgres_1@b"])
ANY_TAGS = st.lists(st.builds("{}@{}".format, ORIGINS, st.integers(0, 10**18 - 1)), max_size=3)


@given(st.lists(CELLS | st.just(b"\x1a\x0cpostgres_1@7"), min_size=1, max_size=20), ANY_TAGS)
def test_a_service_finds_the_tags_that_are_digested_in_the_bytes(cells: list[bytes | None], tags: list[str]) -> None:
    row = tuple(cells)
    assert held_body(insert_body(row, tuple(tags))) == insert_body(row, held_tags(tuple(tags)))


def test_a_bitmap_has_its_first_bucket_on_top() -> None:
    difference = TableDifference(7, 16, b"\x80\x00")
    key = next(b"%d" % n for n in range(100) if bucket_of((b"%d" % n,), 16) == 0)
    assert difference.includes((key,))
