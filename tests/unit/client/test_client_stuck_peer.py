"""A peer that takes no more bytes and says nothing, over real sockets: it is noticed, and it is left."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.unit.client.satellite_peer import Peer, running_peer
from tests.unit.client.test_client_satellite import synced
from tests.unit.client.test_client_transport import talking_to
from websockets.asyncio.server import ServerConnection, serve

from syncline.client import Database, open_db, transport
from syncline.client.silence import Silence
from syncline.client.transport import CountingConnection, Transport, TransportClosed, WebSocketTransport, open_websocket

# More than the systems of both ends hold for a peer that has room for little.
MUCH = 16 << 20
PATIENCE_S = 10.0


def stick(connection: ServerConnection) -> asyncio.Transport:
    """From now on it reads nothing."""
    peer = connection.transport
    peer.pause_reading()
    peer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return peer


@asynccontextmanager
async def stuck_server() -> AsyncIterator[str]:
    """A server that reads nothing behind the handshake, and its address."""
    over = asyncio.Event()

    async def rest(connection: ServerConnection) -> None:
        peer = stick(connection)
        await over.wait()
        peer.abort()

    async with serve(rest, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        over.set()


async def until_full(line: Transport) -> asyncio.Task[None]:
    """Sends more than the peer takes. The task waits for it to take the rest."""
    sending = asyncio.create_task(line.send(bytes(MUCH)))
    await asyncio.sleep(0.1)  # the system tells nobody when its buffers are full
    assert not sending.done()
    return sending


async def test_silence_is_noticed_also_where_the_question_itself_has_to_wait() -> None:
    async with talking_to(lambda connection: connection.wait_closed()) as (connection, server):
        peer = stick(next(iter(server.connections)))
        line = WebSocketTransport(connection, Silence(first_s=0.01, answer_s=0.05))
        sending = await until_full(line)
        with pytest.raises(TransportClosed, match="does not answer"):
            await asyncio.wait_for(line.receive(), PATIENCE_S)
        await asyncio.gather(sending, return_exceptions=True)
        peer.abort()


async def test_a_peer_that_takes_what_is_sent_slowly_is_kept_however_much_waits() -> None:
    """What waits here stays about the same meanwhile: for each frame that has gone there is another one."""
    frames, frame_bytes = 40, 512 << 10
    taken = asyncio.Event()

    async def count(connection: ServerConnection) -> None:
        for _ in range(frames):
            await connection.recv()
        taken.set()
        await connection.send(b"all")

    async with talking_to(count) as (connection, server):
        peer = next(iter(server.connections)).transport
        peer.pause_reading()

        async def take_slowly() -> None:
            while not taken.is_set():
                peer.resume_reading()
                await asyncio.sleep(0.01)  # the slow network itself
                peer.pause_reading()
                await asyncio.sleep(0.05)  # and so is this
            peer.resume_reading()

        line = WebSocketTransport(connection, Silence(first_s=0.01, answer_s=0.3))
        slow = asyncio.create_task(take_slowly())
        receiving = asyncio.create_task(line.receive())
        for _ in range(frames):
            await line.send(bytes(frame_bytes))
        assert await asyncio.wait_for(receiving, PATIENCE_S) == b"all"
        await slow


async def is_over(using: Coroutine[object, object, None] | asyncio.Task[None]) -> None:
    """Ends in time by itself."""
    task = asyncio.ensure_future(using)
    await asyncio.wait({task}, timeout=PATIENCE_S)
    assert task.done()
    if not task.cancelled():
        task.result()


async def test_a_connection_that_is_given_up_as_it_takes_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SEND_TIMEOUT_S", 0.1)

    async def use(url: str) -> None:
        async with open_websocket(url) as line:
            with pytest.raises(TransportClosed, match="taken nothing"):
                await line.send(bytes(MUCH))

    async with stuck_server() as url:
        await is_over(use(url))


async def test_who_is_cancelled_in_a_connection_that_takes_nothing_is_let_go() -> None:
    full = asyncio.Event()

    async def use(url: str) -> None:
        async with open_websocket(url) as line:
            sending = await until_full(line)
            full.set()
            await sending

    async with stuck_server() as url:
        using = asyncio.create_task(use(url))
        await full.wait()
        using.cancel()
        await is_over(using)


async def test_who_is_cancelled_again_while_he_leaves_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "CLOSE_TIMEOUT_S", 10 * PATIENCE_S)
    leaving = asyncio.Event()

    async def use(url: str) -> None:
        async with open_websocket(url) as line:
            sending = await until_full(line)
            sending.cancel()
            leaving.set()

    async with stuck_server() as url:
        using = asyncio.create_task(use(url))
        await leaving.wait()
        await asyncio.sleep(0.05)  # it waits for the peer
        using.cancel()
        await is_over(using)


async def test_a_connection_that_fails_as_it_is_left_keeps_nobody_who_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As asyncio's own does, asked to end when it has just ended: it took the place of the cancellation."""

    async def fail(connection: CountingConnection) -> None:
        raise AttributeError("'NoneType' object has no attribute 'call_soon'")

    monkeypatch.setattr(CountingConnection, "close", fail)
    inside = asyncio.Event()

    async def use(url: str) -> None:
        async with open_websocket(url):
            inside.set()
            await asyncio.Event().wait()

    async with stuck_server() as url:
        using = asyncio.create_task(use(url))
        await inside.wait()
        using.cancel()
        await is_over(using)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with running_peer() as peer:
        yield peer


@pytest.mark.parametrize("leave", [Database.disconnect, Database.connect])
async def test_a_device_whose_server_takes_nothing_does_as_it_is_told(
    peer: Peer, tmp_path: Path, leave: Callable[[Database], Coroutine[object, object, None]]
) -> None:
    full = asyncio.Event()

    class Watched:
        def __init__(self, line: Transport) -> None:
            self.protocol = line.protocol
            self.receive = line.receive
            self._line = line

        async def send(self, frame: bytes) -> None:
            if len(frame) < MUCH:
                await self._line.send(frame)
                return
            sending = await until_full(self._line)
            full.set()
            await sending

    @asynccontextmanager
    async def open_watched(url: str) -> AsyncIterator[Transport]:
        async with open_websocket(url) as line:
            yield Watched(line)

    async with open_db(tmp_path / "app.db", peer.url, open_transport=open_watched) as db:
        await synced(db, peer)
        assert peer._connection is not None
        stuck = stick(peer._connection)
        await db.execute("INSERT INTO items (id, title) VALUES ('a', ?)", ("x" * MUCH,))
        await asyncio.wait_for(full.wait(), PATIENCE_S)
        await is_over(leave(db))
        stuck.abort()
