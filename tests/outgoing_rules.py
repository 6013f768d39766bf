"""What a server may send a device, and in which order: the rules, as a check over the frames of one connection.

A device throws its data away when a delivery lacks one of its shapes, takes whatever comes in the middle for rows of
it, starts from scratch when it is told an empty position, and overlooks a compensation. It says nothing of all this, so
a mistake here shows as data that quietly differs. The frames are made in several places, by whoever has the rows; so
the rules look at what is really sent, byte for byte, wherever a test can listen: between the outgoing half and a
device of its tests, on the links of the simulator, on the sockets of a real service.

``heard`` is told what the device sent (its calls say what it may be sent), ``check`` everything the server sends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from google.protobuf.message import Message

from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.assembly import check_width
from syncline.proto.calls import read_call, read_start_answer, read_subscribe_answer
from syncline.proto.codec import MessageType
from syncline.proto.digest import TableDifference
from syncline.proto.errors import ErrorCode, ProtocolError, misuse
from syncline.proto.events import StartRequested, StreamRefused, Subscribed, SubscribeRequested
from syncline.proto.ops import AdditionalBegin, AdditionalCommit, Begin, Commit, Op
from syncline.proto.states import AUTHENTICATE, METHODS, START, STOP, SUBSCRIBE
from syncline.proto.subprotocols import OLD, takes_extensions
from syncline.proto.values import FINAL_MS, Compensation, Gone, Insert, Migrate, Relation, RowChange

# Extensions have type bytes, and numbers of fields, from these on.
EXTENSION_TYPES = 64
EXTENSION_FIELDS = 1000


def extended(message: Message) -> bool:
    """Whether a field of it, or of what is inside it, is an extension."""
    for field, value in message.ListFields():
        if field.number >= EXTENSION_FIELDS:
            return True
        parts = value if field.is_repeated else (value,)
        if field.message_type is not None and any(map(extended, parts)):
            return True
    return False


class OutgoingRules:
    """The rules of one connection, for which ``protocol`` was agreed. ``check`` raises ProtocolError (INTERNAL) for a
    frame that must not be sent."""

    def __init__(self, protocol: str = OLD[0]) -> None:
        self._extensions = takes_extensions(protocol)
        self._authenticated = False
        self._streaming = False
        self._relations: dict[int, Relation] = {}
        self._begin: Begin | None = None
        # Calls of the device without an answer, in order, and what was subscribed to. A device that counts badly may
        # use a request id again.
        self._calls: list[tuple[str, int]] = []
        self._asked: list[SubscribeRequested] = []
        # Deliveries that may come: the request ids each must have, None for one asked for on an earlier connection.
        self._owed: dict[str, AbstractSet[str] | None] = {}
        self._delivering = False
        self._leaving = False
        self._shape: str | None = None
        self._shapes_made: set[str] = set()
        self._shapes_due: AbstractSet[str] | None = None
        # Whether a device that said what it holds has not been repaired; and what of its tables is under repair.
        self._unrepaired = False
        self._repair: dict[int, TableDifference] | None = None

    def heard(self, frame: bytes) -> None:
        """What the device sent, before the server reads it. What it must not have sent is not our matter."""
        with contextlib.suppress(ProtocolError):
            if frame[:1] == bytes((MessageType.RPC_REQUEST,)):
                self._heard_call(codec.expect(pb.SatRpcRequest, codec.decode(frame)[1]))

    def _heard_call(self, request: pb.SatRpcRequest) -> None:
        if request.method not in METHODS:
            return
        self._calls.append((request.method, request.request_id))
        event = read_call(request.method, request.request_id, request.message)
        if isinstance(event, SubscribeRequested):
            self._asked.append(event)
        elif isinstance(event, StartRequested):
            self._owed.update(dict.fromkeys(event.subscription_ids))  # what was owed before may be on its way
            self._unrepaired = event.holdings is not None

    def check(self, frame: bytes) -> None:
        """The next frame that the server sends."""
        kind, message = codec.decode(frame)
        if not self._extensions and (kind >= EXTENSION_TYPES or (isinstance(message, Message) and extended(message))):
            raise misuse(f"an extension, in a {kind.name}, for a peer that takes none")
        match kind:
            case MessageType.OP_LOG:
                self._require_streaming("an operation")
                assert isinstance(message, list)
                for op in message:
                    self._check_op(op)
            case MessageType.RELATION:
                self._require_streaming("a relation")
                relation = codec.relation_of(codec.expect(pb.SatRelation, message))
                self._relations[relation.id] = relation
            case MessageType.RPC_RESPONSE:
                self._check_answer(codec.expect(pb.SatRpcResponse, message))
            case MessageType.RPC_REQUEST:
                self._check_call(codec.expect(pb.SatRpcRequest, message))
            case MessageType.SUBS_DATA_BEGIN:
                begin = codec.expect(pb.SatSubsDataBegin, message)
                self._enter(begin.lsn, "a delivery")
                self._begin_delivery(begin.subscription_id)
            case MessageType.SHAPE_DATA_BEGIN:
                self._begin_shape(codec.expect(pb.SatShapeDataBegin, message).request_id)
            case MessageType.SHAPE_DATA_END:
                if self._shape is None:
                    raise misuse("no shape has begun")
                self._shape = None
            case MessageType.SUBS_DATA_END:
                self._end_delivery()
            case MessageType.UNSUBS_DATA_BEGIN:
                gone = codec.expect(pb.SatUnsubsDataBegin, message)
                self._enter(gone.lsn, "a batch of rows that leave")
                if not gone.subscription_ids:
                    raise misuse("a batch of rows that leave names the subscriptions that ended")
                self._leaving = True
            case MessageType.UNSUBS_DATA_END:
                if not self._leaving:
                    raise misuse("no batch of rows that leave has begun")
                self._leaving = False
            case MessageType.REPAIR_BEGIN:
                self._begin_repair(codec.expect(pb.SatRepairBegin, message))
            case MessageType.REPAIR_END:
                if self._repair is None:
                    raise misuse("no repair has begun")
                self._repair, self._unrepaired = None, False
            case MessageType.ACK_REQUEST:
                self._require_streaming("a request for an ack")
            case MessageType.OP_LOG_ACK:
                raise misuse("an ack is a device's message")
            case MessageType.ERROR | MessageType.SUBS_DATA_ERROR:
                pass

    # --- answers ------------------------------------------------------------------------------------------------------

    def _check_call(self, request: pb.SatRpcRequest) -> None:
        if not self._authenticated:
            raise misuse("writes are asked for after authentication")
        if request.method != START:
            raise misuse(f"a server does not call {request.method}")
        if codec.decode_body(pb.SatInStartReplicationReq, request.message).lsn:
            raise misuse("a device is asked for all that it has not seen echoed: by an empty position")

    def _check_answer(self, response: pb.SatRpcResponse) -> None:
        method, request_id = response.method, response.request_id
        is_error = response.WhichOneof("result") == "error"
        if (method, request_id) in self._calls:
            self._calls.remove((method, request_id))
        elif not is_error:
            raise misuse(f"no {method} with id {request_id} waits for an answer")
        asked = next((event for event in self._asked if method == SUBSCRIBE and event.request_id == request_id), None)
        if asked is not None:
            self._asked.remove(asked)
        if is_error:
            return
        if method == AUTHENTICATE:
            self._authenticated = True
        elif method == START:
            started = read_start_answer(response.message)
            if not isinstance(started, StreamRefused):
                self._streaming = True
            elif started.code == "MALFORMED_LSN":
                raise misuse("MALFORMED_LSN leaves an old device connected to nothing")
        elif method == STOP:
            self._streaming = self._delivering = self._leaving = False
            self._begin = self._shape = None
        elif (
            method == SUBSCRIBE
            and asked is not None
            and isinstance(read_subscribe_answer(response.message, asked.subscription_id), Subscribed)
        ):
            self._owed[asked.subscription_id] = {shape.request_id for shape in asked.shapes}

    def _require_streaming(self, what: str) -> None:
        if not self._streaming:
            raise misuse(f"{what} before the start was accepted")

    # --- transactions and rows ----------------------------------------------------------------------------------------

    def _check_op(self, op: Op) -> None:
        match op:
            case Begin():
                if self._delivering or self._leaving or self._repair is not None:
                    raise misuse("a transaction inside a delivery would be taken for rows of it")
                if self._begin is not None:
                    raise misuse("a transaction begins inside another")
                if op.origin is None or op.transaction_id is None or not op.lsn:
                    raise misuse("a transaction for a device needs origin, transaction id and lsn")
                if op.rejection is not None and not self._extensions:
                    raise misuse("why a transaction was rejected, for a peer that takes no extension")
                if op.carried_out and not self._extensions:
                    raise misuse("what has been carried out, for a peer that takes no extension")
                self._begin = op
            case Commit():
                if self._begin is None:
                    raise misuse("a commit without a begin")
                # What stands for several transactions says at its begin what a device's own writes are compared with,
                # and at its end the latest of their times.
                final = self._begin.commit_ms == FINAL_MS and op.commit_ms >= FINAL_MS
                if op.lsn != self._begin.lsn or not (op.commit_ms == self._begin.commit_ms or final):
                    raise misuse("a commit repeats the time and the position of its begin")
                self._begin = None
            case Compensation():
                raise misuse("a device ignores compensations; send the row")
            case Migrate():
                if self._begin is None or self._repair is not None:
                    raise misuse("a migration outside a transaction")
            case AdditionalBegin() | AdditionalCommit():
                raise misuse("additional data was not asked for")
            case _:
                self._check_row(op)

    def _check_row(self, change: RowChange) -> None:
        if self._delivering:
            if self._shape is None:
                raise misuse("rows outside a shape")
            if not isinstance(change, Insert):
                raise misuse("a delivery is inserts alone")
        elif self._leaving:
            if not isinstance(change, Gone):
                raise misuse("a batch of rows that leave is gones alone")
        elif self._repair is not None:
            self._check_repaired(change, self._repair)
        elif self._unrepaired:
            raise misuse("a row before the repair, of which a device has digested what it holds")
        elif self._begin is None:
            raise misuse("a row outside a transaction and a delivery")
        check_width(self._relations.get(change.relation_id), change, code=ErrorCode.INTERNAL)

    def _check_repaired(self, change: RowChange, tables: Mapping[int, TableDifference]) -> None:
        if not isinstance(change, Insert):
            raise misuse("a repair is inserts alone")
        relation = check_width(self._relations.get(change.relation_id), change, code=ErrorCode.INTERNAL)
        if relation.id not in tables or not tables[relation.id].includes(relation.key_of(change.row)):
            raise misuse("a repair is rows of buckets that differ")

    def _begin_repair(self, begin: pb.SatRepairBegin) -> None:
        self._enter(begin.lsn, "a repair")
        if not self._unrepaired:
            raise misuse("a repair of a device that did not ask for one")
        self._repair = {table.relation_id: table for table in codec.differences_of(begin)}
        if not self._repair.keys() <= self._relations.keys():
            raise misuse("a repair of a table that was not described")

    # --- deliveries ---------------------------------------------------------------------------------------------------

    def _enter(self, lsn: bytes, what: str) -> None:
        self._require_streaming(what)
        if not lsn:
            raise misuse("a device that is told an empty lsn starts from scratch")
        if self._delivering or self._leaving or self._repair is not None:
            raise misuse("one delivery at a time")
        if self._unrepaired and what != "a repair":
            raise misuse(f"{what} before the repair")
        if self._begin is not None:
            raise misuse(f"{what} inside a transaction")

    def _begin_delivery(self, subscription_id: str) -> None:
        if subscription_id not in self._owed:
            raise misuse(f"the delivery of {subscription_id} before the answer to its subscribe")
        self._delivering = True
        self._shapes_due, self._shapes_made = self._owed.pop(subscription_id), set()

    def _begin_shape(self, request_id: str) -> None:
        self._require_between_shapes()
        if request_id in self._shapes_made:
            raise misuse(f"shape {request_id} comes twice in its delivery")
        if self._shapes_due is not None and request_id not in self._shapes_due:
            raise misuse(f"shape {request_id} was not asked for")
        self._shapes_made.add(request_id)
        self._shape = request_id

    def _end_delivery(self) -> None:
        self._require_between_shapes()
        missing = (self._shapes_due or set()) - self._shapes_made
        if missing:
            raise misuse(f"shapes asked for and left out: {', '.join(sorted(missing))}")
        self._delivering = False

    def _require_between_shapes(self) -> None:
        if not self._delivering:
            raise misuse("no delivery is open")
        if self._shape is not None:
            raise misuse("the last shape has not ended")
