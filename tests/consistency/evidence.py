"""What the checks of a run look at, and what they say. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.consistency.histories import History, Snapshot


@dataclass(frozen=True)
class Anomaly:
    """``check``: the promise that does not hold."""

    check: str
    what: str

    def __str__(self) -> str:
        return f"{self.check}: {self.what}"


@dataclass(frozen=True)
class Evidence:
    """``dumps``: what each party held in the end, all rows. ``postgres``: the same of Postgres. ``executions``: how
    often Postgres carried out the journal's write of (author, number). ``rejected``: transactions that Postgres
    refused, and why; ``rejected_at``: when, if that is known; ``together``: which of them it refused as one, as the npm
    client sends what it wrote in a short time. ``gaps``: from when until when the stream of Postgres was lost, with its
    slot."""

    histories: Sequence[History] = ()
    dumps: Mapping[str, Snapshot] = field(default_factory=dict)
    postgres: Snapshot = field(default_factory=dict)
    executions: Mapping[tuple[str, int], int] = field(default_factory=dict)
    rejected: Mapping[tuple[str, int], str] = field(default_factory=dict)
    rejected_at: Mapping[tuple[str, int], float] = field(default_factory=dict)
    together: Sequence[frozenset[tuple[str, int]]] = ()
    gaps: Sequence[tuple[float, float]] = ()
