"""Random rows, and random where clauses about them; ``Random`` may be hypothesis' own, which then makes them small."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from syncline.proto.values import Row

LABELS: Final = ("sad", "ok", "it's fine")
COLUMNS: Final = {
    "id": "int4",
    "rank": "int4",
    "small": "int2",
    "big": "int8",
    "title": "text",
    "Short name": "varchar",
    "posix": "text",
    "local": "text",
    "done": "bool",
    "seen": "bool",
    "owner": "uuid",
    "friend": "uuid",
    "mood": "mood",
    "other_mood": "mood",
    "day": "date",
    "clock": "time",
    "born": "date",
    "moment": "timestamp",
    "until": "timestamp",
    "at": "timestamptz",
    "due": "timestamptz",
    "ratio": "float8",
    "share": "float8",
    "single": "float4",
    "raw": "bytea",
    "doc": "jsonb",
    "plain": "json",
}
SQL_TYPES: Final = {**COLUMNS, "posix": 'text COLLATE pg_catalog."C"', "local": "text"}
"""``local`` gets a collation of a language, where the Postgres at hand has one."""
DESCRIPTION: Final = {
    "oid": 7,
    "schema": "public",
    "table": "where_items",
    "columns": [
        {"name": name, "type": kind, "not_null": False, "pk": None, "enum": list(LABELS) if kind == "mood" else None}
        for name, kind in COLUMNS.items()
    ],
    "fks": [],
}
SPELLINGS: Final = (
    *("2024-01-02T03:04:05.5Z", "2024-01-02 03:04:05.55+02", "2024-01-02T03:04:05.678-05:30", "2024-01-02"),
    *("2024-01-02 03:04", "0001-01-01T00:00:00+14:00", "9999-12-31 23:59:59.999999-14:00", "2024-01-02T03:04:05.500"),
)
"""Of a date, with or without a time of day, as a literal may have it."""
INTEGERS: Final = ("int2", "int4", "int8")

_CELLS: Final[dict[str, Sequence[str]]] = {
    "int2": ["0", "1", "-1", "7", "-32768", "32767"],
    "int4": ["0", "1", "-1", "7", "10", "-2147483648", "2147483647"],
    "int8": ["0", "1", "-1", "7", "3000000000", "-9223372036854775808", "9223372036854775807"],
    "text": [
        "", "a", "b", "ab", "a%b", "a_b", "A", "a\\b", "it's", "üñ", "ÜÑ", "😀", "a\nb", "aab", "aaab", "abab", " a",
        "%",
    ],
    "varchar": ["", "a", "ab", "A", "7", "üñ", "a%b"],
    "bool": ["t", "f"],
    "uuid": [
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000",
        "ffffffff-0000-4000-8000-000000000001",
    ],
    "mood": LABELS,
    "date": [
        "2024-01-02", "2024-02-29", "0999-01-01", "10000-01-01", "5874897-12-31", "0044-03-15 BC", "0044-02-15 BC",
        "4713-01-01 BC", "infinity", "-infinity",
    ],
    "time": ["00:00:00", "03:04:05", "03:04:05.5", "03:04:05.678", "23:59:59.999999", "24:00:00"],
    "timestamp": [
        "2024-01-02 03:04:05", "2024-01-02 03:04:05.5", "2024-01-02 03:04:05.55", "2024-01-02 01:04:05.55",
        "2024-01-02 08:34:05.678", "2024-01-02 00:00:00", "0999-01-01 00:00:00", "10000-01-01 00:00:00.1",
        "20000-01-01 00:00:00", "294276-12-31 23:59:59.999999", "0044-03-15 01:00:00 BC", "0045-03-15 01:00:00 BC",
        "infinity", "-infinity",
    ],
    "float8": ["0", "-0", "1.5", "-1.5", "0.1", "1e+300", "5e-324", "NaN", "Infinity", "-Infinity", "9007199254740992"],
    "float4": ["0", "1.5", "0.1", "NaN", "1e+30"],
    "bytea": ["", "a", "\\x"],
    "jsonb": ['{"a": 1}', '"x"', "null", "[1, 2]", '{"a": {"b": "c"}}'],
    "json": ['{"a": 1}', '{"a":"\\u0000"}'],
}  # fmt: skip


def cell(random: Random, kind: str) -> bytes | None:
    """A wire cell of that type, often one that others are equal to."""
    if random.random() < 0.15:
        return None
    if kind == "timestamptz":
        return _zulu(random.choice(_CELLS["timestamp"])).encode()
    if kind == "float8" and random.random() < 0.3:
        return _printed_double(random.getrandbits(64))
    if kind in INTEGERS and random.random() < 0.2:
        bits = {"int2": 16, "int4": 32, "int8": 64}[kind]
        return str(random.getrandbits(bits) - (1 << bits - 1)).encode()
    return random.choice(_CELLS[kind]).encode()


def cells(kind: str) -> list[bytes]:
    """All those of a type that ``cell`` chooses from."""
    if kind == "timestamptz":
        return [_zulu(text).encode() for text in _CELLS["timestamp"]]
    return [text.encode() for text in _CELLS[kind]]


def _zulu(text: str) -> str:
    if text.endswith("infinity"):
        return text
    return text.removesuffix(" BC") + "Z" + (" BC" if text.endswith(" BC") else "")


def _printed_double(bits: int) -> bytes:
    """As Postgres prints it: the shortest text that reads back, which is also Python's but for the exponent."""
    (number,) = struct.unpack("<d", struct.pack("<Q", bits))
    if number != number or number in (float("inf"), float("-inf")):
        return b"NaN"
    return repr(number).encode().removesuffix(b".0")


def row(random: Random) -> Row:
    return tuple(cell(random, kind) for kind in COLUMNS.values())


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class Clauses:
    """Writes clauses for a table with ``COLUMNS``."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def _choice(self, *makers: Callable[[], str]) -> str:
        return self._random.choice(makers)()

    def _column(self, *kinds: str) -> str:
        name = self._random.choice([name for name, kind in COLUMNS.items() if not kinds or kind in kinds])
        return f'this."{name}"' if name != name.lower() or self._random.random() < 0.5 else f"this.{name}"

    def boolean(self, depth: int = 3) -> str:
        """A condition of what is meant to be compiled; some are not, which is for the caller to see."""
        if depth <= 0:
            return self._choice(self._comparison, self._equality, self._test, self._column_truth, self._like, self._in)
        inner = lambda: self.boolean(depth - 1)  # noqa: E731
        negated, test = self._random.choice(["", "NOT "]), self._random.choice(["TRUE", "FALSE", "UNKNOWN", "NULL"])
        several = lambda word: f" {word} ".join(f"({inner()})" for _ in range(self._random.randint(2, 3)))  # noqa: E731
        return self._choice(
            lambda: several("AND"),
            lambda: several("OR"),
            lambda: f"NOT ({inner()})",
            lambda: f"({inner()}) IS {negated}{test}",
            lambda: f"({inner()}) {self._random.choice(['=', '<>', '<', '>='])} ({inner()})",
            lambda: f"({inner()}) IS {self._random.choice(['', 'NOT '])}DISTINCT FROM ({inner()})",
            lambda: f"CASE WHEN {inner()} THEN {inner()} ELSE {inner()} END",
            lambda: f"COALESCE(({inner()}), ({inner()}))",
            lambda: self._conditional(depth),
            inner,
            inner,
            inner,
        )

    def _column_truth(self) -> str:
        return self._choice(lambda: self._column("bool"), lambda: self._random.choice(["true", "false", "NULL"]))

    def _operator(self) -> str:
        return self._random.choice(["=", "<>", "!=", "<", "<=", ">", ">="])

    def _kind(self) -> str:
        return self._random.choice(sorted(set(COLUMNS.values()) - {"json", "jsonb", "float4"}))

    def _literal(self, kind: str) -> str:
        """A literal to compare a value of this type with."""
        value = cell(self._random, kind)
        if value is None:
            return "NULL"
        text = value.decode()
        if kind in INTEGERS:
            return self._choice(
                lambda: text,
                lambda: text,
                lambda: quoted(text),
                lambda: f"{text}.{self._random.choice(['0', '5', '25'])}",
                lambda: f"{text}::int8",
                lambda: f"CAST({quoted(text)} AS {kind})",
            )
        if kind == "float8":
            return text if text[-1].isdigit() and self._random.random() < 0.5 else quoted(text)
        if kind == "bool":
            return self._choice(lambda: {"t": "true", "f": "false"}[text], lambda: quoted(text))
        if kind == "uuid" and self._random.random() < 0.5:
            text = self._random.choice([text.upper(), text.replace("-", "")])
        if kind in ("timestamp", "timestamptz", "date") and self._random.random() < 0.5:
            text = self._random.choice(SPELLINGS)
        if kind == "bytea":
            text = "\\x" + value.hex()
        return self._choice(lambda: quoted(text), lambda: quoted(text), lambda: f"{quoted(text)}::{kind}")

    def value(self, kind: str, depth: int = 1) -> str:
        """An expression of this type that is not a bare literal."""
        if depth <= 0 or self._random.random() < 0.6:
            return self._column(kind)
        inner = lambda: self.value(kind, depth - 1)  # noqa: E731
        number = self._column("int4")
        makers = [
            lambda: f"COALESCE({inner()}, {self._literal(kind)})",
            lambda: f"COALESCE({inner()}, {inner()}, {self._literal(kind)})",
            lambda: f"NULLIF({inner()}, {self._literal(kind)})",
            lambda: f"CASE WHEN {self.boolean(0)} THEN {inner()} WHEN {self.boolean(0)} THEN {self._literal(kind)} END",
            lambda: f"CASE {number} WHEN 1 THEN {inner()} WHEN 7 THEN {self._literal(kind)} ELSE {inner()} END",
            lambda: f"{inner()}::{kind}",
        ]
        if kind in INTEGERS:
            makers += [lambda: self._number(depth)] * 6
        if kind == "text":
            makers += [lambda: f"{self._column('int4', 'int8', 'uuid', 'mood', 'varchar')}::text"] * 2
        return self._choice(*makers)

    def _number(self, depth: int) -> str:
        return self._choice(
            lambda: f"{self.value('int4', depth - 1)}::int8 {self._random.choice('+-*')} {self._random.randint(-9, 9)}",
            lambda: f"{self.value('int2', depth - 1)} * {self._random.choice([1, -3, 40000])}",
            lambda: f"{self._column(*INTEGERS)} {self._random.choice('/%')} {self._random.choice([1, -2, 3, 10, -7])}",
            lambda: f"{self._column('int2')}::int4 + {self._column('int2')}",
            lambda: f"- ({self._column('int4')}::int8)",
            lambda: f"length({self._column('text', 'varchar')})",
            lambda: f"octet_length({self._column('text')})",
        )

    def _comparison(self) -> str:
        kind = self._kind()
        left = self.value(kind)
        other = self._random.choice(INTEGERS) if kind in INTEGERS else kind
        right = self._choice(lambda: self._literal(kind), lambda: self._literal(kind), lambda: self.value(other))
        if self._random.random() < 0.1:
            left, right = right, left
        return f"{left} {self._operator()} {right}"

    def _equality(self) -> str:
        kind = self._kind()
        return f"{self._column(kind)} = {self._literal(kind)}"

    def _test(self) -> str:
        kind = self._kind()
        negated = self._random.choice(["", "NOT "])
        return self._choice(
            lambda: f"{self._column()} IS {negated}NULL",
            lambda: f"{self.value(kind)} IS {negated}NULL",
            lambda: f"{self.value(kind)} IS {negated}DISTINCT FROM {self._literal(kind)}",
            lambda: f"{self._column(kind)} IS {negated}DISTINCT FROM {self.value(kind)}",
            lambda: f"{self._column(kind)} {negated}BETWEEN {self._literal(kind)} AND {self._literal(kind)}",
            lambda: f"{self._column(kind)} BETWEEN SYMMETRIC {self._literal(kind)} AND {self._literal(kind)}",
        )

    def _in(self) -> str:
        kind = self._kind()
        if self._random.random() < 0.3:
            return self._any()
        items = ", ".join(self._literal(kind) for _ in range(self._random.randint(1, 4)))
        return f"{self.value(kind)} {self._random.choice(['', 'NOT '])}IN ({items})"

    def _any(self) -> str:
        kind = self._random.choice(["int4", "int8", "text", "uuid", "mood", "bool"])
        values = [one.decode() for one in self._random.choices(cells(kind), k=self._random.randint(1, 3))]
        test = self._random.choice(["= ANY", "<> ALL", "<> ANY"])
        if kind in ("int4", "int8", "text") and self._random.random() < 0.5:
            literals = values if kind != "text" else map(quoted, values)
            return f"{self.value(kind)} {test} (ARRAY[{', '.join(literals)}])"
        return (
            f"{self.value(kind)} {test} ({quoted('{' + ','.join(value for value in values if value.isalnum()) + '}')})"
        )

    def _like(self) -> str:
        subject = self._choice(lambda: self._column("text", "varchar"), lambda: self.value("text"))
        pieces = ["%", "_", "a", "b", "ab", "\\%", "\\_", "\\a", "ü", "\\\\"]
        pattern = "".join(self._random.choices(pieces, k=self._random.randint(0, 5)))
        return self._choice(
            lambda: f"{subject} {self._random.choice(['', 'NOT '])}LIKE {quoted(pattern)}",
            lambda: f"{subject} LIKE {quoted(pattern.replace(chr(92), '!'))} ESCAPE '!'",
            lambda: f"{subject} LIKE {quoted(pattern)} ESCAPE ''",
            lambda: f"starts_with({subject}, {quoted(pattern)})",
            lambda: f"{subject} {self._random.choice(['', 'NOT '])}ILIKE {quoted(pattern)}",
            lambda: f"{subject} ILIKE {quoted(pattern.upper())}",
            lambda: f"{self._random.choice(['lower', 'upper'])}({subject}) {self._operator()} {self._literal('text')}",
            lambda: f"lower({subject}) LIKE {quoted(pattern)}",
        )

    def for_postgres(self) -> str:
        """A condition that is not compiled; some of these raise errors for some rows."""
        text, number = self._column("text", "varchar"), self._column(*INTEGERS)
        moment = self._column("timestamptz", "timestamp", "date")
        return self._choice(
            lambda: f"{text} ILIKE {quoted(self._random.choice(['a%', '%B', '_', 'ab']))}",
            lambda: f"{self._random.choice(['lower', 'upper'])}({text}) {self._operator()} {quoted('a')}",
            lambda: f"{text} {self._operator()} {quoted('ab')}",
            lambda: f"10 / {number} {self._operator()} 1",
            lambda: f"{number} + {number} {self._operator()} 7",
            lambda: f"{text}::int4 {self._operator()} 7",
            lambda: f"{text} ~ {quoted(self._random.choice(['^a', 'b$', 'a+b', '[A-Z]']))}",
            lambda: f"extract(year from {moment}) {self._operator()} 2024",
            lambda: f"{moment} + interval '1 month' {self._operator()} '2024-02-01'",
            lambda: f"this.at {self._operator()} {moment}",
            lambda: "this.doc ->> 'a' = '1' OR this.doc @> '[1]'",
            lambda: f"this.single {self._operator()} 0.1 AND this.single IN ('1.5', 'NaN')",
            lambda: f"this.ratio * this.share {self._operator()} 1",
            lambda: "(this.plain ->> 'a') IS NOT NULL",
            lambda: f"GREATEST({number}, 7) = 7 AND {self.boolean(0)}",
        )

    def _conditional(self, depth: int) -> str:
        return f"CASE WHEN {self.boolean(depth - 1)} THEN 'yes' ELSE {quoted('no')} END = 'yes'"


def sql_rows(rows: Sequence[Row]) -> tuple[str, list[list[str | None]]]:
    """A query of these rows with the types of ``COLUMNS``, and its arguments."""
    columns = ", ".join(f'r.c{i}::{kind} AS "{name}"' for i, (name, kind) in enumerate(SQL_TYPES.items()))
    arrays = ", ".join(f"${i + 1}::text[]" for i in range(len(COLUMNS)))
    names = ", ".join(f"c{i}" for i in range(len(COLUMNS)))
    arguments: list[list[str | None]] = [
        [None if one is None else "\\x" + one.hex() if kind == "bytea" else one.decode() for one in column]
        for column, kind in zip(zip(*rows, strict=True), COLUMNS.values(), strict=True)
    ]
    return f"SELECT {columns} FROM unnest({arrays}) WITH ORDINALITY AS r ({names}, n) ORDER BY r.n", arguments
