"""One form for clauses that mean the same by trivial rewriting, so that equal shapes are one shape.

Pure. What is rewritten has the same value for every row. Operands of AND and OR are put in order only where none of
them can raise an error: else their order is the writer's, as in ``x <> 0 AND 1 / x > 2``, which Postgres keeps too.
"""

from __future__ import annotations

from typing import Final

from syncline.actors.shapes.where.refusal import WhereRefused
from syncline.actors.shapes.where.rendering import render
from syncline.actors.shapes.where.safety import Safety
from syncline.actors.shapes.where.tree import LITERALS, Node

_COMMUTED: Final = {"=": "=", "<>": "<>", "<": ">", ">": "<", "<=": ">=", ">=": "<="}


def normalised(node: Node, safety: Safety) -> Node:
    """The tree in its one form. Raises WhereRefused for an escape that LIKE cannot have."""
    if not node.args:
        return node
    args = tuple([normalised(arg, safety) for arg in node.args])
    node = Node(node.kind, node.value, args, node.at)
    match node.kind:
        case "and" | "or":
            return _junction(node, safety)
        case "between":
            return _between(node, safety)
        case "in":
            return _in(node)
        case "operator" if len(args) == 2:
            return _operator(node)
    return node


def _junction(node: Node, safety: Safety) -> Node:
    operands: list[Node] = []
    for arg in node.args:
        operands += arg.args if arg.kind == node.kind else [arg]
    if all(not safety.can_raise(operand) for operand in operands):
        by_text = {render(operand): operand for operand in operands}
        operands = [by_text[text] for text in sorted(by_text)]
        if len(operands) == 1:
            return operands[0]
    return Node(node.kind, None, tuple(operands), node.at)


def _between(node: Node, safety: Safety) -> Node:
    """Two comparisons, as Postgres has it; only of a column, since anything longer would be written twice."""
    subject, low, high = node.args
    if subject.kind != "column" or "SYMMETRIC" in str(node.value):
        return node
    if node.value == "BETWEEN":
        return _junction(_both("and", ">=", "<=", subject, low, high, node.at), safety)
    return _junction(_both("or", "<", ">", subject, low, high, node.at), safety)


def _both(kind: object, first: str, second: str, subject: Node, low: Node, high: Node, at: int) -> Node:
    parts = (Node("operator", ("", first), (subject, low), at), Node("operator", ("", second), (subject, high), at))
    return Node("and" if kind == "and" else "or", None, parts, at)


def _in(node: Node) -> Node:
    subject, *items = node.args
    if len(items) == 1:
        return _operator(Node("operator", ("", "<>" if node.value else "="), (subject, items[0]), node.at))
    if all(item.kind in LITERALS for item in items):
        by_text = {(item.kind, str(item.value)): item for item in items}
        items = [by_text[text] for text in sorted(by_text)]
        if len(items) == 1:
            return _in(Node("in", node.value, (subject, items[0]), node.at))
    return Node("in", node.value, (subject, *items), node.at)


def _operator(node: Node) -> Node:
    schema, name = node.value if isinstance(node.value, tuple) else ("", "")
    if schema == "pg_catalog":
        schema = ""
    left, right = node.args
    if not schema and name in _COMMUTED and left.kind in LITERALS and right.kind == "column":
        name, left, right = _COMMUTED[name], right, left
    if name in ("~~", "!~~", "~~*", "!~~*"):
        right = _without_escape(right)
    return Node("operator", (schema, name), (left, right), node.at)


def _without_escape(pattern: Node) -> Node:
    """``'a!%' ESCAPE '!'`` is the pattern ``a\\%``; as a function only where one of the two is no literal."""
    if pattern.kind != "call" or pattern.value != ("pg_catalog", "like_escape"):
        return pattern
    text, escape = pattern.args
    if text.kind != "text" or escape.kind != "text":
        return pattern
    mark = str(escape.value)
    if len(mark) > 1:
        raise WhereRefused("an escape is one character, or none", escape.at + 1)
    pieces = []
    characters = iter(str(text.value))
    for character in characters:
        if character == mark:
            escaped = next(characters, None)
            pieces.append("\\" if escaped is None else "\\" + escaped)
        else:
            pieces.append("\\\\" if character == "\\" else character)
    return Node("text", "".join(pieces), (), text.at)
