"""What unfinished transactions take: counted for each, and bounded for all together."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.proto.conversation import Conversation

from syncline.proto import codec, holding, server_session
from syncline.proto.assembly import TransactionLimits, memory_of
from syncline.proto.errors import ProtocolError
from syncline.proto.events import WriteReceived
from syncline.proto.holding import OpenTransactions
from syncline.proto.session import ServerSession
from syncline.proto.values import Cell, Column, Compensation, Delete, Insert, Relation, RowChange, Update

BEGIN = codec.encode_begin(500, b"\x07", None, None)
COMMIT = codec.encode_commit(0, b"")


def wide(columns: int) -> Relation:
    return Relation(0, "public", "wide", tuple(Column(f"c{number}", "TEXT") for number in range(columns)))


def knowing(relation: Relation, open_transactions: OpenTransactions | None = None) -> ServerSession:
    """A session that reads writes."""
    conversation = Conversation()
    conversation.server = ServerSession(open_transactions)
    session = conversation.authenticate().start().relation().start_writes().server
    session.receive(codec.relation_message(relation))
    return session


def log(*parts: bytes) -> bytes:
    return codec.oplog_message(*parts)


def test_a_wide_row_of_nulls_counts_by_what_it_takes_here(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = TransactionLimits(ops_max=500_000, bytes_max=1 << 20, memory_max=1 << 20)
    monkeypatch.setattr(server_session, "TRANSACTION_LIMITS", limits)
    session = knowing(wide(1600))
    rows = codec.encode_ops([Insert(0, (None,) * 1600)] * 100)
    assert len(rows) < limits.bytes_max
    session.receive(log(BEGIN, rows))
    (refused,) = session.receive(log(COMMIT))
    assert isinstance(refused, WriteReceived)
    assert (refused.lsn, refused.changes) == (b"\x07", ())
    assert "more than 1048576 bytes of memory" in refused.excess
    few = codec.encode_ops([Insert(0, (None,) * 1600)] * 50)
    (whole,) = session.receive(log(BEGIN, few, COMMIT))
    assert isinstance(whole, WriteReceived)
    assert (len(whole.changes), whole.excess) == (50, "")
    assert whole.memory == sum(memory_of(change) for _, change in whole.changes)


def changes(kind: type[RowChange], row: tuple[Cell, ...], tags: tuple[str, ...]) -> RowChange:
    return Update(0, row, row, tags) if kind is Update else kind(0, row, tags)


@pytest.mark.parametrize("tags", [(), ("a@1", "bc@2"), ("x" * 36 + "@1234567890123",)])
@pytest.mark.parametrize("cell", [None, b"ab", b"abcdefgh", b"y" * 100])
@pytest.mark.parametrize("columns", [2, 100])
@pytest.mark.parametrize("kind", [Insert, Update, Delete, Compensation])
def test_what_is_counted_is_about_what_is_taken(
    kind: type[RowChange], columns: int, cell: Cell, tags: tuple[str, ...]
) -> None:
    session = knowing(wide(columns))
    change = changes(kind, (cell,) * columns, tags)
    frame = log(BEGIN, codec.encode_ops([change] * 500))
    gc.collect()  # Else freed tuples are taken anew, which nobody would see.
    tracemalloc.start()
    try:
        session.receive(frame)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.75 < memory_of(change) * 500 / taken < 1.5


class Holder:
    def __init__(self) -> None:
        self.lost = 0

    def let_go(self) -> None:
        self.lost += 1


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 120))))
def test_all_together_stay_within_the_bound_and_only_the_largest_is_let_go(steps: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holding, "OPEN_BYTES_MAX", 100)
        together, holders, sizes = OpenTransactions(), [Holder() for _ in range(5)], [0] * 5
        for who, size in steps:
            lost_before = [holder.lost for holder in holders]
            together.holds(holders[who], size)
            sizes[who] = size
            lost = [place for place in range(5) if holders[place].lost > lost_before[place]]
            kept = [sizes[place] for place in range(5) if place not in lost]
            assert all(sizes[place] >= max(kept, default=0) for place in lost)
            for place in lost:
                sizes[place] = 0
            assert together.octets == sum(sizes) <= 100


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> OpenTransactions:
    monkeypatch.setattr(holding, "OPEN_BYTES_MAX", 1 << 20)
    return OpenTransactions()


NULLS = codec.encode_ops([Insert(0, (None,) * 1600)] * 30)  # about 390 KB of memory


def test_of_several_devices_the_largest_open_transaction_is_let_go_and_the_others_come_in(
    shared: OpenTransactions,
) -> None:
    gone: list[str] = []
    conversation = Conversation()
    conversation.server = ServerSession(shared, lambda: gone.append("large"))
    large = conversation.authenticate().start().relation().start_writes().server
    large.receive(codec.relation_message(wide(1600)))
    large.receive(log(BEGIN, NULLS, NULLS))
    others = [knowing(wide(1600), shared) for _ in range(2)]
    for other in others:
        other.receive(log(BEGIN, NULLS))
    assert gone == ["large"]
    assert shared.octets < 1 << 20
    for other in others:
        (written,) = other.receive(log(COMMIT))
        assert isinstance(written, WriteReceived)
        assert (len(written.changes), written.excess) == (30, "")
    assert shared.octets == 0
    # What it goes on to send is not the transaction it began.
    assert large.receive(log(NULLS)) == large.receive(log(COMMIT)) == []
    assert large.receive(log(BEGIN, NULLS, COMMIT)) == []
    assert shared.octets == 0


def test_one_that_grows_to_be_the_largest_is_not_read_to_its_end(shared: OpenTransactions) -> None:
    session = knowing(wide(1600), shared)
    parts = list(session.receive_in_parts(log(BEGIN, *[NULLS] * 20, COMMIT)))
    assert [event for part in parts for event in part] == []
    assert shared.octets == 0


@pytest.mark.parametrize("ends", ["commit", "connection", "error", "stop"])
def test_however_a_transaction_ends_it_holds_nothing_any_more(shared: OpenTransactions, ends: str) -> None:
    session = knowing(wide(1600), shared)
    session.receive(log(BEGIN, NULLS))
    assert shared.octets > 30 * 1600 * 8
    if ends == "commit":
        session.receive(log(COMMIT))
    elif ends == "connection":
        session.close()
    elif ends == "stop":
        session.receive(codec.rpc_request("stopReplication", 9, b""))
    else:
        with pytest.raises(ProtocolError):
            session.receive(log(BEGIN))
    assert shared.octets == 0
