"""What must hold, whatever happened: all checks of a run. Pure.

``sessions`` has what holds for each reader along the way, ``snapshots`` what holds in each snapshot, ``orders`` what
holds between readers, ``rows`` what holds of rows that come and go, ``endings`` what holds in the end.
"""

from __future__ import annotations

from tests.consistency import endings, orders, rows, sessions, snapshots
from tests.consistency.evidence import Anomaly, Evidence

__all__ = ["Anomaly", "Evidence", "judge"]

CHECKS = (
    endings.convergence,
    endings.nothing_lost,
    endings.nothing_twice,
    endings.nothing_rejected,
    snapshots.atomic_visibility,
    snapshots.no_dangling_reference,
    sessions.read_your_writes,
    sessions.no_older_own_value,
    sessions.monotonic_reads,
    sessions.monotonic_writes,
    sessions.writes_follow_reads,
    orders.one_order_per_key,
    rows.nothing_vanishes,
    rows.nothing_invented,
)
ANOMALIES_MAX = 5


def judge(evidence: Evidence) -> list[Anomaly]:
    """The first few anomalies of each check."""
    return [anomaly for check in CHECKS for anomaly in check(evidence)[:ANOMALIES_MAX]]
