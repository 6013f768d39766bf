"""Values on their way out and back, with Postgres as the oracle of Postgres."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Iterator
from datetime import date, datetime, time
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from syncline.actors.postgres.copytext import CopyText
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.pgoutput import InsertMessage, decode
from syncline.actors.postgres.rowkey import key_sql, key_text
from syncline.actors.postgres.typemap import SESSION_SETTINGS, from_wire, parse_text_array, to_wire

_numbers = itertools.count()


class Session:
    """A connection under our session settings, and a slot, driven from synchronous tests."""

    def __init__(self, dsn: str) -> None:
        self._runner = asyncio.Runner()
        self.app: asyncpg.Connection = self.run(asyncpg.connect(dsn, server_settings=SESSION_SETTINGS))
        self.slot = f"property_{next(_numbers)}"
        self.run(
            self.app.execute("""
                CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
                CREATE TABLE one (v text);
                CREATE PUBLICATION values_of_one FOR TABLE one WITH (publish = 'insert');
            """)
        )
        self.run(self.app.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", self.slot))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(coroutine)

    def close(self) -> None:
        self.run(self.app.execute("SELECT pg_drop_replication_slot($1)", self.slot))
        self.run(self.app.execute("DROP PUBLICATION values_of_one; DROP TABLE one; DROP TYPE mood"))
        self.run(self.app.close())
        self._runner.close()

    def streamed(self) -> list[bytes | None]:
        """The cells of the rows inserted since the last call, as pgoutput has them."""
        query = (
            "SELECT data FROM pg_logical_slot_get_binary_changes("
            "$1, NULL, NULL, 'proto_version', '1', 'publication_names', 'values_of_one')"
        )
        messages = [decode(row[0]) for row in self.run(self.app.fetch(query, self.slot))]
        return [message.row[0] for message in messages if isinstance(message, InsertMessage)]  # type: ignore[misc]

    def copied(self, query: str) -> list[list[bytes | None]]:
        copy, rows = CopyText(1), []

        async def take(data: bytes) -> None:
            rows.extend(copy.feed(data))

        self.run(self.app.copy_from_query(query, output=take))
        copy.finish()
        return rows


@pytest.fixture(scope="module")
def session(postgres: EmbeddedPostgres) -> Iterator[Session]:
    session = Session(postgres.dsn())
    yield session
    session.close()


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
AWKWARD = st.text(st.sampled_from('\t\n\r\b\f\v\\N"{},\x01\x1f\x7fé😀 .'), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


def integers(bits: int) -> SearchStrategy[str]:
    return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1).map(str)


def json_text() -> SearchStrategy[str]:
    import json

    return JSON.map(json.dumps).filter(lambda text: "\\u0000" not in text and "\\ud" not in text)


VALUES: dict[str, SearchStrategy[str]] = {
    "bool": st.sampled_from(["t", "f"]),
    "int2": integers(16),
    "int4": integers(32),
    "int8": integers(64),
    "float4": st.floats(width=32).map(str),
    "float8": st.floats().map(str),
    "text": TEXT | AWKWARD,
    "varchar": TEXT | AWKWARD,
    "uuid": st.uuids().map(str),
    "date": st.dates().map(date.isoformat)
    | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "5874897-12-31"]),
    "time": st.times().map(time.isoformat) | st.just("24:00:00"),
    "timestamp": st.datetimes().map(datetime.isoformat)
    | st.sampled_from(["infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"]),
    "timestamptz": st.datetimes().map(lambda moment: moment.isoformat() + "Z")
    | st.sampled_from(["infinity", "0044-03-15 00:00:00Z BC"]),
    "json": json_text(),
    "jsonb": json_text(),
    "bytea": st.binary(max_size=20).map(lambda raw: "\\x" + raw.hex()),
    "mood": st.sampled_from(["sad", "ok", 'it\'s "fine"']),
}
LABELS = ["sad", "ok", 'it\'s "fine"']


@pytest.mark.parametrize("name", VALUES)
def test_every_value_is_the_same_in_stream_copy_and_key_and_comes_back_equal(name: str, session: Session) -> None:
    run, app = session.run, session.app
    run(app.execute(f"TRUNCATE one; ALTER TABLE one ALTER v TYPE {name} USING NULL::{name}"))
    session.streamed()

    @settings(max_examples=10)
    @given(st.lists(VALUES[name], min_size=1, max_size=12))
    def check(texts: list[str]) -> None:
        run(app.execute("TRUNCATE one"))
        run(app.execute(f"INSERT INTO one SELECT v::{name} FROM unnest($1::text[]) AS t (v)", texts))
        streamed = session.streamed()
        assert [row[0] for row in session.copied("SELECT v FROM one ORDER BY ctid")] == streamed
        printed = run(app.fetch(f"SELECT format('%s', v) AS v, {key_sql(['v'])} AS k FROM one ORDER BY ctid"))
        assert [row["v"].encode() for row in printed] == streamed
        convert = to_wire(name)
        again: list[str] = []
        for cell, row in zip(streamed, printed, strict=True):
            assert cell is not None
            assert row["k"] == key_text([cell.decode()])
            wire = convert(cell) if convert is not None else cell
            again.append(from_wire(name, wire, LABELS if name == "mood" else None))
        returned = run(app.fetch(f"SELECT format('%s', v::{name}) FROM unnest($1::text[]) AS t (v)", again))
        assert [row[0].encode() for row in returned] == streamed

    check()


@settings(max_examples=60)
@given(st.lists(TEXT | AWKWARD, max_size=5))
def test_text_arrays_read_as_postgres_prints_them(session: Session, elements: list[str]) -> None:
    printed = session.run(session.app.fetchval("SELECT $1::text[]::text", elements))
    assert parse_text_array(printed.encode()) == tuple(elements)


@settings(max_examples=60)
@given(st.lists(TEXT | AWKWARD, min_size=1, max_size=4))
def test_keys_of_several_columns_are_spelled_alike(session: Session, values: list[str]) -> None:
    names = [f"c{i}" for i in range(len(values))]
    columns = ", ".join(f"${i + 1}::text AS {name}" for i, name in enumerate(names))
    query = f"SELECT {key_sql(names, 'r')} FROM (SELECT {columns}) r"
    assert session.run(session.app.fetchval(query, *values)) == key_text(values)


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.binary(max_size=6).map(lambda raw: raw.replace(b"\0", b"\\")) | st.none(), min_size=2, max_size=2)
    ),
    st.integers(1, 9),
)
def test_copy_text_reads_back_whatever_the_split(rows: list[list[bytes | None]], size: int) -> None:
    escapes = {b"\\": b"\\\\", b"\b": b"\\b", b"\f": b"\\f", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t", b"\v": b"\\v"}

    def printed(cell: bytes | None) -> bytes:
        if cell is None:
            return b"\\N"
        return b"".join(escapes.get(bytes([byte]), bytes([byte])) for byte in cell)

    data = b"".join(b"\t".join(map(printed, row)) + b"\n" for row in rows)
    copy = CopyText(2)
    assert [row for i in range(0, len(data), size) for row in copy.feed(data[i : i + size])] == rows
    copy.finish()
