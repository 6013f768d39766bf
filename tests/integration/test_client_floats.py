"""A device writes a number as Postgres prints it, so that equal rows are equal in their digests."""

from __future__ import annotations

import random
import struct

import asyncpg
import pytest

from syncline.client.cells import decoder, encoder

FORMATS = {"float8": ("<d", "<Q", 64), "float4": ("<f", "<I", 32)}
EDGES = [
    sign * digits * 10.0**exponent
    for exponent in range(-10, 20)
    for digits in (1, 1.5, 9.99999, 1.2345678, 1.23456789012345678)
    for sign in (1, -1)
]


@pytest.mark.parametrize("pg_type", [*FORMATS])
async def test_a_float_is_written_as_postgres_prints_it(pg_type: str, database: str) -> None:
    as_float, as_int, bits = FORMATS[pg_type]
    seeded = random.Random(7)
    anything = [struct.unpack(as_float, struct.pack(as_int, seeded.getrandbits(bits)))[0] for _ in range(20_000)]
    near = [seeded.choice((1, -1)) * seeded.uniform(1, 10) * 10 ** seeded.randint(-6, 27) for _ in range(20_000)]
    powers = [2.0**exponent for exponent in range(-90, 90)]
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            f"SELECT x::{pg_type}::text FROM unnest($1::float8[]) x", [0.0, -0.0, *EDGES, *powers, *anything, *near]
        )
    finally:
        await connection.close()
    texts = [row[0].encode() for row in rows]
    decode, encode = decoder(pg_type), encoder(pg_type)
    assert [(text, written) for text in texts if (written := encode(decode(text))) != text] == []
