"""LIKE on UTF-8 bytes.

Pure. A pattern is cut at its ``%``. The first piece must begin the text and the last one end it; those between are
looked for from left to right, each at its leftmost place, which never misses a match. So there is no backtracking:
the time is at most the product of the two lengths, and where no ``_`` occurs it is that of a search for substrings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

Matcher: TypeAlias = Callable[[bytes], bool]
WILD_PIECE_MAX: Final = 64
"""Characters of a piece with ``_`` in it: these are looked for at every place."""


def matcher(pattern: str) -> Matcher | None:
    """Whether a text is LIKE this pattern, whose escape character is the backslash.

    None where Postgres may raise an error (the pattern ends in its escape character) or a match may take long.
    """
    pieces: list[list[str | None]] = [[]]  # None: any one character
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            pieces.append([])
            continue
        if character == "\\":
            escaped = next(characters, None)
            if escaped is None:
                return None
            pieces[-1].append(escaped)
        else:
            pieces[-1].append(None if character == "_" else character)
    if any(None in piece for piece in pieces):
        if any(None in piece and len(piece) > WILD_PIECE_MAX for piece in pieces):
            return None
        return _wild(pieces)
    return _plain(["".join(map(str, piece)).encode() for piece in pieces])


def _plain(pieces: list[bytes]) -> Matcher:
    first, *middle = pieces
    if not middle:
        return first.__eq__
    last = middle.pop()
    sought = [piece for piece in middle if piece]
    if not sought:
        if not last:
            return lambda text: text.startswith(first)
        if not first:
            return lambda text: text.endswith(last)
        least = len(first) + len(last)
        return lambda text: len(text) >= least and text.startswith(first) and text.endswith(last)
    if len(sought) == 1 and not first and not last:
        return lambda text, only=sought[0]: only in text  # type: ignore[misc]

    def match(text: bytes) -> bool:
        end = len(text) - len(last)
        if end < len(first) or not text.startswith(first) or not text.endswith(last):
            return False
        place = len(first)
        for piece in sought:
            place = text.find(piece, place, end)
            if place < 0:
                return False
            place += len(piece)
        return True

    return match


def _wild(pieces: list[list[str | None]]) -> Matcher:
    expressions = [
        re.compile("".join("." if character is None else re.escape(character) for character in piece), re.DOTALL)
        for piece in pieces
    ]
    first, *middle = expressions
    if not middle:
        return lambda text: first.fullmatch(text.decode()) is not None
    last = middle.pop()
    first_length, last_length = len(pieces[0]), len(pieces[-1])

    def match(text: bytes) -> bool:
        characters = text.decode()
        end = len(characters) - last_length
        if end < first_length or first.match(characters) is None or last.match(characters, end) is None:
            return False
        place = first_length
        for expression in middle:
            found = expression.search(characters, place, end)
            if found is None:
                return False
            place = found.end()
        return True

    return match
