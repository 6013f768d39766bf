"""The WebSocket transport against real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from syncline.client.silence import ANSWER_MAX_S, ANSWER_S, SILENCE_MAX_S, Silence
from syncline.client.transport import CountingConnection, TransportClosed, WebSocketTransport, _unsent, open_websocket
from syncline.proto.subprotocols import OLD, OWN

SUBPROTOCOLS = [Subprotocol("electric.0.12")]


async def echo(connection: ServerConnection) -> None:
    async for frame in connection:
        await connection.send(frame)


async def leave(connection: ServerConnection) -> None:
    await connection.close(4000, "JWT-expired")


@asynccontextmanager
async def talking_to(
    handler: Callable[[ServerConnection], Awaitable[None]],
) -> AsyncIterator[tuple[CountingConnection, Server]]:
    """A connection of ours to a server that does this, and the server."""
    async with serve(handler, "127.0.0.1", 0, max_size=None) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect(
            f"ws://127.0.0.1:{port}",
            compression=None,
            ping_interval=None,
            close_timeout=0.1,
            max_size=None,
            create_connection=CountingConnection,
        ) as connection:
            assert isinstance(connection, CountingConnection)
            yield connection, server


@pytest.mark.parametrize(("known", "agreed"), [((OLD[0],), OLD[0]), ((OWN, *OLD), OWN)])
async def test_our_own_protocol_is_agreed_if_the_server_knows_it(known: tuple[str, ...], agreed: str) -> None:
    subprotocols = [Subprotocol(protocol) for protocol in known]
    async with serve(echo, "127.0.0.1", 0, subprotocols=subprotocols) as server:
        port = server.sockets[0].getsockname()[1]
        async with open_websocket(f"http://127.0.0.1:{port}") as transport:
            assert transport.protocol == agreed


async def test_frames_go_and_come_as_they_are_on_the_one_path() -> None:
    seen: list[str] = []

    async def remember(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request.path)
        await echo(connection)

    async with serve(remember, "127.0.0.1", 0, subprotocols=SUBPROTOCOLS, max_size=None) as server:
        port = server.sockets[0].getsockname()[1]
        async with open_websocket(f"http://127.0.0.1:{port}") as transport:
            for frame in (b"", b"\x00\xff", bytes(2_000_000)):
                await transport.send(frame)
                assert await transport.receive() == frame
    assert seen == ["/ws"]


async def test_the_reason_of_a_close_is_told() -> None:
    async with serve(leave, "127.0.0.1", 0, subprotocols=SUBPROTOCOLS) as server:
        port = server.sockets[0].getsockname()[1]
        async with open_websocket(f"ws://127.0.0.1:{port}") as transport:
            with pytest.raises(TransportClosed) as closed:
                await transport.receive()
    assert closed.value.reason == "JWT-expired"


async def test_a_server_that_is_not_there_is_a_closed_transport() -> None:
    with pytest.raises(TransportClosed, match="no connection to ws:") as closed:
        async with open_websocket("ws://127.0.0.1:1"):
            pass
    assert closed.value.absent


@pytest.mark.parametrize(("status", "absent"), [(503, True), (502, True), (429, False), (500, False)])
async def test_a_server_that_says_that_nobody_is_there_is_told_from_one_that_wants_no_more(
    status: int, absent: bool
) -> None:
    async def decline(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus(status), "not now")

    async with serve(echo, "127.0.0.1", 0, process_request=decline) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransportClosed) as closed:
            async with open_websocket(f"ws://127.0.0.1:{port}"):
                pass
    assert closed.value.absent is absent


@pytest.mark.parametrize(("answer", "absent"), [(b"", True), (b"SSH-2.0-OpenSSH\r\n", False)])
async def test_a_connection_that_is_taken_and_ended_is_a_server_that_is_not_there(answer: bytes, absent: bool) -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(end, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransportClosed) as closed:
            async with open_websocket(f"ws://127.0.0.1:{port}"):
                pass
    assert closed.value.absent is absent


async def test_a_silent_but_living_peer_is_kept_and_a_dead_one_given_up() -> None:
    async with talking_to(echo) as (connection, server):
        silence = Silence(first_s=0.01)
        living = WebSocketTransport(connection, silence)
        waiting = asyncio.ensure_future(living.receive())
        for _ in range(3):
            await connection.ping()
        await living.send(b"here")
        assert await waiting == b"here"
        next(iter(server.connections)).transport.pause_reading()
        dead = WebSocketTransport(connection, Silence(first_s=0.01, answer_s=0.05))
        with pytest.raises(TransportClosed, match="does not answer"):
            await dead.receive()
        next(iter(server.connections)).transport.resume_reading()


async def test_a_message_that_takes_longer_than_an_answer_may_is_waited_for_as_long_as_it_comes() -> None:
    async with talking_to(echo) as (connection, server):
        peer = next(iter(server.connections)).transport
        peer.pause_reading()  # it answers nothing

        async def trickle() -> None:
            peer.write(b"\x82\x7e" + (400).to_bytes(2, "big"))
            for _ in range(20):
                await asyncio.sleep(0.05)  # the slow network itself: together five times what an answer may take
                peer.write(bytes(20))

        slow = asyncio.create_task(trickle())
        transport = WebSocketTransport(connection, Silence(first_s=0.01, answer_s=0.2))
        assert await transport.receive() == bytes(400)
        await slow


async def test_what_a_peer_has_not_taken_is_counted_until_it_has() -> None:
    async with talking_to(echo) as (connection, server):
        peer = next(iter(server.connections)).transport
        peer.pause_reading()
        sending = asyncio.create_task(connection.send(bytes(20 << 20)))
        await asyncio.sleep(0)  # lets the task begin, which is to be seen in the middle
        assert _unsent(connection) > 0
        peer.resume_reading()
        assert await connection.recv() == bytes(20 << 20)
        await sending
        assert _unsent(connection) == 0
    assert _unsent(connection) == 0, "closed meanwhile"


async def test_frames_that_come_in_place_of_an_answer_are_taken_and_none_is_lost() -> None:
    """More of them than are read ahead of us: the answer is stuck behind them."""

    async def talk(connection: ServerConnection) -> None:
        await connection.recv()
        for number in range(200):
            await connection.send(number.to_bytes(2, "big"))
            if number % 3 == 0:
                await asyncio.sleep(0.002)  # so that some come while it waits, and some while it asks
        await connection.wait_closed()

    async with talking_to(talk) as (connection, _):
        transport = WebSocketTransport(connection, Silence(first_s=0.001))
        await transport.send(b"go on")
        assert [int.from_bytes(await transport.receive(), "big") for _ in range(200)] == list(range(200))


def test_silence_is_worth_less_the_longer_it_lasts_and_much_again_after_a_word() -> None:
    silence = Silence()
    first = silence.bearable_s
    for _ in range(2):
        silence.answered(0.01)
    assert silence.bearable_s == 4 * first
    for _ in range(5):
        silence.answered(0.01)
    assert silence.bearable_s == SILENCE_MAX_S
    silence.broken()
    assert silence.bearable_s == first


def test_who_has_been_slow_has_more_time_to_answer() -> None:
    assert Silence(opening_s=0.1).patience_s == ANSWER_S
    silence = Silence(opening_s=0.5)
    assert ANSWER_S < silence.patience_s < ANSWER_MAX_S
    silence.answered(9.0)
    assert silence.patience_s == ANSWER_MAX_S
    for _ in range(30):
        silence.answered(0.01)
    assert silence.patience_s == ANSWER_S


async def test_a_connection_that_took_long_to_open_is_slow_only_if_its_first_answer_is() -> None:
    """Where the network was away, opening waits for it to come back."""
    async with talking_to(echo) as (connection, _):
        silence = Silence(opening_s=8.0)
        transport = WebSocketTransport(connection, silence)
        assert silence.patience_s == ANSWER_MAX_S
        await transport.send(b"hello")
        assert await transport.receive() == b"hello"
        assert silence.patience_s < ANSWER_MAX_S
        silence.answered(9.0)
        await transport.send(b"again")
        await transport.receive()
        assert silence.patience_s == ANSWER_MAX_S
