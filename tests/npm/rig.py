"""The published npm client as devices a test can drive: each one its own ``node`` process with its own SQLite file.

`NpmDevice` speaks to ``driver.mjs`` over pipes. Calls may overlap (``connect`` waits while the server is away); events
come as the client reports them and are kept, so a test waits for one *after* a point in the list and can never miss it.
Values are exact both ways: SQLite integers are `int`, reals `float`, blobs `bytes`. A NaN in a real column never exists
(SQLite stores it as NULL; the client keeps its own as the text ``NaN``).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tests.npm.install import ensure_npm
from tests.patience import PATIENCE_S

T = TypeVar("T")
Event = dict[str, Any]
LocalRow = dict[str, Any]

POLL_S = 0.03
LINE_BYTES_MAX = 256 << 20
LATE_TIMER = "while outbound replication has not started"

# The client's defaults (1 s base, 10 s cap) would make every reconnect a long one.
QUICK_RECONNECT = {
    "delayFirstAttempt": False,
    "jitter": "full",
    "maxDelay": 400,
    "numOfAttempts": 500,
    "startingDelay": 50,
    "timeMultiple": 2,
}


class NpmError(Exception):
    """The client refused a call. ``name`` and ``code`` are its own."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error['name']} {error['code']}: {error['message']}")
        self.name: str = error["name"]
        self.code: str | int | None = error["code"]


class NpmDiedError(Exception):
    """The device's process ended with the call unanswered."""


async def eventually(condition: Callable[[], Awaitable[T]], *, within_s: float = PATIENCE_S) -> T:
    """Asks ``condition`` until its answer is true, and returns that answer.

    A condition may also assert: a failed assertion counts as "not yet", and is what is raised past ``within_s``.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            answer = await condition()
            if answer:
                return answer
            failure = AssertionError(f"not within {within_s} s: {condition} answers {answer!r}")
        except AssertionError as exc:
            failure = exc
        if time.monotonic() > deadline:
            raise failure
        await asyncio.sleep(POLL_S)  # the condition is anybody's: nothing tells of it


class NpmDevice:
    """One device on the npm client. Use `NpmDevice.open`; as a context manager it ends with the block."""

    def __init__(self, process: asyncio.subprocess.Process, database: Path, log: Path) -> None:
        self.database = database
        self.log = log
        self.client_id = ""
        self.events: list[Event] = []
        self._process = process
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(
        cls,
        database: Path,
        url: str,
        *,
        client_id: str | None = None,
        migrations: str = "server",
        schema: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        ahead_ms: int = 0,
    ) -> NpmDevice:
        """Starts a process on ``database``, made on first use, for the service at ``url``; it does not connect yet.

        ``migrations`` is ``"server"`` (fetched from its archive and bundled, as the client's generator does) or
        ``"none"`` (tables come down the stream; then ``schema`` says what the application knows of them: table name to
        ``{"columns": {name: Postgres type}, "references": [{"column", "table", "to"}]}``). ``ahead_ms``: of its clock.
        """
        home = await asyncio.to_thread(ensure_npm)
        log = database.with_suffix(".log")
        with log.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                "node",
                str(home / "driver.mjs"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                limit=LINE_BYTES_MAX,
            )
        device = cls(process, database, log)
        try:
            opened = await device.call(
                "open",
                path=str(database),
                url=url,
                clientId=client_id,
                migrations=migrations,
                schema=schema,
                aheadMs=ahead_ms,
                config={"connectionBackOffOptions": QUICK_RECONNECT, **(config or {})},
            )
        except BaseException:
            await device.kill()
            raise
        device.client_id = opened["clientId"]
        return device

    async def __aenter__(self) -> NpmDevice:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- the process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def close(self) -> None:
        """Ends the device in good order; harmless on one that is dead."""
        with contextlib.suppress(NpmDiedError, NpmError, TimeoutError):
            await self.call("close", within_s=5)
        if self._process.returncode is None and self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
        await self._ended()

    async def kill(self) -> None:
        """kill -9."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        await self._ended()

    def freeze(self) -> None:
        """SIGSTOP: the process keeps its socket and says nothing more, as a sleeping phone does."""
        self._process.send_signal(signal.SIGSTOP)

    async def _ended(self) -> None:
        await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            answer = self._answers.pop(message["id"], None) if "id" in message else None
            if answer is not None and not answer.done():
                if "error" in message:
                    answer.set_exception(NpmError(message["error"]))
                else:
                    answer.set_result(message["result"])
            elif "event" in message:
                async with self._news:
                    self.events.append(message)
                    self._news.notify_all()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(
                    NpmDiedError(f"the npm process ended ({self._process.returncode}), log: {self.log}")
                )

    # -- calls

    async def call(self, name: str, *, within_s: float = PATIENCE_S, **arguments: Any) -> Any:
        """One call of the driver. Raises `NpmError`, `NpmDiedError`, or `TimeoutError` past ``within_s``."""
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._reading.done() or self._process.stdin is None:  # it may have said its last before its end is known
            raise NpmDiedError(f"the npm process has ended, log: {self.log}")
        self._answers[number] = answer
        self._process.stdin.write(json.dumps({"id": number, "call": name, "args": arguments}).encode() + b"\n")
        try:
            async with asyncio.timeout(within_s):
                with contextlib.suppress(ConnectionError):
                    await self._process.stdin.drain()
                return await answer
        except TimeoutError:
            raise TimeoutError(f"npm {name}: no answer within {within_s} s, log: {self.log}") from None
        finally:
            self._answers.pop(number, None)

    async def connect(self, user: str | None = None, *, token: str | None = None, within_s: float = PATIENCE_S) -> None:
        """Connects as ``user`` by the client's own insecure token, or with ``token``, or with the last one."""
        await self.call("connect", claims={"sub": user} if user else None, token=token, within_s=within_s)

    async def disconnect(self) -> None:
        await self.call("disconnect")

    async def sync(self, table: str, *, within_s: float = PATIENCE_S, **options: Any) -> str:
        """Subscribes to a shape (``where``, ``include``, ``key``), waits until its rows are here; returns its key."""
        ticket = await self.subscribe(table, **options)
        return await self.synced(ticket, within_s=within_s)

    async def subscribe(self, table: str, **options: Any) -> int:
        """Asks for a shape and returns once the server has accepted; a ticket for `synced`."""
        ticket = next(self._numbers)
        await self.call("sync", table=table, options=options, ticket=ticket)
        return ticket

    async def synced(self, ticket: int, *, within_s: float = PATIENCE_S) -> str:
        """Waits for the rows of the shape with that ticket; its key. Raises `NpmError` if it failed."""
        event = await self.event(lambda event: event.get("ticket") == ticket, within_s=within_s)
        if event["event"] == "unsynced":
            raise NpmError(event)
        key: str = event["key"]
        return key

    async def unsubscribe(self, *keys: str) -> None:
        await self.call("unsubscribe", keys=list(keys))

    async def sync_status(self, key: str) -> Any:
        """None, ``{"status": "active"}``, ... in the client's own words."""
        return await self.call("syncStatus", key=key)

    async def create(self, table: str, **values: Any) -> None:
        """Through the typed API: `int`, `float`, `str`, `bool`, `bytes`, `datetime` for date types, `Json` for JSON."""
        await self.call("create", table=table, data=_tagged_row(values))

    async def create_many(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        await self.call("createMany", table=table, data=[_tagged_row(row) for row in rows])

    async def update(self, table: str, where: Mapping[str, Any], **values: Any) -> None:
        await self.call("update", table=table, where=_tagged_row(where), data=_tagged_row(values))

    async def delete(self, table: str, **where: Any) -> None:
        await self.call("delete", table=table, where=_tagged_row(where))

    async def find_many(self, table: str, **where: Any) -> list[LocalRow]:
        """The rows as the typed API shows them."""
        rows = await self.call("findMany", table=table, where=_tagged_row(where) if where else None)
        return [_plain_row(row) for row in rows]

    async def execute(self, *statements: tuple[Any, ...]) -> None:
        """Raw SQL, ``(sql, *parameters)`` each, all in one local transaction."""
        await self.call("execute", statements=[[sql, *map(_tagged, args)] for sql, *args in statements])

    async def query(self, sql: str, *parameters: Any) -> list[LocalRow]:
        rows = await self.call("query", sql=sql, args=[_tagged(value) for value in parameters])
        return [_plain_row(row) for row in rows]

    async def dump(self, table: str, *, key: str = "id") -> dict[Any, LocalRow]:
        """Every row of ``table`` exactly as SQLite holds it, by its ``key``."""
        return {row[key]: row for row in map(_plain_row, await self.call("dump", table=table))}

    async def count(self, table: str) -> int:
        [row] = await self.query(f'SELECT count(*) AS n FROM "{table}"')
        count: int = row["n"]
        return count

    async def pending(self) -> int:
        """Operations of its own that the device has not yet seen come back."""
        count: int = await self.call("pending")
        return count

    async def lsn(self) -> str | None:
        """The position the device would resume from, base64."""
        position: str | None = await self.call("lsn")
        return position or None

    # -- events

    @property
    def connected(self) -> bool:
        """What the client said last."""
        said = (event["status"] for event in reversed(self.events) if event["event"] == "connectivity")
        return next(said, "") == "connected"

    async def event(
        self, wanted: str | Callable[[Event], bool], *, after: int = 0, within_s: float = PATIENCE_S, **fields: Any
    ) -> Event:
        """The first event from number ``after`` on that has this name and ``fields``, or that ``wanted`` accepts."""

        def matches(event: Event) -> bool:
            if callable(wanted):
                return wanted(event)
            return event["event"] == wanted and all(event.get(name) == value for name, value in fields.items())

        seen = after
        try:
            async with asyncio.timeout(within_s), self._news:
                while True:
                    for event in self.events[seen:]:
                        seen += 1
                        if matches(event):
                            return event
                    await self._news.wait()
        except TimeoutError:
            recent = self.events[after:][-10:]
            raise AssertionError(
                f"no event {wanted} {fields} within {within_s} s; last {recent}, log: {self.log}"
            ) from None

    @property
    def unhandled(self) -> list[str]:
        """What the client threw where nobody could catch it, except what its timers throw after any lost socket."""
        thrown = (event["message"] for event in self.events if event["event"] == "unhandled")
        return [message for message in thrown if not message.endswith(LATE_TIMER)]


class Json:
    """A value for a JSON column of the typed API."""

    def __init__(self, value: Any) -> None:
        self.value = value


@contextlib.asynccontextmanager
async def devices(folder: Path, url: str, *names: str, **options: Any) -> AsyncIterator[list[NpmDevice]]:
    """A device per name, opened with ``options`` and connected as that user."""
    async with contextlib.AsyncExitStack() as stack:
        opened = []
        for name in names:
            device = await stack.enter_async_context(await NpmDevice.open(folder / f"{name}.db", url, **options))
            await device.connect(name)
            opened.append(device)
        yield opened


def _tagged(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return {"i": str(value)}
    if isinstance(value, float):
        return {"f": struct.pack(">d", value).hex()}
    if isinstance(value, bytes):
        return {"x": value.hex()}
    if isinstance(value, datetime):
        return {"d": round(value.timestamp() * 1000)}
    if isinstance(value, Json):
        return {"j": value.value}
    raise TypeError(f"no value of a column: {value!r}")


def _plain(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    [(tag, text)] = value.items()
    if tag == "i":
        return int(text)
    if tag == "f":
        return struct.unpack(">d", bytes.fromhex(text))[0]
    if tag == "d":
        return datetime.fromtimestamp(text / 1000, UTC)
    return bytes.fromhex(text) if tag == "x" else text


def _tagged_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {column: _tagged(value) for column, value in row.items()}


def _plain_row(row: Mapping[str, Any]) -> LocalRow:
    return {column: _plain(value) for column, value in row.items()}
