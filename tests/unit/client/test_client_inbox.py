"""What has arrived and was not looked at yet: in order, bounded, and the end of the connection last."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from syncline.client import inbox as inbox_module
from syncline.client.inbox import Inbox
from syncline.client.transport import TransportClosed
from syncline.proto import codec
from syncline.proto.errors import ErrorCode, ProtocolError
from syncline.proto.events import ClientEvent, PeerFailed, RelationReceived
from syncline.proto.session import ClientSession
from syncline.proto.values import Column, Relation


def relation(number: int) -> bytes:
    return codec.relation_message(Relation(number, "public", f"t{number}", (Column("id", "text", primary_key=True),)))


class Line:
    """A transport that has received these frames, and then is closed."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = deque(frames)
        self.sent: list[bytes] = []

    async def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    async def receive(self) -> bytes:
        await asyncio.sleep(0)
        if not self.frames:
            raise TransportClosed("over")
        return self.frames.popleft()


async def everything(inbox: Inbox) -> list[ClientEvent]:
    """All events up to the end of the connection."""
    events: list[ClientEvent] = []
    try:
        while True:
            events += await inbox.take()
    except TransportClosed:
        return events


async def test_what_came_before_the_end_is_handled_before_it() -> None:
    inbox = Inbox(Line(relation(1), codec.error_message(ErrorCode.INVALID_REQUEST, "bad")), ClientSession())
    await inbox.fill()
    events = await everything(inbox)
    assert [type(event) for event in events] == [RelationReceived, PeerFailed]
    with pytest.raises(TransportClosed):
        await inbox.take()


async def test_a_frame_that_makes_no_sense_is_an_end_too() -> None:
    inbox = Inbox(Line(relation(1), b"\xff"), ClientSession())
    await inbox.fill()
    assert len(await inbox.take()) == 1
    with pytest.raises(ProtocolError):
        await inbox.take()


async def test_it_reads_no_further_ahead_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "READ_AHEAD_BYTES", 2 * len(relation(1)))
    line = Line(*(relation(number) for number in range(1, 8)))
    inbox = Inbox(line, ClientSession())
    filling = asyncio.ensure_future(inbox.fill())
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(line.frames) == 5
    events = await everything(inbox)
    assert [event.relation.id for event in events if isinstance(event, RelationReceived)] == list(range(1, 8))
    await filling


async def test_a_call_of_the_server_is_answered_at_once() -> None:
    line = Line(codec.rpc_request("startReplication", 1, b""))
    inbox = Inbox(line, ClientSession())
    await inbox.fill()
    assert len(line.sent) == 1
