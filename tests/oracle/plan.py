"""What happens in a run, drawn from its seed beforehand. Pure.

A run has some phases, each ending at a quiet point. In a phase two things happen at once, at moments of their own:
``writes`` to Postgres, and what devices and the service do (``events``). Every item carries a number from which its
details are drawn, so one can be left out without changing the others.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Set
from dataclasses import dataclass, replace

from tests.oracle.mutations import draw_transaction, fill, truncate
from tests.oracle.schema import Schema, draw_schema
from tests.oracle.shapes import Shape, draw_shape

from syncline.actors.postgres.transaction import CHUNK_ROWS_MAX

DEVICES = 3
PHASES = 3
ROUNDS = 20  # of writes in a phase; a round is a transaction or several at once
ROWS = 7  # tried in each table at first
LOSSES = 0.2  # in a phase
POOL = 7  # shapes in a run: devices share and change them
PIECE_ROWS = 1

# What there is to switch on and off. ``strays``: a row that a device has written goes when none of its shapes has it.
# ``overlaps``: a device has several shapes at a time. ``leaving``: a shape that has been given up stays as it should be
# until its rows go. ``losses``: the service loses its disk or its slot, and devices are repaired.
FEATURES = frozenset(
    {
        "where",
        "where-postgres",
        "include",
        "columns",
        "truncate",
        "key-changes",
        "device-writes",
        "resubscribe",
        "restarts",
        "losses",
        "cuts",
        "strays",
        "overlaps",
        "leaving",
    }
)
EVENTS = {
    "device writes": 30,
    "subscribe": 14,
    "unsubscribe": 8,
    "resubscribe": 6,
    "disconnect": 7,
    "connect": 8,
    "reopen": 3,
    "cut": 4,
}
_NEEDS = {"device writes": "device-writes", "resubscribe": "resubscribe", "cut": "cuts"}


@dataclass(frozen=True)
class Write:
    """Transactions that run at once, and in which order their statements and commits come: indexes of transactions.

    ``after_ms``: the pause before it."""

    after_ms: int
    transactions: tuple[tuple[str, ...], ...]
    order: tuple[int, ...]


@dataclass(frozen=True)
class Event:
    after_ms: int
    kind: str
    device: int
    number: int


@dataclass(frozen=True)
class Phase:
    writes: tuple[Write, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Plan:
    """``first``: the shapes each device has from the beginning, as numbers of ``shapes``."""

    seed: int
    features: frozenset[str]
    schema: Schema
    rows: tuple[str, ...]
    shapes: tuple[Shape, ...]
    first: tuple[tuple[int, ...], ...]
    phases: tuple[Phase, ...]

    @property
    def piece_rows(self) -> int:
        """How many rows of a transaction come at a time: in every other run one."""
        return PIECE_ROWS if self.seed % 2 else CHUNK_ROWS_MAX

    def with_phase(self, number: int, phase: Phase) -> Plan:
        return replace(self, phases=(*self.phases[:number], phase, *self.phases[number + 1 :]))


def draw(seed: int, features: Set[str] = FEATURES, rounds: int = ROUNDS) -> Plan:
    """``rounds``: of writes in each phase."""
    assert features <= FEATURES, f"no such features: {sorted(features - FEATURES)}"
    rng = random.Random(f"oracle {seed}")
    schema = draw_schema(rng)
    rows = fill(rng, schema, ROWS)
    shapes: list[Shape] = []
    for _ in range(POOL):
        shape = draw_shape(rng, schema, features)
        shapes += [] if shape in shapes else [shape]
    count = 2 if "overlaps" in features else 1
    first = tuple(tuple(rng.sample(range(len(shapes)), min(len(shapes), count))) for _ in range(DEVICES))
    phases = tuple(_phase(rng, schema, features, rounds, number) for number in range(PHASES))
    return Plan(seed, frozenset(features), schema, rows, tuple(shapes), first, phases)


def _phase(rng: random.Random, schema: Schema, features: Set[str], rounds: int, number: int) -> Phase:
    writes = tuple(_write(rng, schema, features) for _ in range(rounds))
    kinds = {kind: weight for kind, weight in EVENTS.items() if _NEEDS.get(kind) in {None, *features}}
    chosen = rng.choices(list(kinds), list(kinds.values()), k=rounds * 2 // 3)
    if "restarts" in features and (number or rng.random() < 0.5):
        chosen.insert(rng.randrange(len(chosen) + 1), rng.choice(("restart", "crash")))
    if "losses" in features and rng.random() < LOSSES:
        chosen.insert(rng.randrange(len(chosen) + 1), rng.choice(("disk lost", "slot lost")))
    events = (
        Event(rng.choice((0, 5, 20, 60)), kind, rng.randrange(DEVICES), rng.randrange(1 << 30)) for kind in chosen
    )
    return Phase(writes, tuple(events))


def _write(rng: random.Random, schema: Schema, features: Set[str]) -> Write:
    if "truncate" in features and rng.random() < 0.03:
        transactions: tuple[tuple[str, ...], ...] = (truncate(rng, schema),)
    else:
        count = rng.choices((1, 2, 3), (60, 25, 15))[0]
        transactions = tuple(draw_transaction(rng, schema, features) for _ in range(count))
    # Each transaction has as many turns as statements, and one more to commit.
    order = [number for number, statements in enumerate(transactions) for _ in range(len(statements) + 1)]
    rng.shuffle(order)
    return Write(rng.choice((0, 0, 2, 10, 40)), transactions, tuple(order))


def transactions_of(phases: Iterable[Phase]) -> int:
    return sum(len(write.transactions) for phase in phases for write in phase.writes)
