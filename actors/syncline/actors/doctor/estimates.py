"""How long a new device takes to have a table. Pure.

The rates are those of ``benchmarks.first_sync`` (benchmarks/README.md, "first sync, queryable on a Python device,
cold"): 41,700 rows/s of 150 bytes each, on a machine that was busy with other work.
"""

from __future__ import annotations

from typing import Final

from syncline.actors.doctor.facts import Size

ROWS_A_S: Final = 41_700
BYTES_A_S: Final = 6_250_000


def first_sync_s(size: Size) -> float:
    """Seconds until a new device has the rows, which are read from Postgres for it; by rows or bytes, whichever takes
    longer. Nothing is known of the network in between."""
    return max((size.rows or 0) / ROWS_A_S, size.bytes / BYTES_A_S)
