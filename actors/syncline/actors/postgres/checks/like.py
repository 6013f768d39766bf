"""Patterns of LIKE as those of SQLite's GLOB, which knows upper from lower case. Pure."""

from __future__ import annotations

from typing import Final

from syncline.actors.postgres.checks.operands import Untranslatable

_WILD: Final = {"%": "*", "_": "?"}
_SPECIAL: Final = {"*": "[*]", "?": "[?]", "[": "[[]"}


def glob(pattern: str) -> str:
    """``pattern``: its escape character is the backslash. Raises Untranslatable where Postgres raises an error."""
    found: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            escaped = next(characters, None)
            if escaped is None:
                raise Untranslatable
            found.append(_SPECIAL.get(escaped, escaped))
        else:
            found.append(_WILD.get(character) or _SPECIAL.get(character, character))
    return "".join(found)
