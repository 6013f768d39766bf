"""Regular expressions of Postgres, as far as both ends are certain of them. Pure.

A device judges by a CHECK's pattern what the application writes, and must refuse nothing that Postgres takes. So the
pattern is read as Postgres reads an advanced regular expression, and whatever else there is in one is refused
(``PatternRefused``): back references, looking around, word boundaries, collating elements, embedded options.

Whether a text has a match does not depend on which of several is found, so none is looked for. All that may be under
way are followed at once, a character at a time: the time is at most the length of the text times that of the pattern,
whatever the pattern. Python's ``re`` tries one after another, for ever where ``^(\\w+\\s?)*$`` meets the wrong text.

What letters, digits and blanks are, and which are the same but for their case, is a matter of a locale, beyond ASCII.
So there a text that is not of ASCII has no answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias

TEXT_MAX: Final = 10_000
"""Characters of a text that is judged at all: a write waits for it."""
REPEATS_MAX: Final = 255
STEPS_MAX: Final = 2_000
DEPTH_MAX: Final = 50

Ranges: TypeAlias = tuple[tuple[str, str], ...]

_EVERYTHING: Final[Ranges] = (("\0", "\U0010ffff"),)
_DIGITS: Final[Ranges] = (("0", "9"),)
_UPPER: Final[Ranges] = (("A", "Z"),)
_LOWER: Final[Ranges] = (("a", "z"),)
_BLANKS: Final[Ranges] = (("\t", "\r"), (" ", " "))
_WORDS: Final[Ranges] = (*_DIGITS, *_UPPER, *_LOWER, ("_", "_"))
_SHORTHANDS: Final[dict[str, Ranges]] = {"d": _DIGITS, "w": _WORDS, "s": _BLANKS}
_CLASSES: Final[dict[str, Ranges]] = {
    "alpha": (*_UPPER, *_LOWER),
    "digit": _DIGITS,
    "alnum": (*_DIGITS, *_UPPER, *_LOWER),
    "upper": _UPPER,
    "lower": _LOWER,
    "space": _BLANKS,
    "xdigit": (*_DIGITS, ("A", "F"), ("a", "f")),
}
_CONTROLS: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_QUANTIFIERS: Final[dict[str, tuple[int, int | None]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class PatternRefused(ValueError):
    """It is not certain what the pattern means."""


@dataclass(frozen=True, slots=True)
class Step:
    """One of a program. ``kind``: "one" takes a character of ``ranges``, or one that is ``not_of`` them, and goes on;
    "begin" and "end" go on at the text's begin and end; "either" goes on at each of ``targets``; "found" is a match."""

    kind: str
    ranges: Ranges = ()
    not_of: bool = False
    targets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Pattern:
    """``ascii_only``: of other texts it is not certain whether they match."""

    program: tuple[Step, ...]
    any_case: bool
    ascii_only: bool

    def matches(self, text: str) -> bool | None:
        """Whether some part of the text matches; None: not certain."""
        if len(text) > TEXT_MAX or (self.ascii_only and not text.isascii()):
            return None
        waiting: set[int] = set()
        for place in range(len(text) + 1):
            waiting.add(0)
            reached = self._reached(waiting, at_begin=place == 0, at_end=place == len(text))
            if reached is None:
                return True
            if place < len(text):
                variants = self._variants(text[place])
                waiting = {number + 1 for number in reached if _takes(self.program[number], variants)}
        return False

    def _variants(self, character: str) -> str:
        return character.lower() + character.upper() if self.any_case else character

    def _reached(self, waiting: set[int], *, at_begin: bool, at_end: bool) -> list[int] | None:
        """The steps that want a character next; None: there is a match."""
        seen, open_steps, wanting = set(waiting), list(waiting), []
        while open_steps:
            number = open_steps.pop()
            step = self.program[number]
            if step.kind == "found":
                return None
            if step.kind == "one":
                wanting.append(number)
                continue
            if step.kind == "either":
                following = step.targets
            else:
                following = (number + 1,) if (at_begin if step.kind == "begin" else at_end) else ()
            for target in following:
                if target not in seen:
                    seen.add(target)
                    open_steps.append(target)
        return wanting


def _takes(step: Step, variants: str) -> bool:
    return any(low <= one <= high for one in variants for low, high in step.ranges) != step.not_of


@lru_cache(maxsize=500)
def pattern(text: str, *, any_case: bool = False) -> Pattern:
    """What the operators ``~`` (``any_case``: ``~*``) ask for. Raises PatternRefused."""
    reader = _Reader(text)
    program = (*reader.read(), Step("found"))
    return Pattern(program, any_case, any_case or reader.of_a_locale)


@dataclass
class _Reader:
    """Reads a pattern from left to right. Programs are lists of steps whose targets count from their own begin."""

    text: str
    place: int = 0
    depth: int = 0
    of_a_locale: bool = field(default=False)

    def read(self) -> list[Step]:
        program = self._branches()
        if self.place < len(self.text):
            raise PatternRefused("a bracket is closed that is not open")
        return program

    def _next(self) -> str:
        return self.text[self.place : self.place + 1]

    def _take(self) -> str:
        character = self._next()
        if not character:
            raise PatternRefused("it ends too early")
        self.place += 1
        return character

    def _branches(self) -> list[Step]:
        branches = [self._branch()]
        while self._next() == "|":
            self.place += 1
            branches.append(self._branch())
        program = branches.pop()
        while branches:
            program = _either(branches.pop(), program)
        return _bounded(program)

    def _branch(self) -> list[Step]:
        program: list[Step] = []
        while self._next() not in ("", "|", ")"):
            atom, quantifiable = self._atom()
            program = _bounded(_joined(program, self._quantified(atom) if quantifiable else atom))
        return program

    def _atom(self) -> tuple[list[Step], bool]:
        """And whether it may be repeated."""
        character = self._take()
        match character:
            case "^":
                return [Step("begin")], False
            case "$":
                return [Step("end")], False
            case ".":
                return [Step("one", _EVERYTHING)], True
            case "(":
                return self._group(), True
            case "[":
                return [self._bracket()], True
            case "\\":
                return [self._escape()], True
            case "*" | "+" | "?" | "{":
                raise PatternRefused("there is nothing to repeat")
        return [Step("one", ((character, character),))], True

    def _group(self) -> list[Step]:
        if self._next() == "?":
            self.place += 1
            if self._take() != ":":
                raise PatternRefused("it looks around, or sets options")
        self.depth += 1
        if self.depth > DEPTH_MAX:
            raise PatternRefused("it is nested too deeply")
        program = self._branches()
        if self._take() != ")":
            raise PatternRefused("a bracket is not closed")
        self.depth -= 1
        return program

    def _escape(self) -> Step:
        character = self._take()
        if character.lower() in _SHORTHANDS:
            self.of_a_locale = True
            return Step("one", _SHORTHANDS[character.lower()], character.isupper())
        return Step("one", ((found := self._escaped(character), found),))

    def _escaped(self, character: str) -> str:
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character.isalnum():
            raise PatternRefused(f"not an escape that is known: {character}")
        return character

    def _bracket(self) -> Step:
        not_of = self._next() == "^"
        self.place += not_of
        ranges: list[tuple[str, str]] = []
        first = True
        while first or self._next() != "]":
            one = self._member()
            first = False
            if not isinstance(one, str):
                ranges += one
            elif self._next() == "-" and self.text[self.place + 1 : self.place + 2] not in ("]", ""):
                self.place += 1
                high = self._member()
                if not isinstance(high, str) or high < one:
                    raise PatternRefused("not a range")
                ranges.append((one, high))
            else:
                ranges.append((one, one))
        self.place += 1
        return Step("one", tuple(ranges), not_of)

    def _member(self) -> str | Ranges:
        """A character, or what a class stands for."""
        character = self._take()
        if character == "[" and self._next() in (":", ".", "="):
            name, closing, _ = self.text[self.place + 1 :].partition(":]")
            if self._next() != ":" or not closing or name not in _CLASSES:
                raise PatternRefused("not a class that is known")
            self.place += len(name) + 3
            self.of_a_locale = True
            return _CLASSES[name]
        if character != "\\":
            return character
        character = self._take()
        if character in _SHORTHANDS:
            self.of_a_locale = True
            return _SHORTHANDS[character]
        return self._escaped(character)

    def _quantified(self, atom: list[Step]) -> list[Step]:
        character = self._next()
        if character in _QUANTIFIERS:
            self.place += 1
            low, high = _QUANTIFIERS[character]
        elif character == "{":
            low, high = self._repeats()
        else:
            return atom
        if self._next() == "?":
            self.place += 1  # of several matches the shortest: there is one all the same
        if self._next() in ("*", "+", "?", "{"):
            raise PatternRefused("what is repeated is repeated")
        return _repeated(atom, low, high)

    def _repeats(self) -> tuple[int, int | None]:
        inner, closing, _ = self.text[self.place + 1 :].partition("}")
        low, comma, high = inner.partition(",")
        numbers = [low, *([high] if high else [])]
        if not closing or not all(number.isascii() and number.isdecimal() for number in numbers):
            raise PatternRefused("not a number of repeats")
        self.place += len(inner) + 2
        least, most = int(low), (int(high) if high else None) if comma else int(low)
        if least > REPEATS_MAX or (most is not None and not least <= most <= REPEATS_MAX):
            raise PatternRefused("not a number of repeats")
        return least, most


def _moved(program: list[Step], by: int) -> list[Step]:
    return [
        Step(step.kind, step.ranges, step.not_of, tuple(target + by for target in step.targets))
        if step.kind == "either"
        else step
        for step in program
    ]


def _joined(first: list[Step], second: list[Step]) -> list[Step]:
    return [*first, *_moved(second, len(first))]


def _either(first: list[Step], second: list[Step]) -> list[Step]:
    behind = 2 + len(first)
    jump = Step("either", targets=(behind + len(second),))
    return [Step("either", targets=(1, behind)), *_moved(first, 1), jump, *_moved(second, behind)]


def _repeated(atom: list[Step], low: int, high: int | None) -> list[Step]:
    program: list[Step] = []
    for _ in range(low):
        program = _bounded(_joined(program, atom))
    if high is None:
        loop = [Step("either", targets=(1, len(atom) + 2)), *_moved(atom, 1), Step("either", targets=(0,))]
        return _joined(program, loop)
    for _ in range(high - low):
        program = _bounded(_joined(program, [Step("either", targets=(1, len(atom) + 1)), *_moved(atom, 1)]))
    return program


def _bounded(program: list[Step]) -> list[Step]:
    if len(program) > STEPS_MAX:
        raise PatternRefused("it is too long")
    return program
