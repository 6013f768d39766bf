"""Devices on the wire: thousands in one process. They speak the protocol as a device must, and keep nothing.

Each authenticates, starts, subscribes to one table, decodes every frame and acknowledges at 70 % of the window, as the
device library does. Only SQLite is missing. Arrival is noted before decoding: a real device decodes on its own machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from multiprocessing.connection import Connection

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.side import Side, beside, now_ms
from benchmarks.stand import TOKEN
from syncline.proto.events import (
    Authenticated,
    PeerFailed,
    ShapeDataEnded,
    ShapeRows,
    StreamStarted,
    SubscribeRefused,
    TransactionReceived,
)
from syncline.proto.flow import AckPolicy
from syncline.proto.session import ClientSession
from syncline.proto.values import ShapeRequest

CONNECTING_MAX = 50
SUBPROTOCOL = "electric.0.12"
FRAME_BYTES_MAX = 64 << 20


class WireDevice(WSListener):
    """One device. ``transactions`` and ``rows``: applied so far; ``last_ms``: when the last frame came.

    ``on_applied`` is called after each frame that held a whole transaction.
    """

    def __init__(self, tables: Iterable[str], on_applied: Callable[[WireDevice], None]) -> None:
        super().__init__()
        self._tables = tuple(tables)
        self._on_applied = on_applied
        self._session = ClientSession()
        self._acks = AckPolicy()
        self._lsn = b""
        self._transport: WSTransport | None = None
        self.synced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transactions = self.rows = self.delivered_rows = 0
        self.last_ms = 0.0
        self.newest: tuple[bytes | None, ...] = ()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self._send(self._session.authenticate(str(uuid.uuid4()), TOKEN))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.synced.done():
            self.synced.set_exception(ConnectionError("the service closed the connection"))

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is not WSMsgType.BINARY:
            return
        self.last_ms = now_ms()
        events, answers = self._session.receive(frame.get_payload_as_bytes())
        for answer in answers:
            self._send(answer)
        before = self.transactions
        for event in events:
            self._on(event)
        if self.transactions > before:
            self._on_applied(self)

    def _on(self, event: object) -> None:
        match event:
            case TransactionReceived(transaction):
                self.transactions += 1
                self.rows += len(transaction.changes)
                self._lsn = transaction.lsn
                if self._acks.applied(transaction.transaction_id or 0):
                    self._send(self._session.ack(self._acks.take() or 0, self._lsn))
            case Authenticated():
                self._send(self._session.start(b"", (), None, "sqlite"))
            case StreamStarted():
                shapes = [ShapeRequest(str(uuid.uuid4()), table) for table in self._tables]
                self._send(self._session.subscribe(str(uuid.uuid4()), shapes))
            case ShapeRows():
                self.delivered_rows += len(event.inserts)
            case ShapeDataEnded(subscription_id, lsn):
                self._lsn = lsn
                self._send(self._session.ack(self._acks.take() or 0, lsn, [subscription_id]))
                self.synced.set_result(None)
            case PeerFailed() | SubscribeRefused():
                raise RuntimeError(f"the service refuses: {event}")
            case _:
                pass

    def _send(self, frame: bytes) -> None:
        assert self._transport is not None
        self._transport.send(WSMsgType.BINARY, frame)


async def connect(url: str, tables: Iterable[str], on_applied: Callable[[WireDevice], None]) -> WireDevice:
    """A device that holds ``tables`` whole."""
    device = WireDevice(tables, on_applied)
    await ws_connect(
        lambda: device,
        f"{url}/ws",
        extra_headers={"Sec-WebSocket-Protocol": SUBPROTOCOL},
        max_frame_size=FRAME_BYTES_MAX,
        enable_auto_pong=True,
        read_buffer_init_size=4096,
    )
    await device.synced
    return device


class Devices:
    """The devices that a process beside us holds. ``lead``: make the process; it connects nothing yet."""

    def __init__(self, side: Side) -> None:
        self._side = side

    @staticmethod
    @contextlib.asynccontextmanager
    async def lead(url: str, tables: tuple[str, ...], devices: int = 1) -> AsyncIterator[Devices]:
        async with beside(hold, url, tables, devices) as side:
            await side.receive()
            yield Devices(side)

    async def connect(self) -> None:
        """Returns when all have all their rows."""
        self._side.send("connect")
        await self._side.receive()

    def expect(self, transactions: int) -> None:
        """So many more will come."""
        self._side.send(transactions)

    async def arrived(self) -> tuple[list[float], int]:
        """When each device had what was expected (``now_ms``), and the rows received meanwhile by all of them."""
        arrived_ms, rows = await self._side.receive()
        return arrived_ms, rows


def hold(pipe: Connection, url: str, tables: tuple[str, ...], devices: int) -> None:
    """For a process of its own: ``devices`` of them, and an answer to every question; see ``Devices``.

    Sends "up", connects them when told so, and sends "ready" once all are synced. Then each message ``n`` is answered
    when every device has received ``n`` more transactions: with the times (``now_ms``) at which they had, and with the
    rows received meanwhile.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_hold(pipe, url, tables, devices))


async def _hold(pipe: Connection, url: str, tables: tuple[str, ...], devices: int) -> None:
    pipe.send("up")
    await asyncio.to_thread(pipe.recv)
    wanted = 0
    arrived_ms: dict[WireDevice, float] = {}
    all_arrived = asyncio.Event()

    def applied(device: WireDevice) -> None:
        if wanted and device.transactions >= wanted and device not in arrived_ms:
            arrived_ms[device] = device.last_ms
            if len(arrived_ms) == devices:
                all_arrived.set()

    turn = asyncio.Semaphore(CONNECTING_MAX)

    async def join() -> WireDevice:
        async with turn:
            return await connect(url, tables, applied)

    held = await asyncio.gather(*(join() for _ in range(devices)))
    first = wanted = max(device.transactions for device in held)
    assert all(device.transactions == first for device in held), "nothing is written while devices join"
    pipe.send("ready")
    while True:
        more = await asyncio.to_thread(_next, pipe)
        if more is None:
            return
        rows = sum(device.rows for device in held)
        arrived_ms.clear()
        all_arrived.clear()
        wanted += more
        for device in held:
            applied(device)
        await all_arrived.wait()
        pipe.send((list(arrived_ms.values()), sum(device.rows for device in held) - rows))


def _next(pipe: Connection) -> int | None:
    try:
        message = pipe.recv()
    except (EOFError, OSError):
        return None
    assert isinstance(message, int)
    return message
