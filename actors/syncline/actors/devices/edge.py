"""The edge's port: one for ``/ws`` and for plain HTTP. Every socket begins here, with a request head.

The head is read by the pure ``request``. What it asks for decides what the socket becomes: one HTTP answer and its end,
or a ``Connection`` of ``websocket``, which takes the socket over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, cast

from syncline.actors.devices.framing import GOING_AWAY, SERVICE_RESTART
from syncline.actors.devices.request import (
    HEAD_BYTES_MAX,
    Request,
    RequestRefused,
    Response,
    accept_upgrade,
    parse_head,
)
from syncline.actors.devices.websocket import Connection, Limits, Receiver, half_close

log = logging.getLogger(__name__)

WEBSOCKET_PATH = "/ws"
NOT_READY = "Not connected to Postgres yet, try again soon"
# Of a drain: so often some are asked to leave, one at least. A hundred a second are no storm where they come back.
TURN_S = 0.01
LEAVING = "the service restarts, come back"
# Who comes while a part of the service starts again waits so long for it, which is less than most wait for an answer.
SOON_S = 4.0
SOON_POLL_S = 0.02

OnOpen = Callable[[Connection], Receiver]


class Edge:
    """Listens, upgrades ``/ws`` and passes every other request to ``api``.

    ``ready``: whether devices may connect (503 until then). ``soon``: whether they should wait a little for that, as
    it was so before. ``on_open``: gets each new Connection and returns its
    Receiver. ``refusal``: builds the last message a peer gets before it is closed for what it sent (a SatErrorResp).
    ``api``: answers a plain request; its exceptions become a 500.
    """

    def __init__(
        self,
        *,
        on_open: OnOpen,
        ready: Callable[[], bool],
        api: Callable[[Request], Awaitable[Response]],
        refusal: Callable[[str], bytes],
        soon: Callable[[], bool] = lambda: False,
        limits: Limits | None = None,
    ) -> None:
        self.soon = soon
        self.on_open = on_open
        self.ready = ready
        self.api = api
        self.refusal = refusal
        self.limits = limits or Limits()
        self.connections: set[Entrance | Connection] = set()
        self._servers: list[asyncio.Server] = []
        self._answers: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    async def listen(self, host: str | Sequence[str], port: int, *, reuse_port: bool = False) -> int:
        """Starts listening and returns the port (``port`` 0 takes a free one). Raises OSError, port in use and such.

        ``reuse_port``: SO_REUSEPORT, so that several edges share the port and the kernel spreads the connects.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Entrance(self), host, port, reuse_port=reuse_port or None, backlog=4096
        )
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def stop_listening(self) -> None:
        """No new connections; those that live go on."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def drain(self, within_s: float) -> None:
        """Stops listening and closes the connections in turns, so that they come back elsewhere a few at a time: each
        when what it was sent has left, and whatever is still there after ``within_s`` all the same. Returns when all
        are gone."""
        self.stop_listening()
        now_s = asyncio.get_running_loop().time
        until_s = now_s() + within_s
        log.info("%d connections are sent away in turns", len(self.connections))
        while staying := [here for here in self.connections if isinstance(here, Connection) and here.open]:
            left_s = until_s - now_s()
            if left_s <= TURN_S:
                break
            turns = math.ceil(len(staying) * TURN_S / left_s)
            for connection in [here for here in staying if not here.write_buffer_bytes][:turns]:
                connection.close(SERVICE_RESTART, LEAVING)
            await asyncio.sleep(TURN_S)
        await self.close(SERVICE_RESTART, LEAVING)

    async def close(self, code: int = GOING_AWAY, reason: str = "the server is shutting down") -> None:
        """Stops listening, closes every connection and returns when all are gone, after ``closing_s`` at the latest."""
        self.stop_listening()
        for connection in list(self.connections):
            connection.close(code, reason)
        await self._empty.wait()

    def joined(self, connection: Entrance | Connection) -> bool:
        """Counts the connection in; False when there are too many."""
        self.connections.add(connection)
        self._empty.clear()
        return len(self.connections) <= self.limits.connections_max

    def became(self, entrance: Entrance, connection: Connection) -> None:
        """The same socket under its new name."""
        self.connections.add(connection)
        self.connections.discard(entrance)

    def left(self, connection: Entrance | Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def answer_soon(self, answer: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(answer)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)
        return task


class Entrance(asyncio.Protocol):
    """An accepted socket until it is answered, or has become a ``Connection``."""

    __slots__ = ("_answer", "_answered", "_edge", "_half_closed", "_head", "_timer", "_transport", "remote")

    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._head: bytearray | None = bytearray()  # None: it is whole, and what still arrives is thrown away
        self._answer: asyncio.Task[None] | None = None
        self._answered = False
        self._half_closed = False  # the peer will send no more
        self.remote = ""  # "address:port" of the peer

    def close(self, code: int, reason: str) -> None:
        """Ends it, unless an answer is leaving already: there is nobody to take leave of yet."""
        if not self._answered:
            self._transport.abort()

    # --- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's own class derives from neither
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.remote = f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
        raw = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it may be gone already
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timer = asyncio.get_running_loop().call_later(self._edge.limits.request_s, transport.abort)
        if not self._edge.joined(self):
            self._respond(Response(HTTPStatus.SERVICE_UNAVAILABLE, b"Too many connections"))

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            self._read(self._head)

    def eof_received(self) -> bool:
        self._half_closed = True
        return self._answer is not None and not self._answered  # one who stops sending may still wait for its answer

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        if self._answer is not None:
            self._answer.cancel()
        self._edge.left(self)

    # --- the request --------------------------------------------------------------------------------------------------

    def _read(self, head: bytearray) -> None:
        end = head.find(b"\r\n\r\n")
        if end > HEAD_BYTES_MAX or (end < 0 and len(head) > HEAD_BYTES_MAX):
            too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._respond(Response(too_large, f"More than {HEAD_BYTES_MAX} bytes of headers".encode()))
            return
        if end < 0:
            return
        try:
            request = parse_head(bytes(head[:end]))
            if request.path == WEBSOCKET_PATH:
                self._upgrade(request, bytes(head[end + 4 :]))
            else:
                self._head = None
                self._answer = self._edge.answer_soon(self._respond_to(request))
        except RequestRefused as refused:
            self._respond(refused.response)

    def _upgrade(self, request: Request, rest: bytes) -> None:
        protocol, answer = accept_upgrade(request)
        if self._edge.ready():
            self._become(protocol, answer, rest)
        elif self._edge.soon():
            self._head = None
            self._transport.pause_reading()
            self._answer = self._edge.answer_soon(self._upgrade_soon(protocol, answer, rest))
        else:
            raise RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, NOT_READY)

    async def _upgrade_soon(self, protocol: str, answer: bytes, rest: bytes) -> None:
        until_s = asyncio.get_running_loop().time() + SOON_S
        while not self._edge.ready():
            if asyncio.get_running_loop().time() > until_s:
                self._transport.resume_reading()
                self._respond(Response(HTTPStatus.SERVICE_UNAVAILABLE, NOT_READY.encode()))
                return
            await asyncio.sleep(SOON_POLL_S)
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._become(protocol, answer, rest)

    def _become(self, protocol: str, answer: bytes, rest: bytes) -> None:
        self._head = None
        self._timer.cancel()
        connection = Connection(self._edge, self._transport, protocol, self.remote)
        self._transport.set_write_buffer_limits(high=self._edge.limits.high_water_bytes)
        self._transport.set_protocol(connection)
        self._edge.became(self, connection)
        self._transport.write(answer)
        connection.start(self._edge.on_open, rest)

    async def _respond_to(self, request: Request) -> None:
        self._restart_timer(self._edge.limits.request_s)
        try:
            response = await self._edge.api(request)
        except Exception:
            log.exception("the answer to %s %s failed", request.method, request.path)
            response = Response(HTTPStatus.INTERNAL_SERVER_ERROR, b"Internal server error")
        self._respond(response, head_only=request.method == "HEAD")

    def _respond(self, response: Response, *, head_only: bool = False) -> None:
        self._head = None
        self._answered = True
        self._transport.write(response.encode(head_only=head_only))
        half_close(self._transport, self._half_closed)
        self._restart_timer(self._edge.limits.closing_s)

    def _restart_timer(self, delay_s: float) -> None:
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._transport.abort)
