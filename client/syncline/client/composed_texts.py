"""Texts that are made of other texts, as Postgres prints them: arrays, ranges, multiranges, hstore. Pure.

What these parts mean is for others to know (``adapters``). Each ``read_`` takes what Postgres prints, and raises
ValueError for everything else, also for spellings that Postgres would take: so that printing what was read gives the
same text again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final, TypeAlias

Part: TypeAlias = str | None
Parts: TypeAlias = "list[Part | Parts]"
"""The elements of an array, in a list a dimension. None is NULL."""
RangeParts: TypeAlias = tuple[Part, Part, bool, bool] | None
"""Lower and upper bound (None: without end) and whether each is in it; None: the empty range."""

_QUOTED: Final = r'"((?:[^"\\]|\\.)*)"'
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
# array_in and range_in take these for blanks.
_BLANKS: Final = " \t\n\r\v\f"


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text) if "\\" in text else text


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _unreadable(what: str, text: str) -> ValueError:
    return ValueError(f"not as Postgres prints {what}: {text[:40]!r}")


# --- arrays -----------------------------------------------------------------------------------------------------------


@cache
def _array_token(delimiter: str) -> re.Pattern[str]:
    return re.compile(rf'([{{}}{delimiter}])|{_QUOTED}|([^{{}}{delimiter}"\\{_BLANKS}]+)', re.DOTALL)


def read_array(text: str, delimiter: str = ",") -> Parts:
    """The elements of an array that begins at 1 in each dimension. ``delimiter``: a comma but for few types."""
    token = _array_token(delimiter)
    if not text.startswith("{"):
        raise _unreadable("an array", text)
    outermost: Parts = []
    open_lists = [outermost]
    position, before = 1, "{"
    while open_lists:
        match = token.match(text, position)
        if match is None:
            raise _unreadable("an array", text)
        sign, quoted, bare = match.groups()
        if before in ("{", delimiter):
            misplaced = sign == delimiter or (sign == "}" and before == delimiter)
        else:
            misplaced = sign not in (delimiter, "}")
        if misplaced:
            raise _unreadable("an array", text)
        if sign == "{":
            inner: Parts = []
            open_lists[-1].append(inner)
            open_lists.append(inner)
        elif sign == "}":
            open_lists.pop()
        elif quoted is not None:
            open_lists[-1].append(_unescaped(quoted))
        elif bare is not None:
            open_lists[-1].append(None if bare.upper() == "NULL" else bare)
        position, before = match.end(), sign or "element"
    if position != len(text):
        raise _unreadable("an array", text)
    return outermost


def array_text(parts: Sequence[Part | Parts], delimiter: str = ",") -> str:
    """The array of these elements, as Postgres prints it."""
    return "{" + delimiter.join(_element_text(part, delimiter) for part in parts) + "}"


def _element_text(part: Part | Parts, delimiter: str) -> str:
    if part is None:
        return "NULL"
    if isinstance(part, list):
        return array_text(part, delimiter)
    special = not part or part.upper() == "NULL" or any(sign in part for sign in f'{{}}"\\{_BLANKS}{delimiter}')
    return f'"{_escaped(part)}"' if special else part


# --- ranges -----------------------------------------------------------------------------------------------------------

_BOUND: Final = rf'("(?:[^"\\]|\\.|"")*"|[^"\\()\[\],{_BLANKS}]+)?'
_RANGE: Final = re.compile(rf"([\[(]){_BOUND},{_BOUND}([\])])", re.DOTALL)
_DOUBLED: Final = re.compile(r'\\(.)|"(")', re.DOTALL)
_BOUND_SPECIAL: Final = frozenset(f'"\\()[],{_BLANKS}')


def read_range(text: str) -> RangeParts:
    """The bounds of a range."""
    match = _RANGE.fullmatch(text)
    if match is None:
        if text == "empty":
            return None
        raise _unreadable("a range", text)
    return _bounds(match)


def _bounds(match: re.Match[str]) -> RangeParts:
    opening, lower, upper, closing = match.groups()
    return _bound(lower), _bound(upper), opening == "[", closing == "]"


def _bound(text: Part) -> Part:
    if text is None or not text.startswith('"'):
        return text
    return _DOUBLED.sub(lambda match: match[1] or match[2], text[1:-1])


def range_text(parts: RangeParts) -> str:
    """The range of these bounds, as Postgres prints it."""
    if parts is None:
        return "empty"
    lower, upper, lower_inclusive, upper_inclusive = parts
    opening = "[" if lower_inclusive and lower is not None else "("
    closing = "]" if upper_inclusive and upper is not None else ")"
    return f"{opening}{_bound_text(lower)},{_bound_text(upper)}{closing}"


def _bound_text(bound: Part) -> str:
    if bound is None:
        return ""
    if bound and _BOUND_SPECIAL.isdisjoint(bound):
        return bound
    return '"' + bound.replace("\\", "\\\\").replace('"', '""') + '"'


def read_multirange(text: str) -> list[RangeParts]:
    """The ranges of a multirange."""
    if not (text.startswith("{") and text.endswith("}")):
        raise _unreadable("a multirange", text)
    ranges: list[RangeParts] = []
    position = 1
    while position < len(text) - 1:
        match = _RANGE.match(text, position)
        if match is None or text[match.end()] not in ",}":
            raise _unreadable("a multirange", text)
        ranges.append(_bounds(match))
        position = match.end() + 1
    if multirange_text(ranges) != text:
        raise _unreadable("a multirange", text)
    return ranges


def multirange_text(ranges: Sequence[RangeParts]) -> str:
    """The multirange of these, as Postgres prints it."""
    return "{" + ",".join(map(range_text, ranges)) + "}"


# --- hstore -----------------------------------------------------------------------------------------------------------

_PAIR: Final = re.compile(rf"{_QUOTED}=>(?:{_QUOTED}|NULL)(?:, |\Z)", re.DOTALL)


def read_hstore(text: str) -> dict[str, str | None]:
    """Keys and values of an hstore."""
    pairs: dict[str, str | None] = {}
    position = 0
    while position < len(text):
        match = _PAIR.match(text, position)
        if match is None:
            raise _unreadable("an hstore", text)
        pairs[_unescaped(match[1])] = None if match[2] is None else _unescaped(match[2])
        position = match.end()
    return pairs


def hstore_text(pairs: Mapping[str, str | None]) -> str:
    """The hstore of these. Raises TypeError where one of them is no text."""
    return ", ".join(f"{_hstore_part(key)}=>{_hstore_part(value, null='NULL')}" for key, value in pairs.items())


def _hstore_part(text: object, null: str | None = None) -> str:
    if text is None and null is not None:
        return null
    if not isinstance(text, str):
        raise TypeError(f"an hstore has texts, not {type(text).__name__}")
    return f'"{_escaped(text)}"'
