"""The device's end of a connection, without the connection.

``receive`` reads what a server sent and returns what happened, with the frames that must go back at once; the methods
make the frames that the device sends of its own accord. It is strict about what it sends and easy on what it reads:
servers of the old line repeat relations, cut transactions anywhere, answer calls that have timed out, and fetch rows
after the transaction that announced them. All of that is normal here.

A server is trusted more than a device is, so the limits are those of a device's memory, not of an attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from google.protobuf.message import Message

from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.assembly import (
    Assembler,
    OpenAdditionalData,
    OpenDelivery,
    OpenGoneBatch,
    TransactionLimits,
    check_width,
)
from syncline.proto.blocks import Block
from syncline.proto.calls import (
    block_messages,
    read_reserve_answer,
    read_start_answer,
    read_subscribe_answer,
    start_body,
)
from syncline.proto.codec import MessageType
from syncline.proto.digest import Holdings
from syncline.proto.errors import ErrorCode, ProtocolError, error_name, invalid, misuse
from syncline.proto.events import (
    AckRequested,
    AdditionalData,
    Authenticated,
    ClientEvent,
    GoneRows,
    GonesBegun,
    GonesEnded,
    PeerFailed,
    Reached,
    RelationReceived,
    ReleaseDone,
    RepairBegun,
    RepairEnded,
    SendFrom,
    ShapeDataBegun,
    ShapeDataEnded,
    ShapeDataFailed,
    ShapeRows,
    StreamStarted,
    StreamStopped,
    TransactionReceived,
    Unsubscribed,
)
from syncline.proto.forks import Opening, Parted
from syncline.proto.ops import AdditionalBegin, AdditionalCommit, Begin, Commit, Op
from syncline.proto.outgoing import Outgoing
from syncline.proto.states import (
    ARROWS,
    AUTHENTICATE,
    REACH,
    RELEASE,
    RESERVE,
    START,
    STOP,
    SUBSCRIBE,
    UNSUBSCRIBE,
    State,
    granted,
    refused,
)
from syncline.proto.values import (
    Compensation,
    Delete,
    Gone,
    Insert,
    Migrate,
    Relation,
    RowChange,
    ShapeRequest,
    Transaction,
    Update,
)

# Old servers send a whole shape as one message.
FRAME_BYTES_MAX: Final = 1 << 30
OPS_PER_LOG_MAX: Final = 20_000_000
TRANSACTION_LIMITS: Final = TransactionLimits(ops_max=20_000_000, bytes_max=2 << 30)
RELATIONS_MAX: Final = 16_384
MESSAGE_BYTES_MAX: Final = 16 << 20
# Rows of one ref's additional data: they are handed over as one.
BATCH_ROWS_MAX: Final = 20_000_000


class ClientSession:
    """One connection of a device to a server. Not reusable."""

    def __init__(self) -> None:
        self.state = State.CONNECTING
        # Calls that wait for the server's answer: id -> method and the ids it was about.
        self._calls: dict[int, tuple[str, tuple[str, ...]]] = {}
        self._call_id = 0
        self._relations: dict[int, Relation] = {}
        self._outgoing = Outgoing()
        self._assembler = Assembler(TRANSACTION_LIMITS)
        self._delivery: OpenDelivery | None = None
        self._gone_batch: OpenGoneBatch | None = None
        self._additional: OpenAdditionalData | None = None

    # --- what the device says -----------------------------------------------------------------------------------------

    def authenticate(self, client_id: str, token: str, openings: Sequence[Opening] = ()) -> bytes:
        """Also on a live connection, to renew the token. ``openings``: of our file, see ``forks``."""
        request = pb.SatAuthReq(id=client_id, token=token, openings=codec.opening_messages(openings))
        return self._call(AUTHENTICATE, request)

    def start(
        self,
        lsn: bytes,
        subscription_ids: Sequence[str] = (),
        schema_version: str | None = None,
        dialect: str = "sqlite",
        observed_additional_data: Sequence[int] = (),
        holdings: Holdings | None = None,
        described: Sequence[tuple[str, Sequence[ShapeRequest]]] = (),
    ) -> bytes:
        """Ask for the stream after ``lsn``, empty for all of it.

        ``subscription_ids`` and ``observed_additional_data`` say what is held, and travel only with an lsn; with one
        the schema version follows from it, so ``schema_version`` travels only without. ``holdings``: for a server of
        ours that cannot resume after ``lsn``, to be sent what differs; then the schema version travels too, and what
        the subscriptions ask for, the newest last, as far as it is not too much.
        """
        body = start_body(lsn, subscription_ids, schema_version, dialect, observed_additional_data, holdings, described)
        return self._send_call(START, body, ())

    def stop(self) -> bytes:
        """Ask for rest. What is under way still arrives."""
        return self._call(STOP, pb.SatInStopReplicationReq())

    def subscribe(self, subscription_id: str, shapes: Sequence[ShapeRequest]) -> bytes:
        """Both kinds of id are UUIDs in text; those of ``shapes`` differ from each other."""
        body = codec.subscribe_body(subscription_id, shapes)
        return self._send_call(SUBSCRIBE, body, (subscription_id,))

    def unsubscribe(self, ids: Sequence[str]) -> bytes:
        return self._call(UNSUBSCRIBE, pb.SatUnsubsReq(subscription_ids=ids), tuple(ids))

    def reach(self, lsn: bytes) -> bytes:
        """Ask a server of ours to answer (``Reached``) when all others whose streams are live have what there is up to
        ``lsn``, a position of ours."""
        return self._call(REACH, pb.SatReachReq(lsn=lsn))

    def reserve(self, table: str, column: str, count: int, left: int) -> bytes:
        """Ask a server of ours for ``count`` values of the sequence of a column (``Reserved``, ``ReserveRefused``), of
        which ``left`` are here still."""
        request = pb.SatReserveReq(table=table, column=column, count=count, left=left)
        return self._call(RESERVE, request, (table, column))

    def release(self, table: str, column: str, blocks: Iterable[Block]) -> bytes:
        """Give back to a server of ours what will not be used here."""
        return self._call(RELEASE, pb.SatReleaseReq(table=table, column=column, blocks=block_messages(blocks)))

    def write(self, tx: Transaction, relations: Mapping[int, Relation]) -> list[bytes]:
        """A transaction of this device, after those of its relations that the server has not been sent as they are now.

        ``relations``: this device's own numbering. Raises ProtocolError (INTERNAL) for a change without its relation.
        """
        return self._outgoing.frames((tx,), relations)

    def write_all(self, transactions: Iterable[Transaction], relations: Mapping[int, Relation]) -> list[bytes]:
        """``write`` of several, in their order and in as few messages as is good for both ends."""
        return self._outgoing.frames(transactions, relations)

    def ack(
        self,
        transaction_id: int,
        lsn: bytes,
        subscription_ids: Sequence[str] = (),
        additional_data_refs: Sequence[int] = (),
        gone_subscription_ids: Sequence[str] = (),
        ack_ms: int = 0,
    ) -> bytes:
        """All up to this transaction is applied; the lists name data received since. See ``flow.AckPolicy``."""
        return codec.ack_message(
            transaction_id, lsn, ack_ms, subscription_ids, additional_data_refs, gone_subscription_ids
        )

    def close(self) -> None:
        """The connection is gone or about to be: nothing counts any more."""
        self.state = State.CLOSED

    def _call(self, method: str, request: Message, about: tuple[str, ...] = ()) -> bytes:
        return self._send_call(method, request.SerializeToString(), about)

    def _send_call(self, method: str, body: bytes, about: tuple[str, ...]) -> bytes:
        target = ARROWS.get((self.state, method))
        if target is None:
            raise misuse(f"{method} is not possible while {self.state.value}")
        self.state = target
        self._call_id += 1
        self._calls[self._call_id] = (method, about)
        return codec.rpc_request(method, self._call_id, body)

    # --- what the server says -----------------------------------------------------------------------------------------

    def receive(self, frame: bytes) -> tuple[list[ClientEvent], list[bytes]]:
        """What one binary message of the server means, and the frames to send back at once.

        Raises ProtocolError (INVALID_REQUEST) for what no server may send; drop the connection and make a new one then.
        """
        if self.state is State.CLOSED:
            return [], []
        try:
            return self._receive(frame)
        except ProtocolError:
            self.state = State.CLOSED
            self._assembler.clear()
            raise

    def _receive(self, frame: bytes) -> tuple[list[ClientEvent], list[bytes]]:
        if len(frame) > FRAME_BYTES_MAX:
            raise invalid(f"a message of more than {FRAME_BYTES_MAX} bytes")
        if frame[:1] == b"\x09":
            return self._read_op_log(frame), []
        kind, message = codec.decode(frame, message_bytes_max=MESSAGE_BYTES_MAX)
        if isinstance(message, pb.SatRpcRequest):
            return self._read_call(message)
        reader = _READERS.get(kind)
        if reader is None:
            raise invalid(f"{kind.name} is a device's message")
        assert isinstance(message, Message)
        return reader(self, message), []

    def _read_call(self, request: pb.SatRpcRequest) -> tuple[list[ClientEvent], list[bytes]]:
        method, request_id = request.method, request.request_id
        if method == START:
            start = codec.decode_body(pb.SatInStartReplicationReq, request.message)
            return [SendFrom(start.lsn)], [codec.rpc_response(method, request_id, b"")]
        if method == STOP:
            # Whatever is written meanwhile is asked for again by the next startReplication.
            return [], [codec.rpc_response(method, request_id, b"")]
        refusal = codec.rpc_error(method, request_id, ErrorCode.INVALID_REQUEST, f"there is no method {method[:100]!r}")
        return [], [refusal]

    def _read_answer(self, message: Message) -> list[ClientEvent]:
        response = codec.expect(pb.SatRpcResponse, message)
        call = self._calls.get(response.request_id)
        if call is None or call[0] != response.method:
            return []  # the answer to a call that we no longer wait for
        method, about = call
        del self._calls[response.request_id]
        if response.WhichOneof("result") == "error":
            self._step(refused(method))
            error = response.error
            parted = None
            if error.HasField("parted"):
                parted = Parted(tuple(Opening(opening.id, opening.first) for opening in error.parted.openings))
            return [PeerFailed(error_name(error.error_type), error.message, method, parted=parted)]
        # Some servers leave an empty answer out altogether; it reads as the empty message it stands for.
        return [_ANSWERS[method](self, response.message, about)]

    def _step(self, step: str) -> None:
        self.state = ARROWS.get((self.state, step), self.state)

    def _read_authenticated(self, body: bytes, about: tuple[str, ...]) -> ClientEvent:
        answer = codec.decode_body(pb.SatAuthResp, body)
        self._step(granted(AUTHENTICATE))
        return Authenticated(answer.id)

    def _read_started(self, body: bytes, about: tuple[str, ...]) -> ClientEvent:
        answer = read_start_answer(body)
        self._step(granted(START) if isinstance(answer, StreamStarted) else refused(START))
        return answer

    def _read_stopped(self, body: bytes, about: tuple[str, ...]) -> ClientEvent:
        codec.decode_body(pb.SatInStopReplicationResp, body)
        self._step(granted(STOP))
        return StreamStopped()

    def _read_subscribed(self, body: bytes, about: tuple[str, ...]) -> ClientEvent:
        return read_subscribe_answer(body, about[0])

    def _read_unsubscribed(self, body: bytes, about: tuple[str, ...]) -> ClientEvent:
        codec.decode_body(pb.SatUnsubsResp, body)
        return Unsubscribed(about)

    def _read_reached(self, body: bytes, about: tuple[str, ...]) -> ClientEvent:
        codec.decode_body(pb.SatReachResp, body)
        return Reached()

    def _read_reserved(self, body: bytes, about: tuple[str, ...]) -> ClientEvent:
        return read_reserve_answer(body, *about)

    def _read_released(self, body: bytes, about: tuple[str, ...]) -> ClientEvent:
        codec.decode_body(pb.SatReleaseResp, body)
        return ReleaseDone()

    def _read_ack_request(self, message: Message) -> list[ClientEvent]:
        return [AckRequested()]

    def _read_error(self, message: Message) -> list[ClientEvent]:
        error = codec.expect(pb.SatErrorResp, message)
        return [PeerFailed(error_name(error.error_type), error.message, lsn=error.lsn or None)]

    def _read_relation(self, message: Message) -> list[ClientEvent]:
        relation = codec.relation_of(codec.expect(pb.SatRelation, message))
        if relation.id not in self._relations and len(self._relations) >= RELATIONS_MAX:
            raise invalid(f"more than {RELATIONS_MAX} relations")
        self._relations[relation.id] = relation
        return [RelationReceived(relation)]

    # --- deliveries ---------------------------------------------------------------------------------------------------

    def _require_no_delivery(self) -> None:
        if self._delivery is not None or self._gone_batch is not None or self._assembler.open:
            raise invalid("a delivery begins inside another or inside a transaction")

    def _require_delivery(self) -> OpenDelivery:
        if self._delivery is None:
            raise invalid("rows of a shape outside a delivery")
        return self._delivery

    def _read_delivery_begin(self, message: Message) -> list[ClientEvent]:
        begin = codec.expect(pb.SatSubsDataBegin, message)
        self._require_no_delivery()
        self._delivery = OpenDelivery(begin.subscription_id, begin.lsn)
        rows_estimate = begin.rows_estimate if begin.HasField("rows_estimate") else None
        return [ShapeDataBegun(begin.subscription_id, begin.lsn, rows_estimate)]

    def _read_shape_begin(self, message: Message) -> list[ClientEvent]:
        self._require_delivery().request_id = codec.expect(pb.SatShapeDataBegin, message).request_id
        return []

    def _read_shape_end(self, message: Message) -> list[ClientEvent]:
        self._require_delivery().request_id = ""
        return []

    def _read_delivery_end(self, message: Message) -> list[ClientEvent]:
        delivery = self._require_delivery()
        self._delivery = None
        return [ShapeDataEnded(delivery.subscription_id, delivery.lsn)]

    def _read_delivery_error(self, message: Message) -> list[ClientEvent]:
        error = codec.expect(pb.SatSubsDataError, message)
        self._delivery = None
        return [ShapeDataFailed(error.subscription_id, error.message)]

    def _read_gone_begin(self, message: Message) -> list[ClientEvent]:
        begin = codec.expect(pb.SatUnsubsDataBegin, message)
        self._require_no_delivery()
        self._gone_batch = OpenGoneBatch(tuple(begin.subscription_ids), begin.lsn)
        return [GonesBegun(self._gone_batch.subscription_ids, begin.lsn)]

    def _read_gone_end(self, message: Message) -> list[ClientEvent]:
        batch = self._gone_batch
        if batch is None:
            raise invalid("the end of a batch of rows that leave, without its begin")
        self._gone_batch = None
        return [GonesEnded(batch.subscription_ids, batch.lsn)]

    # --- a repair -----------------------------------------------------------------------------------------------------

    def _read_repair_begin(self, message: Message) -> list[ClientEvent]:
        begin = codec.expect(pb.SatRepairBegin, message)
        self._require_no_delivery()
        differences = codec.differences_of(begin)
        if any(table.relation_id not in self._relations for table in differences):
            raise invalid("a repair of a table that has not been described")
        self._delivery = OpenDelivery("", begin.lsn)
        return [RepairBegun(begin.lsn, differences, begin.rows_estimate)]

    def _read_repair_end(self, message: Message) -> list[ClientEvent]:
        repair = self._require_delivery()
        self._delivery = None
        return [RepairEnded(repair.lsn)]

    # --- operations ---------------------------------------------------------------------------------------------------

    def _read_op_log(self, frame: bytes) -> list[ClientEvent]:
        ops = codec.decode_ops(frame[1:], OPS_PER_LOG_MAX)
        if self._delivery is not None:
            return self._read_shape_rows(self._delivery, ops)
        if self._gone_batch is not None:
            return self._read_gones(ops)
        events: list[ClientEvent] = []
        for op in ops:
            self._read_op(op, events)
        self._assembler.arrived(len(frame))
        return events

    def _read_shape_rows(self, delivery: OpenDelivery, ops: list[Op]) -> list[ClientEvent]:
        inserts: list[Insert] = []
        relation: Relation | None = None
        for op in ops:
            if not isinstance(op, Insert):
                raise invalid(f"{type(op).__name__} inside a delivery, which is inserts alone")
            if relation is None or op.relation_id != relation.id or len(op.row) != len(relation.columns):
                relation = check_width(self._relations.get(op.relation_id), op)
            inserts.append(op)
        return [ShapeRows(delivery.subscription_id, delivery.request_id, tuple(inserts))] if inserts else []

    def _read_gones(self, ops: list[Op]) -> list[ClientEvent]:
        gones: list[Gone] = []
        for op in ops:
            if not isinstance(op, Gone):
                raise invalid(f"{type(op).__name__} inside a batch of rows that leave")
            self._check(op)
            gones.append(op)
        return [GoneRows(tuple(gones))] if gones else []

    def _read_op(self, op: Op, events: list[ClientEvent]) -> None:
        match op:
            case Begin():
                self._assembler.begin(op)
            case Commit():
                events.append(TransactionReceived(self._assembler.commit(op)))
            case AdditionalBegin(ref):
                if self._additional is not None or self._assembler.open:
                    raise invalid("additional data begin inside a transaction or other additional data")
                self._additional = OpenAdditionalData(ref)
            case AdditionalCommit(ref):
                additional = self._additional
                if additional is None or additional.ref != ref:
                    raise invalid(f"additional data {ref} end without having begun")
                self._additional = None
                events.append(AdditionalData(ref, tuple(additional.inserts)))
            case Insert() if self._additional is not None:
                self._check(op)
                self._additional.inserts.append(op)
                if len(self._additional.inserts) > BATCH_ROWS_MAX:
                    raise invalid(f"more than {BATCH_ROWS_MAX} additional rows")
            case Compensation():
                pass  # old servers may forward them; the row itself comes as an update
            case Insert() | Update() | Delete() | Gone():
                self._check(op)
                self._assembler.add(op)
            case Migrate():
                self._assembler.add(op)

    def _check(self, change: RowChange) -> None:
        check_width(self._relations.get(change.relation_id), change, self._assembler.lsn)


_Reader = Callable[[ClientSession, Message], list[ClientEvent]]
_READERS: Final[Mapping[MessageType, _Reader]] = {
    MessageType.ERROR: ClientSession._read_error,
    MessageType.RELATION: ClientSession._read_relation,
    MessageType.RPC_RESPONSE: ClientSession._read_answer,
    MessageType.SUBS_DATA_BEGIN: ClientSession._read_delivery_begin,
    MessageType.SHAPE_DATA_BEGIN: ClientSession._read_shape_begin,
    MessageType.SHAPE_DATA_END: ClientSession._read_shape_end,
    MessageType.SUBS_DATA_END: ClientSession._read_delivery_end,
    MessageType.SUBS_DATA_ERROR: ClientSession._read_delivery_error,
    MessageType.UNSUBS_DATA_BEGIN: ClientSession._read_gone_begin,
    MessageType.UNSUBS_DATA_END: ClientSession._read_gone_end,
    MessageType.REPAIR_BEGIN: ClientSession._read_repair_begin,
    MessageType.REPAIR_END: ClientSession._read_repair_end,
    MessageType.ACK_REQUEST: ClientSession._read_ack_request,
}
_Answer = Callable[[ClientSession, bytes, tuple[str, ...]], ClientEvent]
_ANSWERS: Final[Mapping[str, _Answer]] = {
    AUTHENTICATE: ClientSession._read_authenticated,
    START: ClientSession._read_started,
    STOP: ClientSession._read_stopped,
    SUBSCRIBE: ClientSession._read_subscribed,
    UNSUBSCRIBE: ClientSession._read_unsubscribed,
    REACH: ClientSession._read_reached,
    RESERVE: ClientSession._read_reserved,
    RELEASE: ClientSession._read_released,
}
