"""Why a where clause is not accepted, for the one who wrote it."""

from __future__ import annotations


class WhereRefused(Exception):
    """A clause that no shape can have. ``str`` shows all of it on one line.

    ``message``: what is wrong. ``position``: the character in the clause it is about, from 1; None where it is about
    all of it or nobody can tell. ``hint``: what to write in its place, or an empty string.
    """

    def __init__(self, message: str, position: int | None = None, hint: str = "") -> None:
        super().__init__(message, position, hint)
        self.message = message
        self.position = position
        self.hint = hint

    def __str__(self) -> str:
        place = "" if self.position is None else f" at character {self.position}"
        return f"{self.message}{place}" + (f". Hint: {self.hint}" if self.hint else "")
