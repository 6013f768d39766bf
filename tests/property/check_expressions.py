"""Random CHECKs, and random rows for them, as devices write them; ``Random`` may be hypothesis' own."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

LABELS: Final = ("sad", "ok", "it's fine")
COLUMNS: Final = {
    "n": "int4",
    "small": "int2",
    "big": "int8",
    "ratio": "float8",
    "single": "float4",
    "flag": "bool",
    "other": "bool",
    "name": "text",
    "note": "text",
    "short": "varchar(4)",
    "code": "char(3)",
    "sorted": 'text COLLATE "C"',
    "owner": "uuid",
    "mood": "mood",
    "price": "numeric(6,2)",
    "amount": "numeric",
    "day": "date",
    "moment": "timestamp",
    "at": "timestamptz",
    "until": "timestamptz",
    "clock": "time",
    "doc": "jsonb",
    "raw": "bytea",
    "age": "years",
    "tags": "text[]",
}
"""Each with its type in Postgres."""
BASE: Final = {"varchar(4)": "varchar", "char(3)": "bpchar", 'text COLLATE "C"': "text", "numeric(6,2)": "numeric"}
"""What a type is without its modifiers, where that is something else."""

_TEXTS: Final = (
    *("", "a", "b", "ab", "A", "AB", " a", "a ", "  ", "a%b", "a_b", "a*b", "a?b", "[a]", "a\\b", "it's", "üñ", "ÜÑ"),
    *("😀", "a\nb", "abab", "xy-12", "AB1", "a@b.c", "null", "0", "12", "ß", "İ"),
)
_NUMBERS: Final = (
    *("0", "-0", "0.00", "0.004", "-0.004", "1", "1.0", "-1", "9.99", "9.999", "9999.99", "9999.995", "-9999.99"),
    *("10000", "1e3", " 5", "+5", ".5", "5.", "NaN", "12345678901234567890.5", "007"),
)
_MOMENTS: Final = (
    *("2024-01-02 03:04:05", "2024-01-02T03:04:05.5", "2024-01-02 03:04:05.50", "2024-01-02 00:00:00", "infinity"),
    *("0999-01-01 00:00:00", "10000-01-01 00:00:00", "0044-03-15 01:00:00 BC", "-infinity", "2024-01-02 24:00:00"),
)
VALUES: Final[dict[str, tuple[object, ...]]] = {
    "int4": (0, 1, -1, 2, 5, 7, 2147483647, -2147483648, "3", 2147483648),
    "int2": (0, 1, -1, 5, 32767, -32768),
    "int8": (0, 1, -1, 5, 9223372036854775807, -9223372036854775808),
    "float8": (0.0, -0.0, 1.5, -1.5, 0.1, 1e300, 5e-324, 3.0, "NaN", "Infinity", "-Infinity"),
    "float4": (0.0, -0.0, 1.5, 0.1, -1e-3, 1e-50, "NaN"),
    "bool": (0, 1, "t", "f"),
    "text": _TEXTS,
    "varchar(4)": (*_TEXTS, "ab  ", "abcd", "ab    ", "abcde"),
    "char(3)": (*_TEXTS, "abc", "ab  ", "abc  ", "ABC"),
    'text COLLATE "C"': _TEXTS,
    "uuid": ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
             "00000000-0000-0000-0000-000000000000"),
    "mood": LABELS,
    "numeric(6,2)": _NUMBERS,
    "numeric": _NUMBERS,
    "date": ("2024-01-02", "2024-02-29", "0999-01-01", "10000-01-01", "0044-03-15 BC", "infinity"),
    "timestamp": _MOMENTS,
    "timestamptz": (
        *(f"{text}Z" if text[-1] in "0123456789" else text for text in _MOMENTS), "2024-01-02 03:04:05+00",
    ),
    "time": ("00:00:00", "03:04:05", "03:04:05.5", "23:59:59.999999", "24:00:00"),
    "jsonb": ('{"a": 1}', '"x"', "null", "[1, 2]", "12", "1.5", "true", '{"a":{"b":[]}}'),
    "bytea": (b"", b"a", b"\x00\xff"),
    "years": (0, 1, 17, 18, 150),
    "text[]": ("{}", "{a}", "{a,b}"),
}  # fmt: skip

_CONSTANTS: Final[dict[str, tuple[str, ...]]] = {
    "int": ("0", "1", "-1", "5", "7", "2147483647", "3000000000"),
    "float8": ("0", "1.5", "'-1.5'", "0.1", "'NaN'", "1e300"),
    "float4": ("0", "1.5", "0.1"),
    "text": tuple("'" + text.replace("'", "''") + "'" for text in _TEXTS),
    "uuid": ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'00000000-0000-0000-0000-000000000000'"),
    "mood": ("'sad'", "'it''s fine'"),
    "numeric": ("0", "1", "9.99", "0.01", "-1", "1000", "'NaN'", "10000"),
    "date": ("'2024-01-02'", "'2024-02-29'", "'infinity'", "'0999-01-01'"),
    "timestamp": ("'2024-01-02 03:04:05'", "'2024-01-02 03:04:05.5'", "'2024-01-02'", "'-infinity'"),
    "timestamptz": ("'2024-01-02 03:04:05+00'", "'2024-01-02 05:04:05.5+02'", "'2024-01-02'"),
    "time": ("'03:04:05'", "'24:00:00'"),
    "bytea": ("'\\x61'",),
}
_LIKE: Final = ("a%", "%b", "a_b", "%a\\%b%", "A%", "%*%", "[a]", "%", "_", "a\\\\b", "üñ", "%?_")
_REGEXES: Final = (
    *(
        "^a",
        "b$",
        "^[A-Z]{2,3}$",
        "^[a-z]+(-[0-9]+)*$",
        "^\\w+$",
        "^[^@]+@[^@]+\\.[^@]+$",
        "\\d",
        "[[:alpha:]]",
        "a|^$",
    ),
    *("^(a|ab)*$", "\\S", "^.$", "^.{2}$", "[]a]", "[a-]", "^\\s*$", "(?:a)b?", "a+?b", "[^[:space:]a]", "x{0}", "()"),
    *("\\ma", "(?=a)", "^(?i)a", "a{1", "^[[:upper:]]\\D", "\\.", "a*b*c*$", "|a", "(a)\\1", "\\u0061", "^a\nb$", "ß"),
)
_KINDS: Final[dict[str, tuple[str, ...]]] = {
    "int": ("n", "small", "big", "age"),
    "text": ("name", "note", "short", "code", "sorted"),
    "numeric": ("price", "amount"),
    "timestamptz": ("at", "until"),
}


def value(random: Random, kind: str) -> object:
    """Of a column, as an application writes it."""
    return None if random.random() < 0.12 else random.choice(VALUES[kind])


def row(random: Random) -> dict[str, object]:
    return {name: value(random, kind) for name, kind in COLUMNS.items()}


class Checks:
    """Writes expressions of a CHECK about ``COLUMNS``."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def _choice(self, *makers: Callable[[], str]) -> str:
        return self._random.choice(makers)()

    def condition(self, depth: int = 2) -> str:
        if depth == 0:
            return self._choice(
                self._comparison, self._comparison, self._test, self._match, self._member, self._function
            )
        inner = depth - 1
        return self._choice(
            self.condition0,
            lambda: f"({self.condition(inner)} AND {self.condition(inner)})",
            lambda: f"({self.condition(inner)} OR {self.condition(inner)})",
            lambda: f"(NOT {self.condition(inner)})",
            lambda: f"CASE WHEN {self.condition(inner)} THEN {self.condition(inner)} ELSE {self.condition(inner)} END",
            lambda: (
                f"(({self.condition(inner)}) IS {self._random.choice(['TRUE', 'NOT FALSE', 'UNKNOWN', 'NOT TRUE'])})"
            ),
            lambda: f"(({self.condition(inner)}) = ({self.condition(inner)}))",
            lambda: f"coalesce({self.condition(inner)}, {self._random.choice(['true', 'false'])})",
        )

    def condition0(self) -> str:
        return self.condition(0)

    def _kind(self) -> str:
        return self._random.choice([*_CONSTANTS, "int", "text", "text"])

    def _column(self, kind: str) -> str:
        names = _KINDS.get(kind) or tuple(name for name, its in COLUMNS.items() if its == kind)
        return self._random.choice(names)

    def _constant(self, kind: str) -> str:
        return self._random.choice(_CONSTANTS[kind])

    def _value(self, kind: str) -> str:
        roll = self._random.random()
        if kind == "int" and roll < 0.5:
            return self._integer()
        if kind == "text" and roll < 0.4:
            return self._text()
        if roll < 0.05:
            return f"NULLIF({self._column(kind)}, {self._constant(kind)})"
        if roll < 0.12:
            return f"COALESCE({self._column(kind)}, {self._constant(kind)})"
        return self._column(kind)

    def _integer(self) -> str:
        one, other = self._column("int"), self._random.choice([self._column("int"), self._constant("int")])
        name = self._random.choice(["greatest", "least"])
        return self._choice(
            lambda: f"({one} {self._random.choice('+-*/%')} {other})",
            lambda: f"abs({one})",
            lambda: f"(- {one})",
            lambda: f"{name}({one}, {other}, {self._column('int')})",
            lambda: f"{self._random.choice(['length', 'char_length', 'octet_length'])}({self._value('text')})",
            lambda: "length(raw)",
            lambda: f"strpos({self._column('text')}, {self._constant('text')})",
            lambda: f"num_nonnulls({self._some_columns()})",
            lambda: f"num_nulls({self._some_columns()})",
            lambda: f"CASE WHEN {self.condition(0)} THEN {one} ELSE {other} END",
            lambda: "cardinality(tags)",
        )

    def _text(self) -> str:
        text = self._column("text")
        return self._choice(
            lambda: f"{self._random.choice(['btrim', 'ltrim', 'rtrim'])}({text})",
            lambda: f"btrim({text}, 'a ')",
            lambda: f"lower({text})",
            lambda: f"upper({text})",
            lambda: f"({text} || {self._column('text')})",
            lambda: f"left({text}, {self._random.choice(['1', '2', '0', '-1'])})",
            lambda: f"right({text}, {self._random.choice(['1', '2', '0'])})",
            lambda: f"substring({text} from 2 for 2)",
            lambda: f"{text}::text",
            lambda: "jsonb_typeof(doc)",
            lambda: "n::text",
            lambda: "mood::text",
        )

    def _some_columns(self) -> str:
        return ", ".join(self._random.sample(list(COLUMNS), self._random.randint(1, 3)))

    def _comparison(self) -> str:
        kind = self._kind()
        operator = self._random.choice(["=", "<>", "<", "<=", ">", ">="])
        right = self._random.choice([self._value, self._constant, self._constant])(kind)
        if self._random.random() < 0.1:
            return f"({self._value(kind)} IS DISTINCT FROM {right})"
        if self._random.random() < 0.1:
            return f"({self._column(kind)} BETWEEN {self._constant(kind)} AND {self._constant(kind)})"
        return f"({self._value(kind)} {operator} {right})"

    def _test(self) -> str:
        column = self._random.choice(list(COLUMNS))
        return self._choice(
            lambda: f"({column} IS NULL)",
            lambda: f"({column} IS NOT NULL)",
            lambda: self._random.choice(["flag", "other"]),
            lambda: f"(flag {self._random.choice(['=', '<>'])} other)",
            lambda: f"(({column} IS NULL) <> ({self._random.choice(list(COLUMNS))} IS NULL))",
        )

    def _match(self) -> str:
        text = self._value("text")
        like = self._random.choice(_LIKE).replace("'", "''")
        regex = self._random.choice(_REGEXES)
        return self._choice(
            lambda: f"({text} {self._random.choice(['LIKE', 'NOT LIKE'])} '{like}')",
            lambda: f"({text} {self._random.choice(['~', '!~', '~*', '!~*'])} '{regex}')",
            lambda: f"starts_with({text}, {self._constant('text')})",
        )

    def _member(self) -> str:
        kind = self._kind()
        items = ", ".join(self._constant(kind) for _ in range(self._random.randint(1, 3)))
        if kind == "text" and self._random.random() < 0.2:
            return f"({self._column(kind)} LIKE ANY (ARRAY['a%', '%b']))"
        return f"({self._value(kind)} {self._random.choice(['IN', 'NOT IN'])} ({items}))"

    def _function(self) -> str:
        return self._choice(
            lambda: f"(num_nonnulls({self._some_columns()}) {self._random.choice(['=', '>='])} 1)",
            lambda: f"(jsonb_typeof(doc) {self._random.choice(['=', '<>'])} 'object')",
            lambda: "(name = lower(name))",
            lambda: "(ratio > n)",
            lambda: "(price < n)",
            lambda: "(array_length(tags, 1) > 1)",
            lambda: "(extract(year from day) > 2000)",
            lambda: "(length(name) > length(note))",
        )
