"""Well-formed frames with values no device has cost the connection that sent them, and nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
import websockets
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import drop_database
from tests.npm.service import ServiceProcess, serving
from tests.rawdevice import RawDevice

from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.proto import codec, events
from syncline.proto import satellite_pb2 as pb
from syncline.proto.values import Column, Insert, Relation

ITEMS = "CREATE TABLE items (id uuid PRIMARY KEY, n int4, body text)"
RELATION = Relation(0, "public", "items", (Column("id", "TEXT"), Column("n", "INTEGER"), Column("body", "TEXT")))
NOW_MS = int(time.time() * 1000)


def written(lsn: bytes, ms: int, tags: tuple[str, ...] = ()) -> tuple[bytes, bytes]:
    """The frames of a device transaction with one row."""
    row = Insert(0, (str(uuid.uuid4()).encode(), b"1", b"x"), tags)
    body = codec.oplog_message(
        codec.encode_begin(ms, lsn, None, None), codec.encode_ops((row,)), codec.encode_commit(0, b"")
    )
    return codec.relation_message(RELATION), body


@pytest.mark.parametrize(
    ("lsn", "ms", "tags"),
    [
        (b"\xff" * 2000, NOW_MS, ()),
        (b"\xff" * 8, NOW_MS, ()),
        (b"\x01", 2**63, ()),
        (b"\x01", NOW_MS, ("a\x00b@1",)),
    ],
    ids=["long position", "position beyond bigint", "time beyond bigint", "tag with U+0000"],
)
async def test_a_write_with_impossible_values_closes_its_connection_and_disturbs_nobody(
    database: str, tmp_path: Path, lsn: bytes, ms: int, tags: tuple[str, ...]
) -> None:
    async with (
        serving(database, tmp_path, sql=ITEMS, electrified=("items",)) as (service, postgres),
        RawDevice.connected(service.url) as bystander,
        RawDevice.connected(service.url) as hostile,
    ):
        for device in (bystander, hostile):
            await device.start()
        for frame in written(lsn, ms, tags):
            await hostile.socket.send(frame)
        assert (await hostile.closed())[0] == 1007
        for frame in written(b"\x01", NOW_MS):
            await bystander.socket.send(frame)
        while (await bystander.expect(events.TransactionReceived)).transaction.origin != bystander.client_id:
            pass  # the schema comes first
        assert await postgres.fetchval("SELECT count(*) FROM items") == 1
        assert "crashed" not in service.said()


async def test_a_resume_from_an_endless_number_starts_over(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path) as (service, _), RawDevice.connected(service.url) as device:
        await device.socket.send(device.session.start(b"9" * 5000, [], None, "sqlite"))
        try:
            assert (await device.expect(events.StreamRefused)).code == "BEHIND_WINDOW"
        except websockets.ConnectionClosed:
            assert (await device.closed())[0] == 1007


# --- whatever protobuf can say ----------------------------------------------------------------------------------------

EXAMPLES_MAX = 60

numbers = st.sampled_from([0, 1, NOW_MS, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1])
small_numbers = st.sampled_from([0, 1, 2**31, 2**32 - 1])
positions = st.sampled_from([b"", b"\x01", b"\x7f" + b"\xff" * 7, b"\xff" * 8, b"9" * 5000]) | st.binary(max_size=9)
texts = st.sampled_from(
    ["", "items", "id", "n", "body", "\x00", "i\x00d", "x" * 5000, str(uuid.UUID(int=7))]
) | st.text(max_size=70)
origins = st.sampled_from(["a", "postgres_1", "a@b", "", "\x00", "x" * 64, "x" * 65])
tags = st.builds("{}@{}".format, origins, numbers) | texts
cells = (
    st.sampled_from([b"", b"\x00", b"\xff\xfe", b"1", b"-1", b"99999999999999999999", b"NaN", b"1e400", b"x" * 100_000])
    | st.uuids().map(lambda id: str(id).encode())
    | st.text(max_size=20).map(str.encode)
)
rows = st.lists(cells, min_size=3, max_size=3).map(
    lambda values: pb.SatOpRow(nulls_bitmask=bytes([0 if values[0] else 0x80]), values=values)
)
relation_ids = st.just(0) | small_numbers
few_tags = st.lists(tags, max_size=3)
row_operations = st.one_of(
    st.builds(pb.SatOpInsert, relation_id=relation_ids, row_data=rows, tags=few_tags).map(
        lambda op: pb.SatTransOp(insert=op)
    ),
    st.builds(
        pb.SatOpUpdate, relation_id=relation_ids, row_data=rows, old_row_data=st.none() | rows, tags=few_tags
    ).map(lambda op: pb.SatTransOp(update=op)),
    st.builds(pb.SatOpDelete, relation_id=relation_ids, old_row_data=rows, tags=few_tags).map(
        lambda op: pb.SatTransOp(delete=op)
    ),
    st.builds(pb.SatOpCompensation, relation_id=relation_ids, pk_data=rows, tags=few_tags).map(
        lambda op: pb.SatTransOp(compensation=op)
    ),
)


@st.composite
def transactions(draw: st.DrawFn) -> bytes:
    begin = pb.SatOpBegin(
        commit_timestamp=draw(st.just(NOW_MS) | numbers), lsn=draw(st.just(b"\x05") | positions), origin=draw(origins)
    )
    ops = [
        pb.SatTransOp(begin=begin),
        *draw(st.lists(row_operations, min_size=1, max_size=4)),
        pb.SatTransOp(commit=pb.SatOpCommit(commit_timestamp=draw(numbers), lsn=draw(positions))),
    ]
    return b"\x09" + pb.SatOpLog(ops=ops).SerializeToString()


relations = st.builds(
    pb.SatRelation,
    schema_name=texts,
    table_name=st.just("items") | texts,
    relation_id=relation_ids,
    columns=st.lists(
        st.builds(pb.SatRelationColumn, name=texts, type=texts, primaryKey=st.booleans(), is_nullable=st.booleans()),
        min_size=3,
        max_size=3,
    ),
).map(codec.message_bytes)
acks = st.builds(
    pb.SatOpLogAck,
    ack_timestamp=numbers,
    lsn=positions,
    transaction_id=numbers,
    subscription_ids=st.lists(texts, max_size=2),
    additional_data_source_ids=st.lists(numbers, max_size=2),
    gone_subscription_ids=st.lists(texts, max_size=2),
).map(codec.message_bytes)
calls = st.one_of(
    st.tuples(
        st.just("subscribe"),
        st.builds(
            pb.SatSubsReq,
            subscription_id=st.uuids().map(str) | texts,
            shape_requests=st.lists(
                st.builds(
                    lambda id, table: pb.SatShapeReq(
                        request_id=id,
                        shape_definition=pb.SatShapeDef(selects=[pb.SatShapeDef.Select(tablename=table)]),
                    ),
                    texts,
                    st.just("items") | texts,
                ),
                max_size=2,
            ),
        ),
    ),
    st.tuples(st.just("unsubscribe"), st.builds(pb.SatUnsubsReq, subscription_ids=st.lists(texts, max_size=2))),
    st.tuples(
        st.just("startReplication"),
        st.builds(
            pb.SatInStartReplicationReq,
            lsn=positions,
            subscription_ids=st.lists(texts, max_size=2),
            schema_version=st.none() | texts,
            observed_transaction_data=st.lists(numbers, max_size=2),
        ),
    ),
    st.tuples(st.just("stopReplication"), st.just(pb.SatInStopReplicationReq())),
    st.tuples(st.just("authenticate"), st.builds(pb.SatAuthReq, id=texts, token=texts)),
)


def called(call: tuple[str, Message], request_id: int) -> bytes:
    return codec.rpc_request(call[0], request_id, call[1].SerializeToString())


messages = st.lists(
    transactions() | relations | acks | st.builds(called, calls, st.integers(100, 2**32 - 1)), min_size=1, max_size=5
)


@dataclass
class Served:
    runner: asyncio.Runner
    service: ServiceProcess
    bystander: RawDevice
    written: int = 0


@pytest.fixture(scope="module")
def served(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service with one device that has done nothing wrong."""
    name = "extreme_values"

    async def opened(stack: contextlib.AsyncExitStack) -> Served:
        admin = await asyncpg.connect(postgres.dsn())
        await admin.execute(f"CREATE DATABASE {name}")
        await admin.close()
        folder = tmp_path_factory.mktemp("extreme")
        service, _ = await stack.enter_async_context(
            serving(postgres.dsn(name), folder, sql=ITEMS, electrified=("items",))
        )
        bystander = await stack.enter_async_context(RawDevice.connected(service.url))
        await bystander.start()
        await bystander.socket.send(codec.relation_message(RELATION))
        return Served(runner, service, bystander)

    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()
        try:
            yield runner.run(opened(stack))
        finally:
            runner.run(stack.aclose())
            runner.run(drop_database(postgres.dsn(), name))


@settings(max_examples=EXAMPLES_MAX)
@given(sent=messages)
def test_whatever_protobuf_can_say_the_service_goes_on_serving_others(served: Served, sent: list[bytes]) -> None:
    async def say() -> None:
        async with RawDevice.connected(served.service.url) as device:
            with contextlib.suppress(websockets.ConnectionClosed):
                await device.start()
                await device.socket.send(codec.relation_message(RELATION))
                for message in sent:
                    await device.socket.send(message)
                await device.socket.send(b"")  # it is closed for this at the latest, with all before it handled
            await device.closed()

    async def write() -> None:
        served.written += 1
        await served.bystander.socket.send(written(served.written.to_bytes(8, "big"), NOW_MS + served.written)[1])
        while True:
            transaction = (await served.bystander.expect(events.TransactionReceived)).transaction
            if (transaction.origin, transaction.commit_ms) == (served.bystander.client_id, NOW_MS + served.written):
                return

    served.runner.run(say())
    served.runner.run(write())
    assert "crashed" not in served.service.said()
