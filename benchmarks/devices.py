"""Many honest devices in one process, over real sockets, against `syncline serve` and a real Postgres.

    python -m benchmarks.devices MODE [--help]

Each device authenticates, starts, subscribes to its own choice of tables, acknowledges as the flow rules demand,
writes, and comes back to its position when its connection ends. Each run also verifies: in the end every device has
exactly the rows that Postgres has (a count and a checksum a table), no transaction was missing and none came twice. A
violated check is told, and the exit code is 1.
"""

from __future__ import annotations

from benchmarks import fanout, merging, rolling, slow, steady, storm
from benchmarks.program import run_one_of

MODES = (steady.PROGRAM, storm.PROGRAM, slow.PROGRAM, fanout.PROGRAM, rolling.PROGRAM, merging.PROGRAM)

if __name__ == "__main__":
    run_one_of("devices", __doc__, MODES)
