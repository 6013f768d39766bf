"""Rows by ``COPY ... TO STDOUT`` in text format, as its consumer takes them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Final

import asyncpg

from syncline.proto.values import Cell

BUFFERS_MAX: Final = 2  # COPY buffers (some 100 KB each) read ahead of the consumer

_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _unescape(field: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: _ESCAPES.get(match[1], match[1]), field)


class CopyText:
    """Rows from the bytes of ``COPY ... TO STDOUT`` in text format, split anywhere. Holds at most one partial row.

    A raw newline ends a row and a raw tab a column: inside values both are escaped.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[list[Cell]]:
        """The rows these bytes complete. Raises ValueError for a row of another width."""
        end = data.rfind(b"\n")
        if end < 0:
            self._pieces.append(data)
            return []
        block = b"".join((*self._pieces, data[:end]))
        self._pieces = [data[end + 1 :]] if end + 1 < len(data) else []
        rows: list[list[Cell]] = [
            line.split(b"\t") if b"\\" not in line else self._unescaped(line)  # type: ignore[misc]
            for line in block.split(b"\n")
        ]
        for row in rows:
            if len(row) != self._width:
                raise ValueError(f"COPY sent a row of {len(row)} columns, not {self._width}")
        return rows

    def finish(self) -> None:
        """No more bytes. Raises ValueError when they ended inside a row."""
        if self._pieces:
            raise ValueError("COPY ended inside a row")

    @staticmethod
    def _unescaped(line: bytes) -> list[Cell]:
        cells: list[Cell] = line.split(b"\t")  # type: ignore[assignment]
        for i, field in enumerate(cells):
            if field is not None and b"\\" in field:
                cells[i] = None if field == b"\\N" else _unescape(field)
        return cells


async def copy_out(connection: asyncpg.Connection, query: str) -> AsyncGenerator[bytes, None]:
    """The bytes of a COPY, as the consumer takes them: asyncpg pushes, a short queue makes it wait.

    A COPY left early costs its connection: to read the rest only to throw it away could take minutes.
    """
    buffers: asyncio.Queue[bytes | None] = asyncio.Queue(BUFFERS_MAX)

    async def copy() -> None:
        try:
            await connection.copy_from_query(query, output=buffers.put, format="text")
        except Exception:  # awaiting the task shows it; a cancelled one has nobody left to tell
            await buffers.put(None)
            raise
        await buffers.put(None)

    copying = asyncio.create_task(copy())
    try:
        while (data := await buffers.get()) is not None:
            yield data
        await copying
    finally:
        if not copying.done():
            connection.terminate()
        copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)
