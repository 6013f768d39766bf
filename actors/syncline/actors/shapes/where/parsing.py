"""Text of a where clause -> tree, by Postgres' own grammar.

Pure. The grammar decides what is SQL, this module what a where clause may contain of it, and everything not listed here
is refused. What is left is an expression over one row: no other row, table, parameter, moment or session comes into it.
Types are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Final

import pglast
from pglast import ast, enums
from pglast.parser import ParseError, scan

from syncline.actors.shapes.where.bounds import DEPTH_MAX, SIZE_MAX, TEXT_BYTES_MAX, TOKENS_MAX
from syncline.actors.shapes.where.names import (
    AGGREGATES,
    BUILT_IN_FUNCTIONS,
    BUILT_IN_TYPES,
    OF_THE_MOMENT,
    WINDOW_FUNCTIONS,
)
from syncline.actors.shapes.where.refusal import WhereRefused
from syncline.actors.shapes.where.tree import LITERALS, CaseForm, Kind, Node, TypeName

_PREFIX: Final = "SELECT WHERE "
_LIGHT_TOKENS: Final = frozenset({"SCONST", "ICONST", "FCONST", "USCONST", "ASCII_44", "SQL_COMMENT", "C_COMMENT"})
_LITERAL_TOKENS: Final = frozenset({"SCONST", "ICONST", "FCONST", "BCONST", "XCONST", "TRUE_P", "FALSE_P", "NULL_P"})
_SEMICOLON: Final = "ASCII_59"

_TRAILING: Final = (
    ("fromClause", "FROM"),
    ("groupClause", "GROUP BY"),
    ("havingClause", "HAVING"),
    ("windowClause", "WINDOW"),
    ("sortClause", "ORDER BY"),
    ("limitCount", "LIMIT"),
    ("limitOffset", "OFFSET"),
    ("lockingClause", "FOR"),
)
_SUBQUERY_HINT: Final = "include the other table in the shape, or compare columns of this one"
_MOMENT_HINT: Final = "compare with a literal, and subscribe anew when another one is due"

_BOOL_TESTS: Final = {
    enums.BoolTestType.IS_TRUE: "TRUE",
    enums.BoolTestType.IS_NOT_TRUE: "NOT TRUE",
    enums.BoolTestType.IS_FALSE: "FALSE",
    enums.BoolTestType.IS_NOT_FALSE: "NOT FALSE",
    enums.BoolTestType.IS_UNKNOWN: "UNKNOWN",
    enums.BoolTestType.IS_NOT_UNKNOWN: "NOT UNKNOWN",
}


def read(text: str, columns: Sequence[str]) -> Node:
    """The clause as a tree. ``columns``: the names of the table's columns. Raises WhereRefused."""
    _check_text(text)
    try:
        literals = _literals(text)
        statements = pglast.parse_sql(_PREFIX + text)
    except ParseError as error:
        raise _syntax_error(error, text) from None
    statement = statements[0].stmt if len(statements) == 1 else None
    if not isinstance(statement, ast.SelectStmt):
        raise WhereRefused("a where clause is one expression")
    _check_nothing_follows(statement, text)
    return _Reader(columns, literals).read(statement.whereClause, 1)


def _check_text(text: str) -> None:
    if not text.strip():
        raise WhereRefused("the where clause is empty", hint="leave it out to select every row")
    if "\0" in text:
        raise WhereRefused("a where clause cannot contain the character U+0000", text.index("\0") + 1)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise WhereRefused("not valid Unicode: a surrogate without its other half", error.start + 1) from None
    if size > TEXT_BYTES_MAX:
        raise WhereRefused(f"the where clause has {size} bytes; the most is {TEXT_BYTES_MAX}")


def _literals(text: str) -> dict[str, list[int]]:
    """Where in the statement literals are, by how they are written: the parse tree does not say it of them.

    This comes before the parser, which recurses in C: what that may be given is bounded by the lexer.
    """
    statement = _PREFIX + text
    found: dict[str, list[int]] = {}
    heavy = 0
    for token in scan(statement):
        if token.name == _SEMICOLON:
            position = token.start - len(_PREFIX) + 1
            raise WhereRefused("a where clause is one expression, without a semicolon", position)
        if token.name in _LITERAL_TOKENS:
            found.setdefault(statement[token.start : token.end + 1].lower(), []).append(token.start)
        heavy += token.name not in _LIGHT_TOKENS
    if heavy > TOKENS_MAX:
        raise WhereRefused(f"the where clause is too long: {heavy} words and operators; the most is {TOKENS_MAX}")
    for places in found.values():
        places.reverse()
    return found


def _syntax_error(error: ParseError, text: str) -> WhereRefused:
    message, at = (*error.args, None)[:2]
    reason = str(message).partition(", at index")[0]
    if "memory exhausted" in reason:
        reason = "the where clause is nested too deeply"
    if not isinstance(at, int):
        return WhereRefused(reason, len(text) + 1 if "end of input" in reason else None)
    position = at - len(_PREFIX) + 1
    return WhereRefused(reason, position if 1 <= position <= len(text) + 1 else None)


def _check_nothing_follows(statement: ast.SelectStmt, text: str) -> None:
    found = [name for field, name in _TRAILING if getattr(statement, field) is not None]
    if statement.op != enums.SetOperation.SETOP_NONE:
        found.append("UNION, INTERSECT or EXCEPT")
    if found or statement.whereClause is None:
        name = found[0] if found else "that"
        places = list(re.finditer(rf"\b{name.split()[0].strip(',')}\b", text, re.IGNORECASE))
        match = places[-1] if places else None
        raise WhereRefused(
            f"a where clause is one expression: {name} cannot follow it",
            match.start() + 1 if match is not None and found else None,
            "shapes are sets of rows: sort, group and cut them on the device",
        )


def _name(parts: Sequence[Any] | None) -> tuple[str, str]:
    """(schema or "", name). Names of three parts, with a database, do not occur in what is accepted."""
    names = [part.sval for part in parts or ()]
    return (".".join(names[:-1]), names[-1])


def _listed(nodes: Any) -> Sequence[Any]:
    return nodes if isinstance(nodes, tuple) else (nodes,)


class _Reader:
    """One walk over a parse tree, which bounds depth and size as it goes."""

    def __init__(self, columns: Sequence[str], literals: dict[str, list[int]]) -> None:
        self._columns = columns
        self._literals = literals
        self._near = 0
        self._size = 0
        self._repeats = 1

    def read(self, node: Any, depth: int) -> Node:
        self._count(node)
        self._near = self._at(node) or self._near
        if depth > DEPTH_MAX:
            raise WhereRefused(f"the where clause is nested more than {DEPTH_MAX} levels deep", self._position(node))
        method = _METHODS.get(type(node))
        if method is None:
            raise self._refusal(node)
        return method(self, node, depth + 1)

    def _count(self, node: Any) -> None:
        self._size += self._repeats
        if self._size > SIZE_MAX:
            raise WhereRefused(f"the where clause is too large: more than {SIZE_MAX} parts", self._position(node))

    def _repeated(self, node: Any, depth: int, times: int) -> Node:
        """Reads what Postgres will write ``times`` times when it expands what is around it."""
        before = self._repeats
        self._repeats *= max(times, 1)
        try:
            return self.read(node, depth)
        finally:
            self._repeats = before

    def _all(self, nodes: Sequence[Any] | None, depth: int) -> tuple[Node, ...]:
        return tuple(self.read(node, depth) for node in nodes or ())

    @staticmethod
    def _at(node: Any) -> int:
        location = getattr(node, "location", None)
        return max(location - len(_PREFIX), 0) if isinstance(location, int) else 0

    def _position(self, node: Any) -> int | None:
        location = getattr(node, "location", None)
        return location - len(_PREFIX) + 1 if isinstance(location, int) and location >= len(_PREFIX) else None

    # --- what is refused ----------------------------------------------------------------------------------------------

    def _refusal(self, node: Any) -> WhereRefused:
        position = self._position(node)
        match node:
            case ast.SubLink():
                return WhereRefused("a where clause cannot contain a subquery", position, _SUBQUERY_HINT)
            case ast.ParamRef(number=number):
                hint = "write the value itself into the clause"
                return WhereRefused(f"there are no values for parameters such as ${number}", position, hint)
            case ast.SQLValueFunction(op=op):
                name = str(getattr(op, "name", "this")).removeprefix("SVFOP_").removesuffix("_N")
                if name in (
                    "CURRENT_ROLE",
                    "CURRENT_USER",
                    "USER",
                    "SESSION_USER",
                    "CURRENT_CATALOG",
                    "CURRENT_SCHEMA",
                ):
                    return WhereRefused(f"{name} is of a session, and a shape is shared by many", position)
                return WhereRefused(f"{name} changes while no row does", position, _MOMENT_HINT)
            case ast.RowExpr():
                return WhereRefused(
                    "a where clause cannot contain a row of several values",
                    position,
                    "compare column by column, with AND",
                )
            case ast.GroupingFunc():
                return WhereRefused("GROUPING is for aggregates, and a where clause is about one row", position)
            case ast.SetToDefault():
                return WhereRefused("DEFAULT is not a value that rows can be compared with", position)
        return WhereRefused(f"a where clause cannot contain this ({type(node).__name__})", position)

    # --- columns and literals -----------------------------------------------------------------------------------------

    def _column(self, node: ast.ColumnRef, depth: int) -> Node:
        position = self._position(node)
        fields = node.fields or ()
        if any(isinstance(field, ast.A_Star) for field in fields):
            raise WhereRefused("a where clause is about columns, not about whole rows", position)
        names = [field.sval for field in fields]
        if len(names) == 1:
            (name,) = names
            if name == "this":
                raise WhereRefused("a where clause is about columns, not about whole rows", position, "this.column")
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

    def _constant(self, node: ast.A_Const, depth: int) -> Node:
        if node.isnull:
            return Node("null", None, (), self._literal_at("null"))
        match node.val:
            case ast.Integer(ival=number):
                return Node("integer", str(number), (), self._literal_at(str(abs(number or 0))))
            case ast.Float(fval=str(text)):
                return _number(text, self._literal_at(text.removeprefix("-")))
            case ast.Boolean(boolval=truth):
                return Node("bool", bool(truth), (), self._literal_at("true" if truth else "false"))
            case ast.String(sval=str(text)):
                return Node("text", text, (), self._literal_at("'" + text.replace("'", "''") + "'"))
            case ast.BitString(bsval=str(bits)):
                at = self._literal_at(f"{bits[0]}'{bits[1:]}'")
                raise WhereRefused("a where clause cannot contain a bit string", at + 1)
        raise WhereRefused("a where clause cannot contain such a literal")

    def _literal_at(self, written: str) -> int:
        """Where the next literal of this spelling is; of another spelling, where what is around it is named."""
        places = self._literals.get(written.lower())
        return (places.pop() - len(_PREFIX)) if places else self._near

    # --- logic and tests ----------------------------------------------------------------------------------------------

    def _bool(self, node: ast.BoolExpr, depth: int) -> Node:
        kinds: dict[Any, Kind] = {
            enums.BoolExprType.AND_EXPR: "and",
            enums.BoolExprType.OR_EXPR: "or",
            enums.BoolExprType.NOT_EXPR: "not",
        }
        return Node(kinds[node.boolop], None, self._all(node.args, depth), self._at(node))

    def _null_test(self, node: ast.NullTest, depth: int) -> Node:
        negated = node.nulltesttype == enums.NullTestType.IS_NOT_NULL
        return Node("null test", negated, (self.read(node.arg, depth),), self._at(node))

    def _bool_test(self, node: ast.BooleanTest, depth: int) -> Node:
        assert node.booltesttype is not None
        return Node("bool test", _BOOL_TESTS[node.booltesttype], (self.read(node.arg, depth),), self._at(node))

    def _expression(self, node: ast.A_Expr, depth: int) -> Node:
        kinds, at = enums.A_Expr_Kind, self._at(node)
        operator = _name(node.name)
        kind = node.kind
        if kind == kinds.AEXPR_IN:
            return self._in(node, depth)
        if kind in (kinds.AEXPR_BETWEEN, kinds.AEXPR_NOT_BETWEEN):
            return self._between(node, operator[1], depth, (2, 1, 1))
        if kind in (kinds.AEXPR_BETWEEN_SYM, kinds.AEXPR_NOT_BETWEEN_SYM):
            return self._between(node, operator[1], depth, (4, 2, 2))
        if node.lexpr is None:
            return _prefixed(operator, self.read(node.rexpr, depth), at)
        args = (self.read(node.lexpr, depth), self.read(node.rexpr, depth))
        if kind in (kinds.AEXPR_OP_ANY, kinds.AEXPR_OP_ALL):
            return Node("any", (*operator, "ANY" if kind == kinds.AEXPR_OP_ANY else "ALL"), args, at)
        if kind in (kinds.AEXPR_DISTINCT, kinds.AEXPR_NOT_DISTINCT):
            return Node("distinct", kind == kinds.AEXPR_NOT_DISTINCT, args, at)
        if kind == kinds.AEXPR_NULLIF:
            return Node("nullif", None, args, at)
        return Node("operator", operator, args, at)

    def _between(self, node: ast.A_Expr, words: str, depth: int, times: tuple[int, int, int]) -> Node:
        parts = (node.lexpr, *_listed(node.rexpr))
        args = tuple(self._repeated(part, depth, often) for part, often in zip(parts, times, strict=True))
        return Node("between", words, args, self._at(node))

    def _in(self, node: ast.A_Expr, depth: int) -> Node:
        items = self._all(_listed(node.rexpr), depth)
        literal = sum(item.kind in LITERALS for item in items)
        left = self._repeated(node.lexpr, depth, len(items) - literal + 1)
        return Node("in", _name(node.name)[1] == "<>", (left, *items), self._at(node))

    # --- values -------------------------------------------------------------------------------------------------------

    def _cast(self, node: ast.TypeCast, depth: int) -> Node:
        return Node("cast", self._type(node.typeName), (self.read(node.arg, depth),), self._at(node))

    def _type(self, node: Any) -> TypeName:
        if node.setof or node.pct_type:
            raise WhereRefused("not a type that a value can be cast to", self._position(node))
        schema, name = _name(node.names)
        modifiers = []
        for modifier in node.typmods or ():
            if not isinstance(modifier, ast.A_Const) or not isinstance(modifier.val, ast.Integer):
                raise WhereRefused(f"not a modifier of type {name}", self._position(node))
            modifiers.append(modifier.val.ival or 0)
        if not schema and name in BUILT_IN_TYPES:
            schema = "pg_catalog"
        return TypeName(schema, name, tuple(modifiers), len(node.arrayBounds or ()))

    def _collate(self, node: ast.CollateClause, depth: int) -> Node:
        return Node("collate", _name(node.collname), (self.read(node.arg, depth),), self._at(node))

    def _call(self, node: ast.FuncCall, depth: int) -> Node:
        position = self._position(node)
        schema, name = _name(node.funcname)
        args = node.args or ()
        if node.over is not None or (name in WINDOW_FUNCTIONS and not schema):
            raise WhereRefused(f"{name} is a window function, and a where clause is about one row", position)
        aggregate = node.agg_star or node.agg_distinct or node.agg_within_group or node.agg_order or node.agg_filter
        if aggregate or (name in AGGREGATES and schema in ("", "pg_catalog")):
            raise WhereRefused(f"{name} is an aggregate, and a where clause is about one row", position)
        if schema in ("", "pg_catalog") and (name in OF_THE_MOMENT or (name == "age" and len(args) == 1)):
            hint = f"age(a, b) is possible; {_MOMENT_HINT}" if name == "age" else _MOMENT_HINT
            raise WhereRefused(f"{name}() gives something else each time", position, hint)
        if node.func_variadic:
            raise WhereRefused("VARIADIC is not possible in a where clause", position, "write the values one by one")
        if not schema and name in BUILT_IN_FUNCTIONS:
            schema = "pg_catalog"
        return Node("call", (schema, name), self._all(args, depth), self._at(node))

    def _named(self, node: ast.NamedArgExpr, depth: int) -> Node:
        return Node("named", node.name, (self.read(node.arg, depth),), self._at(node))

    def _case(self, node: ast.CaseExpr, depth: int) -> Node:
        parts = [] if node.arg is None else [node.arg]
        for when in node.args or ():
            parts += [when.expr, when.result]
        if node.defresult is not None:
            parts.append(node.defresult)
        form = CaseForm(has_subject=node.arg is not None, has_else=node.defresult is not None)
        return Node("case", form, self._all(parts, depth), self._at(node))

    def _coalesce(self, node: ast.CoalesceExpr, depth: int) -> Node:
        return Node("coalesce", None, self._all(node.args, depth), self._at(node))

    def _min_max(self, node: ast.MinMaxExpr, depth: int) -> Node:
        kind: Kind = "greatest" if node.op == enums.MinMaxOp.IS_GREATEST else "least"
        return Node(kind, None, self._all(node.args, depth), self._at(node))

    def _array(self, node: ast.A_ArrayExpr, depth: int) -> Node:
        return Node("array", None, self._all(node.elements, depth), self._at(node))

    def _subscript(self, node: ast.A_Indirection, depth: int) -> Node:
        result = self.read(node.arg, depth)
        for step in node.indirection or ():
            if not isinstance(step, ast.A_Indices):
                raise WhereRefused("a value has no fields here", self._position(node.arg))
            depth += 1
            if depth > DEPTH_MAX:
                raise WhereRefused(f"the where clause is nested more than {DEPTH_MAX} levels deep", result.at + 1)
            bounds = (step.lidx, step.uidx) if step.is_slice else (step.uidx,)
            args = tuple(Node("nothing") if bound is None else self.read(bound, depth) for bound in bounds)
            result = Node("subscript", bool(step.is_slice), (result, *args), result.at)
        return result


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


def _prefixed(operator: tuple[str, str], arg: Node, at: int) -> Node:
    """``+5`` is the literal 5, as ``-5`` is one to the grammar."""
    if operator == ("", "+") and arg.kind in ("integer", "number"):
        return arg
    return Node("operator", operator, (arg,), at)


def _shown(name: str) -> str:
    return name if re.fullmatch(r"[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'


_METHODS: Final[dict[type, Callable[[_Reader, Any, int], Node]]] = {
    ast.ColumnRef: _Reader._column,
    ast.A_Const: _Reader._constant,
    ast.BoolExpr: _Reader._bool,
    ast.NullTest: _Reader._null_test,
    ast.BooleanTest: _Reader._bool_test,
    ast.A_Expr: _Reader._expression,
    ast.TypeCast: _Reader._cast,
    ast.CollateClause: _Reader._collate,
    ast.FuncCall: _Reader._call,
    ast.NamedArgExpr: _Reader._named,
    ast.CaseExpr: _Reader._case,
    ast.CoalesceExpr: _Reader._coalesce,
    ast.MinMaxExpr: _Reader._min_max,
    ast.A_ArrayExpr: _Reader._array,
    ast.A_Indirection: _Reader._subscript,
}
