"""Text of a where clause -> tree, by Postgres' own grammar.

Pure. The grammar decides what is SQL; ``reading`` decides what a where clause may contain of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pglast.parser import ParseError, parse_sql_json, scan

from syncline.actors.shapes.where.bounds import TEXT_BYTES_MAX, TOKENS_MAX
from syncline.actors.shapes.where.reading import Reader
from syncline.actors.shapes.where.refusal import WhereRefused
from syncline.actors.shapes.where.tree import Node

_PREFIX: Final = "SELECT WHERE "
_LIGHT_TOKENS: Final = frozenset({"SCONST", "ICONST", "FCONST", "USCONST", "ASCII_44", "SQL_COMMENT", "C_COMMENT"})
_SEMICOLON: Final = "ASCII_59"

_TRAILING: Final = (
    ("fromClause", "FROM"),
    ("groupClause", "GROUP BY"),
    ("havingClause", "HAVING"),
    ("windowClause", "WINDOW"),
    ("sortClause", "ORDER BY"),
    ("limitCount", "LIMIT"),
    ("limitOffset", "OFFSET"),
    ("lockingClause", "FOR"),
)


def read(text: str, columns: Sequence[str], *, printed: bool = False) -> Node:
    """The clause as a tree. ``columns``: the names of the table's columns. ``printed``: it is an expression as Postgres
    prints it, of a CHECK say, which names columns alone. Raises WhereRefused."""
    _check_text(text)
    try:
        _check_tokens(text)
        statements = json.loads(parse_sql_json(_PREFIX + text))["stmts"]
    except ParseError as error:
        raise _syntax_error(error, text) from None
    except RecursionError:
        raise WhereRefused("the where clause is nested too deeply") from None
    statement = statements[0]["stmt"].get("SelectStmt") if len(statements) == 1 else None
    if statement is None:
        raise WhereRefused("a where clause is one expression")
    _check_nothing_follows(statement, text)
    clause = statement["whereClause"]
    return Reader(columns, _places(text)).read(_of_this(clause) if printed else clause)


def _of_this(node: Any) -> Any:
    """A parse tree with columns of ``this`` in place of those that are named alone."""
    if isinstance(node, list):
        return [_of_this(one) for one in node]
    if not isinstance(node, dict):
        return node
    found = {name: _of_this(fields) for name, fields in node.items()}
    column = found.get("ColumnRef")
    if column is not None and len(column["fields"]) == 1:
        found["ColumnRef"] = {**column, "fields": [{"String": {"sval": "this"}}, *column["fields"]]}
    return found


def _places(text: str) -> Callable[[int], int]:
    """From a byte of the statement, as the tree has it, to the character of the clause, from 0."""
    if text.isascii():
        return lambda offset: max(offset - len(_PREFIX), 0)
    encoded = (_PREFIX + text).encode()
    return lambda offset: max(len(encoded[:offset].decode(errors="ignore")) - len(_PREFIX), 0)


def _check_text(text: str) -> None:
    if not text.strip():
        raise WhereRefused("the where clause is empty", hint="leave it out to select every row")
    if "\0" in text:
        raise WhereRefused("a where clause cannot contain the character U+0000", text.index("\0") + 1)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise WhereRefused("not valid Unicode: a surrogate without its other half", error.start + 1) from None
    if size > TEXT_BYTES_MAX:
        raise WhereRefused(f"the where clause has {size} bytes; the most is {TEXT_BYTES_MAX}")


def _check_tokens(text: str) -> None:
    """Before the parser runs: it recurses in C, so what it may be given is bounded by the lexer."""
    heavy = 0
    for token in scan(_PREFIX + text):
        if token.name == _SEMICOLON:
            position = token.start - len(_PREFIX) + 1
            raise WhereRefused("a where clause is one expression, without a semicolon", position)
        heavy += token.name not in _LIGHT_TOKENS
    if heavy > TOKENS_MAX:
        raise WhereRefused(f"the where clause is too long: {heavy} words and operators; the most is {TOKENS_MAX}")


def _syntax_error(error: ParseError, text: str) -> WhereRefused:
    message, at = (*error.args, None)[:2]
    reason = str(message).partition(", at index")[0]
    if "memory exhausted" in reason or "stack depth" in reason:
        reason = "the where clause is nested too deeply"
    if not isinstance(at, int):
        return WhereRefused(reason, len(text) + 1 if "end of input" in reason else None)
    position = at - len(_PREFIX) + 1
    return WhereRefused(reason, position if 1 <= position <= len(text) + 1 else None)


def _check_nothing_follows(statement: Mapping[str, Any], text: str) -> None:
    found = [name for field, name in _TRAILING if field in statement]
    if statement.get("op", "SETOP_NONE") != "SETOP_NONE":
        found.append("UNION, INTERSECT or EXCEPT")
    if found or "whereClause" not in statement:
        name = found[0] if found else "that"
        places = list(re.finditer(rf"\b{name.split()[0].strip(',')}\b", text, re.IGNORECASE))
        match = places[-1] if places else None
        raise WhereRefused(
            f"a where clause is one expression: {name} cannot follow it",
            match.start() + 1 if match is not None and found else None,
            "shapes are sets of rows: sort, group and cut them on the device",
        )
