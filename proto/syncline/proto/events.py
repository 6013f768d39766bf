"""What a session reports after it has read a frame: plain values, one class an event.

``session.Session.receive`` returns these; the shells (the device actor, the satellite) act on them. A server session
yields the first group, a client session the second, both the third.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from syncline.proto.blocks import Block
from syncline.proto.digest import Holdings, TableDifference
from syncline.proto.forks import Opening, Parted
from syncline.proto.values import Gone, Insert, Relation, RowChange, ShapeRequest, Transaction

# --- what a server session reports ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuthRequested:
    request_id: int
    client_id: str
    token: str
    openings: tuple[Opening, ...] = ()


@dataclass(frozen=True, slots=True)
class StartRequested:
    """``lsn`` empty: from scratch, else resume after it; or, with ``holdings``, from there on by what differs.
    ``dialect``: "sqlite" or "postgresql". ``described``: subscriptions, of those that are listed, by id."""

    request_id: int
    lsn: bytes
    subscription_ids: tuple[str, ...]
    schema_version: str | None
    dialect: str
    observed_transaction_data: tuple[int, ...] = ()
    holdings: Holdings | None = None
    described: Mapping[str, tuple[ShapeRequest, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StopRequested:
    request_id: int


@dataclass(frozen=True, slots=True)
class SubscribeRequested:
    request_id: int
    subscription_id: str
    shapes: tuple[ShapeRequest, ...]


@dataclass(frozen=True, slots=True)
class UnsubscribeRequested:
    request_id: int
    subscription_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReachRequested:
    """The device asks to be told when all others whose streams are live have what there is up to ``lsn``."""

    request_id: int
    lsn: bytes


@dataclass(frozen=True, slots=True)
class ReserveRequested:
    """The device asks for ``count`` values of the sequence of a column, as devices call it; it has ``left`` of them."""

    request_id: int
    table: str
    column: str
    count: int
    left: int


@dataclass(frozen=True, slots=True)
class ReleaseRequested:
    """The device gives back values that it had reserved."""

    request_id: int
    table: str
    column: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class WriteStarted:
    """The client has answered our startReplication: from here on its transactions count."""


@dataclass(frozen=True, slots=True)
class WriteReceived:
    """A whole transaction of the device. ``changes`` name columns through the device's own relations.

    ``excess``: more than the session holds, as this says, so the changes have only the keys of the rows that they name;
    there are none when even that would be too much. ``octets``: its size on the wire, less what came together with its
    end. ``memory``: about what ``changes`` take here, in bytes. ``origin``: the other client id that it is of, if any.
    """

    commit_ms: int
    lsn: bytes
    changes: tuple[tuple[Relation, RowChange], ...]
    excess: str = ""
    octets: int = 0
    memory: int = field(default=0, compare=False)
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class AckReceived:
    transaction_id: int
    lsn: bytes
    subscription_ids: tuple[str, ...] = ()
    additional_data_refs: tuple[int, ...] = ()
    gone_subscription_ids: tuple[str, ...] = ()


# --- what a client session reports ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Authenticated:
    server_id: str


@dataclass(frozen=True, slots=True)
class StreamStarted:
    """The server accepted our startReplication; ``window`` transactions may be unacknowledged."""

    window: int


@dataclass(frozen=True, slots=True)
class StreamRefused:
    """``code`` is a ReplicationError.Code name: BEHIND_WINDOW, INVALID_POSITION, SUBSCRIPTION_NOT_FOUND, ..."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class StreamStopped:
    """The server granted our stopReplication."""


@dataclass(frozen=True, slots=True)
class SendFrom:
    """The server asks for our writes after ``lsn`` (empty: all it has not echoed). The session has answered already."""

    lsn: bytes


@dataclass(frozen=True, slots=True)
class Subscribed:
    subscription_id: str


@dataclass(frozen=True, slots=True)
class SubscribeRefused:
    """``errors``: (request id, ShapeReqError.Code name, message) per refused shape, possibly none."""

    subscription_id: str
    code: str
    message: str
    errors: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    subscription_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RelationReceived:
    relation: Relation


@dataclass(frozen=True, slots=True)
class TransactionReceived:
    transaction: Transaction


@dataclass(frozen=True, slots=True)
class AdditionalData:
    """Rows that an earlier transaction announced by its ``additional_data_ref``. Only old servers send any."""

    ref: int
    inserts: tuple[Insert, ...]


@dataclass(frozen=True, slots=True)
class ShapeDataBegun:
    """``rows_estimate``: about how many rows will come, None if the server did not say."""

    subscription_id: str
    lsn: bytes
    rows_estimate: int | None = None


@dataclass(frozen=True, slots=True)
class ShapeRows:
    """Some rows of the delivery or, with empty ids, the repair under way; any number of these between begin and end."""

    subscription_id: str
    request_id: str
    inserts: tuple[Insert, ...]


@dataclass(frozen=True, slots=True)
class ShapeDataEnded:
    subscription_id: str
    lsn: bytes


@dataclass(frozen=True, slots=True)
class ShapeDataFailed:
    subscription_id: str
    message: str


@dataclass(frozen=True, slots=True)
class GonesBegun:
    """Rows that no remaining subscription holds, now that these have ended."""

    subscription_ids: tuple[str, ...]
    lsn: bytes


@dataclass(frozen=True, slots=True)
class GoneRows:
    """Some of these rows; any number of such events between begin and end."""

    rows: tuple[Gone, ...]


@dataclass(frozen=True, slots=True)
class GonesEnded:
    subscription_ids: tuple[str, ...]
    lsn: bytes


@dataclass(frozen=True, slots=True)
class RepairBegun:
    """``tables``: all those of the device's shapes, and where it has other rows than they do. ``rows_estimate``: about
    how many rows will come."""

    lsn: bytes
    tables: tuple[TableDifference, ...]
    rows_estimate: int


@dataclass(frozen=True, slots=True)
class RepairEnded:
    lsn: bytes


@dataclass(frozen=True, slots=True)
class Reached:
    """All others whose streams were live when we asked have what there was up to the position we asked about."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """These values of a column's sequence are ours."""

    table: str
    column: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class ReserveRefused:
    """There are none. ``code``: a ReserveError.Code name: NO_SEQUENCE, EXHAUSTED."""

    table: str
    column: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ReleaseDone:
    """What we gave back is the server's."""


@dataclass(frozen=True, slots=True)
class AckRequested:
    """The server wants to know what we have applied of all that came before."""


# --- either side ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerFailed:
    """A SatErrorResp, pushed or as the answer to an RPC of ours. ``code``: its name, "UNKNOWN" if new to us.

    ``lsn``: of the transaction of ours that it is about, if it is about one. ``parted``: our file is a copy, see
    ``forks``.
    """

    code: str
    message: str
    method: str | None = None
    lsn: bytes | None = None
    parted: Parted | None = None


ServerEvent: TypeAlias = (
    AuthRequested
    | StartRequested
    | StopRequested
    | SubscribeRequested
    | UnsubscribeRequested
    | ReachRequested
    | ReserveRequested
    | ReleaseRequested
    | WriteStarted
    | WriteReceived
    | AckReceived
    | PeerFailed
)
ClientEvent: TypeAlias = (
    Authenticated
    | StreamStarted
    | StreamRefused
    | StreamStopped
    | SendFrom
    | Subscribed
    | SubscribeRefused
    | Unsubscribed
    | RelationReceived
    | TransactionReceived
    | AdditionalData
    | ShapeDataBegun
    | ShapeRows
    | ShapeDataEnded
    | ShapeDataFailed
    | GonesBegun
    | GoneRows
    | GonesEnded
    | RepairBegun
    | RepairEnded
    | Reached
    | Reserved
    | ReserveRefused
    | ReleaseDone
    | AckRequested
    | PeerFailed
)
