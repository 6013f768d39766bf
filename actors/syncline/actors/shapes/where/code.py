"""Python source for three-valued logic, and for values that may be NULL.

Pure. A boolean expression becomes three pieces of source: its *value* (True, False or None), whether it is *true*, and
whether it is *false*. The last two are what a condition needs most often, and are cheaper: ``column = 'x'`` is true
where ``row[3] == k1``, and nobody has to look for NULL. Each is made only of one of the three of its parts, so source
grows as the clause does.

Source is made of names of our own alone. Whatever came with the clause, names and literals, is an object bound to one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any, Final, Literal, TypeAlias

from syncline.proto.values import Row

CODE_MAX: Final = 500
_GLOBALS: Final[Mapping[str, Any]] = {"__builtins__": {}, "int": int, "len": len}

Comparison: TypeAlias = Literal["==", "!=", "<", "<=", ">", ">="]
OPPOSITE: Final[Mapping[Comparison, Comparison]] = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


@dataclass(frozen=True, slots=True)
class Truth:
    """A boolean expression, as source."""

    value: str
    true: str
    false: str


TRUE: Final = Truth("True", "True", "False")
FALSE: Final = Truth("False", "False", "True")
NULL: Final = Truth("None", "False", "False")


class Source:
    """Names for what the source of one clause refers to."""

    def __init__(self) -> None:
        self.bindings: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._temporaries = 0

    def bind(self, thing: object) -> str:
        """The name of an object."""
        name = self._names.get(id(thing))
        if name is None:
            name = f"k{len(self.bindings)}"
            self.bindings[name] = thing  # keeps it alive, so its id stays its own
            self._names[id(thing)] = name
        return name

    def temporary(self) -> str:
        """A name for one value on its way."""
        self._temporaries += 1
        return f"t{self._temporaries}"

    def function(self, expression: str) -> Callable[[Row], Any]:
        """``lambda r: expression``. Raises what ``compile`` raises when it is too deep."""
        return eval(_code(expression), {**_GLOBALS, **self.bindings})  # type: ignore[no-any-return]  # noqa: S307


@lru_cache(maxsize=CODE_MAX)
def _code(expression: str) -> CodeType:
    """The same for all clauses that differ in what is bound, above all in their literals: Python takes longer to
    compile one than we to read it."""
    return compile(f"lambda r: {expression}", "<where clause>", "eval")


def conjunction(parts: Sequence[Truth], source: Source) -> Truth:
    """All of them: false as soon as one is, else NULL as soon as one is."""
    return Truth(
        _three_valued(parts, source, "False", "True"),
        _joined((part.true for part in parts), " and "),
        _joined((part.false for part in parts), " or "),
    )


def disjunction(parts: Sequence[Truth], source: Source) -> Truth:
    """Any of them: true as soon as one is, else NULL as soon as one is."""
    return Truth(
        _three_valued(parts, source, "True", "False"),
        _joined((part.true for part in parts), " or "),
        _joined((part.false for part in parts), " and "),
    )


def _three_valued(parts: Sequence[Truth], source: Source, decisive: str, otherwise: str) -> str:
    names = [source.temporary() for _ in parts]
    decided = " or ".join(f"({name} := {part.value}) is {decisive}" for name, part in zip(names, parts, strict=True))
    unknown = " or ".join(f"{name} is None" for name in names)
    return f"({decisive} if {decided} else None if {unknown} else {otherwise})"


def _joined(parts: Iterable[str], word: str) -> str:
    return f"({word.join(parts)})"


def negation(part: Truth, source: Source) -> Truth:
    name = source.temporary()
    return Truth(f"(None if ({name} := {part.value}) is None else not {name})", part.false, part.true)


def certain(condition: str) -> Truth:
    """A condition that is never NULL."""
    return Truth(f"({condition})", f"({condition})", f"(not {condition})")
