from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import pytest

from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    DeleteMessage,
    InsertMessage,
    LogicalMessage,
    Message,
    Origin,
    RelationColumn,
    RelationMessage,
    TruncateMessage,
    TupleCell,
    UpdateMessage,
    decode,
)
from syncline.actors.postgres.streamed import MigrationNotice, TransactionChunk, TransactionHead, Truncated
from syncline.actors.postgres.transaction import TransactionAssembler, TransactionError
from syncline.proto.values import Delete, Insert, Update

GOLDEN = Path(__file__).parents[2] / "golden"
ITEMS, CLIENTS, SHADOW, MIGRATIONS = 100, 1, 2, 3
TEXT, BYTEA, TIMESTAMPTZ = 25, 17, 1184
BEGIN = Begin(Lsn(500), 0, 7)
COMMIT = Commit(Lsn(500), Lsn(510), 0)
COMMIT_MS = 946_684_800_000
DIRECT = (f"postgres_1@{COMMIT_MS}",)


def relation(oid: int, name: str, schema: str = "public", **columns: int) -> RelationMessage:
    return RelationMessage(oid, schema, name, "f", tuple(RelationColumn(c, t, -1, True) for c, t in columns.items()))


ITEMS_RELATION = relation(ITEMS, "items", id=TEXT, v=TEXT)
RELATIONS = [
    ITEMS_RELATION,
    relation(CLIENTS, "clients", "electric", client_id=TEXT, lsn=20),
    relation(SHADOW, "shadow", "electric", relid=26, key=TEXT, tags=1009),
    relation(MIGRATIONS, "migrations", "electric", id=20, version=TEXT),
]


def insert(*cells: TupleCell, oid: int = ITEMS, size: int = 0) -> InsertMessage:
    return InsertMessage(oid, cells, size)


def update(old: tuple[TupleCell, ...] | None, new: tuple[TupleCell, ...], kind: str | None = "O") -> UpdateMessage:
    return UpdateMessage(ITEMS, new, old, kind if old is not None else None)


def claim(client: object = "device", ms: object = 42, lsn: object = 9) -> LogicalMessage:
    content = json.dumps({"client": client, "ms": ms, "lsn": lsn}).encode()
    return LogicalMessage(True, Lsn(1), "syncline.tx", content)


def client_row(client: bytes = b"device") -> InsertMessage:
    return insert(client, b"9", oid=CLIENTS)


def shadow_row(key: bytes, tags: bytes) -> InsertMessage:
    return insert(str(ITEMS).encode(), key, tags, oid=SHADOW)


def key_places(oid: int, names: Sequence[str]) -> tuple[int, ...] | None:
    return (names.index("id"),) if oid == ITEMS else None


def assemble(messages: Iterable[Message], **limits: int) -> list[TransactionChunk]:
    assembler = TransactionAssembler(key_places, **limits)
    return [chunk for message in chain(RELATIONS, messages) for chunk in assembler.feed(message)]


def transaction(*messages: Message, **limits: int) -> list[TransactionChunk]:
    return assemble([BEGIN, *messages, COMMIT], **limits)


def changes(*messages: Message, **limits: int) -> list[object]:
    return [change for chunk in transaction(*messages, **limits) for change in chunk.changes]


# --- direct SQL -------------------------------------------------------------------------------------------------------


def test_a_direct_write_carries_the_tag_of_postgres_at_its_commit() -> None:
    (chunk,) = transaction(insert(b"1", b"a"))
    assert chunk.head == TransactionHead(Lsn(500), COMMIT_MS, 7)
    assert chunk.head.author == "postgres_1"
    assert chunk.changes == [Insert(ITEMS, (b"1", b"a"), DIRECT)]
    assert (chunk.first, chunk.last) == (True, True)


def test_every_transaction_ends_with_a_chunk_even_an_empty_one() -> None:
    (chunk,) = transaction()
    assert (chunk.changes, chunk.first, chunk.last) == ([], True, True)


def test_an_update_keeps_both_images_and_a_delete_has_no_tags() -> None:
    assert changes(update((b"1", b"a"), (b"1", b"b")), DeleteMessage(ITEMS, (b"1", b"b"), "O")) == [
        Update(ITEMS, (b"1", b"b"), (b"1", b"a"), DIRECT),
        Delete(ITEMS, (b"1", b"b"), ()),
    ]


def test_a_large_value_left_out_comes_from_the_old_image() -> None:
    assert changes(update((b"1", b"large"), (b"1", UNCHANGED))) == [
        Update(ITEMS, (b"1", b"large"), (b"1", b"large"), DIRECT)
    ]


def test_without_an_old_image_a_large_value_is_left_out_and_the_table_is_said_to_be_incomplete() -> None:
    (chunk,) = transaction(update(None, (b"1", UNCHANGED)))
    assert chunk.changes == [Update(ITEMS, (b"1", None), None, DIRECT)]
    assert chunk.incomplete == (ITEMS,)


@pytest.mark.parametrize(
    ("message", "incomplete"),
    [
        (insert(b"1", b"a"), ()),
        (update((b"1", b"a"), (b"1", b"b")), ()),
        (update(None, (b"1", b"b")), (ITEMS,)),
        (update((b"1", None), (b"2", b"a"), "K"), (ITEMS,)),
        (DeleteMessage(ITEMS, (b"1", b"b"), "O"), ()),
        (DeleteMessage(ITEMS, (b"1", None), "K"), (ITEMS,)),
    ],
)
def test_a_table_is_incomplete_where_old_rows_are_not_whole(message: Message, incomplete: tuple[int, ...]) -> None:
    (chunk,) = transaction(message)
    assert chunk.incomplete == incomplete


def test_a_changed_key_is_a_delete_and_an_insert() -> None:
    assert changes(update((b"1", b"large"), (b"2", UNCHANGED))) == [
        Delete(ITEMS, (b"1", b"large"), ()),
        Insert(ITEMS, (b"2", b"large"), DIRECT),
    ]


def test_a_changed_key_without_a_full_old_image_deletes_by_key() -> None:
    assert changes(update((b"1", None), (b"2", b"a"), "K")) == [
        Delete(ITEMS, (b"1", None), ()),
        Insert(ITEMS, (b"2", b"a"), DIRECT),
    ]


def test_values_take_their_wire_form_by_type() -> None:
    table = relation(101, "t", a=BYTEA, b=TIMESTAMPTZ, c=TEXT)
    row = (b"\\x00ff", b"2024-01-31 12:00:00+00", b"\\x00")
    assert changes(table, insert(*row, oid=101), insert(None, None, None, oid=101)) == [
        Insert(101, (b"\x00\xff", b"2024-01-31 12:00:00Z", b"\\x00"), DIRECT),
        Insert(101, (None, None, None), DIRECT),
    ]


def test_a_truncate_names_the_tables_that_are_not_ours() -> None:
    assert changes(TruncateMessage((ITEMS, SHADOW), False, False)) == [Truncated((ITEMS,))]
    assert changes(TruncateMessage((SHADOW,), False, False)) == []


def test_a_table_whose_key_is_unknown_still_travels() -> None:
    table = relation(102, "new", id=TEXT)
    message = UpdateMessage(102, (b"2",), (b"1",), "O")
    assert changes(table, message) == [Update(102, (b"2",), (b"1",), DIRECT)]


def test_replicated_transactions_count_as_direct_writes() -> None:
    (chunk,) = transaction(Origin(Lsn(1), "elsewhere"), insert(b"1", b"a"))
    assert chunk.head.origin is None


# --- chunks -----------------------------------------------------------------------------------------------------------


def test_a_large_transaction_goes_out_in_chunks() -> None:
    chunks = transaction(*(insert(b"%d" % i, b"") for i in range(7)), chunk_rows_max=3)
    assert [(len(chunk.changes), chunk.first, chunk.last) for chunk in chunks] == [
        (3, True, False),
        (3, False, False),
        (1, False, True),
    ]
    assert len({chunk.head for chunk in chunks}) == 1


def test_wide_rows_make_shorter_chunks() -> None:
    chunks = transaction(*(insert(b"%d" % i, b"", size=600) for i in range(4)), chunk_bytes_max=1000)
    assert [len(chunk.changes) for chunk in chunks] == [2, 2, 0]


def test_a_transaction_cut_by_a_lost_connection_starts_over() -> None:
    chunks = assemble([BEGIN, insert(b"1", b"a"), BEGIN, insert(b"2", b"b"), COMMIT])
    assert [chunk.changes for chunk in chunks] == [[Insert(ITEMS, (b"2", b"b"), DIRECT)]]


def test_a_changed_definition_begins_a_new_chunk() -> None:
    wider = relation(ITEMS, "items", id=TEXT, v=TEXT, extra=TEXT)
    before, after = transaction(insert(b"1", b"a"), wider, insert(b"2", b"b", None))
    assert before.relations == (ITEMS_RELATION,)
    assert (before.last, after.first) == (False, False)
    assert after.relations == (wider,)


def test_a_transaction_is_cut_in_the_same_places_by_a_connection_that_has_not_met_its_tables() -> None:
    other = relation(103, "other", id=TEXT)
    messages = (insert(b"1", b"a"), other, insert(b"2", oid=103), insert(b"3", b"c"), insert(b"4", b"d"))
    cuts = []
    for met in ((), (other,)):
        chunks = assemble([*met, BEGIN, *messages, COMMIT], chunk_rows_max=3)
        cuts.append([len(chunk.changes) for chunk in chunks])
    assert cuts == [[3, 1], [3, 1]]


def test_a_repeated_definition_changes_nothing() -> None:
    (chunk,) = transaction(insert(b"1", b"a"), ITEMS_RELATION, insert(b"2", b"b"))
    assert len(chunk.changes) == 2


def test_marks_and_migrations_are_reported() -> None:
    mark = LogicalMessage(True, Lsn(1), "syncline.mark", b"m-1")
    (chunk,) = transaction(mark, insert(b"5", b"20240101", oid=MIGRATIONS))
    assert chunk.marks == ("m-1",)
    assert chunk.migrations == (MigrationNotice(5, "20240101"),)
    assert chunk.changes == []


def test_messages_of_others_and_outside_transactions_mean_nothing() -> None:
    stray = LogicalMessage(False, Lsn(1), "syncline.mark", b"m")
    chunks = assemble([stray, BEGIN, LogicalMessage(True, Lsn(1), "theirs", b"x"), stray, COMMIT])
    assert [chunk.marks for chunk in chunks] == [()]


def test_rows_without_a_transaction_or_definition_are_a_broken_stream() -> None:
    with pytest.raises(TransactionError, match="outside a transaction"):
        assemble([insert(b"1", b"a")])
    with pytest.raises(TransactionError, match="before its definition"):
        transaction(insert(b"1", oid=999))


# --- device writes ----------------------------------------------------------------------------------------------------


def test_a_device_write_carries_its_author_its_time_and_the_tags_of_its_shadow_rows() -> None:
    (chunk,) = transaction(
        claim(), client_row(), insert(b"1", b"a"), shadow_row(b'["1"]', b"{device@42,other@7}"), insert(b"2", b"b")
    )
    assert chunk.head == TransactionHead(Lsn(500), COMMIT_MS, 7, "device", 42, 9)
    assert (chunk.head.author, chunk.head.authored_ms) == ("device", 42)
    assert chunk.changes == [Insert(ITEMS, (b"1", b"a"), ("device@42", "other@7")), Insert(ITEMS, (b"2", b"b"), DIRECT)]


def test_the_last_shadow_row_of_a_key_counts_for_all_its_changes() -> None:
    found = changes(
        claim(),
        client_row(),
        insert(b"1", b"a"),
        shadow_row(b'["1"]', b"{device@1}"),
        update((b"1", b"a"), (b"1", b"b")),
        shadow_row(b'["1"]', b"{device@42}"),
    )
    assert [change.tags for change in found] == [("device@42",)] * 2  # type: ignore[attr-defined]


def test_a_shadow_row_without_tags_or_deleted_leaves_none() -> None:
    gone = DeleteMessage(SHADOW, (str(ITEMS).encode(), b'["1"]', None), "K")
    row = DeleteMessage(ITEMS, (b"1", b"a"), "O")
    assert changes(claim(), client_row(), row, gone) == [Delete(ITEMS, (b"1", b"a"), ())]
    assert changes(claim(), client_row(), row, shadow_row(b'["1"]', b"{}")) == [Delete(ITEMS, (b"1", b"a"), ())]


def test_a_device_write_that_changed_nothing_is_still_echoed() -> None:
    (chunk,) = transaction(claim(), client_row())
    assert (chunk.head.origin, chunk.changes) == ("device", [])


def test_a_claim_counts_whichever_came_first() -> None:
    (chunk,) = transaction(client_row(), claim(), insert(b"1", b"a"))
    assert chunk.head.origin == "device"


def test_a_claim_without_the_clients_own_row_is_not_believed() -> None:
    for messages in ([claim()], [claim(), client_row(b"another")]):
        (chunk,) = transaction(*messages, insert(b"1", b"a"))
        assert chunk.head == TransactionHead(Lsn(500), COMMIT_MS, 7)
        assert chunk.changes == [Insert(ITEMS, (b"1", b"a"), DIRECT)]


def test_a_claim_after_the_first_row_is_not_believed() -> None:
    (chunk,) = transaction(client_row(), insert(b"1", b"a"), claim())
    assert chunk.head.origin is None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"client":1,"ms":1,"lsn":1}', b'{"client":"d","ms":"1","lsn":1}']
)
def test_a_malformed_claim_is_not_believed(content: bytes) -> None:
    message = LogicalMessage(True, Lsn(1), "syncline.tx", content)
    (chunk,) = transaction(message, client_row(), insert(b"1", b"a"))
    assert chunk.head.origin is None


def test_a_rejected_write_does_not_pass_for_an_echo() -> None:
    content = b'{"client": "device", "ms": 42, "lsn": 9, "rejected": true}'
    (chunk,) = transaction(LogicalMessage(True, Lsn(1), "syncline.tx", content), client_row())
    assert (chunk.head.origin, chunk.changes) == (None, [])


def test_a_write_that_triggers_did_not_heed_is_one_of_postgres_with_the_devices_tags() -> None:
    content = b'{"client": "device", "ms": 42, "lsn": 9, "unheeded": true}'
    message = LogicalMessage(True, Lsn(1), "syncline.tx", content)
    (chunk,) = transaction(
        message, claim(), client_row(), insert(b"1", b"a"), shadow_row(b'["1"]', b"{device@42}"), insert(b"2", b"b")
    )
    assert (chunk.head.origin, chunk.head.author, chunk.head.authored_ms) == ("device", "postgres_1", COMMIT_MS)
    assert chunk.changes == [Insert(ITEMS, (b"1", b"a"), ("device@42",)), Insert(ITEMS, (b"2", b"b"), DIRECT)]
    assert list(chunk.direct) == [1]


def test_definitions_between_the_rows_of_a_device_write_do_not_cut_it() -> None:
    table = relation(103, "later", id=TEXT)
    (chunk,) = transaction(claim(), insert(b"1", b"a"), table, insert(b"1", oid=103), client_row())
    assert chunk.head.origin == "device"
    assert len(chunk.changes) == 2


def test_an_oversized_device_write_is_passed_on_in_chunks_each_row_with_the_tags_before_it() -> None:
    rows = []
    for i in range(5):
        rows += [shadow_row(b'["%d"]' % i, b"{device@42,other@%d}" % i), insert(b"%d" % i, b"")]
    chunks = transaction(claim(), client_row(), *rows, device_rows_max=2, chunk_rows_max=2)
    assert [(chunk.head.origin, len(chunk.changes), chunk.first, chunk.last) for chunk in chunks] == [
        ("device", 2, True, False),
        ("device", 2, False, False),
        ("device", 1, False, True),
    ]
    assert [change for chunk in chunks for change in chunk.changes] == [
        Insert(ITEMS, (b"%d" % i, b""), ("device@42", f"other@{i}")) for i in range(5)
    ]


def test_in_the_rest_of_an_oversized_device_write_the_newest_shadow_row_counts_and_none_means_direct() -> None:
    chunks = transaction(
        claim(),
        client_row(),
        shadow_row(b'["1"]', b"{device@42}"),
        insert(b"1", b"a"),
        insert(b"2", b"by a trigger"),
        update((b"1", b"a"), (b"1", b"b")),
        shadow_row(b'["1"]', b"{}"),
        DeleteMessage(ITEMS, (b"1", b"b"), "O"),
        device_rows_max=1,
    )
    assert [change.tags for chunk in chunks for change in chunk.changes] == [  # type: ignore[union-attr]
        ("device@42",),
        DIRECT,
        ("device@42",),
        (),
    ]


@pytest.mark.parametrize("columns", [("slug", "id", "v"), ("v", "slug", "id")])
def test_the_key_is_found_by_its_name_where_the_stream_has_other_columns_too(columns: tuple[str, ...]) -> None:
    """As generated ones, which devices do not have."""

    def row(**cells: bytes) -> tuple[TupleCell, ...]:
        return tuple(cells.get(name, b"a generated value") for name in columns)

    table = relation(ITEMS, "items", **dict.fromkeys(columns, TEXT))
    found = changes(
        table,
        claim(),
        client_row(),
        shadow_row(b'["1"]', b"{device@42}"),
        update(row(id=b"1", v=b"a"), row(id=b"1", v=b"b")),
        update(row(id=b"2", v=b"a", slug=b"one"), row(id=b"2", v=b"a", slug=b"another")),
        update(row(id=b"3"), row(id=b"4")),
    )
    assert [type(change) for change in found] == [Update, Update, Delete, Insert]
    assert [change.tags for change in found] == [("device@42",), DIRECT, (), DIRECT]  # type: ignore[attr-defined]


def test_a_row_without_a_key_is_nobodys() -> None:
    """The application has taken the primary key away, and a trigger of its own writes NULL."""
    assert changes(claim(), client_row(), insert(None, b"a")) == [Insert(ITEMS, (None, b"a"), DIRECT)]


def test_an_oversized_claim_nobody_vouched_for_is_a_direct_write() -> None:
    rows = [insert(b"%d" % i, b"") for i in range(3)]
    chunks = transaction(claim(), *rows, client_row(), device_rows_max=2)
    assert {chunk.head.origin for chunk in chunks} == {None}


# --- the captured stream ----------------------------------------------------------------------------------------------


def test_the_captured_stream_assembles() -> None:
    lines = (GOLDEN / "pgoutput.jsonl").read_text().splitlines()
    assembler = TransactionAssembler(lambda oid, names: (0,))
    chunks = [c for line in lines for c in assembler.feed(decode(bytes.fromhex(json.loads(line)["hex"])))]
    kinds = [type(change).__name__ for chunk in chunks for change in chunk.changes]
    everything = ["Insert", "Insert", "Update", "Delete", "Insert", "Delete"]
    plain = ["Insert", "Update", "Delete", "Insert", "Delete"]
    assert kinds == [*everything, *plain, "Insert", "Update", "Insert", "Truncated", "Insert"]
    assert [mark for chunk in chunks for mark in chunk.marks] == ["m1"]
    first = chunks[0].changes[0]
    assert isinstance(first, Insert)
    assert first.row[-5:] == (b"2024-01-31 10:00:00.5Z", b'{"a" : 1}', b'{"a": 1}', b"\x00\xff", b"ok")
