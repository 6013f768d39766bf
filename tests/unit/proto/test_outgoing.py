"""A device's transactions as messages: many small ones in one, a large one in several."""

from __future__ import annotations

import pytest

from syncline.proto import outgoing
from syncline.proto.codec import MessageType, decode_ops
from syncline.proto.errors import ProtocolError
from syncline.proto.ops import Begin, Commit
from syncline.proto.outgoing import Outgoing
from syncline.proto.values import Column, Gone, Insert, Relation, Transaction

ITEMS = Relation(0, "public", "items", (Column("id", "text", primary_key=True),))
OTHERS = Relation(1, "public", "others", (Column("id", "text", primary_key=True),))
RELATION, LOG = MessageType.RELATION, MessageType.OP_LOG
RELATIONS = {0: ITEMS, 1: OTHERS}


def transaction(number: int, *keys: bytes, relation: int = 0) -> Transaction:
    changes = tuple(Insert(relation, (key,), ("me@1",)) for key in keys)
    return Transaction(number, number.to_bytes(4, "big"), changes)


def kinds(frames: list[bytes]) -> list[MessageType]:
    return [MessageType(frame[0]) for frame in frames]


def test_many_small_transactions_are_one_log_after_the_relations_they_need() -> None:
    sent = [transaction(1, b"a"), transaction(2, b"b", relation=1), transaction(3, b"c")]
    frames = Outgoing().frames(sent, RELATIONS)
    assert kinds(frames) == [RELATION, RELATION, LOG]
    ops = decode_ops(frames[-1][1:])
    assert [op.commit_ms for op in ops if isinstance(op, Begin)] == [1, 2, 3]
    assert [op for op in ops if isinstance(op, Insert)] == [change for tx in sent for change in tx.changes]


def test_a_large_transaction_is_cut_over_several_logs() -> None:
    keys = [b"%05d" % number + b"x" * 1_000 for number in range(300)]
    _, *logs = Outgoing().frames([transaction(1, *keys)], RELATIONS)
    assert len(logs) > 3
    assert all(len(log) <= outgoing.LOG_BYTES + 1 for log in logs)
    ops = decode_ops(b"".join(log[1:] for log in logs))
    assert isinstance(ops[0], Begin)
    assert isinstance(ops[-1], Commit)
    assert [op.row[0] for op in ops if isinstance(op, Insert)] == keys


def test_an_operation_larger_than_a_log_travels_alone() -> None:
    _, first, large, last = Outgoing().frames([transaction(1, b"a", b"x" * outgoing.LOG_BYTES, b"b")], RELATIONS)
    assert len(first) < 100 < outgoing.LOG_BYTES < len(large)
    assert len(last) < 100


def test_a_relation_is_sent_once_and_again_when_it_has_changed() -> None:
    sending = Outgoing()
    wider = Relation(0, "public", "items", (*ITEMS.columns, Column("note", "text")))
    assert kinds(sending.frames([transaction(1, b"a")], RELATIONS)) == [RELATION, LOG]
    assert kinds(sending.frames([transaction(2, b"a")], RELATIONS)) == [LOG]
    changed = Transaction(3, b"3", (Insert(0, (b"a", None)),))
    assert kinds(sending.frames([changed], {0: wider})) == [RELATION, LOG]


def test_nothing_counts_as_sent_when_one_of_them_cannot_be() -> None:
    sending = Outgoing()
    with pytest.raises(ProtocolError):
        sending.frames([transaction(1, b"a"), Transaction(2, b"2", (Gone(0, (b"a",)),))], RELATIONS)
    assert kinds(sending.frames([transaction(1, b"a")], RELATIONS)) == [RELATION, LOG]
