"""A device's transactions as the messages that carry them.

Many small transactions travel in one message, and a large one in several: a SatOpLog may hold any number of them and
may end in the middle of one. A message of a good size costs both ends least, and one that is too large for the server
would be refused each time it is sent. So operations are laid end to end and cut wherever a message is full.

A relation precedes the first row of it, and again when it has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from syncline.proto import codec
from syncline.proto.assembly import check_width
from syncline.proto.errors import ErrorCode, misuse
from syncline.proto.values import Gone, Migrate, Relation, Transaction

# A message is sent when it is this full; only a single operation may be larger.
LOG_BYTES: Final = 64 << 10


class Outgoing:
    """What one connection has been told of our relations."""

    def __init__(self) -> None:
        self._sent: dict[int, Relation] = {}

    def frames(self, transactions: Iterable[Transaction], relations: Mapping[int, Relation]) -> list[bytes]:
        """``transactions`` in their order, after the relations they need.

        Raises ProtocolError (INTERNAL) for a change without its relation or of a kind that devices do not send; then
        nothing counts as sent.
        """
        every = list(transactions)
        needed: dict[int, Relation] = {}
        for transaction in every:
            for change in transaction.changes:
                if isinstance(change, Migrate | Gone):
                    raise misuse(f"a device does not send {type(change).__name__}")
                relation = check_width(relations.get(change.relation_id), change, code=ErrorCode.INTERNAL)
                if self._sent.get(relation.id) != relation:
                    needed[relation.id] = relation
        self._sent.update(needed)
        return [*map(codec.relation_message, needed.values()), *_logs(every)]


def _logs(transactions: Iterable[Transaction]) -> Iterator[bytes]:
    pieces: list[bytes] = []
    size = 0
    for transaction in transactions:
        for piece in _pieces(transaction):
            if pieces and size + len(piece) > LOG_BYTES:
                yield codec.oplog_message(*pieces)
                pieces, size = [], 0
            pieces.append(piece)
            size += len(piece)
    if pieces:
        yield codec.oplog_message(*pieces)


def _pieces(tx: Transaction) -> Iterator[bytes]:
    yield codec.encode_begin(tx.commit_ms, tx.lsn, tx.origin, tx.transaction_id, tx.additional_data_ref)
    for change in tx.changes:
        yield codec.encode_ops((change,))
    yield codec.encode_commit(tx.commit_ms, tx.lsn, tx.additional_data_ref)
