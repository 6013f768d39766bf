"""A peer for the satellite: the real server session over a real WebSocket, playing a tiny server by the book.

It keeps one database in memory, sends migrations to a device that starts from scratch, delivers whole tables, echoes
writes, and does what a test tells it to: refuse, stay silent, cut the line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.errors import ErrorCode
from syncline.proto.events import (
    AckReceived,
    AuthRequested,
    ServerEvent,
    StartRequested,
    SubscribeRequested,
    UnsubscribeRequested,
    WriteReceived,
)
from syncline.proto.session import ServerSession
from syncline.proto.values import (
    CREATE_TABLE,
    POSTGRES_ORIGIN,
    Change,
    Column,
    Compensation,
    Delete,
    Gone,
    Insert,
    Migrate,
    MigrationColumn,
    MigrationTable,
    Relation,
    Row,
    ShapeRequest,
    Transaction,
    Update,
)

ITEMS = Relation(
    16_001,
    "public",
    "items",
    (
        Column("id", "text", primary_key=True, nullable=False),
        Column("title", "text"),
        Column("rank", "int8"),
        Column("done", "bool"),
    ),
)

ITEMS_MIGRATION = Migrate(
    "20240101_1",
    ((CREATE_TABLE, "CREATE TABLE items (id TEXT PRIMARY KEY, title TEXT, rank INTEGER, done INTEGER)"),),
    MigrationTable(
        "items",
        (
            MigrationColumn("id", "TEXT", "text"),
            MigrationColumn("title", "TEXT", "text"),
            MigrationColumn("rank", "INTEGER", "int8"),
            MigrationColumn("done", "INTEGER", "bool"),
        ),
        (),
        ("id",),
    ),
)


def item(key: str, title: str | None = None, rank: int | None = None, done: bool | None = None) -> Row:
    return (
        key.encode(),
        None if title is None else title.encode(),
        None if rank is None else str(rank).encode(),
        None if done is None else b"t" if done else b"f",
    )


class Peer:
    def __init__(self) -> None:
        self.rows: dict[str, tuple[Row, tuple[str, ...]]] = {}
        self.writes: list[WriteReceived] = []
        self.starts: list[StartRequested] = []
        self.tokens: list[str] = []
        self.acks: list[AckReceived] = []
        self.accepted_tokens: set[str] | None = None
        self.refuse_start_once: str | None = None
        self.refuse_subscribe = False
        # The rows of a shape by its where clause; without an entry all of them.
        self.selected: dict[str, set[str]] = {}
        self.refuse_next = 0
        self.keep_unsubscribed = False
        self.kept = 0
        self.asked: list[SubscribeRequested] = []
        self.held: dict[str, set[str]] = {}
        self.rows_estimate: int | None = None
        self.fail_delivery = False
        self.refuse_write: int | None = None
        self.half_delivered = asyncio.Event()
        self.may_finish = asyncio.Event()
        self.may_finish.set()
        self.silent = False
        self.restarting = False
        self.unanswered = 0
        self.deliver = True
        self.echo = True
        self.lsn = 100
        self._changed = asyncio.Condition()
        self._connection: ServerConnection | None = None
        self._session = ServerSession()
        self._delivered: set[str] = set()
        self._server: Server | None = None

    # --- what a test does ---------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Wait until ``wanted()`` is true; checked after every frame."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(wanted)

    async def commit(
        self, *changes: Change, origin: str = POSTGRES_ORIGIN, commit_ms: int = 1_000, relation: bool = False
    ) -> None:
        """Stream a transaction to the device."""
        self.lsn += 1
        if relation:
            await self._send(codec.relation_message(ITEMS))
        transaction = Transaction(commit_ms, str(self.lsn).encode(), changes, origin, transaction_id=self.lsn)
        await self._send(codec.encode_transaction(transaction))

    async def commit_together(self, *commits: tuple[int, Change], origin: str = POSTGRES_ORIGIN) -> None:
        """Stream several transactions, each of one change at its time, in one message."""
        logs: list[bytes] = []
        for commit_ms, change in commits:
            self.lsn += 1
            transaction = Transaction(commit_ms, str(self.lsn).encode(), (change,), origin, self.lsn)
            logs.append(codec.encode_transaction(transaction)[1:])
        await self._send(codec.oplog_message(*logs))

    async def echo_write(self, write: WriteReceived, *changes: Change, client_id: str) -> None:
        await self.commit(*changes, origin=client_id, commit_ms=write.commit_ms, relation=True)

    async def cut(self) -> None:
        """Cut the line without a word."""
        assert self._connection is not None
        self._connection.transport.abort()
        await self._connection.wait_closed()

    async def close(self, code: int, reason: str) -> None:
        assert self._connection is not None
        await self._connection.close(code, reason)

    @property
    def connected(self) -> bool:
        return self._connection is not None

    # --- the server ---------------------------------------------------------------------------------------------------

    async def serve(self, connection: ServerConnection) -> None:
        self._connection, self._session = connection, ServerSession()
        self._client_id = ""
        if self.restarting:
            await self.close(1012, "the service restarts")
        try:
            async for frame in connection:
                assert isinstance(frame, bytes)
                for event in self._session.receive(frame):
                    if self.silent:
                        self.unanswered += 1
                    else:
                        await self._answer(event)
                async with self._changed:
                    self._changed.notify_all()
        finally:
            if self._connection is connection:
                self._connection = None
            async with self._changed:
                self._changed.notify_all()

    async def _send(self, *frames: bytes) -> None:
        if self._connection is not None:
            for frame in frames:
                await self._connection.send(frame)

    async def _answer(self, event: ServerEvent) -> None:
        session = self._session
        match event:
            case AuthRequested(request_id, client_id, token):
                self.tokens.append(token)
                if self.accepted_tokens is not None and token not in self.accepted_tokens:
                    refusal = session.rpc_error(request_id, "authenticate", ErrorCode.AUTH_REQUIRED, "token refused")
                    await self._send(refusal)
                    await self.close(1007, "")
                else:
                    self._client_id = client_id
                    await self._send(session.authenticated(request_id, "peer"))
            case StartRequested():
                await self._start(event)
            case SubscribeRequested(request_id, subscription_id, shapes):
                self.asked.append(event)
                if self.refuse_subscribe or self.refuse_next:
                    self.refuse_next = max(0, self.refuse_next - 1)
                    errors = [(shape.request_id, "TABLE_NOT_FOUND", f"no table {shape.table}") for shape in shapes]
                    refusal = session.subscribe_refused(
                        request_id, subscription_id, "SHAPE_REQUEST_ERROR", "no", errors
                    )
                    await self._send(refusal)
                    return
                await self._send(session.subscribed(request_id, subscription_id))
                if self.deliver:
                    await self.deliver_items(subscription_id, shapes)
            case UnsubscribeRequested(request_id, ids):
                await self._send(session.unsubscribed(request_id))
                if self.keep_unsubscribed:
                    self.kept += 1
                    return
                leaving = set().union(*(self.held.pop(id, set()) for id in ids)).difference(*self.held.values())
                gones = [Gone(ITEMS.id, ITEMS.key_row((key.encode(),))) for key in sorted(leaving)]
                self.lsn += 1
                await self._send(
                    codec.unsubs_data_begin(ids, str(self.lsn).encode()),
                    codec.oplog_message(codec.encode_ops(gones)),
                    codec.unsubs_data_end(),
                )
            case WriteReceived():
                self.writes.append(event)
                if event.lsn == (self.refuse_write or 0).to_bytes(4, "big"):
                    await self._send(codec.error_message(ErrorCode.INVALID_REQUEST, "no such thing", event.lsn))
                    await self.close(1007, "")
                elif self.echo:
                    await self._merge(event)
            case AckReceived():
                self.acks.append(event)

    async def _start(self, event: StartRequested) -> None:
        self.starts.append(event)
        if self.refuse_start_once is not None:
            code, self.refuse_start_once = self.refuse_start_once, None
            await self._send(self._session.start_refused(event.request_id, code, "not here"))
            await self.close(1007, "")
            return
        await self._send(self._session.start_accepted(event.request_id), self._session.start_write())
        if not event.lsn and event.schema_version is None:
            await self.commit(ITEMS_MIGRATION, relation=True)
        else:
            await self._send(codec.relation_message(ITEMS))

    async def deliver_items(self, subscription_id: str, shapes: Sequence[ShapeRequest]) -> None:
        """The rows of the shapes; after the first frame the delivery waits if a test has cleared ``may_finish``."""
        self.lsn += 1
        begin = codec.subs_data_begin(subscription_id, str(self.lsn).encode(), self.rows_estimate)
        await self._send(codec.relation_message(ITEMS), begin)
        self.held[subscription_id] = set()
        for shape in shapes:
            keys = self.selected.get(shape.where, self.rows.keys())
            inserts = [Insert(ITEMS.id, row, tags) for key, (row, tags) in self.rows.items() if key in keys]
            self.held[subscription_id] |= {*keys}
            await self._send(
                codec.shape_data_begin(shape.request_id), codec.oplog_message(codec.encode_ops(inserts[:1]))
            )
            self.half_delivered.set()
            await self.may_finish.wait()
            if self.fail_delivery:
                del self.held[subscription_id]
                await self.fail(subscription_id)
                return
            await self._send(codec.oplog_message(codec.encode_ops(inserts[1:])), codec.shape_data_end())
        await self._send(codec.subs_data_end())

    async def fail(self, subscription_id: str) -> None:
        await self._send(codec.message_bytes(pb.SatSubsDataError(subscription_id=subscription_id, message="disk full")))

    async def _merge(self, write: WriteReceived) -> None:
        """The last writer wins, whole rows: enough for one device."""
        changes: list[Change] = []
        tags = (f"{self._client_id}@{write.commit_ms}",)
        for relation, change in write.changes:
            row = change.old_row if isinstance(change, Delete) else change.row
            (key,) = ITEMS.key_of(row)
            assert key is not None
            assert relation.table == "items"
            if isinstance(change, Delete):
                self.rows.pop(key.decode(), None)
                changes.append(Delete(ITEMS.id, row, ()))
            elif not isinstance(change, Compensation | Gone):
                self.rows[key.decode()] = (row, tags)
                changes.append(Update(ITEMS.id, row, None, tags))
        await self.echo_write(write, *changes, client_id=self._client_id)


@asynccontextmanager
async def running_peer() -> AsyncIterator[Peer]:
    peer = Peer()
    async with serve(
        peer.serve, "127.0.0.1", 0, subprotocols=[Subprotocol("electric.0.12")], compression=None
    ) as server:
        peer._server = server
        yield peer
