"""How many writes had a concurrent one: of another party to the same column, neither author having seen the other.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.consistency.histories import History, Vector

# Writes to one column that are looked at, before each: concurrent ones are near each other.
NEAR = 30


@dataclass(frozen=True, slots=True)
class _Written:
    at: float
    party: str
    number: int
    saw: Vector


def conflicts(histories: Iterable[History]) -> int:
    """Of what is known to have been committed, registers alone."""
    written: dict[tuple[str, str, str], list[_Written]] = {}
    for history in histories:
        for number, (began, ended) in history.committed().items():
            if ended.saw is None:
                continue
            for write in began.writes:
                if write.table != "members":
                    cell = (write.table, write.key, write.column)
                    written.setdefault(cell, []).append(_Written(ended.at, history.party, number, ended.saw))
    return sum(_concurrent(writes) for writes in written.values())


def _concurrent(writes: list[_Written]) -> int:
    writes.sort(key=lambda write: write.at)
    concurrent: set[int] = set()
    for place, write in enumerate(writes):
        for earlier in range(max(0, place - NEAR), place):
            if _neither_seen(write, writes[earlier]):
                concurrent |= {place, earlier}
    return len(concurrent)


def _neither_seen(a: _Written, b: _Written) -> bool:
    return a.party != b.party and not _seen(a.saw, b) and not _seen(b.saw, a)


def _seen(vector: Mapping[str, int], write: _Written) -> bool:
    return vector.get(write.party, 0) >= write.number
