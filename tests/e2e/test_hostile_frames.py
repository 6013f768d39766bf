"""What a service does with frames that no device would send: each has one right outcome, and it is nobody else's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from pathlib import Path

import websockets
from tests.npm.service import serving
from tests.patience import PATIENCE_S
from tests.rawdevice import RawDevice
from tests.tokens import insecure_token
from tests.unit.proto.conversation import DEVICE_ITEMS, writing

from syncline.proto import codec, events
from syncline.proto import satellite_pb2 as pb
from syncline.proto.codec import MessageType
from syncline.proto.errors import ErrorCode, ProtocolError, error_name
from syncline.proto.session import ClientSession, ServerSession
from syncline.proto.values import Column, Gone, Insert, Relation, ShapeRequest

ITEMS = "CREATE TABLE items (id int4 PRIMARY KEY, title text)"
TOKEN = insecure_token("user")
STAYS = "stays"
"""The connection goes on as if nothing had been said, or the call has its answer."""
UNKNOWN = "1007 AUTH_REQUIRED"
INVALID = "1007 INVALID_REQUEST"
LEAVES = "1000"

BEGIN = codec.encode_begin(500, b"\x00\x00\x00\x07", None, None)
COMMIT = codec.encode_commit(0, b"")
ROW = (b"1", b"one")
WIDE = Relation(1, "public", "wide", tuple(Column(f"c{n}", "TEXT") for n in range(3000)))


def log(*ops: bytes) -> bytes:
    return codec.oplog_message(*ops)


def call(method: str, body: bytes = b"") -> bytes:
    return codec.rpc_request(method, 77, body)


# name: (frame, what becomes of somebody unknown who sends it, what of a device that streams and writes).
FRAMES: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", INVALID, INVALID),
    "an unknown type": (b"\xff\x00", INVALID, INVALID),
    "a call that cannot be decoded": (b"\x15\xff\xff", INVALID, INVALID),
    "a call to no method": (call("dance"), INVALID, INVALID),
    "a subscription that cannot be decoded": (call("subscribe", b"\xff\xff"), UNKNOWN, INVALID),
    "a second start": (call("startReplication", b"\x12\x00"), UNKNOWN, INVALID),
    "an answer to nothing": (codec.rpc_response("startReplication", 99, b""), UNKNOWN, INVALID),
    "an error": (codec.error_message(ErrorCode.INTERNAL, "gave up"), LEAVES, LEAVES),
    "an error that cannot be decoded": (b"\x00\xff\xff", INVALID, INVALID),
    "the begin of a shape": (codec.shape_data_begin("r"), UNKNOWN, INVALID),
    "a relation too wide": (codec.relation_message(WIDE), UNKNOWN, INVALID),
    "a log that cannot be decoded": (b"\x09\xff\xff\xff", UNKNOWN, INVALID),
    "a row outside of a transaction": (log(codec.encode_ops([Insert(0, ROW)])), UNKNOWN, INVALID),
    "a row of a table not named": (log(BEGIN, codec.encode_ops([Insert(9, ROW)]), COMMIT), UNKNOWN, INVALID),
    "a row with too many cells": (log(BEGIN, codec.encode_ops([Insert(0, (*ROW, b"more"))]), COMMIT), UNKNOWN, INVALID),
    "a row that leaves": (log(BEGIN, codec.encode_ops([Gone(0, ROW)]), COMMIT), UNKNOWN, INVALID),
    "a begin within a transaction": (log(BEGIN, BEGIN), UNKNOWN, INVALID),
    "a commit without a begin": (log(COMMIT), UNKNOWN, INVALID),
    "a call of 70 KiB": (call("subscribe", b"\xff" * (70 << 10)), "1009", INVALID),
    # Harmless, and nothing in them is wrong:
    "an ack of nothing": (codec.ack_message(12345, b"1"), UNKNOWN, STAYS),
    "a transaction of nothing": (log(BEGIN, COMMIT), UNKNOWN, STAYS),
    "a transaction that does not end": (log(BEGIN, codec.encode_ops([Insert(0, ROW)])), UNKNOWN, STAYS),
    "a subscription to no table": (
        call("subscribe", codec.subscribe_body(str(uuid.UUID(int=7)), [ShapeRequest("r", "no_table")])),
        UNKNOWN,
        STAYS,
    ),
    "the end of an unknown subscription": (
        call("unsubscribe", pb.SatUnsubsReq(subscription_ids=[str(uuid.UUID(int=8))]).SerializeToString()),
        UNKNOWN,
        STAYS,
    ),
}


class Hostile:
    """A socket that has gone as far as a device does, and then sends what it likes."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._session = ClientSession()
        self._client_id = str(uuid.uuid4())

    async def become_a_device(self) -> None:
        """Until the service takes its writes, of which it has named the table."""
        await self._socket.send(self._session.authenticate(self._client_id, TOKEN))
        await self._until(events.Authenticated)
        await self._socket.send(self._session.start(b"", [], None, "sqlite"))
        await self._until(events.SendFrom)
        await self._socket.send(codec.relation_message(DEVICE_ITEMS))

    async def _until(self, wanted: type[events.ClientEvent]) -> None:
        while True:
            told, answers = self._session.receive(await self._frame())
            for answer in answers:
                await self._socket.send(answer)
            if any(isinstance(event, wanted) for event in told):
                return

    async def _frame(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            frame = await self._socket.recv()
        assert isinstance(frame, bytes)
        return frame

    async def outcome(self, frame: bytes) -> str:
        """What becomes of the connection: ``STAYS``, or its close code and the code of the error before it."""
        renewed = 99
        body = pb.SatAuthReq(id=self._client_id, token=TOKEN).SerializeToString()
        # Behind it something that is answered if the service still listens, and only then.
        with contextlib.suppress(websockets.ConnectionClosed):
            await self._socket.send(frame)
            await self._socket.send(codec.rpc_request("authenticate", renewed, body))
        error = ""
        try:
            while True:
                kind, message = codec.decode(await self._frame())
                if kind is MessageType.ERROR:
                    error = error_name(codec.expect(pb.SatErrorResp, message).error_type)
                elif kind is MessageType.RPC_RESPONSE:
                    answer = codec.expect(pb.SatRpcResponse, message)
                    if answer.request_id == renewed and answer.WhichOneof("result") == "message":
                        return STAYS
                    if answer.WhichOneof("result") == "error":
                        error = error_name(answer.error.error_type)
        except websockets.ConnectionClosed:
            return f"{self._socket.close_code} {error}".rstrip()


async def outcome(url: str, frame: bytes, *, known: bool) -> str:
    """What a service makes of ``frame``, sent by a device that streams and writes, or by somebody unknown."""
    async with websockets.connect(
        url.replace("http", "ws") + "/ws",
        subprotocols=[websockets.Subprotocol("electric.0.12")],
        max_size=None,
        ping_interval=None,
    ) as socket:
        hostile = Hostile(socket)
        if known:
            await hostile.become_a_device()
        return await hostile.outcome(frame)


def as_decided(frame: bytes, *, known: bool) -> str:
    """The outcome that the session by itself decides on; it is what the service has to carry out."""
    session = writing().server if known else ServerSession()
    try:
        if known:
            session.receive(codec.relation_message(DEVICE_ITEMS))
        told = session.receive(frame)
    except ProtocolError as error:
        return f"1007 {error.code.name}"
    return LEAVES if any(isinstance(event, events.PeerFailed) for event in told) else STAYS


async def test_every_frame_out_of_place_ends_its_own_connection_with_an_error_or_is_harmless(
    database: str, tmp_path: Path
) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        RawDevice.connected(service.url) as bystander,
    ):
        await bystander.start()
        await bystander.subscribe("items")
        of_the_unknown = {
            name: await outcome(service.url, frame, known=False) for name, (frame, _, _) in FRAMES.items()
        }
        assert of_the_unknown == {name: unknown for name, (_, unknown, _) in FRAMES.items()}
        of_devices = {name: await outcome(service.url, frame, known=True) for name, (frame, _, _) in FRAMES.items()}
        assert of_devices == {name: device for name, (_, _, device) in FRAMES.items()}
        assert await postgres.fetchval("SELECT count(*) FROM items") == 0
        await postgres.execute("INSERT INTO items VALUES (1, 'still here')")
        await bystander.expect(events.TransactionReceived, within_s=PATIENCE_S)
        assert "Traceback" not in service.said()


async def test_random_frames_have_the_outcome_that_the_session_decides(database: str, tmp_path: Path) -> None:
    seeded = random.Random(7)
    kinds = [int(kind) for kind in MessageType]
    async with serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, _):
        found, decided = [], []
        for number in range(60):
            known = number % 2 == 0
            frame = bytes([seeded.choice([*kinds, seeded.randrange(256)])]) + seeded.randbytes(seeded.randrange(200))
            found.append((frame.hex(), await outcome(service.url, frame, known=known)))
            decided.append((frame.hex(), as_decided(frame, known=known)))
        assert found == decided
        assert "Traceback" not in service.said()
