"""Upper and lower case of texts that are ASCII; about any other text Postgres is asked.

Pure. How other characters change their case depends on the collation, its provider and that one's version. That a
collation has the cases of ASCII is known of each column (``catalog.Collation``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from syncline.actors.shapes.where.like import Matcher
from syncline.actors.shapes.where.operands import Undecided


def lower(text: bytes) -> bytes:
    """Raises Undecided for a text that is not ASCII."""
    if not text.isascii():
        raise Undecided("a text that is not ASCII")
    return text.lower()


def upper(text: bytes) -> bytes:
    """Raises Undecided for a text that is not ASCII."""
    if not text.isascii():
        raise Undecided("a text that is not ASCII")
    return text.upper()


def of_lower(match: Matcher) -> Matcher:
    """ILIKE: Postgres compares the lower case of text and pattern. ``match`` is that of the pattern."""
    return lambda text: match(lower(text))


CASES: Final[Mapping[str, Callable[[bytes], bytes]]] = {"lower": lower, "upper": upper}
