"""Readers of the replication stream that do nothing with it: the most that any service on top of it could reach.

Two of them. ``CORE`` splits the stream into messages with the service's own walsender core and decodes none: what is
left when everything behind the core is free. ``RAW`` reads the socket and looks for the end alone, as pg_recvlogical to
/dev/null does: what Postgres itself can give.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.side import now_ms
from benchmarks.stand import PUBLICATION
from syncline.actors.postgres.dsn import parse_dsn
from syncline.actors.postgres.pgoutput import InsertMessage, decode
from syncline.actors.postgres.server_messages import CopyStarted, Ready, ServerError
from syncline.actors.postgres.walsender import TlsMode, Walsender

CORE, RAW = "core", "raw"
READ_BYTES = 1 << 18
END_PREFIX = "bench.end"


@dataclass(frozen=True, slots=True)
class Reading:
    """``cpu_s``: of the reading process. ``messages``: 0 for RAW, which sees none."""

    seconds: float
    cpu_s: float
    messages: int


class NullReader:
    """Opens ``slot`` and reads; never confirms, so that the same stretch can be read again."""

    def __init__(self, dsn: str, slot: str) -> None:
        endpoint = parse_dsn(dsn)
        self._socket = socket.create_connection((endpoint.host, endpoint.port))
        self._core = Walsender({**endpoint.startup, "wal_sender_timeout": "0"}, endpoint.password, TlsMode.DISABLE)
        self._core.start()
        self._early: list[bytes] = []
        self._until(Ready)
        self._core.query(
            f"START_REPLICATION SLOT {slot} LOGICAL 0/0 "
            f"(proto_version '1', publication_names '{PUBLICATION}', messages 'true')"
        )
        self._until(CopyStarted)

    def messages(self) -> Iterator[list[bytes]]:
        """The pgoutput messages, undecoded, in the portions in which they arrive."""
        yield self._early
        while True:
            events = self._core.receive(self._socket.recv(READ_BYTES))
            yield [event for event in events if type(event) is bytes]

    def until(self, end: bytes, how: str) -> Reading:
        """Reads up to the message whose content is ``end``."""
        started_s, cpu_s = time.monotonic(), time.process_time()
        messages = self._raw(end) if how == RAW else self._count(end)
        return Reading(time.monotonic() - started_s, time.process_time() - cpu_s, messages)

    def close(self) -> None:
        self._socket.close()

    def _count(self, end: bytes) -> int:
        messages = 0
        for portion in self.messages():
            messages += len(portion)
            if any(message.endswith(end) for message in portion[-3:]):
                return messages
        raise AssertionError("the stream never ends by itself")

    def _raw(self, end: bytes) -> int:
        buffer = bytearray(len(end) + READ_BYTES)
        view = memoryview(buffer)[len(end) :]
        for message in self._early:
            if message.endswith(end):
                return 0
        while True:
            size = self._socket.recv_into(view)
            if buffer.find(end, 0, len(end) + size) >= 0:
                return 0
            buffer[: len(end)] = buffer[size : size + len(end)]

    def _until(self, wanted: type) -> None:
        while True:
            self._socket.sendall(self._core.outgoing())
            events = self._core.receive(self._socket.recv(READ_BYTES))
            for event in events:
                if isinstance(event, ServerError):
                    raise event
            self._early += [event for event in events if type(event) is bytes]
            if any(type(event) is wanted for event in events):
                return


def read_to_end(pipe: Connection, dsn: str, slot: str, end: bytes, how: str) -> None:
    """For a process of its own: sends the Reading."""
    reader = NullReader(dsn, slot)
    pipe.send(reader.until(end, how))
    reader.close()


def time_inserts(pipe: Connection, dsn: str, slot: str, relation: int, rows: int) -> None:
    """For a process of its own: "ready", then when each row of ``relation`` was in our hands, by its first column."""
    reader = NullReader(dsn, slot)
    pipe.send("ready")
    arrived_ms: dict[int, float] = {}
    for portion in reader.messages():
        now = now_ms()
        for data in portion:
            if data[:1] == b"I":
                message = decode(data)
                assert isinstance(message, InsertMessage)
                if message.relation == relation and isinstance(message.row[0], bytes):
                    arrived_ms[int(message.row[0])] = now
        if len(arrived_ms) >= rows:
            break
    pipe.send(arrived_ms)
    reader.close()
