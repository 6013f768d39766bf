from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import pytest

from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.pgoutput import (
    UNCHANGED,
    Begin,
    Commit,
    DeleteMessage,
    InsertMessage,
    LogicalMessage,
    Origin,
    PgoutputError,
    RelationColumn,
    RelationMessage,
    TruncateMessage,
    TypeMessage,
    UpdateMessage,
    decode,
)

GOLDEN = Path(__file__).parents[2] / "golden"


def tuple_data(*cells: bytes | None) -> bytes:
    body = b"".join(b"n" if cell is None else b"t" + pack(">I", len(cell)) + cell for cell in cells)
    return pack(">H", len(cells)) + body


INSERT = b"I" + pack(">I", 7) + b"N" + tuple_data(b"1", None, b"")
UPDATE = b"U" + pack(">I", 7) + b"O" + tuple_data(b"1", b"old") + b"N" + pack(">H", 2) + b"t\0\0\0\x011u"
DELETE = b"D" + pack(">I", 7) + b"K" + tuple_data(b"1", None)
EXAMPLES = [
    (b"B" + pack(">QqI", 0x100000010, 1_000, 4_000_000_000), Begin(Lsn(0x100000010), 1_000, 4_000_000_000)),
    (b"C\0" + pack(">QQq", 16, 32, 5), Commit(Lsn(16), Lsn(32), 5)),
    (b"O" + pack(">Q", 16) + b"elsewhere\0", Origin(Lsn(16), "elsewhere")),
    (
        b"R" + pack(">I", 7) + b"public\0t\0f" + pack(">H", 1) + b"\x01id\0" + pack(">Ii", 23, -1),
        RelationMessage(7, "public", "t", "f", (RelationColumn("id", 23, -1, True),)),
    ),
    (b"Y" + pack(">I", 9) + b"\0mood\0", TypeMessage(9, "pg_catalog", "mood")),
    (INSERT, InsertMessage(7, (b"1", None, b""))),
    (UPDATE, UpdateMessage(7, (b"1", UNCHANGED), (b"1", b"old"), "O")),
    (b"U" + pack(">I", 7) + b"N" + tuple_data(b"1"), UpdateMessage(7, (b"1",), None, None)),
    (DELETE, DeleteMessage(7, (b"1", None), "K")),
    (b"T" + pack(">IBII", 2, 3, 7, 8), TruncateMessage((7, 8), True, True)),
    (b"M\x01" + pack(">Q", 16) + b"p\0" + pack(">I", 2) + b"hi", LogicalMessage(True, Lsn(16), "p", b"hi")),
]


@pytest.mark.parametrize(("data", "message"), EXAMPLES)
def test_reads_each_message(data: bytes, message: object) -> None:
    assert decode(data) == message


@pytest.mark.parametrize("data", [data for data, _ in EXAMPLES])
def test_a_message_cut_anywhere_is_refused(data: bytes) -> None:
    for end in range(len(data)):
        with pytest.raises(PgoutputError):
            decode(data[:end])


@pytest.mark.parametrize("data", [data for data, _ in EXAMPLES])
def test_bytes_left_over_are_refused(data: bytes) -> None:
    with pytest.raises(PgoutputError):
        decode(data + b"\0")


def test_an_unknown_message_is_refused() -> None:
    with pytest.raises(PgoutputError, match="unknown message type b'S'"):
        decode(b"S" + INSERT)


def test_binary_values_are_refused() -> None:
    with pytest.raises(PgoutputError, match="text format"):
        decode(b"I" + pack(">I", 7) + b"N" + pack(">H", 1) + b"b\0\0\0\x011")


def test_a_row_knows_what_holding_it_costs() -> None:
    assert decode(INSERT).size == len(INSERT)  # type: ignore[union-attr]


def test_commit_times_become_unix_milliseconds() -> None:
    assert Begin(Lsn(1), 757_382_400_123_456, 1).commit_ms == 1_704_067_200_123


def golden_messages() -> Iterator[tuple[bytes, str]]:
    for line in (GOLDEN / "pgoutput.jsonl").read_text().splitlines():
        record = json.loads(line)
        yield bytes.fromhex(record["hex"]), record["message"]


def test_what_postgres_once_sent_still_reads_the_same() -> None:
    messages = list(golden_messages())
    assert len(messages) > 20
    for data, expected in messages:
        assert repr(decode(data)) == expected
