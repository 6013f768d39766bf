"""What a device's stream is made of: the things asked of it, and the steps it asks of whoever carries it out.

``outbound`` decides on the steps; the device actor performs them and sends the answers in. Pure values.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from syncline.actors.devices.rejecting import size_of
from syncline.actors.shapes.projection import columns_of, forgotten, lost
from syncline.proto.digest import Holdings
from syncline.proto.events import WriteReceived
from syncline.proto.values import Gone, Key, RejectionReason, Relation, Row, RowChange, Update

RowKey: TypeAlias = tuple[int, Key]
"""Relation id and key."""
HeldRow: TypeAlias = tuple[int, Row]
"""Relation id and row."""

# Frames and rows are sent together up to this size: a larger message costs less per row, a smaller one arrives sooner.
MESSAGE_BYTES = 64 << 10

# The shapes of a device, hash -> the relations it may have rows of (none for the schema shape).
Shapes: TypeAlias = Mapping[str, tuple[Relation, ...]]
# Subscription id -> the shapes it needs.
Subscriptions: TypeAlias = Mapping[str, Shapes]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A change of the set of subscriptions. ``requests``: (request id, its shapes' hashes) of a new one, in its order;
    ``shapes``: all of them.

    ``subscription_ids``: the one that is new, or those that end (``requests`` and ``shapes`` empty then). What the
    device holds afterwards is worked out when the delivery is made: others may be made, or called off, before it.
    """

    subscription_ids: tuple[str, ...]
    requests: tuple[tuple[str, tuple[str, ...]], ...] = ()
    shapes: Shapes = field(default_factory=dict)

    def after(self, subscriptions: Subscriptions) -> Subscriptions:
        """The subscriptions of a device that has had this delivery on top of ``subscriptions``."""
        if self.requests:
            return {**subscriptions, self.subscription_ids[0]: self.shapes}
        return {id: shapes for id, shapes in subscriptions.items() if id not in self.subscription_ids}


@dataclass(frozen=True, slots=True)
class Repair:
    """What a device that has ``subscriptions`` is to hold, and digests of what it does hold."""

    subscriptions: Subscriptions
    holdings: Holdings


@dataclass(frozen=True, slots=True)
class Healed:
    """A row as Postgres has it; ``row`` None: there is none."""

    relation: Relation
    key: Key
    row: Row | None
    tags: tuple[str, ...] = ()

    def changes(
        self, held: Mapping[int, Relation], holders: Mapping[RowKey, Sequence[Relation]]
    ) -> tuple[RowChange, ...]:
        """What puts a device's row right. ``held``: a relation of each table it is subscribed to. ``holders``: of rows
        that its shapes hold, the relations by which it has them; any other row does not belong on it."""
        relations = holders.get((self.relation.id, self.key), ())
        if self.row is not None and relations:
            row = self.row
            changes = [Update(relation.id, relation.narrowed(row), None, self.tags) for relation in relations]
            less = self.without(holders)
            return (*changes, *(() if less is None else (forgotten(less, self.key),)))
        relation = held.get(self.relation.id, self.relation)
        return (Gone(relation.id, relation.key_row(self.key)),)

    def without(self, holders: Mapping[RowKey, Sequence[Relation]]) -> Relation | None:
        """The columns that the device may have written and does not hold, with the key; None if there are none."""
        relations = holders.get((self.relation.id, self.key), ())
        if self.row is None or not relations or any(relation is relation.whole for relation in relations):
            return None
        return lost(self.relation, columns_of(relations))


# What an echo and a key's cell cost beside the values themselves.
ECHO_BYTES = 200
CELL_BYTES = 40
# Of the echoes of a device that wait, with the keys of the rows they still need. A transaction whose keys alone are
# more has its device start over: 500,000 keys of a uuid are 40 MB.
ECHO_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class Heal:
    """A transaction of the device itself that no frame brings back: rejected, applied before the device's position, or
    of rows that its shapes may not hold. The rows it named (``keys``) go along with its echo as they are, for what the
    device shows may be its own guess of what comes out of both, and nothing else would set it right. Not before
    ``lsn``, from where on it counts as decided.

    ``relations``: of the tables that the keys are of. ``named_only``: the keys that it compensates and does not write,
    of which the device holds nothing pending. ``starts_over``: nobody can tell which rows it named. The device is sent
    away behind the echo, and reads its subscriptions anew when it comes back. ``reason``: why it was rejected.
    """

    lsn: int
    commit_ms: int
    keys: tuple[RowKey, ...]
    rejected: bool
    starts_over: bool = False
    named_only: frozenset[RowKey] = frozenset()
    relations: Mapping[int, Relation] = field(default_factory=dict)
    reason: RejectionReason | None = None

    def written(self, start: int, end: int) -> Iterable[RowKey]:
        """Of a part of ``keys`` those of rows that it writes."""
        part = self.keys[start:end]
        return (key for key in part if key not in self.named_only) if self.named_only else part

    @property
    def size_bytes(self) -> int:
        """About what it takes to remember it."""
        reason = 0 if self.reason is None else size_of(self.reason)
        return ECHO_BYTES + reason + sum(len(cell or b"") + CELL_BYTES for _, key in self.keys for cell in key)


@dataclass(frozen=True, slots=True, eq=False)
class Current:
    """Rows as one snapshot of Postgres shows them, and ``position``, the end of the WAL afterwards: what it shows lies
    below. ``snapshot`` is what ``Shows`` asks about. ``left``: keys of rows that would have been too much at once."""

    rows: Mapping[RowKey, Healed]
    position: int
    snapshot: object
    left: frozenset[RowKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Echo:
    """A transaction of the device itself. ``healed``: where no frame brings them, the rows it named as they are at
    ``lsn``. ``heal`` and ``current``: what the rows were read for, and with. ``rest``: rows it named that have not been
    read yet; they are while it is sent, some at a time.
    """

    lsn: int
    commit_ms: int
    healed: tuple[Healed, ...] = ()
    heal: Heal | None = None
    current: Current | None = None
    rest: tuple[RowKey, ...] = ()

    def changes(
        self,
        held: Mapping[int, Relation],
        unechoed: Container[RowKey],
        holders: Mapping[RowKey, Sequence[Relation]],
    ) -> tuple[RowChange, ...]:
        """What the echo does to a device, for ``held`` and ``holders`` see ``Healed``. ``unechoed``: the rows that wait
        for another one."""
        brought = (row for row in self.healed if (row.relation.id, row.key) not in unechoed)
        return tuple(change for row in brought for change in row.changes(held, holders))


@dataclass(frozen=True, slots=True)
class Follow:
    """Join the bundle of ``shapes``. ``relations``: of those that may have rows in common. Answer: the LSN it has
    released (int); later releases go to ``released``."""

    shapes: frozenset[str]
    generation: int
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True, slots=True)
class Pin:
    """Rows and logs are read as of ``lsn`` and later from now on, and what was there has to stay known; None: nothing
    is read. No answer. Whoever follows a bundle is pinned at what it is answered."""

    lsn: int | None


@dataclass(frozen=True, slots=True)
class OpenLog:
    """Start reading ``shapes`` after ``after`` up to ``upto``. No answer; ``ReadMore`` follows."""

    shapes: Shapes
    after: int
    upto: int


@dataclass(frozen=True, slots=True)
class ReadMore:
    """The next frames of the log reading under way. Answer: (tuple of Frame, done)."""


@dataclass(frozen=True, slots=True)
class ReadImage:
    """The rows of ``shape`` as of ``lsn`` from ``cursor``. Answer: (ImageChunk or None for no rows, next cursor or
    ``THE_END``). ``whole``: with all columns, also where the device gets some only."""

    shape: str
    lsn: int
    cursor: int
    whole: bool = False


@dataclass(frozen=True, slots=True)
class CountRows:
    """About how many rows do these shapes have? Answer: int."""

    shapes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnyHolds:
    """Which of ``rows``, which are as of ``lsn``, does any of ``shapes``, ``but`` for one, hold there? Answer: list of
    bool."""

    shapes: Shapes
    lsn: int
    rows: tuple[HeldRow, ...]
    but: str = ""


@dataclass(frozen=True, slots=True)
class ReadCurrent:
    """Read these rows as they are now. Answer: Current."""

    keys: tuple[RowKey, ...]


@dataclass(frozen=True, slots=True)
class Shows:
    """Does ``snapshot`` show every transaction at or below ``lsn``, which the stream has passed? Answer: bool. After a
    no, ``heal_again`` has to be called some time."""

    snapshot: object
    lsn: int


@dataclass(frozen=True, slots=True)
class WrittenKeys:
    """Which rows does ``write`` write, and not merely compensate? Answer: a set of RowKey."""

    write: WriteReceived | Heal


@dataclass(frozen=True, slots=True)
class HealOf:
    """What brings back ``write`` with its rows? It is in Postgres, below ``position``. Answer: Heal."""

    write: WriteReceived
    position: int


@dataclass(frozen=True, slots=True)
class Send:
    """Messages for the socket, in order."""

    messages: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Delivered:
    """A delivery has been sent whole. No answer."""

    delivery: Delivery
    lsn: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Durably: the device has no subscriptions any more. However it comes back, it has to read everything anew. No
    answer."""


@dataclass(frozen=True, slots=True)
class StartOver:
    """Send the device away, which has been forgotten. No answer, and no further step."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes."""


Step: TypeAlias = (
    Follow
    | Pin
    | OpenLog
    | ReadMore
    | ReadImage
    | CountRows
    | AnyHolds
    | ReadCurrent
    | Shows
    | WrittenKeys
    | HealOf
    | Send
    | Delivered
    | Forget
    | StartOver
    | Wait
)
Steps: TypeAlias = Generator[Step, object, None]
