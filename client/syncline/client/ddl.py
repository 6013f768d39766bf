"""NOT NULL and DEFAULT in the statements that make a device's tables. Pure.

A device may hold some columns of a row, and has no value for the others. So NOT NULL is taken out of a table's
definition, but for its key, and enforced by the triggers (``triggers``) for what the application writes itself.

SQLite has no statement that takes NOT NULL away, so it is done in the text: of the statements of a migration before
they run, and of what an earlier release has left in the schema. A constraint of a column stands outside all brackets
but those of the column list; within them, in a CHECK say, NOT NULL is a part of an expression and stays.

Nor shall SQLite fill in a column that the device does not hold: Postgres does. So defaults are asked whether they may.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from syncline.client.schema import literal

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
      |(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|'(?:[^']|'')*')
      |(?P<word>[^\W\d][\w$]*)
      |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_NOT_NULL = ("NOT", "NULL")
_ON_CONFLICT = ("ON", "CONFLICT")
# What begins a constraint of the table, where another column's definition could begin.
_NO_COLUMN = frozenset({"CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"})


@dataclass(frozen=True, slots=True)
class _Token:
    """``word``: in capitals, empty if it is none; ``name``: what it names as an identifier. ``depth``: of brackets."""

    start: int
    end: int
    word: str
    name: str
    depth: int


def without_not_null(sql: str, keep: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """A CREATE TABLE or ALTER TABLE ADD COLUMN without NOT NULL on other columns than ``keep``, and on which it was.

    Names are compared as SQLite does, in any case. Other statements are returned as they are.
    """
    tokens = list(_tokens(sql))
    words = [token.word for token in tokens[:4]]
    kept = {name.lower() for name in keep}
    cuts: list[tuple[int, int]] = []
    names: list[str] = []
    for definition in _definitions(tokens, words):
        name, constraints = definition[0], definition[1:]
        found = list(_not_null(constraints))
        if found and name.name.lower() not in kept:
            names.append(name.name)
            # With the blank before it.
            cuts += [(constraints[first - 1].end if first else name.end, end) for first, end in found]
    for start, end in reversed(cuts):
        sql = sql[:start] + sql[end:]
    return sql, tuple(names)


def with_asked_defaults(sql: str, table: str, function: str) -> str:
    """A CREATE TABLE with ``function(table, column, value)`` for each DEFAULT (value)."""
    tokens = list(_tokens(sql))
    places: list[tuple[int, str]] = []
    for definition in _definitions(tokens, [token.word for token in tokens[:4]]):
        for before, opening, closing in zip(definition[1:], definition[2:], definition[3:], strict=False):
            if before.word == "DEFAULT" and (opening.name, closing.name) == ("(", ")"):
                places.append((opening.end, f"{function}({literal(table)}, {literal(definition[0].name)}, "))
                places.append((closing.start, ")"))
    for place, text in reversed(places):
        sql = sql[:place] + text + sql[place:]
    return sql


def with_sequences(sql: str, table: str, columns: Collection[str], function: str) -> str:
    """A CREATE TABLE in which each of these ``columns`` has DEFAULT (function(table, column)), if it has no other."""
    tokens = list(_tokens(sql))
    for definition in reversed(list(_definitions(tokens, [token.word for token in tokens[:4]]))):
        name = definition[0].name
        if name in columns and all(token.word != "DEFAULT" for token in definition):
            place = definition[-1].end
            default = f" DEFAULT ({function}({literal(table)}, {literal(name)}))"
            sql = sql[:place] + default + sql[place:]
    return sql


def _tokens(sql: str) -> Iterator[_Token]:
    depth = 0
    for match in _TOKEN.finditer(sql):
        text = match.group()
        if match.lastgroup == "space":
            continue
        depth -= text == ")"
        word = text.upper() if match.lastgroup == "word" else ""
        yield _Token(match.start(), match.end(), word, _name(text) if match.lastgroup == "quoted" else text, depth)
        depth += text == "("


def _name(quoted: str) -> str:
    close = quoted[-1]
    return quoted[1:-1] if close == "]" else quoted[1:-1].replace(close * 2, close)


def _definitions(tokens: list[_Token], words: list[str]) -> Iterator[list[_Token]]:
    """The definitions of columns, each from its name on. What is bracketed in them is left out."""
    if words[:1] == ["CREATE"] and "TABLE" in words:
        body = [token for token in tokens if token.depth >= 1]
        one: list[_Token] = []
        for token in body:
            if token.depth == 1 and token.name == "," and not token.word:
                yield from _column(one)
                one = []
            elif token.depth == 1:
                one.append(token)
        yield from _column(one)
    elif words[:2] == ["ALTER", "TABLE"]:
        outside = [token for token in tokens if token.depth == 0]
        add = next((i for i, token in enumerate(outside) if i > 2 and token.word == "ADD"), None)
        if add is not None:
            added = outside[add + 1 :]
            yield from _column(added[1:] if added and added[0].word == "COLUMN" else added)


def _column(tokens: list[_Token]) -> Iterator[list[_Token]]:
    if tokens and tokens[0].word not in _NO_COLUMN:
        yield tokens


def _not_null(tokens: list[_Token]) -> Iterator[tuple[int, int]]:
    """The places of NOT NULL among the constraints of a column: the first token's index, the end in the text."""
    for place in range(len(tokens) - 1):
        if (tokens[place].word, tokens[place + 1].word) == _NOT_NULL:
            first, last = place, place + 1
            if place >= 2 and tokens[place - 2].word == "CONSTRAINT":
                first -= 2
            if tuple(token.word for token in tokens[last + 1 : last + 3]) == _ON_CONFLICT:
                last += 3
            yield first, tokens[last].end
