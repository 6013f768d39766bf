"""Frames to and from the server over a WebSocket. One binary message is one frame.

``Transport`` is the interface; the satellite knows nothing else. Ends of a connection, of whatever kind, arrive as
``TransportClosed`` with the close reason, so that what to do about them can be decided elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeAlias
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from syncline.client.errors import UsageError

SUBPROTOCOL = "electric.0.12"

# A server of the old line sends a whole shape as one message.
FRAME_BYTES_MAX = 512 * 1024 * 1024

OPEN_TIMEOUT_S = 10.0
PING_INTERVAL_S = 20.0
CLOSE_TIMEOUT_S = 1.0


class TransportClosed(Exception):
    """The connection is over, or could not be made. ``reason``: the peer's close reason, empty if it gave none."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class Transport(Protocol):
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


class WebSocketTransport:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, frame: bytes) -> None:
        try:
            await self._connection.send(frame)
        except ConnectionClosed as problem:
            raise _closed(problem) from problem

    async def receive(self) -> bytes:
        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed as problem:
            raise _closed(problem) from problem


def _closed(problem: ConnectionClosed) -> TransportClosed:
    reason = problem.rcvd.reason if problem.rcvd is not None else ""
    return TransportClosed(f"the connection was closed: {problem}", reason)


@asynccontextmanager
async def open_websocket(url: str) -> AsyncIterator[Transport]:
    """Connect to the server at ``url``. Raises TransportClosed when it cannot be reached or declines."""
    try:
        connection = await connect(
            endpoint(url),
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            max_size=FRAME_BYTES_MAX,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_INTERVAL_S,
            close_timeout=CLOSE_TIMEOUT_S,
        )
    except (OSError, TimeoutError, InvalidHandshake, EOFError) as problem:
        raise TransportClosed(f"no connection to {url}: {type(problem).__name__} {problem}".rstrip()) from problem
    try:
        yield WebSocketTransport(connection)
    finally:
        await connection.close()
