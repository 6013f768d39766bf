"""Frames to and from the server over a WebSocket. One binary message is one frame.

``Transport`` is the interface; the satellite knows nothing else. Ends of a connection, of whatever kind, arrive as
``TransportClosed`` with the close reason, so that what to do about them can be decided elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeAlias
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from syncline.client.errors import UsageError
from syncline.client.silence import Silence
from syncline.proto.subprotocols import OLD, OWN

if sys.platform != "win32":
    import fcntl
    import termios

log = logging.getLogger("syncline.client")

# A server takes ours if it knows it.
SUBPROTOCOLS = (OWN, OLD[0])

# A server of the old line sends a whole shape as one message.
FRAME_BYTES_MAX = 512 * 1024 * 1024

OPEN_TIMEOUT_S = 10.0

# A peer that takes nothing for so long is given up; it may rest for a while when Postgres is slow.
SEND_TIMEOUT_S = 60.0
# For the peer to take our last words, and to answer them; whoever leaves waits for that.
CLOSE_TIMEOUT_S = 1.0

# HTTP statuses: a proxy without the service behind it, a service that is not ready yet.
NOBODY = frozenset({502, 503})


class TransportClosed(Exception):
    """The connection is over, or could not be made. ``reason``: the peer's close reason, empty if it gave none.
    ``close_code``: of its close frame, None without one. ``absent``: nobody was there, or the one who was there said
    that nobody is."""

    def __init__(self, message: str, reason: str = "", close_code: int | None = None, *, absent: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.close_code = close_code
        self.absent = absent


class Transport(Protocol):
    """``protocol``: the subprotocol that the server has agreed to."""

    protocol: str

    async def send(self, frame: bytes) -> None:
        """Hand a frame over; waits while the peer is slow. Raises TransportClosed."""

    async def receive(self) -> bytes:
        """The next frame. Raises TransportClosed."""


OpenTransport: TypeAlias = Callable[[str], AbstractAsyncContextManager[Transport]]


def endpoint(url: str) -> str:
    """The WebSocket address behind the URL an application gives: ws, wss, http or https; the path is always /ws.

    Raises UsageError for anything else.
    """
    parts = urlsplit(url)
    scheme = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise UsageError(f"{url!r} is not a server address", hint="write ws://host:5133 or wss://host")
    return f"{scheme}://{parts.netloc}/ws"


class CountingConnection(ClientConnection):
    """It counts the bytes that it has ``received``, also those of a message that has not come to its end."""

    received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)


class WebSocketTransport:
    """``silence``: how long the server is believed to be there. It is asked only while we wait for a frame: when we are
    slow to apply, its answer may be stuck behind what we have not read."""

    def __init__(self, connection: CountingConnection, silence: Silence | None = None) -> None:
        self.protocol = connection.subprotocol or OLD[0]
        self._connection = connection
        self._silence = silence or Silence()
        self._waiting: asyncio.Timeout | None = None
        self._spoke_s: float | None = None
        self._heard = False
        self._sent_bytes = 0

    async def send(self, frame: bytes) -> None:
        self._sent_bytes += len(frame)
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await self._connection.send(frame)
        except ConnectionClosed as problem:
            raise _closed(problem) from problem
        except TimeoutError:
            raise TransportClosed(f"the server has taken nothing for {SEND_TIMEOUT_S:.0f} s") from None
        self._silence.broken()
        if self._spoke_s is None:
            self._spoke_s = asyncio.get_running_loop().time()
        if self._waiting is not None and not self._waiting.expired():
            soon_s = asyncio.get_running_loop().time() + self._silence.bearable_s
            self._waiting.reschedule(min(soon_s, self._waiting.when() or soon_s))

    async def receive(self) -> bytes:
        try:
            while True:
                frame = await self._frame_in_time()
                if frame is None:
                    frame = await self._frame_or_answer()
                if frame is not None:
                    self._hear()
                    return frame
        except ConnectionClosed as problem:
            raise _closed(problem) from problem

    def _hear(self) -> None:
        self._silence.broken()
        if not self._heard and self._spoke_s is not None:
            self._silence.first_answered(asyncio.get_running_loop().time() - self._spoke_s)
        self._heard = True

    async def _frame_in_time(self) -> bytes | None:
        """The next frame, unless the silence before it is too long."""
        try:
            async with asyncio.timeout(self._silence.bearable_s) as self._waiting:
                return await self._connection.recv(decode=False)
        except TimeoutError:
            return None
        finally:
            self._waiting = None

    async def _frame_or_answer(self) -> bytes | None:
        """Asks whether the server is there. The next frame says so too. None: only that it is.

        On a slow network both may have to wait behind a large message, of ours or of the server's. So as long as bytes
        go or come, somebody is there. Where the network takes none, the question itself has to wait.
        """
        frame = asyncio.ensure_future(self._connection.recv(decode=False))
        pong = asyncio.ensure_future(self._pong())
        try:
            await asyncio.sleep(0)  # lets it ask, so that the question is among the bytes that go
            moving = True
            while moving and not (frame.done() or pong.done()):
                received, taken = self._connection.received, self._taken_bytes
                await asyncio.wait({frame, pong}, timeout=self._silence.patience_s, return_when=asyncio.FIRST_COMPLETED)
                moving = self._connection.received > received or self._taken_bytes > taken
            answered = pong.done()
        finally:
            frame.cancel()
            pong.cancel()
            await asyncio.gather(frame, pong, return_exceptions=True)  # no frame has been taken, or it is here
        if not frame.cancelled():
            return frame.result()
        if not answered:
            self._connection.transport.abort()  # nobody is there to be told
            raise TransportClosed("the server does not answer any more")
        self._silence.answered(pong.result())
        return None

    async def _pong(self) -> float:
        """Asks for a sign of life; returns how long it took."""
        return await (await self._connection.ping())

    @property
    def _taken_bytes(self) -> int:
        """Of our frames, how much the network has taken. Not what is unsent: others send while we look."""
        return self._sent_bytes - _unsent(self._connection)


def _unsent(connection: ClientConnection) -> int:
    """How many bytes wait here for the network, in our buffer and, where that can be asked, in that of the system."""
    ours: int = connection.transport.get_write_buffer_size()
    if sys.platform == "win32":
        return ours
    size = bytearray(struct.calcsize("i"))
    try:
        fcntl.ioctl(connection.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, size)
    except (OSError, ValueError):  # it cannot, or the socket is closed
        return ours
    return ours + int.from_bytes(size, sys.byteorder)


def _closed(problem: ConnectionClosed) -> TransportClosed:
    said = problem.rcvd
    if said is None:
        return TransportClosed(f"the connection was closed: {problem}")
    return TransportClosed(f"the connection was closed: {problem}", said.reason, said.code)


def _absent(problem: Exception) -> bool:
    if isinstance(problem, InvalidStatus):
        return problem.response.status_code in NOBODY
    if isinstance(problem, InvalidMessage):
        return isinstance(problem.__cause__, EOFError)  # a proxy had taken the connection, and found nobody behind it
    return isinstance(problem, OSError) and not isinstance(problem, TimeoutError)  # which somebody may have ignored


@asynccontextmanager
async def open_websocket(url: str) -> AsyncIterator[Transport]:
    """Connect to the server at ``url``. Raises TransportClosed when it cannot be reached or declines."""
    began = asyncio.get_running_loop().time()
    try:
        connection = await connect(
            endpoint(url),
            subprotocols=[Subprotocol(protocol) for protocol in SUBPROTOCOLS],
            compression=None,
            max_size=FRAME_BYTES_MAX,
            create_connection=CountingConnection,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=None,
            close_timeout=CLOSE_TIMEOUT_S,
        )
    except (OSError, TimeoutError, InvalidHandshake, EOFError) as problem:
        message = f"no connection to {url}: {type(problem).__name__} {problem}".rstrip()
        raise TransportClosed(message, absent=_absent(problem)) from problem
    assert isinstance(connection, CountingConnection)
    try:
        yield WebSocketTransport(connection, Silence(asyncio.get_running_loop().time() - began))
    finally:
        await _leave(connection)


async def _leave(connection: ClientConnection) -> None:
    """Close in good order, unless that takes long: our close frame has to wait while the peer takes nothing."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await connection.close()
    except Exception as problem:  # asyncio's own too, of a transport that has just been lost
        # Why we leave must not be lost over it: it may be that we are cancelled.
        log.debug("not closed in good order", exc_info=problem)
    finally:
        if not connection.connection_lost_waiter.done():
            connection.transport.abort()
