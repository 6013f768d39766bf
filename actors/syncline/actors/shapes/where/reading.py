"""Postgres' parse tree of a where clause -> our tree: what a clause may contain, and everything else refused.

Pure. What is left is an expression over one row: no other row, table, parameter, moment or session comes into it.
Types are not looked at. A parse tree is JSON here, as the parser prints it: a node is ``{"Name": {fields}}``, and a
field that has its default (0, false, empty) is not there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, TypeAlias

from syncline.actors.shapes.where.bounds import DEPTH_MAX, SIZE_MAX
from syncline.actors.shapes.where.names import (
    AGGREGATES,
    BUILT_IN_FUNCTIONS,
    BUILT_IN_TYPES,
    OF_THE_MOMENT,
    OF_THE_SESSION,
    WINDOW_FUNCTIONS,
)
from syncline.actors.shapes.where.refusal import WhereRefused
from syncline.actors.shapes.where.tree import LITERALS, CaseForm, Kind, Node, TypeName

Fields: TypeAlias = Mapping[str, Any]

_SUBQUERY_HINT: Final = "include the other table in the shape, or compare columns of this one"
_MOMENT_HINT: Final = "compare with a literal, and subscribe anew when another one is due"
_WHOLE_ROWS: Final = "a where clause is about columns, not about whole rows"


class Reader:
    """One walk over a parse tree, which bounds depth and size as it goes.

    ``places``: from the parser's offset to the character of the clause, from 0.
    """

    def __init__(self, columns: Sequence[str], places: Callable[[int], int]) -> None:
        self._columns = columns
        self._places = places
        self._size = 0
        self._repeats = 1
        self._depth = 0

    def read(self, node: Fields) -> Node:
        """A node and all below it. Raises WhereRefused."""
        ((name, fields),) = node.items()
        self._size += self._repeats
        if self._size > SIZE_MAX:
            raise WhereRefused(f"the where clause is too large: more than {SIZE_MAX} parts", self._position(fields))
        self._deeper(fields)
        try:
            method = _METHODS.get(name)
            if method is None:
                raise self._refusal(name, fields)
            return method(self, fields)
        finally:
            self._depth -= 1

    def _deeper(self, fields: Fields) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise WhereRefused(f"the where clause is nested more than {DEPTH_MAX} levels deep", self._position(fields))

    def _repeated(self, node: Fields, times: int) -> Node:
        """Reads what Postgres will write ``times`` times when it expands what is around it."""
        before = self._repeats
        self._repeats *= times
        try:
            return self.read(node)
        finally:
            self._repeats = before

    def _all(self, nodes: Sequence[Fields]) -> tuple[Node, ...]:
        return tuple([self.read(node) for node in nodes])

    def _at(self, fields: Fields) -> int:
        return self._places(fields.get("location", 0))

    def _position(self, fields: Fields) -> int | None:
        return self._at(fields) + 1 if "location" in fields else None

    # --- what is refused ----------------------------------------------------------------------------------------------

    def _refusal(self, name: str, fields: Fields) -> WhereRefused:
        position = self._position(fields)
        match name:
            case "SubLink":
                return WhereRefused("a where clause cannot contain a subquery", position, _SUBQUERY_HINT)
            case "ParamRef":
                hint = "write the value itself into the clause"
                shown = f"${fields.get('number', 0)}"
                return WhereRefused(f"there are no values for parameters such as {shown}", position, hint)
            case "SQLValueFunction":
                shown = fields["op"].removeprefix("SVFOP_").removesuffix("_N")
                if shown in OF_THE_SESSION:
                    return WhereRefused(f"{shown} is of a session, and a shape is shared by many", position)
                return WhereRefused(f"{shown} changes while no row does", position, _MOMENT_HINT)
            case "RowExpr":
                message = "a where clause cannot contain a row of several values"
                return WhereRefused(message, position, "compare column by column, with AND")
            case "GroupingFunc":
                return WhereRefused("GROUPING is for aggregates, and a where clause is about one row", position)
            case "SetToDefault":
                return WhereRefused("DEFAULT is not a value that rows can be compared with", position)
        return WhereRefused(f"a where clause cannot contain this ({name})", position)

    # --- columns and literals -----------------------------------------------------------------------------------------

    def _column(self, node: Fields) -> Node:
        position = self._position(node)
        if any("String" not in field for field in node["fields"]):
            raise WhereRefused(_WHOLE_ROWS, position)
        names = [_string(field) for field in node["fields"]]
        if len(names) == 1:
            (name,) = names
            if name == "this":
                raise WhereRefused(_WHOLE_ROWS, position, "this.column")
            raise WhereRefused(
                f"columns are written with this: {_shown(name)} is not",
                position,
                f"write this.{_shown(self._meant(name) or name)}",
            )
        if names[0] != "this":
            raise WhereRefused(
                f"a where clause is about its own table: it cannot refer to {_shown(names[0])}",
                position,
                f"columns are written this.{_shown(names[-1])}; {_SUBQUERY_HINT}",
            )
        if len(names) > 2:
            raise WhereRefused(f"this.{_shown(names[1])} has no fields", position)
        name = names[1]
        if name not in self._columns:
            meant = self._meant(name)
            hint = f"write this.{_shown(meant)}" if meant is not None else f"there are {', '.join(self._columns)}"
            raise WhereRefused(f"the table has no column {_shown(name)}", position, hint)
        return Node("column", name, (), self._at(node))

    def _meant(self, name: str) -> str | None:
        if name in self._columns:
            return name
        for column in self._columns:
            if column.lower() == name.lower():
                return column
        close = get_close_matches(name, self._columns, 1)
        return close[0] if close else None

    def _constant(self, node: Fields) -> Node:
        at = self._at(node)
        match node:
            case {"isnull": True}:
                return Node("null", None, (), at)
            case {"ival": number}:
                return Node("integer", str(number.get("ival", 0)), (), at)
            case {"fval": number}:
                return _number(number["fval"], at)
            case {"boolval": truth}:
                return Node("bool", bool(truth.get("boolval", False)), (), at)
            case {"sval": text}:
                return Node("text", text.get("sval", ""), (), at)
        raise WhereRefused("a where clause cannot contain a bit string", at + 1)

    # --- logic and tests ----------------------------------------------------------------------------------------------

    def _bool(self, node: Fields) -> Node:
        return Node(_BOOLS[node["boolop"]], None, self._all(node["args"]), self._at(node))

    def _null_test(self, node: Fields) -> Node:
        return Node("null test", node["nulltesttype"] == "IS_NOT_NULL", (self.read(node["arg"]),), self._at(node))

    def _bool_test(self, node: Fields) -> Node:
        words = node["booltesttype"].removeprefix("IS_").replace("_", " ")
        return Node("bool test", words, (self.read(node["arg"]),), self._at(node))

    def _expression(self, node: Fields) -> Node:
        kind, at, operator = node["kind"], self._at(node), _name(node["name"])
        match kind:
            case "AEXPR_IN":
                return self._in(node)
            case "AEXPR_BETWEEN" | "AEXPR_NOT_BETWEEN":
                return self._between(node, operator[1], (2, 1, 1))
            case "AEXPR_BETWEEN_SYM" | "AEXPR_NOT_BETWEEN_SYM":
                return self._between(node, operator[1], (4, 2, 2))
        if "lexpr" not in node:
            right = self.read(node["rexpr"])
            if operator == ("", "+") and right.kind in ("integer", "number"):
                return right  # +5 is the literal 5, as -5 is one to the grammar
            return Node("operator", operator, (right,), at)
        args = (self.read(node["lexpr"]), self.read(node["rexpr"]))
        match kind:
            case "AEXPR_OP_ANY" | "AEXPR_OP_ALL":
                return Node("any", (*operator, kind.removeprefix("AEXPR_OP_")), args, at)
            case "AEXPR_DISTINCT" | "AEXPR_NOT_DISTINCT":
                return Node("distinct", kind == "AEXPR_NOT_DISTINCT", args, at)
            case "AEXPR_NULLIF":
                return Node("nullif", None, args, at)
        return Node("operator", operator, args, at)

    def _between(self, node: Fields, words: str, times: tuple[int, int, int]) -> Node:
        parts = (node["lexpr"], *_listed(node["rexpr"]))
        args = tuple([self._repeated(part, often) for part, often in zip(parts, times, strict=True)])
        return Node("between", words, args, self._at(node))

    def _in(self, node: Fields) -> Node:
        items = self._all(_listed(node["rexpr"]))
        others = sum(item.kind not in LITERALS for item in items)
        return Node(
            "in", _name(node["name"])[1] == "<>", (self._repeated(node["lexpr"], others + 1), *items), self._at(node)
        )

    # --- values -------------------------------------------------------------------------------------------------------

    def _cast(self, node: Fields) -> Node:
        return Node("cast", self._type(node["typeName"]), (self.read(node["arg"]),), self._at(node))

    def _type(self, node: Fields) -> TypeName:
        if node.get("setof") or node.get("pct_type"):
            raise WhereRefused("not a type that a value can be cast to", self._position(node))
        schema, name = _name(node["names"])
        modifiers = []
        for modifier in node.get("typmods", ()):
            match modifier:
                case {"A_Const": {"ival": number}}:
                    modifiers.append(number.get("ival", 0))
                case _:
                    raise WhereRefused(f"not a modifier of type {name}", self._position(node))
        if not schema and name in BUILT_IN_TYPES:
            schema = "pg_catalog"
        return TypeName(schema, name, tuple(modifiers), len(node.get("arrayBounds", ())))

    def _collate(self, node: Fields) -> Node:
        return Node("collate", _name(node["collname"]), (self.read(node["arg"]),), self._at(node))

    def _call(self, node: Fields) -> Node:
        position = self._position(node)
        schema, name = _name(node["funcname"])
        args = node.get("args", ())
        built_in = schema in ("", "pg_catalog")
        if "over" in node or (built_in and name in WINDOW_FUNCTIONS):
            raise WhereRefused(f"{name} is a window function, and a where clause is about one row", position)
        if (built_in and name in AGGREGATES) or not _OF_AGGREGATES.isdisjoint(node):
            raise WhereRefused(f"{name} is an aggregate, and a where clause is about one row", position)
        if built_in and (name in OF_THE_MOMENT or (name == "age" and len(args) == 1)):
            hint = f"age(a, b) is possible; {_MOMENT_HINT}" if name == "age" else _MOMENT_HINT
            raise WhereRefused(f"{name}() gives something else each time", position, hint)
        if "func_variadic" in node:
            raise WhereRefused("VARIADIC is not possible in a where clause", position, "write the values one by one")
        if not schema and name in BUILT_IN_FUNCTIONS:
            schema = "pg_catalog"
        return Node("call", (schema, name), self._all(args), self._at(node))

    def _named(self, node: Fields) -> Node:
        return Node("named", node["name"], (self.read(node["arg"]),), self._at(node))

    def _case(self, node: Fields) -> Node:
        parts = [node["arg"]] if "arg" in node else []
        for when in node["args"]:
            parts += [when["CaseWhen"]["expr"], when["CaseWhen"]["result"]]
        if "defresult" in node:
            parts.append(node["defresult"])
        return Node("case", CaseForm("arg" in node, "defresult" in node), self._all(parts), self._at(node))

    def _coalesce(self, node: Fields) -> Node:
        return Node("coalesce", None, self._all(node["args"]), self._at(node))

    def _min_max(self, node: Fields) -> Node:
        kind: Kind = "greatest" if node["op"] == "IS_GREATEST" else "least"
        return Node(kind, None, self._all(node["args"]), self._at(node))

    def _array(self, node: Fields) -> Node:
        return Node("array", None, self._all(node.get("elements", ())), self._at(node))

    def _subscript(self, node: Fields) -> Node:
        result = self.read(node["arg"])
        for step in node["indirection"]:
            if "A_Indices" not in step:
                raise WhereRefused("a value has no fields here", result.at + 1)
            self._deeper(node)
            indices = step["A_Indices"]
            is_slice = bool(indices.get("is_slice"))
            bounds = [indices.get(name) for name in (("lidx", "uidx") if is_slice else ("uidx",))]
            args = [Node("nothing") if bound is None else self.read(bound) for bound in bounds]
            result = Node("subscript", is_slice, (result, *args), result.at)
        self._depth -= len(node["indirection"])
        return result


def _string(node: Fields) -> str:
    return str(node["String"].get("sval", ""))


def _name(parts: Sequence[Fields]) -> tuple[str, str]:
    """(schema or "", name). What is accepted has no names of three parts, with a database."""
    names = [_string(part) for part in parts]
    return (".".join(names[:-1]), names[-1])


def _listed(node: Fields) -> Sequence[Fields]:
    return node["List"]["items"] if "List" in node else (node,)


def _number(text: str, at: int) -> Node:
    """A literal too large for int4, or with a point or an exponent. One without either may still be an int8."""
    text = text.replace("_", "").lower()
    sign = "-" if text.startswith("-") else ""
    digits = text.removeprefix("-")
    if digits[:2] in ("0x", "0o", "0b"):
        if len(digits) > 100:  # far above anything that a column can hold
            raise WhereRefused("this number is too long", at + 1)
        return _integer(sign, str(int(digits, 0)), at)
    if digits.isdecimal():
        return _integer(sign, digits, at)
    mantissa, _, exponent = digits.partition("e")
    whole, _, fraction = mantissa.partition(".")
    shown = f"{sign}{whole.lstrip('0') or '0'}.{fraction}"
    return Node("number", f"{shown}e{exponent.lstrip('+')}" if exponent else shown, (), at)


def _integer(sign: str, digits: str, at: int) -> Node:
    return Node("integer", sign + (digits.lstrip("0") or "0"), (), at)


def _shown(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


_BOOLS: Final[Mapping[str, Kind]] = {"AND_EXPR": "and", "OR_EXPR": "or", "NOT_EXPR": "not"}
_OF_AGGREGATES: Final = frozenset({"agg_star", "agg_distinct", "agg_within_group", "agg_order", "agg_filter"})
_METHODS: Final[Mapping[str, Callable[[Reader, Fields], Node]]] = {
    "ColumnRef": Reader._column,
    "A_Const": Reader._constant,
    "BoolExpr": Reader._bool,
    "NullTest": Reader._null_test,
    "BooleanTest": Reader._bool_test,
    "A_Expr": Reader._expression,
    "TypeCast": Reader._cast,
    "CollateClause": Reader._collate,
    "FuncCall": Reader._call,
    "NamedArgExpr": Reader._named,
    "CaseExpr": Reader._case,
    "CoalesceExpr": Reader._coalesce,
    "MinMaxExpr": Reader._min_max,
    "A_ArrayExpr": Reader._array,
    "A_Indirection": Reader._subscript,
}
