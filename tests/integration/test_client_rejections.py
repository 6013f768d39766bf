"""What Postgres, or the service, refuses of a device is undone there, and the application is told why, exactly once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from tests.integration.test_client_service import confirmed, device, rows, service_on, until
from tests.patience import PATIENCE_S
from tests.rawdevice import RawDevice
from tests.tokens import insecure_token

from syncline.actors.postgres.electrify import electrify
from syncline.actors.service import Service
from syncline.client import Database, RejectedChange, Rejection, WriteRejected, open_db
from syncline.client.transport import Transport, TransportClosed, open_websocket
from syncline.proto import codec
from syncline.proto.events import TransactionReceived
from syncline.proto.ops import Begin
from syncline.proto.subprotocols import OLD, OWN
from syncline.proto.values import Insert, Relation, Transaction

pytestmark = pytest.mark.every_major

# Devices are told of no CHECK that asks for the time: Postgres alone judges.
SCHEMA = """
CREATE TABLE notes (
    id int4, part bytea, title text CONSTRAINT short CHECK (length(title) < 10 OR now() IS NULL), stars int2 UNIQUE,
    PRIMARY KEY (id, part));
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.title = 'mine' THEN RAISE EXCEPTION 'not yours: %', repeat('x', 10000) USING HINT = 'ask ann'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE TABLE folders (id text PRIMARY KEY, name text CHECK (length(name) < 10 OR now() IS NULL));
CREATE TABLE files (
    id text PRIMARY KEY, folder text REFERENCES folders ON DELETE CASCADE, size int4 CHECK (size >= 0 OR now() IS NULL)
);
INSERT INTO folders VALUES ('of postgres', '');
"""


@pytest.fixture
async def service(database: str, tmp_path: Path) -> AsyncIterator[Service]:
    connection = await asyncpg.connect(database)
    async with service_on(database, tmp_path / "service") as service:
        await connection.execute(SCHEMA)
        for table in ("notes", "folders", "files"):
            await electrify(connection, table)
        await connection.close()
        yield service


async def one(db: Database) -> Rejection:
    """The next that is told of."""
    async with asyncio.timeout(PATIENCE_S):
        async for rejection in db.rejection_changes():
            return rejection
    raise AssertionError("the changes do not end")


async def test_a_rejection_tells_why_and_what_had_been_written(service: Service, tmp_path: Path) -> None:
    async with device(tmp_path / "a.db", service, "notes") as a:
        await a.execute("INSERT INTO notes VALUES (1, x'00ff', 'fine', 1)")
        began = datetime.now(UTC)
        async with a.transaction() as tx:
            await tx.execute("UPDATE notes SET stars = 2 WHERE id = 1")
            await tx.execute("INSERT INTO notes VALUES (2, x'01', 'much too long a title', NULL)")
        await a.execute("INSERT INTO notes VALUES (3, x'', 'also fine', 3)")
        rejection = await one(a)
        key = {"id": 2, "part": b"\x01"}
        assert (rejection.sqlstate, rejection.table, rejection.constraint) == ("23514", "notes", "short")
        assert (rejection.columns, rejection.key) == (("title",), key)
        assert "short" in rejection.message
        assert abs(rejection.committed_at - began) < timedelta(hours=1)
        first = {"id": 1, "part": b"\x00\xff", "title": "fine", "stars": 1}
        assert rejection.changes == (
            RejectedChange("notes", "update", {"id": 1, "part": b"\x00\xff"}, first | {"stars": 2}, first),
            RejectedChange("notes", "insert", key, key | {"title": "much too long a title", "stars": None}, None),
        )
        await confirmed(a)
        assert await rows(a, "SELECT id, stars FROM notes ORDER BY id") == [(1, 1), (3, 3)]
        assert (await a.rejections(), a.status.rejections) == ([rejection], 1)


async def test_a_rejection_names_the_row_that_won_and_the_one_that_it_depends_on(
    service: Service, tmp_path: Path
) -> None:
    async with device(tmp_path / "a.db", service, "notes") as a, device(tmp_path / "b.db", service, "notes") as b:
        await b.disconnect()
        await a.execute("INSERT INTO notes VALUES (1, x'00ff', 'first', 5)")
        await confirmed(a)
        await b.execute("INSERT INTO notes VALUES (2, x'01', 'late', 5)")
        await b.execute("UPDATE notes SET title = 'later', stars = 6 WHERE id = 2")
        await b.execute("INSERT INTO notes VALUES (3, x'01', 'other', 7)")
        await b.connect()
        await confirmed(b)
        late, later = await b.rejections()
        assert (late.sqlstate, late.constraint, late.follows) == ("23505", "notes_stars_key", None)
        assert (late.key, late.winner) == ({"id": 2, "part": b"\x01"}, {"id": 1, "part": b"\x00\xff"})
        assert (later.sqlstate, later.follows, later.winner) == ("23505", late.transaction_id, {})
        assert (later.table, later.key) == ("notes", late.key)
        assert await rows(b, "SELECT id, stars FROM notes ORDER BY id") == [(1, 5), (3, 7)]
    async with open_db(tmp_path / "b.db", "ws://localhost:1") as b:
        assert await b.rejections() == [late, later]


async def test_rejections_outlive_restarts_until_they_are_dismissed(service: Service, tmp_path: Path) -> None:
    async with device(tmp_path / "a.db", service, "notes") as a:
        for number in (1, 2):
            await a.execute("INSERT INTO notes VALUES (?, x'', 'much too long a title', NULL)", (number,))
        await confirmed(a)
    async with open_db(tmp_path / "a.db", "ws://localhost:1") as a:
        first, second = await a.rejections()
        await a.dismiss(first)
        await a.dismiss(first)
        assert (await one(a), a.status.rejections) == (second, 1)
    async with device(tmp_path / "a.db", service) as a:
        assert await a.rejections() == [second]
        await a.dismiss(second)
        assert (await a.rejections(), a.status.rejections) == ([], 0)


async def test_every_rejection_is_told_once_to_who_follows_them(service: Service, tmp_path: Path) -> None:
    async with device(tmp_path / "a.db", service, "notes") as a:
        told: list[int] = []

        async def follow() -> None:
            async for rejection in a.rejection_changes():
                (change,) = rejection.changes
                told.append(change.key["id"])  # type: ignore[arg-type]
                if len(told) % 2:
                    await a.dismiss(rejection)
                if len(told) == 6:
                    return

        following = asyncio.create_task(follow())
        for number in range(6):
            await a.execute("INSERT INTO notes VALUES (?, x'', 'much too long a title', NULL)", (number,))
        await asyncio.wait_for(following, PATIENCE_S)
        assert told == list(range(6))
        assert [rejection.changes[0].key["id"] for rejection in await a.rejections()] == [1, 3, 5]


async def test_what_a_trigger_says_is_told_up_to_some_length(service: Service, tmp_path: Path) -> None:
    async with device(tmp_path / "a.db", service, "notes") as a:
        await a.execute("INSERT INTO notes VALUES (1, x'ff', 'mine', NULL)")
        rejection = await one(a)
        assert (rejection.sqlstate, rejection.hint, rejection.table) == ("P0001", "ask ann", "notes")
        assert rejection.message.startswith("not yours: xxx")
        assert len(rejection.message) < 5_000
        assert (rejection.key, rejection.columns, rejection.constraint) == ({"id": 1, "part": b"\xff"}, (), None)


async def test_what_the_service_refuses_by_itself_is_told_likewise(service: Service, tmp_path: Path) -> None:
    async with device(tmp_path / "a.db", service, "notes") as a:
        await a.execute("INSERT INTO notes VALUES (1, x'', 'n', 40000)")
        rejection = await one(a)
        assert (rejection.sqlstate, rejection.table, rejection.columns) == ("22P02", "notes", ("stars",))
        assert rejection.key == {"id": 1, "part": b""}


REFUSED = {
    "a child of it": ("INSERT INTO files SELECT id, id, -1 FROM folders WHERE id LIKE 'of%'",),
    "the row": ("UPDATE folders SET name = 'much too long a name'",),
    "another row": ("UPDATE folders SET name = 'fine'", "INSERT INTO files VALUES ('alone', NULL, -1)"),
}


@pytest.mark.parametrize("between", [None, "UPDATE folders SET name = 'mine'"])
@pytest.mark.parametrize("refused", REFUSED)
async def test_a_delete_stands_after_a_transaction_that_is_refused(
    service: Service, tmp_path: Path, refused: str, between: str | None
) -> None:
    """All that its author had seen of the rows he had seen when he wrote what is refused; but not what came since."""
    async with (
        device(tmp_path / "a.db", service, "folders", "files") as a,
        device(tmp_path / "b.db", service, "folders", "files") as b,
    ):
        await b.execute("INSERT INTO folders VALUES ('of b', ''), ('of both', '')", durable="server")
        await until(a, "(SELECT count(*) FROM folders) = 3")
        await a.disconnect()
        async with a.transaction() as tx:
            for sql in REFUSED[refused]:
                await tx.execute(sql)
        if between is not None:
            await a.execute(between)
        async with a.transaction() as deleting:
            await deleting.execute("DELETE FROM folders")
        await b.execute("UPDATE folders SET name = 'news' WHERE id = 'of both'", durable="server")
        await a.connect()
        with pytest.raises(WriteRejected):
            await tx.durable("server")
        await deleting.durable("server")
        for db in (a, b):
            await until(db, "(SELECT count(*) FROM folders) = 1")
            assert await rows(db, "SELECT id FROM folders") == [("of both",)]


def cut_at_rejections(times: int) -> Callable[[str], object]:
    """A transport that breaks when it is about to hand over the first word of a rejection, ``times`` times."""
    left = [times]

    class Cut:
        def __init__(self, inner: Transport) -> None:
            self.protocol = inner.protocol
            self._inner = inner

        async def send(self, frame: bytes) -> None:
            await self._inner.send(frame)

        async def receive(self) -> bytes:
            frame = await self._inner.receive()
            rejects = frame[:1] == b"\x09" and any(
                isinstance(op, Begin) and op.rejection is not None for op in codec.decode_ops(frame[1:])
            )
            if rejects and left[0]:
                left[0] -= 1
                raise TransportClosed("cut")
            return frame

    @asynccontextmanager
    async def open_cut(url: str) -> AsyncIterator[Cut]:
        async with open_websocket(url) as inner:
            yield Cut(inner)

    return open_cut


async def test_a_rejection_lost_with_the_connection_is_told_on_the_next(service: Service, tmp_path: Path) -> None:
    url = f"ws://127.0.0.1:{service.port}"
    opened = cut_at_rejections(2)
    async with open_db(tmp_path / "a.db", url, open_transport=opened) as a:  # type: ignore[arg-type]
        await a.connect(insecure_token("ann"))
        await (await a.sync("notes")).synced()
        await a.execute("INSERT INTO notes VALUES (1, x'', 'much too long a title', NULL)")
        rejection = await one(a)
        assert (rejection.constraint, rejection.columns, rejection.key) == ("short", ("title",), {"id": 1, "part": b""})
        await confirmed(a)
        assert await a.rejections() == [rejection]


async def test_a_rejection_lost_with_the_service_is_told_by_the_next(
    service: Service, database: str, tmp_path: Path
) -> None:
    port = service.port
    url = f"ws://127.0.0.1:{port}"
    opened = cut_at_rejections(10**9)
    async with open_db(tmp_path / "a.db", url, open_transport=opened) as a:  # type: ignore[arg-type]
        await a.connect(insecure_token("ann"))
        await (await a.sync("notes")).synced()
        await a.execute("INSERT INTO notes VALUES (1, x'', 'much too long a title', NULL)")
        async for status in a.status_changes():
            if status.last_error == "cut":
                break
    await service.stop()
    async with service_on(database, tmp_path / "service", port), open_db(tmp_path / "a.db", url) as a:
        assert await a.rejections() == []
        await a.connect(insecure_token("ann"))
        rejection = await one(a)
        assert (rejection.constraint, rejection.key) == ("short", {"id": 1, "part": b""})
        await until(a, "NOT EXISTS (SELECT 1 FROM notes)")


@pytest.mark.parametrize("protocol", [OWN, OLD[0]])
async def test_a_peer_of_the_old_line_is_told_by_the_rows_alone(service: Service, protocol: str) -> None:
    async with RawDevice.connected(f"http://127.0.0.1:{service.port}", protocol=protocol) as raw:
        await raw.start()
        await raw.subscribe("notes")
        (notes,) = [r for r in raw.session._relations.values() if r.table == "notes"]
        mine: Relation = dataclasses.replace(notes, id=1)
        write = Transaction(1_000, b"\0\0\0\1", (Insert(1, (b"1", b"", b"much too long a title", None), ("me@1",)),))
        for frame in raw.session.write(write, {1: mine}):
            await raw.socket.send(frame)
        echo = (await raw.expect(TransactionReceived)).transaction
        assert (echo.origin, echo.commit_ms) == (raw.client_id, 1_000)
        assert (echo.rejection is not None) == (protocol == OWN)
