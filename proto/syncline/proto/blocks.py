"""Values of a sequence that a device has reserved, so that the rows it inserts offline have keys that nobody else uses.

They are taken from the sequence itself, so whoever writes to Postgres by SQL is never given one of them. Others take
values at the same time: so what is reserved at once is several blocks. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from syncline.proto.errors import invalid

RESERVED_MAX: Final = 10_000
"""Values that are reserved at once."""
LEFT_MAX: Final = 2 * RESERVED_MAX
"""Values of a sequence that a device may have at a time."""
RELEASED_BLOCKS_MAX: Final = 4_000
"""Blocks that are given back at once: a message of a device is to hold them."""


@dataclass(frozen=True, slots=True)
class Block:
    """``first``, ``first + step``, and so on to ``last``."""

    first: int
    last: int
    step: int

    @property
    def count(self) -> int:
        return (self.last - self.first) // self.step + 1


def check_block(block: Block) -> None:
    """Raises ProtocolError (INVALID_REQUEST) for one without values, or whose last is not one of them."""
    first, last, step = block.first, block.last, block.step
    if step == 0 or (last - first) % step or (last - first) // step < 0:
        raise invalid(f"not a block of a sequence: {first} to {last} by {step}")


def check_reserved(count: int, left: int) -> None:
    """Raises ProtocolError (INVALID_REQUEST) for more than a device may have, or none."""
    if not 1 <= count <= RESERVED_MAX:
        raise invalid(f"1 to {RESERVED_MAX} values of a sequence are reserved at once, not {count}")
    if count + left > LEFT_MAX:
        raise invalid(f"a device has at most {LEFT_MAX} values of a sequence")
