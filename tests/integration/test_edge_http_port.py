"""Plain HTTP on the devices' port, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.patience import PATIENCE_S

from syncline.actors.devices.edge import Edge
from syncline.actors.devices.http import Api, PostgresState
from syncline.actors.devices.request import Request, Response
from syncline.actors.devices.websocket import Connection, Limits, Receiver


@dataclass
class Site:
    """An edge with the real API, whose parts a test can change."""

    port: int = 0
    state: PostgresState = PostgresState.UP
    broken: bool = False
    hold: asyncio.Event = field(default_factory=asyncio.Event)

    async def history(self) -> list[tuple[str, list[dict[str, object]]]]:
        await self.hold.wait()
        if self.broken:
            raise RuntimeError("secret details")
        column = {"name": "id", "type": "uuid", "not_null": True, "pk": 1, "enum": None}
        return [("1", [{"schema": "public", "table": "t", "columns": [column], "fks": [], "indexes": []}])]

    async def vitals(self) -> dict[str, object]:
        return {}

    async def ask(self, text: str, *, half_close: bool = False) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"{text}\r\nHost: x\r\n\r\n".encode())
        if half_close:
            writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return head, body


def nobody(connection: Connection) -> Receiver:
    raise RuntimeError("no devices here")


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    it = Site()
    it.hold.set()

    api = Api(lambda: it.state, it.history, it.vitals)
    edge = Edge(on_open=nobody, ready=lambda: True, api=api, refusal=lambda _: b"", limits=Limits(closing_s=0.2))
    it.port = await edge.listen("127.0.0.1", 0)
    try:
        yield it
    finally:
        await asyncio.wait_for(edge.close(), PATIENCE_S)


async def test_status_follows_postgres() -> None:
    async with site() as it:
        head, body = await it.ask("GET /api/status HTTP/1.1")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b"Connection to Postgres is up!"
        it.state = PostgresState.DOWN
        head, body = await it.ask("GET /api/status HTTP/1.0")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert body == b"Database connection failure."


async def test_head_has_the_length_and_no_body() -> None:
    async with site() as it:
        head, body = await it.ask("HEAD /api/status HTTP/1.1")
        assert b"Content-Length: 29" in head
        assert body == b""


async def test_migrations_come_as_a_zip_and_errors_as_json() -> None:
    async with site() as it:
        head, body = await it.ask("GET /api/migrations?dialect=sqlite HTTP/1.1")
        assert b"Content-Type: application/zip" in head
        assert body.startswith(b"PK")
        head, body = await it.ask("GET /api/migrations?dialect=sqlite&version=1 HTTP/1.1")
        assert head.startswith(b"HTTP/1.1 204 ")
        head, body = await it.ask("GET /api/migrations HTTP/1.1")
        assert head.startswith(b"HTTP/1.1 403 ")
        assert "dialect" in json.loads(body)["error"]


async def test_a_client_may_stop_sending_and_still_gets_its_answer() -> None:
    async with site() as it:
        it.hold.clear()
        asking = asyncio.ensure_future(it.ask("GET /api/migrations?dialect=sqlite HTTP/1.1", half_close=True))
        head, _ = await it.ask("GET /other HTTP/1.1", half_close=True)
        assert head.startswith(b"HTTP/1.1 404 ")
        it.hold.set()
        head, _ = await asking
        assert head.startswith(b"HTTP/1.1 200 ")


async def test_a_failure_of_ours_is_a_500_that_tells_nothing() -> None:
    async with site() as it:
        it.broken = True
        head, body = await it.ask("GET /api/migrations?dialect=sqlite HTTP/1.1")
        assert head.startswith(b"HTTP/1.1 500 ")
        assert b"secret" not in body


async def test_an_answer_that_takes_too_long_is_given_up() -> None:
    cancelled = asyncio.Event()

    async def slow(request: Request) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError("never answered")

    edge = Edge(on_open=nobody, ready=lambda: True, api=slow, refusal=lambda _: b"", limits=Limits(request_s=0.1))
    it = Site(await edge.listen("127.0.0.1", 0))
    with contextlib.suppress(ConnectionError):
        assert await it.ask("GET / HTTP/1.1") == (b"", b"")
    await asyncio.wait_for(cancelled.wait(), PATIENCE_S)
    await edge.close()


async def test_a_device_that_cannot_be_started_is_closed_and_the_edge_lives_on() -> None:
    async with site() as it:
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        head, body = await it.ask(
            "GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: electric.0.12"
        )
        assert head.startswith(b"HTTP/1.1 101 ")
        assert body == b"\x88\x02\x03\xf3"  # close, 1011
        assert (await it.ask("GET /api/status HTTP/1.1"))[0].startswith(b"HTTP/1.1 200 ")
