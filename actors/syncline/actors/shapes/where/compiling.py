"""A where clause's tree -> Python, where it is certain to mean what Postgres means.

Pure. Of each expression the type is worked out as Postgres does it, but only for the few cases where that is plain:
columns, literals that take the type of what they are compared with, integers of several widths. ``Uncompilable`` is the
answer to everything else, never a guess. Nothing that is compiled can raise an error in Postgres for any row: so it
does not matter in which order Postgres looks at the operands of AND and OR.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from syncline.actors.shapes.where.asciicase import of_lower
from syncline.actors.shapes.where.code import (
    FALSE,
    NULL,
    OPPOSITE,
    TRUE,
    Comparison,
    Truth,
    certain,
    conjunction,
    disjunction,
    negation,
)
from syncline.actors.shapes.where.like import matcher
from syncline.actors.shapes.where.operands import (
    INTEGERS,
    Columns,
    Operand,
    Uncompilable,
    common_collation,
    comparable,
)
from syncline.actors.shapes.where.tree import Node
from syncline.actors.shapes.where.values import DEPTH_MAX, Values

OPERATORS: Final[Mapping[str, Comparison]] = {"=": "==", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_LIKE: Final = {"~~": (False, False), "!~~": (True, False), "~~*": (False, True), "!~~*": (True, True)}
"""(whether it is NOT LIKE, whether it is ILIKE)"""
SAFE_DIGITS: Final = 18
"""An integer of so many characters is an int8 for sure."""
_ARRAY: Final = re.compile(r"\{([A-Za-z0-9_.:-]+(?:,[A-Za-z0-9_.:-]+)*)\}")
"""An array's text of one dimension, without quotes, escapes or spaces."""
_LOGIC: Final = frozenset({"and", "or", "not"})


class Compiler(Values):
    """Compiles expressions of one table into one ``Source``. What it was asked before it knows."""

    def __init__(self, columns: Columns) -> None:
        super().__init__(columns)
        self._known: dict[int, tuple[Node, Truth | None]] = {}

    def condition(self, node: Node) -> Truth | None:
        """A clause or a part of one, a boolean expression; None where it cannot be compiled.

        Only what stands between AND, OR and NOT is compiled; how it is put together then is soon done anew.
        """
        if node.kind in _LOGIC:
            parts = [self.condition(arg) for arg in node.args]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                return None
            match node.kind:
                case "and":
                    return conjunction(known, self.source)
                case "or":
                    return disjunction(known, self.source)
            return negation(known[0], self.source)
        if id(node) not in self._known:
            try:
                truth = self.truth(node)
            except Uncompilable:
                truth = None
            self._known[id(node)] = (node, truth)  # the node too, so that its id stays its own
        return self._known[id(node)][1]

    def truth(self, node: Node) -> Truth:
        """A boolean expression. Raises Uncompilable."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise Uncompilable
        try:
            return self.truth_here(node)
        finally:
            self._depth -= 1

    def truth_here(self, node: Node) -> Truth:
        args, value = node.args, node.value
        match node.kind:
            case "and":
                return conjunction([self.truth(arg) for arg in args], self.source)
            case "or":
                return disjunction([self.truth(arg) for arg in args], self.source)
            case "not":
                return negation(self.truth(args[0]), self.source)
            case "bool":
                return TRUE if value else FALSE
            case "null":
                return NULL
            case "null test":
                return self._null_test(args[0], negated=bool(value))
            case "bool test":
                return self._bool_test(args[0], str(value))
            case "distinct":
                return self._distinct(args[0], args[1], negated=bool(value))
            case "in":
                return self._in(node)
            case "any":
                listed = self.as_list(node)
                if listed is None:
                    raise Uncompilable
                return self._in(listed)
            case "operator" if len(args) == 2 and isinstance(value, tuple):
                return self._operator(value, args[0], args[1])
            case "call" if value == ("pg_catalog", "starts_with") and len(args) == 2:
                return self._starts_with(args[0], args[1])
        return self._as_truth(self.operand(node))

    def _as_truth(self, operand: Operand) -> Truth:
        if operand.type != "bool":
            raise Uncompilable
        if operand.cell:
            name = self.source.temporary()
            true, false = self.source.bind(b"t"), self.source.bind(b"f")
            value = f"(None if ({name} := {operand.raw}) is None else {name} == {true})"
            return Truth(value, f"({operand.raw} == {true})", f"({operand.raw} == {false})")
        return Truth(operand.raw, f"({operand.raw} is True)", f"({operand.raw} is False)")

    def _null_test(self, arg: Node, *, negated: bool) -> Truth:
        return certain(f"({self.operand(arg).raw} is {'not ' if negated else ''}None)")

    def _bool_test(self, arg: Node, test: str) -> Truth:
        inner = self.truth(arg)
        word = test.removeprefix("NOT ")
        condition = {"TRUE": inner.true, "FALSE": inner.false, "UNKNOWN": f"({inner.value} is None)"}[word]
        return certain(f"(not {condition})" if test.startswith("NOT ") else condition)

    def _operator(self, name: tuple[str, ...], left: Node, right: Node) -> Truth:
        schema, operator = name
        if schema not in ("", "pg_catalog"):
            raise Uncompilable
        if operator in _LIKE:
            negated, any_case = _LIKE[operator]
            return self._like(left, right, negated=negated, any_case=any_case)
        if operator == "^@":
            return self._starts_with(left, right)
        if operator not in OPERATORS:
            raise Uncompilable
        return self.compare(OPERATORS[operator], left, right)

    def compare(self, operator: Comparison, left: Node, right: Node) -> Truth:
        for literal, node in ((left, right), (right, left)):
            if literal.kind in ("integer", "number") and node.kind != "text":
                operand = self.operand(node)
                if literal.kind == "number" or operand.type == "float8":
                    number = self._operands.number(
                        str(literal.value), operand, _flipped(operator) if literal is left else operator
                    )
                    return self.compared(operator, *((number, operand) if literal is left else (operand, number)))
        return self.compared(operator, *self.pair(left, right))

    def compared(self, operator: Comparison, left: Operand, right: Operand) -> Truth:
        if left.type == "null" or right.type == "null":
            return NULL
        if operator not in ("==", "!="):
            if left.type == "text":
                collation = common_collation((left, right))
                if collation is None or not collation.by_bytes:
                    raise Uncompilable
            plain = False
        else:
            plain = left.cell and right.cell
        guards, sides = [], []
        for operand in (left, right):
            name = operand.raw
            if operand.nullable:
                name = self.source.temporary()
                guards.append(f"({name} := {operand.raw})")
            sides.append(name if plain else operand.convert.format(name))
        present = "".join(f"{guard} is not None and " for guard in guards)
        absent = " or ".join(f"{guard} is None" for guard in guards)

        def comparison(symbol: Comparison) -> str:
            return f"{sides[0]} {symbol} {sides[1]}"

        def true(symbol: Comparison) -> str:
            if symbol == "==" and plain and not (left.nullable and right.nullable):
                return f"({left.raw} == {right.raw})"  # a NULL equals no cell
            return f"({present}{comparison(symbol)})"

        value = f"(None if {absent} else {comparison(operator)})" if guards else f"({comparison(operator)})"
        return Truth(value, true(operator), true(OPPOSITE[operator]))

    def _distinct(self, left: Node, right: Node, *, negated: bool) -> Truth:
        one, other = self.pair(left, right)
        symbol = "==" if negated else "!="
        if one.type == "null" or other.type == "null":
            rest = other if one.type == "null" else one
            return certain(f"({rest.raw} is {'' if negated else 'not '}None)")
        if one.cell and other.cell:
            return certain(f"({one.raw} {symbol} {other.raw})")
        return certain(f"({self._operands.domain(one)} {symbol} {self._operands.domain(other)})")

    def _in(self, node: Node) -> Truth:
        left, items = node.args[0], node.args[1:]
        operand = self.operand(left)
        if not operand.cell and operand.type not in (*INTEGERS, "float8"):
            raise Uncompilable
        has_null = any(item.kind == "null" for item in items)
        raw = operand.raw if operand.cell else self._operands.domain(operand)
        keys = self.members(operand, items)
        name, known = self.source.temporary(), self.source.bind(keys)
        absent = "None" if has_null else "False"
        value = f"(None if ({name} := {raw}) is None else True if {name} in {known} else {absent})"
        false = "False" if has_null else f"(({name} := {raw}) is not None and {name} not in {known})"
        found = Truth(value, f"({raw} in {known})", false)
        return negation(found, self.source) if node.value else found

    def as_list(self, node: Node) -> Node | None:
        """``x = ANY (array)`` as ``x IN (list)``, where it is certain to be the same. Raises Uncompilable."""
        if node.value not in (("", "=", "ANY"), ("", "<>", "ALL")):
            return None
        left, array = node.args
        kind = self.operand(left).type
        items: tuple[Node, ...] = ()
        if array.kind == "text" and (match := _ARRAY.fullmatch(str(array.value))):
            items = tuple([Node("text", element, (), array.at) for element in match[1].split(",")])
        elif array.kind == "array":  # its literals are of one type, whatever they are compared with
            wanted = "integer" if kind in INTEGERS else "text" if kind == "text" else ""
            items = array.args if all(item.kind == wanted for item in array.args) else ()
        if not items or (array.kind == "text" and any(str(item.value).upper() == "NULL" for item in items)):
            return None
        return Node("in", node.value == ("", "<>", "ALL"), (left, *items), node.at)

    def members(self, operand: Operand, items: Iterable[Node]) -> frozenset[object]:
        """What the literals of a list for this operand are compared as; NULLs are left out. Raises Uncompilable."""
        return frozenset([self._member(operand, item) for item in items if item.kind != "null"])

    def _member(self, operand: Operand, item: Node) -> object:
        text = str(item.value)
        if operand.cell and item.kind == "text" and operand.type == "text":
            return text.encode()
        if operand.cell and item.kind == "integer" and operand.type in INTEGERS and len(text) <= SAFE_DIGITS:
            return text.encode()  # lists are long: this is what most have
        if item.kind == "number" or (item.kind == "integer" and operand.type == "float8"):
            return self._literal_key(operand, self._operands.number(text, operand, "=="))
        member = self.literal_of(item, operand)
        if member is None or member.literal is None or not comparable(operand, member):
            raise Uncompilable
        return self._literal_key(operand, member)

    def _literal_key(self, operand: Operand, literal: Operand) -> object:
        return literal.literal if operand.cell else self._operands.key(literal)

    def _like(self, left: Node, right: Node, *, negated: bool, any_case: bool) -> Truth:
        operand = self.operand(left)
        if operand.type != "text" or right.kind not in ("text", "null"):
            raise Uncompilable
        if right.kind == "null":
            return NULL
        pattern = str(right.value)
        if any_case and not (pattern.isascii() and self.has_ascii_case(operand)):
            raise Uncompilable
        match = matcher(pattern.lower() if any_case else pattern)
        if match is None:
            raise Uncompilable
        return self._called(operand, self.source.bind(of_lower(match) if any_case else match), negated=negated)

    def _starts_with(self, left: Node, right: Node) -> Truth:
        operand = self.operand(left)
        if operand.type != "text" or right.kind != "text":
            raise Uncompilable
        prefix = str(right.value).encode()
        return self._called(operand, self.source.bind(lambda text: text.startswith(prefix)), negated=False)

    def _called(self, operand: Operand, function: str, *, negated: bool) -> Truth:
        name = self.source.temporary()
        does, does_not = f"{function}({name})", f"not {function}({name})"
        if negated:
            does, does_not = does_not, does
        present = f"({name} := {operand.raw}) is not None"
        return Truth(
            f"(None if ({name} := {operand.raw}) is None else {does})",
            f"({present} and {does})",
            f"({present} and {does_not})",
        )


def _flipped(operator: Comparison) -> Comparison:
    flips: dict[Comparison, Comparison] = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    return flips.get(operator, operator)
