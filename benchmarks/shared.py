"""What thousands of devices in one process are sent alike, read once.

A device at home decodes on its own machine. Here all of them share a core, and the time that a fleet needs to decode
the same bytes again and again would pass for the service's. What a message of whole transactions means depends on
nothing but its bytes: so the first device to get it reads it through its session, and the others are told what it read.
"""

from __future__ import annotations

from typing import Final

from benchmarks.ledger import Effect
from syncline.proto import codec
from syncline.proto.codec import MessageType
from syncline.proto.ops import Begin, Commit
from syncline.proto.values import Transaction

FRAME_BYTES_MAX: Final = 32 << 10
"""Larger messages are not worth a second look: there are few of them."""
FRAMES_MAX: Final = 1_000

Read = list[tuple[Transaction, Effect | None]]
"""The transactions of a message, with their effects if devices keep ledgers."""


class SharedFrames:
    def __init__(self) -> None:
        self._read: dict[bytes, Read] = {}

    def get(self, frame: bytes) -> Read | None:
        return self._read.get(frame)

    def put(self, frame: bytes, read: Read) -> None:
        if len(self._read) >= FRAMES_MAX:
            del self._read[next(iter(self._read))]
        self._read[frame] = read


def edges(frame: bytes) -> tuple[bool, bool]:
    """Whether a message begins with the begin of a transaction, and ends with the end of one; False where in doubt."""
    if frame[0] != MessageType.OP_LOG or len(frame) > FRAME_BYTES_MAX:
        return False, False
    ops = codec.decode_ops(frame[1:])
    return bool(ops) and isinstance(ops[0], Begin), bool(ops) and isinstance(ops[-1], Commit)
