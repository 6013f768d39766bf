"""What the shapes of a shard come to, in numbers: nothing of what is synced. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReadCensus:
    """Call to a shard. Answer: ``Census``."""


@dataclass(frozen=True, slots=True)
class Census:
    """``shapes``: how many there are, and ``tables``: but for the schema's. ``loading``: of those that are being read
    the table (relation id) and the rows so far. ``since_lsn``: a device that stands here or later is sent
    what it lacks of any of them (0: there is none). ``slow``: how many have a clause that only Postgres can evaluate.
    ``outside``: rows that were left out because their clause raised an error. The bytes are on the disk. ``asleep``:
    how many shapes are there alone."""

    shapes: int = 0
    tables: int = 0
    loading: tuple[tuple[int, int], ...] = ()
    since_lsn: int = 0
    slow: int = 0
    outside: int = 0
    log_bytes: int = 0
    image_bytes: int = 0
    other_bytes: int = 0
    asleep: int = 0


@dataclass(slots=True)
class Noted:
    """What is known of the clauses of one shape. ``slow``, ``outside``: see ``Census``."""

    slow: bool = False
    outside: int = 0

    def failed(self, rows: int, _: str) -> None:
        """So many rows were left out because a clause raised an error."""
        self.outside += rows
