"""The edge on real sockets, once under asyncio's own loop and once under uvloop."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus

import pytest
import uvloop
from tests.patience import PATIENCE_S
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from syncline.actors.devices.edge import Edge
from syncline.actors.devices.framing import ABNORMAL, BINARY, CLOSE, CONTINUATION, PING, PONG, header, unmask
from syncline.actors.devices.request import Request, Response
from syncline.actors.devices.websocket import Connection, Limits

REFUSAL = b"\x00refused"
# Nothing here waits for a time limit unless it asks for a short one.
PATIENT = Limits(silence_s=60, closing_s=0.2, request_s=60)
# The fixture below is the way to choose the loop within one file, whatever a later pytest-asyncio will prefer.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy() if request.param == "uvloop" else asyncio.DefaultEventLoopPolicy()


@dataclass
class Device:
    """A receiver that keeps what it is told."""

    connection: Connection
    frames: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    end: asyncio.Future[tuple[int, str]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    room: asyncio.Event = field(default_factory=asyncio.Event)
    takes_more: bool = True

    def frame(self, data: bytes) -> bool:
        self.frames.put_nowait(data)
        if data == b"raise":
            raise RuntimeError("a bug in the device")
        return self.takes_more

    def drained(self) -> None:
        self.room.set()

    def closed(self, code: int, reason: str) -> None:
        self.end.set_result((code, reason))


@dataclass
class Running:
    edge: Edge
    port: int
    devices: asyncio.Queue[Device]
    ready: list[bool]

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def dial(self, **options: object) -> connect:
        return connect(self.url, **{"subprotocols": ["electric.0.12"], "proxy": None, "max_size": None, **options})  # type: ignore[arg-type]

    async def device(self) -> Device:
        return await asyncio.wait_for(self.devices.get(), PATIENCE_S)


@asynccontextmanager
async def edge(
    limits: Limits = PATIENT, api: Callable[[Request], Awaitable[Response]] | None = None
) -> AsyncIterator[Running]:
    devices: asyncio.Queue[Device] = asyncio.Queue()
    ready = [True]

    def on_open(connection: Connection) -> Device:
        device = Device(connection)
        devices.put_nowait(device)
        return device

    async def not_found(request: Request) -> Response:
        return Response(HTTPStatus.NOT_FOUND, b"Not found")

    running = Edge(
        on_open=on_open, ready=lambda: ready[0], api=api or not_found, refusal=lambda _: REFUSAL, limits=limits
    )
    port = await running.listen("127.0.0.1", 0)
    try:
        yield Running(running, port, devices, ready)
    finally:
        await asyncio.wait_for(running.close(), PATIENCE_S)


async def raw_request(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    return answer


def upgrade_request(**headers: str | None) -> bytes:
    lines: dict[str, str | None] = {
        "Host": "x",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Protocol": "electric.0.12",
    }
    lines.update({name.replace("_", "-"): value for name, value in headers.items()})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"GET /ws HTTP/1.1\r\n{head}\r\n".encode()


async def raw_websocket(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(upgrade_request())
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    return reader, writer


def masked(payload: bytes, opcode: int = BINARY, *, final: bool = True) -> bytes:
    head = bytearray(header(len(payload), opcode))
    head[0] &= 0xFF if final else 0x7F
    head[1] |= 0x80
    mask = os.urandom(4)
    return bytes(head) + mask + unmask(payload, mask)


async def closed_with(client: ClientConnection) -> tuple[int, str]:
    """The server's close code and reason."""
    await asyncio.wait_for(client.wait_closed(), PATIENCE_S)
    with pytest.raises(ConnectionClosed) as caught:
        await client.recv()
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


# --- upgrade ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offered", ["electric.0.10", "electric.0.11", "electric.0.12", "syncline.1"])
async def test_the_offered_subprotocol_is_echoed_and_compression_declined(offered: str) -> None:
    async with edge() as running, running.dial(subprotocols=[offered], compression="deflate") as client:
        assert client.subprotocol == offered
        assert (await running.device()).connection.protocol == offered
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


async def test_our_own_protocol_is_preferred_when_several_are_offered() -> None:
    async with edge() as running, running.dial(subprotocols=["electric.0.12", "syncline.1"]) as client:
        assert client.subprotocol == "syncline.1"


@pytest.mark.parametrize(
    "offered", [None, "electric.0.9", "electric.0.13", "electric.1.0", "graphql-ws", "electric." + "9" * 40]
)
async def test_other_subprotocols_are_refused_with_a_short_400(offered: str | None) -> None:
    async with edge() as running:
        with pytest.raises(InvalidStatus) as caught:
            async with running.dial(subprotocols=[offered] if offered else None):
                pass
        assert caught.value.response.status_code == 400
        assert b"electric.0.12" in (caught.value.response.body or b"")


@pytest.mark.parametrize(
    "headers",
    [
        {"Upgrade": None},
        {"Upgrade": "h2c"},
        {"Connection": "keep-alive"},
        {"Sec_WebSocket_Version": "8"},
        {"Sec_WebSocket_Key": "short"},
        {"Sec_WebSocket_Key": None},
    ],
)
async def test_what_is_no_upgrade_is_refused_with_a_400(headers: dict[str, str | None]) -> None:
    async with edge() as running:
        answer = await raw_request(running.port, upgrade_request(**headers))
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert running.devices.empty()


async def test_devices_are_turned_away_with_503_until_we_are_ready() -> None:
    async with edge() as running:
        running.ready[0] = False
        with pytest.raises(InvalidStatus) as caught:
            async with running.dial():
                pass
        assert caught.value.response.status_code == 503
        running.ready[0] = True
        async with running.dial() as client:
            assert client.subprotocol == "electric.0.12"


async def test_who_comes_while_a_part_starts_again_waits_for_it_with_all_that_was_sent() -> None:
    async with edge() as running:
        running.ready[0] = False
        running.edge.soon = lambda: True
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(upgrade_request() + masked(b"one"))

        async def dial() -> ClientConnection:
            return await running.dial()

        dialling = asyncio.create_task(dial())
        while len(running.edge.connections) < 2:  # noqa: ASYNC110 - an edge tells nobody
            await asyncio.sleep(0.01)
        assert running.devices.empty()
        running.ready[0] = True
        client = await dialling
        await client.send(b"two")
        devices = [await running.device(), await running.device()]
        assert {await device.frames.get() for device in devices} == {b"one", b"two"}
        await client.close()
        writer.close()


async def test_who_waits_for_a_part_that_does_not_come_back_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.actors.devices.edge.SOON_S", 0.05)
    async with edge() as running:
        running.ready[0] = False
        running.edge.soon = lambda: True
        assert (await raw_request(running.port, upgrade_request())).startswith(b"HTTP/1.1 503 ")


async def test_frames_sent_with_the_request_are_not_lost() -> None:
    async with edge() as running:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(upgrade_request() + masked(b"one") + masked(b"two"))
        device = await running.device()
        assert [await device.frames.get(), await device.frames.get()] == [b"one", b"two"]
        writer.close()


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 1_000_000])
async def test_messages_of_every_length_class_arrive_whole_both_ways(size: int) -> None:
    async with edge() as running, running.dial() as client:
        device = await running.device()
        await client.send(b"auth")
        assert await device.frames.get() == b"auth"
        payload = os.urandom(size)
        await client.send(payload)
        assert await device.frames.get() == payload
        device.connection.send(payload)
        assert await client.recv() == payload


async def test_a_message_may_arrive_byte_by_byte_and_in_fragments_with_a_ping_between() -> None:
    async with edge() as running:
        reader, writer = await raw_websocket(running.port)
        device = await running.device()
        frames = (
            masked(b"abc", final=False)
            + masked(b"?", PING)
            + masked(b"", CONTINUATION, final=False)
            + masked(b"def", CONTINUATION)
        )
        for byte in frames:
            writer.write(bytes((byte,)))
            await writer.drain()
        assert await device.frames.get() == b"abcdef"
        assert await reader.readexactly(3) == header(1, PONG) + b"?"
        writer.close()


async def test_several_messages_leave_in_order_in_one_send() -> None:
    async with edge() as running, running.dial() as client:
        (await running.device()).connection.send([b"1", b"22" * 50_000, b"333"])
        assert [await client.recv() for _ in range(3)] == [b"1", b"22" * 50_000, b"333"]


# --- limits and refusals ----------------------------------------------------------------------------------------------


async def test_a_text_message_is_answered_with_an_error_and_close_1007() -> None:
    async with edge() as running, running.dial() as client:
        device = await running.device()
        await client.send("text")
        assert await client.recv() == REFUSAL
        assert (await closed_with(client))[0] == 1007
        assert (await device.end)[0] == 1007


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x82\x01a", 1002),  # not masked
        (b"\xc2\x80" + bytes(4), 1002),  # compressed, which nobody agreed on
        (b"\x83\x80" + bytes(4), 1002),  # unknown opcode
        (masked(b"x", CONTINUATION), 1002),
        (masked(b"x", final=False) + masked(b"y"), 1002),
        (masked(b"x", PING, final=False), 1002),
        (masked(b"x", CLOSE), 1002),
        (masked(struct.pack("!H", 1005), CLOSE), 1002),
        (masked(struct.pack("!H", 1000) + b"\xff", CLOSE), 1007),
        (b"\x82\xff" + struct.pack("!Q", 1 << 62), 1009),
    ],
    ids=[
        "not masked",
        "compressed",
        "unknown opcode",
        "continues nothing",
        "interrupts a message",
        "ping in pieces",
        "close of one byte",
        "reserved close code",
        "close reason not UTF-8",
        "larger than anything",
    ],
)
async def test_broken_frames_close_the_connection_with_the_fitting_code(frame: bytes, code: int) -> None:
    async with edge() as running:
        reader, writer = await raw_websocket(running.port)
        device = await running.device()
        writer.write(frame)
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        assert struct.pack("!H", code) in answer
        assert (await device.end)[0] == code


async def test_the_first_message_has_a_smaller_limit_than_the_later_ones() -> None:
    async with edge(replace(PATIENT, first_message_bytes_max=10, message_bytes_max=100)) as running:
        async with running.dial() as client:
            await client.send(b"x" * 11)
            assert (await closed_with(client))[0] == 1009
        await running.device()
        async with running.dial() as client:
            await client.send(b"x" * 10)
            await client.send(b"x" * 100)
            device = await running.device()
            assert [len(await device.frames.get()) for _ in range(2)] == [10, 100]
            await client.send([b"x" * 60, b"x" * 60])
            assert (await closed_with(client))[0] == 1009


async def test_a_device_that_raises_is_closed_with_1011_and_the_others_live_on() -> None:
    async with edge() as running, running.dial() as other, running.dial() as client:
        first, _ = await running.device(), await running.device()
        await client.send(b"raise")
        assert (await closed_with(client))[0] == 1011
        await other.send(b"still here")
        assert await first.frames.get() == b"still here"


async def test_an_unfinished_request_is_cut_off_in_time() -> None:
    async with edge(replace(PATIENT, request_s=0.1)) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"GET /ws HTTP/1.1\r\nHost:")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), PATIENCE_S)
        writer.close()


async def test_an_oversized_request_head_is_refused() -> None:
    async with edge() as running:
        answer = await raw_request(running.port, b"GET / HTTP/1.1\r\nCookie: " + b"x" * 100_000)
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_too_many_connections_are_turned_away() -> None:
    async with edge(replace(PATIENT, connections_max=1)) as running, running.dial():
        answer = await raw_request(running.port, upgrade_request())
        assert answer.startswith(b"HTTP/1.1 503 ")


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_the_peers_close_code_reaches_the_device() -> None:
    async with edge() as running, running.dial() as client:
        device = await running.device()
        await client.close(4321, "bye")
        assert await device.end == (4321, "bye")
        assert not device.connection.open
        assert not device.connection.send(b"too late")


async def test_our_close_code_and_reason_reach_the_peer_after_what_was_sent_before() -> None:
    async with edge() as running, running.dial() as client:
        device = await running.device()
        device.connection.send(b"last words")
        device.connection.close(4000, "JWT-expired")
        assert await client.recv() == b"last words"
        assert await closed_with(client) == (4000, "JWT-expired")
        assert await device.end == (4000, "JWT-expired")


async def test_a_cut_in_the_middle_of_a_frame_is_an_abnormal_end() -> None:
    async with edge() as running:
        _, writer = await raw_websocket(running.port)
        device = await running.device()
        writer.write(masked(b"x" * 1000)[:500])
        await writer.drain()
        writer.transport.abort()
        assert (await device.end)[0] == ABNORMAL
        assert device.frames.empty()


async def test_a_peer_that_answers_pings_stays_and_a_half_open_one_is_cut() -> None:
    async with edge(replace(PATIENT, silence_s=0.1)) as running:
        async with running.dial(ping_interval=None) as client:
            await client.send(b"auth")
            answering = await running.device()
            reader, writer = await raw_websocket(running.port)
            writer.write(masked(b"auth"))
            silent = await running.device()
            assert (await silent.end)[0] == ABNORMAL
            writer.close()
            assert answering.connection.open
            assert await reader.readexactly(2) == header(0, PING)
        assert (await answering.end)[0] != ABNORMAL


async def test_a_peer_that_never_asks_to_authenticate_is_closed_though_it_answers_pings() -> None:
    async with edge(replace(PATIENT, silence_s=0.1)) as running, running.dial() as client:
        assert (await closed_with(client))[0] == 1008


async def test_a_peer_that_never_answers_our_close_is_cut_in_time() -> None:
    async with edge() as running:
        _, writer = await raw_websocket(running.port)
        device = await running.device()
        device.connection.close(1001, "enough")
        assert await device.end == (1001, "enough")
        writer.close()


async def test_closing_the_edge_ends_every_connection_with_going_away() -> None:
    async with edge() as running, running.dial() as one, running.dial() as two:
        await running.device(), await running.device()
        await asyncio.wait_for(asyncio.gather(running.edge.close(), one.wait_closed(), two.wait_closed()), PATIENCE_S)
        assert (one.close_code, two.close_code) == (1001, 1001)
        assert not running.edge.connections


async def test_a_drain_sends_devices_away_in_turns_so_that_they_come_back_elsewhere_while_others_stay() -> None:
    async with edge() as running:
        clients = [await running.dial() for _ in range(20)]
        devices = [await running.device() for _ in clients]
        draining = asyncio.create_task(running.edge.drain(PATIENCE_S))
        ends = [asyncio.create_task(client.wait_closed()) for client in clients]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        assert any(device.connection.open for device in devices)
        with pytest.raises(ConnectionRefusedError):
            await running.dial()
        await draining
        assert {(await device.end)[0] for device in devices} == {1012}
        await asyncio.wait(ends)
        assert {(client.close_code, client.close_reason) for client in clients} == {
            (1012, "the service restarts, come back")
        }
        assert not running.edge.connections


async def test_a_drain_waits_for_what_was_sent_to_leave_and_not_for_ever() -> None:
    sent = b"x" * (8 << 20)  # more than the kernel takes
    async with edge(replace(PATIENT, high_water_bytes=64 * 1024)) as running:
        reader, writer = await slow_peer(running.port)
        reading = await running.device()
        reading.connection.send(sent)
        _, deaf = await slow_peer(running.port)
        never = await running.device()
        never.connection.send(sent)
        async with running.dial() as client:
            idle = await running.device()
            draining = asyncio.create_task(running.edge.drain(2.0))
            await client.wait_closed()
            assert (await idle.end)[0] == 1012
            assert reading.connection.open
            assert never.connection.open
        assert sent in await reader.readexactly(len(sent) + 10)
        assert (await reader.readexactly(4))[2:] == struct.pack("!H", 1012)
        writer.close()
        await draining
        assert {(await device.end)[0] for device in (reading, never)} == {1012}
        deaf.close()


# --- back-pressure ----------------------------------------------------------------------------------------------------


def small_receive_buffer(port: int) -> socket.socket:
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.connect(("127.0.0.1", port))
    return peer


async def slow_peer(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A peer that reads nothing yet, with little room in its kernel."""
    reader, writer = await asyncio.open_connection(sock=small_receive_buffer(port), limit=1024)
    writer.write(upgrade_request())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_send_says_stop_to_a_slow_reader_and_drained_says_go() -> None:
    async with edge(replace(PATIENT, high_water_bytes=100_000)) as running:
        reader, writer = await slow_peer(running.port)
        device = await running.device()
        sent = 0
        while device.connection.send(b"x" * 10_000):
            sent += 1
            assert sent < 10_000
        assert device.connection.write_buffer_bytes > 100_000
        assert not device.room.is_set()
        for _ in range(sent + 1):
            frame = await asyncio.wait_for(reader.readexactly(4 + 10_000), PATIENCE_S)
            assert frame[4:] == b"x" * 10_000
        await asyncio.wait_for(device.room.wait(), PATIENCE_S)
        assert device.connection.send(b"more")
        writer.close()


async def test_a_sender_that_ignores_back_pressure_is_cut_off() -> None:
    async with edge(replace(PATIENT, unsent_bytes_max=1_000_000)) as running:
        _, writer = await slow_peer(running.port)
        device = await running.device()
        for _ in range(1000):
            device.connection.send(b"x" * 100_000)
        assert (await device.end)[0] == ABNORMAL
        writer.close()


async def test_pings_of_a_peer_that_reads_nothing_do_not_pile_up_pongs() -> None:
    async with edge(replace(PATIENT, high_water_bytes=10_000)) as running:
        _, writer = await slow_peer(running.port)
        device = await running.device()
        for _ in range(2_000):
            writer.write(masked(b"x" * 125, PING) * 20)
            await writer.drain()
        writer.write(masked(b"and then"))
        assert await asyncio.wait_for(device.frames.get(), PATIENCE_S) == b"and then"
        assert device.connection.write_buffer_bytes < 20_000
        writer.close()


async def test_a_slow_receiver_slows_its_peer_and_loses_nothing() -> None:
    async with edge() as running:
        _, writer = await raw_websocket(running.port)
        device = await running.device()
        device.takes_more = False
        messages = [index.to_bytes(4, "big") * 5_000 for index in range(1000)]
        everything = asyncio.ensure_future(_write_all(writer, messages))
        received = [await device.frames.get()]
        assert device.frames.empty()
        assert not everything.done()
        while len(received) < len(messages):
            device.connection.resume_reading()
            received.append(await asyncio.wait_for(device.frames.get(), PATIENCE_S))
            assert device.frames.empty()
        assert received == messages
        await everything
        writer.close()


async def _write_all(writer: asyncio.StreamWriter, messages: list[bytes]) -> None:
    for message in messages:
        writer.write(masked(message))
        await writer.drain()


async def test_a_thousand_connections_come_and_go() -> None:
    async with edge() as running:
        peers = [await raw_websocket(running.port) for _ in range(1000)]
        devices = [await running.device() for _ in range(1000)]
        for device in devices:
            device.connection.send(b"news")
        for reader, writer in peers:
            assert await reader.readexactly(6) == header(4) + b"news"
            writer.write(masked(struct.pack("!H", 1000), CLOSE))
        assert {await device.end for device in devices} == {(1000, "")}
        for _, writer in peers:
            writer.close()
        assert not running.edge.connections


async def test_two_edges_share_a_port() -> None:
    async with edge() as running:
        first = await running.edge.listen("127.0.0.1", 0, reuse_port=True)
        async with edge() as other:
            assert await other.edge.listen("127.0.0.1", first, reuse_port=True) == first
