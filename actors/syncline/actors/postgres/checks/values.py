"""Expressions of a CHECK with a value -> SQLite. Pure. See ``operands`` for what a doubt is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

from syncline.actors.postgres.checks.operands import (
    BY_BYTES,
    INTEGERS,
    JSON,
    TEXTS,
    Columns,
    Operand,
    Untranslatable,
    constant,
    sure,
    typed,
)
from syncline.actors.shapes.where import literals
from syncline.actors.shapes.where.tree import CaseForm, Node, TypeName

CHARACTERS_MAX: Final = 8_000
"""Of a condition: some things are written twice."""
BUILT_IN: Final = ("", "pg_catalog")

_TRIMS: Final = {"btrim": "trim", "ltrim": "ltrim", "rtrim": "rtrim"}
_LENGTHS: Final = frozenset({"length", "char_length", "character_length"})
_JSON_TYPES: Final = {"text": "string", "integer": "number", "real": "number", "true": "boolean", "false": "boolean"}
_JSON_TYPE: Final = " ".join(f"WHEN '{sqlite}' THEN '{postgres}'" for sqlite, postgres in _JSON_TYPES.items())


class Values(ABC):
    """Translates values; ``conditions.Conditions`` adds what is true or false, which may be part of them."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    @abstractmethod
    def truth(self, node: Node) -> Operand:
        """A boolean expression. Raises Untranslatable."""

    def value(self, node: Node) -> Operand:
        """Raises Untranslatable."""
        found = self._value(node)
        if len(found.sql) > CHARACTERS_MAX:
            raise Untranslatable
        return found

    def _value(self, node: Node) -> Operand:
        args, value = node.args, node.value
        match node.kind:
            case "column":
                return self.columns.value(str(value))
            case "integer" | "number":
                return _number(str(value), node.kind)
            case "null":
                return sure("null", "NULL")
            case "cast" if isinstance(value, TypeName):
                return self._cast(value, args[0])
            case "collate" if value in (("pg_catalog", "C"), ("pg_catalog", "POSIX"), ("", "C"), ("", "POSIX")):
                operand = self.value(args[0])
                return Operand(operand.type, operand.sql, operand.raw, BY_BYTES, operand.constant)
            case "case" if isinstance(value, CaseForm):
                return self._case(value, args)
            case "coalesce":
                return self._coalesce(args)
            case "nullif":
                return self._nullif(args[0], args[1])
            case "greatest" | "least":
                return self._extreme(args, ">=" if node.kind == "greatest" else "<=")
            case "operator" if (
                isinstance(value, tuple) and value[0] in BUILT_IN and value[1] in ("+", "-", "*", "/", "%")
            ):
                return self._arithmetic(value[1], args)
            case "operator" if value in (("", "||"), ("pg_catalog", "||")) and len(args) == 2:
                left, right = self.text(args[0]), self.text(args[1])
                return _strict("text", f"({left.sql} || {right.sql})", left, right)
            case "call" if isinstance(value, tuple) and value[0] in BUILT_IN:
                return self._call(value[1], args)
        if node.kind not in _TRUTHS:
            raise Untranslatable
        return self.truth(node)

    def text(self, node: Node) -> Operand:
        """A text that is equal to another one where their bytes are. Raises Untranslatable."""
        operand = self.value(node)
        if operand.type != "text" or not operand.collation.deterministic:
            raise Untranslatable
        return operand

    def alike(self, nodes: Sequence[Node]) -> list[Operand]:
        """Values of one type. Raises Untranslatable."""
        operands = [self.value(node) for node in nodes]
        types = {operand.type for operand in operands} - {"null"}
        if len(types) > 1 or (not types <= _COMPARED and not all(kind.startswith("enum ") for kind in types)):
            raise Untranslatable
        if any(not operand.collation.deterministic for operand in operands):
            raise Untranslatable
        return operands

    # --- casts --------------------------------------------------------------------------------------------------------

    def _cast(self, to: TypeName, arg: Node) -> Operand:
        if to.modifiers or to.dimensions:
            raise Untranslatable
        name = to.name if to.schema in BUILT_IN else f"enum {to.schema}.{to.name}"
        if arg.kind == "text":
            if to.schema not in BUILT_IN and not self._has(name):
                raise Untranslatable  # a type of which nothing is known
            return typed(str(arg.value), name)
        if arg.kind == "null":
            return sure("null", "NULL")
        operand = self.value(arg)
        kind = "text" if name in TEXTS else "integer" if name in INTEGERS else name
        if operand.type == kind:
            return operand  # Postgres raises an error for an integer that does not fit
        match operand.type, kind:
            case "null", _:
                return operand
            case "bpchar", "text":
                return Operand("text", operand.sql, operand.raw, operand.collation)
            case "integer", "numeric" | "float8" if operand.constant is not None:
                return typed(str(operand.constant), kind)
            case "integer", "numeric":
                return _strict("numeric", f"CAST({operand.sql} AS TEXT)", operand)
            case "integer", "float8":
                return _strict("float8", f"CAST({operand.sql} AS REAL)", operand)
            case "integer" | "uuid", "text":
                return _strict("text", f"CAST({operand.sql} AS TEXT)", operand)
            case "numeric", "float8" if operand.constant is not None:
                return typed(str(operand.constant), "float8")
            case "float4", "float8":
                return operand
            case _, "text" if operand.type.startswith("enum "):
                return Operand("text", operand.sql, operand.raw)
        raise Untranslatable

    def _has(self, enum: str) -> bool:
        return any(column["enum"] and f"enum {column['type']}" == enum for column in self.columns.described.values())

    # --- alternatives -------------------------------------------------------------------------------------------------

    def _case(self, form: CaseForm, args: tuple[Node, ...]) -> Operand:
        rest = list(args)
        subject = rest.pop(0) if form.has_subject else None
        otherwise = rest.pop() if form.has_else else Node("null")
        conditions = [
            self.truth(when if subject is None else Node("operator", ("", "="), (subject, when))) for when in rest[::2]
        ]
        if not all(condition.sure for condition in conditions):
            raise Untranslatable
        results = self.alike((*rest[1::2], otherwise))
        branches = zip(conditions, results, strict=False)
        whens = " ".join(f"WHEN {condition.sql} THEN {result.sql}" for condition, result in branches)
        return _strict(_type_of(results), f"CASE {whens} ELSE {results[-1].sql} END", *results)

    def _coalesce(self, args: tuple[Node, ...]) -> Operand:
        operands = self.alike(args)
        if not all(operand.sure for operand in operands[:-1]):
            raise Untranslatable
        if len(operands) == 1:
            return operands[0]
        return _strict(_type_of(operands), f"coalesce({', '.join(operand.sql for operand in operands)})", *operands)

    def _nullif(self, left: Node, right: Node) -> Operand:
        one, other = self.alike((left, right))
        if not (one.sure and other.sure) or one.type == "float4":
            raise Untranslatable
        return _strict(one.type, f"nullif({one.sql}, {other.sql})", one, other)

    def _extreme(self, args: tuple[Node, ...], operator: str) -> Operand:
        """Postgres leaves NULLs out."""
        operands = self.alike(args)
        kind = _type_of(operands)
        if not all(operand.sure for operand in operands) or kind not in ("integer", "float8"):
            raise Untranslatable
        sql = operands[0].sql
        for operand in operands[1:]:
            both = f"WHEN {sql} {operator} {operand.sql} THEN {sql} ELSE {operand.sql} END"
            sql = f"CASE WHEN {sql} IS NULL THEN {operand.sql} WHEN {operand.sql} IS NULL THEN {sql} {both}"
            if len(sql) > CHARACTERS_MAX:
                raise Untranslatable
        return sure(kind, sql)

    # --- operators and functions --------------------------------------------------------------------------------------

    def _arithmetic(self, operator: str, args: tuple[Node, ...]) -> Operand:
        """Of integers. Where Postgres raises an error, as these are out of range, SQLite may give anything else."""
        operands = [self.value(arg) for arg in args]
        if any(operand.type != "integer" for operand in operands):
            raise Untranslatable
        if len(operands) == 1:
            if operator not in "+-":
                raise Untranslatable
            return _strict("integer", f"({operator} {operands[0].sql})", *operands)
        return _strict("integer", f"({operands[0].sql} {operator} {operands[1].sql})", *operands)

    def _call(self, name: str, args: tuple[Node, ...]) -> Operand:
        if name in ("num_nonnulls", "num_nulls"):
            test = "IS NOT NULL" if name == "num_nonnulls" else "IS NULL"
            return sure("integer", "(" + " + ".join(f"({self.raw(arg)} {test})" for arg in args) + ")")
        if name in ("jsonb_typeof", "json_typeof") and len(args) == 1:
            return self._json_type(args[0])
        if name == "abs" and len(args) == 1:
            operand = self.value(args[0])
            if operand.type != "integer":
                raise Untranslatable
            sql = operand.sql
            return _strict("integer", f"CASE WHEN {sql} < 0 THEN - {sql} ELSE {sql} END", operand)  # abs() may raise
        if name in (*_LENGTHS, "octet_length") and len(args) == 1:
            return self._length(name, args[0])
        return self._of_text(name, args)

    def raw(self, node: Node) -> str:
        """What is NULL where the value is. Raises Untranslatable."""
        return self.columns.raw(str(node.value)) if node.kind == "column" else self.value(node).known_null

    def _json_type(self, arg: Node) -> Operand:
        operand = self.value(arg)
        if operand.type not in JSON:
            raise Untranslatable
        kind = f"CASE json_type({operand.sql}) {_JSON_TYPE} ELSE json_type({operand.sql}) END"
        return Operand("text", f"CASE WHEN json_valid({operand.sql}) THEN {kind} END", operand.raw)

    def _length(self, name: str, arg: Node) -> Operand:
        operand = self.value(arg)
        if operand.type == "bytea" and name in ("length", "octet_length"):
            return _strict("integer", f"length({operand.sql})", operand)
        if operand.type == "bpchar" and name in _LENGTHS:
            return _strict("integer", f"length({operand.sql})", operand)
        operand = self.text(arg)
        text = operand.sql if name in _LENGTHS else f"CAST({operand.sql} AS BLOB)"
        return _strict("integer", f"length({text})", operand)

    def _of_text(self, name: str, args: tuple[Node, ...]) -> Operand:
        operand = self.text(args[0]) if args else Operand("null", "NULL", None)
        sql = operand.sql
        match name, len(args):
            case (("btrim" | "ltrim" | "rtrim"), 1):
                return _strict("text", f"{_TRIMS[name]}({sql}, ' ')", operand)
            case (("btrim" | "ltrim" | "rtrim"), 2):
                characters = self.text(args[1])
                return _strict("text", f"{_TRIMS[name]}({sql}, {characters.sql})", operand, characters)
            case (("lower" | "upper"), 1) if operand.collation.ascii_case:
                # Of letters beyond ASCII SQLite knows nothing.
                ascii_only = f"CASE WHEN length(CAST({sql} AS BLOB)) = length({sql}) THEN {name}({sql}) END"
                return Operand("text", ascii_only, operand.raw, operand.collation)
            case (("strpos" | "position"), 2):
                sought = self.text(args[1])
                return _strict("integer", f"instr({sql}, {sought.sql})", operand, sought)
            case (("left" | "right"), 2):
                count = _count(self.value(args[1]), 0)
                place = f"1, {count}" if name == "left" else f"max(length({sql}) - {count}, 0) + 1"
                return _strict("text", f"substr({sql}, {place})", operand)
            case (("substring" | "substr"), (2 | 3)):
                first, *length = [_count(self.value(arg), least) for arg, least in zip(args[1:], (1, 0), strict=False)]
                return _strict("text", f"substr({', '.join([sql, str(first), *map(str, length)])})", operand)
            case "starts_with", 2:
                prefix = self.text(args[1])
                found = f"(substr({sql}, 1, length({prefix.sql})) = {prefix.sql})"
                return _strict("bool", found, operand, prefix)
        raise Untranslatable


def _number(text: str, kind: str) -> Operand:
    if kind == "integer" and len(text) <= literals.DIGITS_MAX:
        low, high = literals.INTEGER_RANGES["int8"]
        if low <= int(text) <= high:
            return constant("integer", int(text))
    return typed(text, "numeric")


def _count(operand: Operand, least: int) -> int:
    """A number of characters, or the place of one."""
    if not isinstance(operand.constant, int) or not least <= operand.constant <= 1 << 30:
        raise Untranslatable
    return operand.constant


def _strict(kind: str, sql: str, *operands: Operand) -> Operand:
    """What is in doubt where one of these is."""
    collation = operands[0].collation
    for operand in operands[1:]:
        collation = collation.with_other(operand.collation)
    return Operand(kind, sql, sql if all(operand.sure for operand in operands) else None, collation)


def _type_of(operands: Sequence[Operand]) -> str:
    return next((operand.type for operand in operands if operand.type != "null"), "null")


def text_of(operand: Operand) -> str:
    """A constant text. Raises Untranslatable."""
    if operand.type != "text" or not isinstance(operand.constant, str):
        raise Untranslatable
    return operand.constant


_TRUTHS: Final = frozenset({"and", "or", "not", "bool", "null test", "bool test", "distinct", "any", "operator"})
_COMPARED: Final = frozenset(
    {"integer", "float8", "text", "bpchar", "bool", "uuid", "numeric", "date", "timestamp", "timestamptz", "time"}
)
