"""Whatever is written can be read, byte for byte as protobuf would write it; whatever else arrives is told so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.proto.conversation import DEVICE_ITEMS, ITEMS, streaming, writing

from syncline.proto import codec, op_reader
from syncline.proto import satellite_pb2 as pb
from syncline.proto.errors import ErrorCode, ProtocolError
from syncline.proto.events import TransactionReceived
from syncline.proto.session import ClientSession, ServerSession
from syncline.proto.values import (
    Change,
    Column,
    Compensation,
    Delete,
    Gone,
    Insert,
    Migrate,
    MigrationColumn,
    MigrationEnum,
    MigrationForeignKey,
    MigrationTable,
    RejectionReason,
    Relation,
    Row,
    RowChange,
    ShapeRequest,
    Transaction,
    Update,
)

ROOT = Path(__file__).parents[2]
EXAMPLES = settings(max_examples=150, deadline=None)

relation_ids = st.one_of(st.integers(0, 200), st.integers(0, 0xFFFFFFFF))
# Lengths on both sides of one and two bytes of varint, and of the table of prepared heads.
cells = st.one_of(
    st.none(), st.binary(max_size=12), st.sampled_from([126, 127, 128, 2047, 2048, 16384]).map(lambda n: b"x" * n)
)
rows: st.SearchStrategy[Row] = st.lists(cells, max_size=20).map(tuple)
tags = st.lists(st.text(max_size=8), max_size=3).map(tuple)
row_changes: st.SearchStrategy[RowChange] = st.one_of(
    st.builds(Insert, relation_ids, rows, tags),
    st.builds(Update, relation_ids, rows, st.one_of(st.none(), rows), tags),
    st.builds(Delete, relation_ids, rows, tags),
    st.builds(Compensation, relation_ids, rows, tags),
    st.builds(Gone, relation_ids, rows),
)
names = st.text(max_size=6)
name_tuples = st.lists(names, max_size=2).map(tuple)
migrates = st.builds(
    Migrate,
    names,
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 6]), names), max_size=2).map(tuple),
    st.just(None),
    st.one_of(st.none(), st.builds(MigrationEnum, names, name_tuples)),
) | st.builds(
    Migrate,
    names,
    st.just(()),
    st.builds(
        MigrationTable,
        names,
        st.lists(st.builds(MigrationColumn, names, names, names), max_size=2).map(tuple),
        st.lists(st.builds(MigrationForeignKey, name_tuples, names, name_tuples), max_size=2).map(tuple),
        name_tuples,
    ),
)
changes: st.SearchStrategy[Change] = st.one_of(row_changes, migrates)
item_rows: st.SearchStrategy[Row] = st.tuples(cells, cells)
item_changes: st.SearchStrategy[Change] = st.one_of(
    st.builds(Insert, st.just(ITEMS.id), item_rows, tags),
    st.builds(Update, st.just(ITEMS.id), item_rows, st.one_of(st.none(), item_rows), tags),
    st.builds(Delete, st.just(ITEMS.id), item_rows, tags),
    st.builds(Gone, st.just(ITEMS.id), item_rows),
)
uint64s = st.integers(0, 2**64 - 1)
texts = st.one_of(st.none(), st.text(max_size=5))
rejections = st.builds(
    RejectionReason,
    *(names, names, texts, texts, texts, texts, name_tuples),
    st.lists(st.tuples(names, st.binary(max_size=5)), max_size=2).map(tuple),
)
transactions = st.builds(
    Transaction,
    uint64s,
    st.binary(max_size=9),
    st.lists(item_changes, max_size=4).map(tuple),
    st.one_of(st.none(), st.text(max_size=5)),
    st.one_of(st.none(), uint64s),
    uint64s,
    rejection=st.one_of(st.none(), rejections),
    carried_out=st.lists(st.integers(1, 2**53 - 1), max_size=3).map(tuple),
)


def row_message(row: Row) -> pb.SatOpRow:
    mask = bytearray((len(row) + 7) // 8)
    for i, cell in enumerate(row):
        if cell is None:
            mask[i // 8] |= 0x80 >> (i % 8)
    return pb.SatOpRow(nulls_bitmask=bytes(mask), values=[cell or b"" for cell in row])


def op_message(change: RowChange) -> pb.SatTransOp:
    match change:
        case Insert(relation_id, row, tags):
            insert = pb.SatOpInsert(relation_id=relation_id, row_data=row_message(row), tags=tags)
            return pb.SatTransOp(insert=insert)
        case Update(relation_id, row, old, tags):
            update = pb.SatOpUpdate(relation_id=relation_id, row_data=row_message(row), tags=tags)
            if old is not None:
                update.old_row_data.CopyFrom(row_message(old))
            return pb.SatTransOp(update=update)
        case Delete(relation_id, row, tags):
            delete = pb.SatOpDelete(relation_id=relation_id, old_row_data=row_message(row), tags=tags)
            return pb.SatTransOp(delete=delete)
        case Compensation(relation_id, row, tags):
            compensation = pb.SatOpCompensation(relation_id=relation_id, pk_data=row_message(row), tags=tags)
            return pb.SatTransOp(compensation=compensation)
        case Gone(relation_id, row):
            return pb.SatTransOp(gone=pb.SatOpGone(relation_id=relation_id, pk_data=row_message(row)))


# --- round trips ------------------------------------------------------------------------------------------------------


@EXAMPLES
@given(st.lists(row_changes, max_size=5))
def test_operations_are_written_as_protobuf_writes_them(written: list[RowChange]) -> None:
    assert codec.encode_ops(written) == pb.SatOpLog(ops=map(op_message, written)).SerializeToString()
    for change in written:
        if isinstance(change, Insert):
            alone = codec.encode_inserts(change.relation_id, [(change.row, change.tags)] * 2)
            assert alone == [codec.encode_ops([change])] * 2


@EXAMPLES
@given(st.lists(changes, max_size=5))
def test_operations_are_read_as_they_were_written(written: list[Change]) -> None:
    assert codec.decode_ops(codec.encode_ops(written)) == written


@EXAMPLES
@given(st.lists(changes, max_size=4), st.lists(changes, max_size=4))
def test_encoded_operations_concatenate(first: list[Change], second: list[Change]) -> None:
    assert codec.encode_ops(first) + codec.encode_ops(second) == codec.encode_ops(first + second)


@EXAMPLES
@given(st.lists(changes, max_size=8), st.integers(1, 4))
def test_operations_are_cut_into_parts_without_being_read(written: list[Change], most: int) -> None:
    parts = [codec.decode_ops(part, most) for part in codec.cut_ops(codec.encode_ops(written), most)]
    assert [change for part in parts for change in part] == written
    assert all(parts)
    assert len(parts) == -(-len(written) // most)


@EXAMPLES
@given(st.binary(max_size=30), st.integers(1, 3))
def test_cutting_refuses_what_is_not_a_row_of_whole_operations(body: bytes, most: int) -> None:
    try:
        assert b"".join(codec.cut_ops(body, most)) == body
    except ProtocolError:
        with pytest.raises(ProtocolError):
            codec.decode_ops(body)


@settings(max_examples=40, deadline=None)
@given(row_changes, st.binary(min_size=1, max_size=3))
def test_an_operation_larger_than_a_chunk_is_read_by_hand_with_the_same_result(change: RowChange, fill: bytes) -> None:
    large = fill * (op_reader.CHUNK_BYTES_MAX // len(fill) + 1)
    match change:
        case Delete(relation_id, row, tags):
            change = Delete(relation_id, (*row, large), tags)
        case Gone(relation_id, row):
            change = Gone(relation_id, (*row, large))
        case Update(relation_id, row, old, tags):
            change = Update(relation_id, (*row, large), old, tags)
        case Insert(relation_id, row, tags):
            change = Insert(relation_id, (*row, large), tags)
        case Compensation(relation_id, row, tags):
            change = Compensation(relation_id, (*row, large), tags)
    small = Insert(1, (b"1",))
    assert codec.decode_ops(codec.encode_ops([small, change, small])) == [small, change, small]


@EXAMPLES
@given(transactions, st.data())
def test_a_transaction_survives_the_wire_cut_anywhere(tx: Transaction, data: st.DataObject) -> None:
    entries = [
        codec.encode_begin(
            tx.commit_ms,
            tx.lsn,
            tx.origin,
            tx.transaction_id,
            tx.additional_data_ref,
            rejection=tx.rejection,
            carried_out=tx.carried_out,
        ),
        *(codec.encode_ops([change]) for change in tx.changes),
        codec.encode_commit(tx.commit_ms, tx.lsn, tx.additional_data_ref),
    ]
    assert codec.oplog_message(*entries) == codec.encode_transaction(tx)
    cut = data.draw(st.integers(0, len(entries)))
    client = streaming().client
    happened = client.receive(codec.oplog_message(*entries[:cut]))[0]
    happened += client.receive(codec.oplog_message(*entries[cut:]))[0]
    assert happened == [TransactionReceived(tx)]


columns = st.builds(Column, st.text(max_size=8), st.text(max_size=8), st.booleans(), st.booleans())
relations = st.builds(Relation, relation_ids, names, names, st.lists(columns, max_size=9).map(tuple))


@EXAMPLES
@given(relations)
def test_a_relation_survives_the_wire(relation: Relation) -> None:
    message = codec.decode(codec.relation_message(relation))[1]
    assert codec.relation_of(codec.expect(pb.SatRelation, message)) == relation


def shapes_of(request_id: str) -> st.SearchStrategy[ShapeRequest]:
    leaf = st.builds(ShapeRequest, st.just(request_id), names, names, columns=name_tuples)
    return st.recursive(
        leaf,
        lambda child: st.builds(
            ShapeRequest,
            st.just(request_id),
            names,
            names,
            st.lists(st.tuples(name_tuples, child), max_size=2).map(tuple),
            name_tuples,
        ),
        max_leaves=5,
    )


@EXAMPLES
@given(names, st.lists(names.flatmap(shapes_of), max_size=3))
def test_a_subscription_survives_the_wire(subscription_id: str, shapes: list[ShapeRequest]) -> None:
    message = pb.SatSubsReq.FromString(codec.subscribe_body(subscription_id, shapes))
    assert codec.shape_requests_of(message) == tuple(shapes)


# --- hostile input ----------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


TX = codec.oplog_message(
    codec.encode_begin(500, b"\x00\x00\x00\x07", "c1", 5),
    codec.encode_ops(
        [
            Insert(0, (b"1", None), ("a@1", "b@2")),
            Update(0, (b"1", b"x"), (b"1", None), ("a@1",)),
            Delete(0, (b"1", b"x"), ("a@1",)),
            Compensation(0, (b"1", None), ("a@1",)),
        ]
    ),
    codec.encode_commit(500, b""),
)
SUBSCRIBE = codec.rpc_request(
    "subscribe",
    9,
    codec.subscribe_body("s1", [ShapeRequest("r1", "items", "this.id = 1", ((("x",), ShapeRequest("r1", "t")),))]),
)
VALID = [
    TX,
    SUBSCRIBE,
    codec.rpc_request("authenticate", 8, pb.SatAuthReq(id="c1", token="t").SerializeToString()),
    codec.rpc_request("unsubscribe", 7, pb.SatUnsubsReq(subscription_ids=["s1"]).SerializeToString()),
    codec.rpc_request("stopReplication", 7, b""),
    codec.rpc_response("startReplication", 1, b""),
    codec.relation_message(DEVICE_ITEMS),
    codec.ack_message(5, b"42", 1, ["s1"], [3], ["s2"]),
    codec.error_message(ErrorCode.INTERNAL, "why"),
    codec.subs_data_begin("s1", b"42"),
    codec.subs_data_end(),
    codec.shape_data_begin("r1"),
    codec.shape_data_end(),
    codec.unsubs_data_begin(["s1"], b"42"),
    codec.unsubs_data_end(),
]


def server_in_the_middle() -> ServerSession:
    session = writing().server
    session.receive(codec.relation_message(DEVICE_ITEMS))
    return session


def client_in_the_middle() -> ClientSession:
    client = streaming().client
    client.receive(codec.relation_message(DEVICE_ITEMS))
    client.unsubscribe(["s1"])
    return client


def complaint(session: ServerSession | ClientSession, frame: bytes) -> ProtocolError | None:
    try:
        session.receive(frame)
    except ProtocolError as error:
        return error
    return None


def survives(frame: bytes) -> None:
    """Both ends, fresh and in the middle, make events of it or say what is wrong with it, and nothing else."""
    for server in (ServerSession(), server_in_the_middle()):
        error = complaint(server, frame)
        if error is not None:
            assert error.message
            assert error.code in (ErrorCode.INVALID_REQUEST, ErrorCode.AUTH_REQUIRED)
            codec.decode(server.error_frame(error))
            assert server.receive(frame) == []
    for client in (ClientSession(), client_in_the_middle()):
        error = complaint(client, frame)
        if error is not None:
            assert error.message
            assert error.code is ErrorCode.INVALID_REQUEST


@EXAMPLES
@given(st.binary(max_size=200))
def test_random_bytes_are_survived(frame: bytes) -> None:
    survives(frame)


@EXAMPLES
@given(st.sampled_from([0, 9, 10, 14, 15, 16, 17, 18, 21, 22, 23, 24, 25]), st.binary(max_size=100))
def test_random_bodies_of_every_type_are_survived(kind: int, body: bytes) -> None:
    survives(bytes([kind]) + body)


def test_every_truncation_of_a_valid_frame_is_survived() -> None:
    for frame in VALID:
        for end in range(len(frame) + 1):
            survives(frame[:end])


@EXAMPLES
@given(st.sampled_from(VALID), st.lists(st.integers(0, 10_000), min_size=1, max_size=4))
def test_flipped_bits_are_survived(frame: bytes, bits: list[int]) -> None:
    flipped = bytearray(frame)
    for bit in bits:
        flipped[bit // 8 % len(frame)] ^= 1 << bit % 8
    survives(bytes(flipped))


@EXAMPLES
@given(st.sampled_from(VALID), st.integers(0, 200), st.binary(max_size=12), st.integers(0, 12))
def test_inserted_and_removed_bytes_are_survived(frame: bytes, at: int, more: bytes, fewer: int) -> None:
    at %= len(frame)
    survives(frame[:at] + more + frame[at + fewer :])


@EXAMPLES
@given(st.sampled_from(VALID[:3]), st.integers(1, 200), st.sampled_from([0x7F, 2**31, 2**32, 2**63, 2**64, 2**70]))
def test_huge_lengths_are_survived(frame: bytes, at: int, length: int) -> None:
    at = 1 + at % (len(frame) - 1)
    survives(frame[:at] + varint(length) + frame[at + 1 :])


@EXAMPLES
@given(st.binary(max_size=3), st.lists(st.binary(max_size=2), max_size=20))
def test_a_mask_and_values_that_do_not_fit_are_told_so(mask: bytes, values: list[bytes]) -> None:
    insert = pb.SatOpInsert(row_data=pb.SatOpRow(nulls_bitmask=mask, values=values))
    body = pb.SatOpLog(ops=[pb.SatTransOp(insert=insert)]).SerializeToString()
    padding = int.from_bytes(mask, "big") & ((1 << max(0, len(mask) * 8 - len(values))) - 1)
    bits = [bool(mask[i // 8] & 0x80 >> i % 8) if i // 8 < len(mask) else False for i in range(len(values))]
    fits = len(mask) == (len(values) + 7) // 8 and not padding
    if fits and not any(bit and value for bit, value in zip(bits, values, strict=True)):
        (read,) = codec.decode_ops(body)
        assert isinstance(read, Insert)
        assert codec.encode_row(read.row) == insert.row_data.SerializeToString()
    else:
        with pytest.raises(ProtocolError):
            codec.decode_ops(body)


def test_unknown_enum_values_are_survived() -> None:
    start = pb.SatInStartReplicationReq.FromString(b"\x10\x63\x38\x63")
    relation = pb.SatRelation.FromString(b"\x10\x63\x1a\x01t")
    for message in (pb.SatErrorResp.FromString(b"\x08\x63"), relation):
        survives(codec.message_bytes(message))
    survives(codec.rpc_request("startReplication", 9, start.SerializeToString()))
    survives(codec.rpc_request("authenticate", 9, b"\x0a\x01c\x12\x01t\x1a\x02\x08\x63"))


def test_deep_nesting_is_survived() -> None:
    for depth in (10, 45, 60, 5_000):
        select = b"\x0a\x01t"
        for _ in range(depth):
            link = b"\x12" + varint(len(select)) + select
            select = b"\x0a\x01t\x1a" + varint(len(link)) + link
        definition = b"\x0a" + varint(len(select)) + select
        request = b"\x12" + varint(len(definition)) + definition
        body = b"\x12" + varint(len(request)) + request
        survives(codec.rpc_request("subscribe", 9, body))


def test_thousands_of_tiny_frames_are_survived() -> None:
    session = server_in_the_middle()
    session.receive(codec.oplog_message(codec.encode_begin(1, b"", None, None)))
    for _ in range(5_000):
        session.receive(codec.oplog_message())
        session.receive(codec.ack_message(0, b""))
    assert session.receive(codec.oplog_message(codec.encode_commit(0, b""))) == []


HOSTILE_LOGS = {
    "operations of nothing": 'b"\\x0a\\x00" * (8 << 20)',
    "operations of hardly anything": 'b"\\x0a\\x02\\x22\\x00" * (4 << 20)',
    "one row of empty cells": "row(b'\\x12\\x00' * (8 << 20))",
    "rows of empty cells, each just small enough for protobuf": "row(b'\\x12\\x00' * 500_000) * 16",
}
READ_HOSTILE_LOG = """
import resource
from syncline.proto import codec
from syncline.proto.errors import ProtocolError
from tests.property.test_proto_codec import server_in_the_middle, varint

def field(tag, content):
    return tag + varint(len(content)) + content

def row(cells):
    return field(b"\\x0a", field(b"\\x22", field(b"\\x12", cells)))

session = server_in_the_middle()
session.receive(codec.oplog_message(codec.encode_begin(1, b"", None, None)))
frame = codec.oplog_message({log})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    session.receive(frame)
except ProtocolError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("log", HOSTILE_LOGS.values(), ids=HOSTILE_LOGS)
def test_a_hostile_log_takes_no_more_memory_than_a_few_times_its_bytes(log: str) -> None:
    # In a process of its own: only so is the peak of protobuf's own allocations seen.
    code = READ_HOSTILE_LOG.replace("{log}", log)
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert int(run.stdout) < 96 << 10  # KiB; the log is 16 MiB


def test_a_row_of_too_many_columns_is_told_so() -> None:
    for cell in (b"", b"x" * 1000):
        with pytest.raises(ProtocolError, match="more than 1664 columns"):
            codec.decode_ops(codec.encode_ops([Insert(0, (cell,) * (op_reader.COLUMNS_MAX + 1))]))


def test_a_message_of_unusual_size_is_told_so() -> None:
    with pytest.raises(ProtocolError, match="more than"):
        codec.decode(b"\x17" + b"\x22\x00" * codec.MESSAGE_BYTES_MAX)
