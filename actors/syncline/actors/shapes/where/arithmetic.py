"""Arithmetic on integers as Postgres does it, and between which bounds its results are.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from syncline.actors.shapes.where.operands import Operand


def _quotient(left: int, right: int) -> int:
    """Towards zero, as Postgres divides."""
    size = abs(left) // abs(right)
    return size if (left < 0) == (right < 0) else -size


def _remainder(left: int, right: int) -> int:
    """With the sign of the left side."""
    size = abs(left) % abs(right)
    return -size if left < 0 else size


def _corners(function: Callable[[int, int], int]) -> Callable[[Operand, Operand], list[int]]:
    """The results between which all others are, where the function is monotonous in both."""

    def corners(left: Operand, right: Operand) -> list[int]:
        return [function(one, other) for one in (left.low, left.high) for other in (right.low, right.high)]

    return corners


def _left_over(left: Operand, right: Operand) -> list[int]:
    size = min(max(abs(right.low), abs(right.high)) - 1, max(abs(left.low), abs(left.high)))
    return [-size if left.low < 0 else 0, size if left.high > 0 else 0]


ARITHMETIC: Final[Mapping[str, tuple[Callable[[int, int], int], Callable[[Operand, Operand], list[int]]]]] = {
    "+": (int.__add__, _corners(int.__add__)),
    "-": (int.__sub__, _corners(int.__sub__)),
    "*": (int.__mul__, _corners(int.__mul__)),
    "/": (_quotient, _corners(_quotient)),
    "%": (_remainder, _left_over),
}
