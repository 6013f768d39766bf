"""A device without a database: the protocol's client session on a real socket, for tests that need to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import websockets
from tests.outgoing_rules import OutgoingRules
from tests.patience import PATIENCE_S
from tests.tokens import insecure_token

from syncline.proto import events
from syncline.proto.errors import ProtocolError
from syncline.proto.events import ClientEvent
from syncline.proto.session import ClientSession
from syncline.proto.subprotocols import OLD
from syncline.proto.values import Insert, Row, RowChange, ShapeRequest, Transaction

E = TypeVar("E", bound=ClientEvent)


class WatchedConnection(websockets.ClientConnection):
    """Tells ``rules`` what the device sends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rules = OutgoingRules()

    def agreed(self) -> None:
        """The handshake is over."""
        self.rules = OutgoingRules(self.subprotocol or OLD[0])

    async def send(self, message: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(message, bytes):
            self.rules.heard(message)
        await super().send(message, *args, **kwargs)


class RawDevice:
    """``rows`` holds what the device has been given, by relation id and first column.

    Every frame of the service is held against the rules of what a device may be sent; closing raises what broke them.
    """

    def __init__(self, socket: WatchedConnection, client_id: str) -> None:
        self.socket = socket
        self.client_id = client_id
        self.session = ClientSession()
        self.events: asyncio.Queue[ClientEvent] = asyncio.Queue()
        self.frames = 0
        self.rows: dict[int, dict[bytes | None, Row]] = {}
        self.transactions: list[Transaction] = []
        self.lsn = b""
        self.acking = True
        self._reading = asyncio.create_task(self._read())

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(
        cls, url: str, *, client_id: str | None = None, token: str | None = None, protocol: str = OLD[0]
    ) -> AsyncIterator[RawDevice]:
        """A socket, authenticated unless ``token`` is empty. ``protocol``: the one it offers."""
        socket = await websockets.connect(
            url.replace("http", "ws") + "/ws",
            subprotocols=[websockets.Subprotocol(protocol)],
            max_size=None,
            ping_interval=None,
            create_connection=WatchedConnection,
        )
        assert isinstance(socket, WatchedConnection)
        socket.agreed()
        device = cls(socket, client_id or str(uuid.uuid4()))
        try:
            if token != "":
                await socket.send(device.session.authenticate(device.client_id, token or insecure_token("user")))
                await device._authenticated()
            yield device
        finally:
            await device.close()

    async def _authenticated(self) -> None:
        """Raises ConnectionError when the service closes instead."""
        answered = asyncio.ensure_future(self.expect(events.Authenticated))
        closed = asyncio.ensure_future(self.socket.wait_closed())
        try:
            await asyncio.wait({answered, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise ConnectionError(f"closed instead: {self.socket.close_code} {self.socket.close_reason}")
            await answered
        finally:
            answered.cancel()
            closed.cancel()

    async def close(self) -> None:
        self._reading.cancel()
        (ended,) = await asyncio.gather(self._reading, return_exceptions=True)
        await self.socket.close()
        if isinstance(ended, ProtocolError):
            raise ended

    async def start(self, lsn: bytes = b"", subscriptions: tuple[str, ...] = ()) -> events.StreamStarted:
        await self.socket.send(self.session.start(lsn, list(subscriptions), None, "sqlite"))
        started = await self.expect(events.StreamStarted)
        await self.expect(events.SendFrom)
        return started

    async def told_to_start_over(self, lsn: bytes, subscription: str) -> None:
        """Resumes from ``lsn``, and is refused and cut off: what it has counts no more."""
        await self.socket.send(self.session.start(lsn, [subscription], None, "sqlite"))
        assert (await self.expect(events.StreamRefused)).code == "BEHIND_WINDOW"
        assert (await self.closed())[0] == 1007

    async def subscribe(self, *wanted: str | ShapeRequest) -> str:
        """Subscribes to tables, or shapes, and waits for the whole delivery; the subscription id."""
        subscription = str(uuid.uuid4())
        requests = [
            shape if isinstance(shape, ShapeRequest) else ShapeRequest(str(uuid.uuid4()), shape) for shape in wanted
        ]
        await self.socket.send(self.session.subscribe(subscription, requests))
        await self.expect(events.ShapeDataEnded)
        return subscription

    async def expect(self, kind: type[E], within_s: float = PATIENCE_S) -> E:
        """The next event of ``kind``; others before it are dropped."""
        async with asyncio.timeout(within_s):
            while True:
                event = await self.events.get()
                if isinstance(event, kind):
                    return event

    async def closed(self, within_s: float = PATIENCE_S) -> tuple[int | None, str]:
        """Waits for the server to close; its code and reason."""
        async with asyncio.timeout(within_s):
            await self.socket.wait_closed()
        return self.socket.close_code, self.socket.close_reason or ""

    async def _read(self) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            async for frame in self.socket:
                assert isinstance(frame, bytes)
                self.frames += 1
                self.socket.rules.check(frame)
                told, answers = self.session.receive(frame)
                for answer in answers:
                    await self.socket.send(answer)
                for event in told:
                    await self._keep(event)
                    self.events.put_nowait(event)

    async def _keep(self, event: ClientEvent) -> None:
        match event:
            case events.ShapeRows(inserts=inserts):
                for insert in inserts:
                    self._apply(insert)
            case events.ShapeDataEnded(lsn=lsn):
                self.lsn = lsn
            case events.GoneRows(rows):
                for row in rows:
                    self._apply(row)
            case events.GonesEnded(lsn=lsn):
                self.lsn = lsn
            case events.TransactionReceived(transaction):
                self.transactions.append(transaction)
                self.lsn = transaction.lsn
                for change in transaction.changes:
                    if isinstance(change, RowChange):
                        self._apply(change)
                if self.acking and transaction.transaction_id is not None:
                    with contextlib.suppress(websockets.ConnectionClosed):  # what came before the close counts
                        await self.socket.send(self.session.ack(transaction.transaction_id, transaction.lsn))
            case _:
                pass

    def _apply(self, change: RowChange) -> None:
        table = self.rows.setdefault(change.relation_id, {})
        match change:
            case Insert(_, row, _):
                table[row[0]] = row
            case _ if hasattr(change, "old_row") and not hasattr(change, "row"):
                table.pop(change.old_row[0], None)
            case _ if type(change).__name__ == "Gone":
                table.pop(change.row[0], None)
            case _:
                table[change.row[0]] = change.row
