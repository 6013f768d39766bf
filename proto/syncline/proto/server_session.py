"""The server's end of a connection, without the connection: frames in, events out; answers in, frames out.

``receive`` reads what a device sent and says what it wants; the methods named after answers make the frames that go
back. The session knows the order in which calls may be made and answered, so it refuses a device that breaks it
(ProtocolError, the device's fault) and a caller of ours that would (ProtocolError INTERNAL). What is streamed besides,
relations, transactions and deliveries, is made by whoever has the rows; the tests hold its rules (outgoing_rules).

After a ProtocolError from ``receive`` the connection cannot go on: send ``error_frame`` and close with 1007.

Everything a device can make us keep has a limit below. A transaction beyond its limit is no fault: an app may have
loaded a whole catalogue while it was offline, and a device that is closed for it could never send anything again. Of
its operations only the rows are kept that they name, and it is reported with these, to be refused in its place and
undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final, TypeAlias

from google.protobuf.message import Message

from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.assembly import Assembler, TransactionLimits, check_width, memory_of
from syncline.proto.blocks import Block
from syncline.proto.bounds import check_begin, check_client_id, check_ids, check_tags
from syncline.proto.calls import block_messages, read_call
from syncline.proto.codec import MessageType
from syncline.proto.errors import ErrorCode, ProtocolError, error_name, invalid, misuse
from syncline.proto.events import (
    AckReceived,
    AuthRequested,
    PeerFailed,
    ServerEvent,
    StartRequested,
    WriteReceived,
    WriteStarted,
)
from syncline.proto.flow import WINDOW_TRANSACTIONS
from syncline.proto.forks import Parted
from syncline.proto.holding import OpenTransactions
from syncline.proto.ops import Begin, Commit, Op
from syncline.proto.states import (
    ARROWS,
    AUTHENTICATE,
    EXTENSIONS,
    METHODS,
    REACH,
    RELEASE,
    RESERVE,
    START,
    STOP,
    SUBSCRIBE,
    UNAUTHENTICATED,
    UNSUBSCRIBE,
    State,
    granted,
    refused,
)
from syncline.proto.values import (
    Compensation,
    Delete,
    Insert,
    Relation,
    RowChange,
    Update,
)

# A device may have been offline for weeks and sends it all as one transaction, the published client in one message.
FRAME_BYTES_MAX: Final = 64 << 20
TRANSACTION_LIMITS: Final = TransactionLimits(ops_max=500_000, bytes_max=128 << 20, memory_max=384 << 20)
# Far above the tables of any schema a device holds; a relation is a few kilobytes.
RELATIONS_MAX: Final = 2048
# Calls that wait for our answer. Devices send one at a time.
OUTSTANDING_CALLS_MAX: Final = 1024

# Operations made smaller at a stretch, when a transaction turns out to be beyond its limit.
SLICE_OPERATIONS: Final = 1_000

NamedChange: TypeAlias = tuple[Relation, RowChange]

# Old devices are known to accept exactly this request: an empty position and its two empty packed fields.
_START_WRITE_BODY: Final = b"\x12\x00\x32\x00"


class ServerSession:
    """One device's connection as its server sees it. Not reusable.

    ``open_transactions`` bounds what the unfinished ones of several devices take. Is this device's let go for it, no
    write of its is read any more and ``on_let_go`` is called: it has to come again. ``close`` gives back what it holds.

    ``extensions``: whether the device takes them; only then may it be sent any, and may it send some.

    ``row_of``: what has to be kept of an operation to know which row it names, None for nothing.
    """

    def __init__(
        self,
        open_transactions: OpenTransactions | None = None,
        on_let_go: Callable[[], None] = lambda: None,
        row_of: Callable[[Relation, RowChange], NamedChange | None] = lambda relation, change: None,
        *,
        extensions: bool = False,
    ) -> None:
        self.extensions = extensions
        self.state = State.CONNECTING
        self.writes_started = False
        self._calls: dict[int, str] = {}
        self._failed_call: tuple[str, int] | None = None
        self._own_calls: dict[int, str] = {}
        self._own_call_id = 0
        self._device_relations: dict[int, Relation] = {}
        self._assembler = Assembler(TRANSACTION_LIMITS, lets_go=True)
        self._named_changes: list[NamedChange] = []
        self._row_of = row_of
        self._rows = _Rows()
        self._open_transactions = open_transactions or OpenTransactions()
        self._on_let_go = on_let_go
        self._has_let_go = False

    def close(self) -> None:
        """The connection has ended."""
        self.state = State.CLOSED
        self._forget()

    def let_go(self) -> None:
        """See the class; called by ``open_transactions``."""
        self._has_let_go = True
        self._forget()
        self._on_let_go()

    def _forget(self) -> None:
        """The transaction under way."""
        self._assembler.clear()
        self._named_changes = []
        self._rows = _Rows()
        self._open_transactions.holds(self, 0)

    # --- what the device says -----------------------------------------------------------------------------------------

    def receive(self, frame: bytes) -> list[ServerEvent]:
        """What one binary message of the device means.

        Raises ProtocolError: INVALID_REQUEST for bytes or steps that are not allowed, AUTH_REQUIRED for anything before
        authentication. The session is CLOSED then and reports nothing more.
        """
        return [event for part in self.receive_in_parts(frame) for event in part]

    def receive_in_parts(self, frame: bytes) -> Iterator[list[ServerEvent]]:
        """The same, a few milliseconds of work at a time: a frame may be one that takes a second or two.

        One frame is to be read to its end, or its error, before the next.
        """
        if self.state is State.CLOSED:
            return
        try:
            if len(frame) > FRAME_BYTES_MAX:
                raise invalid(f"a message of more than {FRAME_BYTES_MAX} bytes")
            if frame[:1] == b"\x09":
                yield from self._read_op_log(frame)
            else:
                yield self._receive(frame)
        except ProtocolError:
            self.close()
            raise

    def error_frame(self, error: ProtocolError) -> bytes:
        """What to tell the device before closing: the answer to its call if it was one, else a pushed error."""
        if self._failed_call is not None:
            method, request_id = self._failed_call
            return codec.rpc_error(method, request_id, error.code, error.message, error.lsn)
        return codec.error_message(error.code, error.message, error.lsn)

    def _receive(self, frame: bytes) -> list[ServerEvent]:
        kind, message = codec.decode(frame)
        match kind:
            case MessageType.RPC_REQUEST:
                return [self._read_call(codec.expect(pb.SatRpcRequest, message))]
            case MessageType.RPC_RESPONSE:
                return self._read_answer(codec.expect(pb.SatRpcResponse, message))
            case MessageType.ERROR:
                error = codec.expect(pb.SatErrorResp, message)
                return [PeerFailed(error_name(error.error_type), error.message)]
        self._require_authenticated("this message")
        match kind:
            case MessageType.RELATION:
                self._read_relation(codec.expect(pb.SatRelation, message))
                return []
            case MessageType.OP_LOG_ACK:
                ack = codec.expect(pb.SatOpLogAck, message)
                check_ids("subscription", (*ack.subscription_ids, *ack.gone_subscription_ids))
                return [
                    AckReceived(
                        ack.transaction_id,
                        ack.lsn,
                        tuple(ack.subscription_ids),
                        tuple(ack.additional_data_source_ids),
                        tuple(ack.gone_subscription_ids),
                    )
                ]
        raise invalid(f"{kind.name} is a server's message")

    def _require_authenticated(self, what: str) -> None:
        if self.state in UNAUTHENTICATED:
            raise ProtocolError(ErrorCode.AUTH_REQUIRED, f"{what} needs authentication first")

    def _read_call(self, request: pb.SatRpcRequest) -> ServerEvent:
        method, request_id = request.method, request.request_id
        self._failed_call = (method, request_id)
        if method not in METHODS or (method in EXTENSIONS and not self.extensions):
            raise invalid(f"there is no method {method[:100]!r}")
        if method != AUTHENTICATE:
            self._require_authenticated(method)
        event = read_call(method, request_id, request.message)
        if isinstance(event, StartRequested) and not self.extensions:
            event = replace(event, holdings=None, described={})
        elif isinstance(event, AuthRequested) and not self.extensions:
            event = replace(event, openings=())
        if request_id in self._calls:
            raise invalid(f"call {request_id} is still being answered")
        if len(self._calls) >= OUTSTANDING_CALLS_MAX:
            raise invalid(f"more than {OUTSTANDING_CALLS_MAX} calls at once")
        target = ARROWS.get((self.state, method))
        if target is None:
            raise invalid(f"{method} is not possible while {self.state.value}")
        self.state = target
        self._calls[request_id] = method
        if method == STOP:
            self._forget()
        self._failed_call = None
        return event

    def _read_answer(self, response: pb.SatRpcResponse) -> list[ServerEvent]:
        self._require_authenticated("an answer")
        method = self._own_calls.get(response.request_id)
        if method is None or method != response.method:
            raise invalid("an answer to a call that was not made")
        del self._own_calls[response.request_id]
        if response.WhichOneof("result") == "error":
            return [PeerFailed(error_name(response.error.error_type), response.error.message, method)]
        codec.decode_body(pb.SatInStartReplicationResp, response.message)
        self.writes_started = True
        return [WriteStarted()]

    def _read_relation(self, message: pb.SatRelation) -> None:
        relation = codec.relation_of(message)
        if relation.id not in self._device_relations and len(self._device_relations) >= RELATIONS_MAX:
            raise invalid(f"more than {RELATIONS_MAX} relations")
        self._device_relations[relation.id] = relation

    def _read_op_log(self, frame: bytes) -> Iterator[list[ServerEvent]]:
        self._require_authenticated("a write")
        if not self.writes_started:
            return
        whole = 0
        for ops, octets in codec.read_ops(frame[1:]):
            if self._has_let_go:
                return
            # A log may hold several transactions; all but the last are bounded by the size of one.
            if whole > TRANSACTION_LIMITS.ops_max:
                raise invalid(f"transactions of more than {TRANSACTION_LIMITS.ops_max} operations in one message")
            events: list[ServerEvent] = []
            for op in ops:
                written = self._read_op(op)
                if written is not None:
                    events.append(written)
                    whole += len(written.changes) + 1
            self._assembler.arrived(octets)
            if self._assembler.excess:
                yield from self._keep_rows()
            self._open_transactions.holds(self, self._assembler.held + self._rows.memory)
            yield events

    def _keep_rows(self) -> Iterator[list[ServerEvent]]:
        """The transaction under way is beyond the limits: of what has come of it the rows are kept."""
        changes, self._named_changes = self._named_changes, []
        for start in range(0, len(changes), SLICE_OPERATIONS):
            if start:
                yield []
            for relation, change in changes[start : start + SLICE_OPERATIONS]:
                self._rows.add(self._row_of(relation, change))

    def _read_op(self, op: Op) -> WriteReceived | None:
        match op:
            case Begin():
                check_begin(op.lsn, op.commit_ms)
                if op.origin is not None and self.extensions:
                    check_client_id(op.origin)
                self._assembler.begin(op)
                self._named_changes, self._rows = [], _Rows()
            case Commit():
                excess, octets, memory = self._assembler.excess, self._assembler.octets, self._assembler.held
                transaction = self._assembler.commit(op)
                origin = transaction.origin if self.extensions else None
                named, self._named_changes = tuple(self._named_changes), []
                rows, self._rows = self._rows, _Rows()
                if excess:
                    for relation, change in named:
                        rows.add(self._row_of(relation, change))
                    kept = tuple(rows.kept)
                    return WriteReceived(
                        transaction.commit_ms, transaction.lsn, kept, excess, octets, rows.memory, origin
                    )
                if named:
                    return WriteReceived(
                        transaction.commit_ms, transaction.lsn, named, octets=octets, memory=memory, origin=origin
                    )
            case Insert() | Update() | Delete() | Compensation():
                relation = check_width(self._device_relations.get(op.relation_id), op, self._assembler.lsn)
                check_tags(op.tags, self._assembler.lsn)
                self._assembler.add(op)
                self._named_changes.append((relation, op))
            case _:
                raise invalid(f"a device does not send {type(op).__name__}", lsn=self._assembler.lsn)
        return None

    # --- what the server answers --------------------------------------------------------------------------------------

    def authenticated(self, request_id: int, server_id: str) -> bytes:
        """The token is good."""
        return self._answer(AUTHENTICATE, request_id, pb.SatAuthResp(id=server_id))

    def rpc_error(
        self, request_id: int, method: str, code: ErrorCode, message: str, parted: Parted | None = None
    ) -> bytes:
        """The call cannot be served. For startReplication and subscribe prefer their own refusals."""
        self._step(method, request_id, refused(method))
        return codec.rpc_error(method, request_id, code, message, parted=parted)

    def start_accepted(self, request_id: int, window: int = WINDOW_TRANSACTIONS) -> bytes:
        """From here on relations, transactions and deliveries may be sent."""
        return self._answer(START, request_id, pb.SatInStartReplicationResp(unacked_window_size=window))

    def start_refused(self, request_id: int, code_name: str, message: str) -> bytes:
        """``code_name``: a ReplicationError.Code. MALFORMED_LSN is never sent: old devices overlook it."""
        if code_name == "MALFORMED_LSN":
            raise misuse("MALFORMED_LSN leaves an old device connected to nothing", hint="refuse with BEHIND_WINDOW")
        error = pb.SatInStartReplicationResp.ReplicationError(code=code_name, message=message)
        self._step(START, request_id, refused(START))
        return codec.rpc_response(START, request_id, pb.SatInStartReplicationResp(err=error).SerializeToString())

    def start_write(self) -> bytes:
        """Ask the device for its writes: all that it has not seen echoed."""
        if self.state in UNAUTHENTICATED or self.state is State.CLOSED:
            raise misuse("writes are asked for after authentication")
        self._own_call_id += 1
        self._own_calls[self._own_call_id] = START
        return codec.rpc_request(START, self._own_call_id, _START_WRITE_BODY)

    def stopped(self, request_id: int) -> bytes:
        return self._answer(STOP, request_id, pb.SatInStopReplicationResp())

    def subscribed(self, request_id: int, subscription_id: str) -> bytes:
        """Goes out before any row of the subscription."""
        return self._answer(SUBSCRIBE, request_id, pb.SatSubsResp(subscription_id=subscription_id))

    def subscribe_refused(
        self,
        request_id: int,
        subscription_id: str,
        code: str,
        message: str,
        errors: Iterable[tuple[str, str, str]] = (),
    ) -> bytes:
        """The connection stays. ``code``: a SatSubsError.Code; ``errors``: (request id, ShapeReqError.Code, text)."""
        error = pb.SatSubsResp.SatSubsError(
            code=code,
            message=message,
            shape_request_error=[
                pb.SatSubsResp.SatSubsError.ShapeReqError(request_id=shape, code=shape_code, message=text)
                for shape, shape_code, text in errors
            ],
        )
        self._step(SUBSCRIBE, request_id, refused(SUBSCRIBE))
        body = pb.SatSubsResp(subscription_id=subscription_id, err=error).SerializeToString()
        return codec.rpc_response(SUBSCRIBE, request_id, body)

    def unsubscribed(self, request_id: int) -> bytes:
        """Always answered, for ids we do not know too."""
        return self._answer(UNSUBSCRIBE, request_id, pb.SatUnsubsResp())

    def reached(self, request_id: int) -> bytes:
        """See ``ReachRequested``."""
        return self._answer(REACH, request_id, pb.SatReachResp())

    def reserved(self, request_id: int, blocks: Iterable[Block]) -> bytes:
        """Durably its own."""
        return self._answer(RESERVE, request_id, pb.SatReserveResp(blocks=block_messages(blocks)))

    def reserve_refused(self, request_id: int, code_name: str, message: str) -> bytes:
        """``code_name``: a ReserveError.Code."""
        error = pb.SatReserveResp.ReserveError(code=code_name, message=message)
        return self._answer(RESERVE, request_id, pb.SatReserveResp(err=error))

    def released(self, request_id: int) -> bytes:
        """See ``ReleaseRequested``."""
        return self._answer(RELEASE, request_id, pb.SatReleaseResp())

    def _answer(self, method: str, request_id: int, message: Message) -> bytes:
        self._step(method, request_id, granted(method))
        return codec.rpc_response(method, request_id, message.SerializeToString())

    def _step(self, method: str, request_id: int, step: str) -> None:
        if self._calls.get(request_id) != method:
            raise misuse(f"no {method} with id {request_id} waits for an answer")
        target = ARROWS.get((self.state, step))
        if target is None:
            raise misuse(f"the answer {step} is not possible while {self.state.value}")
        del self._calls[request_id]
        self.state = target


class _Rows:
    """Which rows a transaction names whose operations are too much. ``kept`` empty: they are too many as well."""

    def __init__(self) -> None:
        self.kept: list[NamedChange] = []
        self.memory = 0
        self._too_many = False

    def add(self, row: NamedChange | None) -> None:
        if row is None or self._too_many:
            return
        self.kept.append(row)
        self.memory += memory_of(row[1])
        memory_max = TRANSACTION_LIMITS.memory_max
        if memory_max is not None and self.memory > memory_max:
            self._too_many = True
            self.kept.clear()
            self.memory = 0
