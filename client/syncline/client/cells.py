"""Cells of the wire <-> values in the device's SQLite columns, by Postgres type.

The wire carries Postgres text for nearly every type (``values.Cell``). On the device a bool is INTEGER 0/1, integers
are INTEGER, floats REAL, bytea BLOB, and everything else TEXT exactly as received. SQLite cannot store NaN (it turns
into NULL) and has no literal for the infinities, so those three stay TEXT in the REAL column, spelled as Postgres
spells them: REAL affinity leaves text that is not a number alone.

What an application writes may be of any storage class. ``encode`` then sends its plain text and lets the server judge
it: a write is refused with a reason there, never altered here.

Nor is what comes: a column may have another type in Postgres by now than this device was told. What the type that it
knows forbids stays text, or bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from math import ulp
from typing import Final, TypeAlias

from syncline.proto.values import Cell, Row

Value: TypeAlias = int | float | str | bytes | None
Values: TypeAlias = tuple[Value, ...]
Decode: TypeAlias = Callable[[Cell], Value]
Encode: TypeAlias = Callable[[Value], Cell]

INTEGER_TYPES = frozenset({"int2", "int4", "int8"})
FLOAT_TYPES = frozenset({"float4", "float8"})

_INTEGERS_END = 1 << 63
# From here on no number of 17 digits is half-way between two floats.
_HALVES_END = 1e24

_UNSTORABLE_FLOATS = {b"NaN": "NaN", b"Infinity": "Infinity", b"-Infinity": "-Infinity"}
_BOOLS = {b"t": 1, b"f": 0}


def decode_text(cell: Cell) -> Value:
    return None if cell is None else str(cell, "utf-8")


def _decode_bool(cell: Cell) -> Value:
    if cell is None:
        return None
    try:
        return _BOOLS[cell]
    except KeyError:
        raise ValueError(f"a bool is t or f on the wire, not {cell!r}") from None


def _decode_integer(cell: Cell) -> Value:
    if cell is None:
        return None
    value = int(cell)
    if not -_INTEGERS_END <= value < _INTEGERS_END:
        raise ValueError(f"SQLite has no integer of that size: {cell[:40]!r}")
    return value


def _decode_float(cell: Cell) -> Value:
    if cell is None:
        return None
    return _UNSTORABLE_FLOATS.get(cell) or float(cell)


def decode_bytes(cell: Cell) -> Value:
    return cell


def decoder(pg_type: str) -> Decode:
    """The function from a cell of ``pg_type`` to its SQLite value. It raises ValueError on bytes the type forbids."""
    if pg_type == "bool":
        return _decode_bool
    if pg_type in INTEGER_TYPES:
        return _decode_integer
    if pg_type in FLOAT_TYPES:
        return _decode_float
    return decode_bytes if pg_type == "bytea" else decode_text


def _encode_any(value: Value) -> Cell:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, float):
        return _float_text(value).encode()
    return str(value).encode("utf-8", "surrogatepass")


def _float_text(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    text = repr(value)
    return text[:-2] if text.endswith(".0") else text


def _with_exponent(value: float, exponent_from: int) -> Cell:
    """As Postgres prints it, who writes an exponent of ten from ``exponent_from`` on; Python does from 16 on."""
    text = _encode_any(value)
    assert text is not None
    if b"e" in text or not 10.0**exponent_from <= abs(value) < 1e16:
        return text
    sign, digits = (b"-", text[1:]) if value < 0 else (b"", text)
    before, _, behind = digits.partition(b".")
    others = (before + behind)[1:].rstrip(b"0")
    return b"%b%b%be+%02d" % (sign, digits[:1], b"." + others if others else b"", len(before) - 1)


def _encode_float4(value: Value) -> Cell:
    return _with_exponent(value, 6) if isinstance(value, float) else _encode_any(value)


def _encode_float8(value: Value) -> Cell:
    if not isinstance(value, float):
        return _encode_any(value)
    return _within(value) if 1e16 <= abs(value) < _HALVES_END else _with_exponent(value, 15)


def _within(value: float) -> bytes:
    """The fewest digits of a number that is nearer to ``value`` than to its neighbours. Python takes one half-way to a
    neighbour too, if that reads as ``value``; Postgres does not."""
    texts = (repr(value), *(f"{value:.{digits}e}" for digits in range(17)))
    near = (text for text in texts if float(text) == value and 2 * abs(int(Decimal(text)) - int(value)) < ulp(value))
    return next(near).encode()


def _encode_bool(value: Value) -> Cell:
    if value == 1:
        return b"t"
    return b"f" if value == 0 else _encode_any(value)


_ENCODERS: Final[dict[str, Encode]] = {"bool": _encode_bool, "float4": _encode_float4, "float8": _encode_float8}


def encoder(pg_type: str) -> Encode:
    """The function from a SQLite value to the cell of ``pg_type`` that the wire carries. Never raises."""
    return _ENCODERS.get(pg_type, _encode_any)


def decode_row(row: Row, decoders: Sequence[Decode]) -> Values:
    """The values of a row's cells. Never raises: see ``decode_cell``."""
    try:
        return tuple([decode(cell) for decode, cell in zip(decoders, row, strict=True)])
    except ValueError:
        return tuple([decode_cell(decode, cell) for decode, cell in zip(decoders, row, strict=True)])


def decode_cell(decode: Decode, cell: Cell) -> Value:
    """What ``decode`` makes of a cell, and else its text, or its bytes. Never raises.

    An application may write anything anywhere, and until the server has judged it, it is shown as it was written. And
    what the server sends is what Postgres has.
    """
    for attempt in (decode, decode_text):
        try:
            return attempt(cell)
        except ValueError:
            continue
    return cell


def encode_row(values: Sequence[Value], encoders: Sequence[Encode]) -> Row:
    return tuple([encode(value) for encode, value in zip(encoders, values, strict=True)])
