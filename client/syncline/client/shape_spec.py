"""What an application asks for: a table, which of its rows and columns, and the related rows that come along. Pure.

Two ways of asking for the same come out as equal specs: neither the order of columns nor that of includes means
anything. What could never be sent is refused here, before it is noted down: a subscription is asked for on every
connection from then on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from syncline.client.errors import UsageError
from syncline.proto.codec import MESSAGE_BYTES_MAX, subscribe_body
from syncline.proto.values import ShapeRequest

# Levels of includes below a shape. Protobuf reads a hundred levels of messages, two for each of these.
INCLUDE_DEPTH_MAX: Final = 40
# What the call takes around a request, ids included.
_ENVELOPE_BYTES: Final = 1_000


@dataclass(frozen=True)
class Include:
    """Rows that come along with a shape: of another table, tied to the rows above them by a foreign key.

    ``Include("comments", on="issue_id")`` below ``issues``: the comments on those issues. Below ``comments``,
    ``Include("users", on="author")``: who wrote them. ``on``: the foreign key's column, or all of its columns. Either
    of the two tables may have them, so the same name goes down to the rows that refer and up to the row referred to.

    ``where``, ``columns`` and ``include`` are those of ``Database.sync``. A condition is for rows that refer; the row
    referred to comes in any case, and needs no include for that, only for what is below it.
    """

    table: str
    _: KW_ONLY
    on: str | Sequence[str]
    where: str = ""
    columns: Sequence[str] | None = None
    include: Sequence[Include] = ()


@dataclass(frozen=True, slots=True)
class ShapeSpec:
    """``where``: SQL text, empty for every row. ``columns``: empty for all. ``include``: by foreign-key columns."""

    table: str
    where: str = ""
    columns: tuple[str, ...] = ()
    include: tuple[tuple[tuple[str, ...], ShapeSpec], ...] = ()

    def request(self, request_id: str) -> ShapeRequest:
        include = tuple((on, below.request(request_id)) for on, below in self.include)
        return ShapeRequest(request_id, self.table, self.where, include, self.columns)


def shape_spec(
    table: str, where: str = "", columns: Sequence[str] | None = None, include: Sequence[Include] = ()
) -> ShapeSpec:
    """Raises UsageError for what cannot be asked of any server."""
    spec = _normal(table, where, columns, include, INCLUDE_DEPTH_MAX)
    try:
        size = len(subscribe_body("", [spec.request("")]))
    except (UnicodeError, TypeError, ValueError) as problem:
        raise UsageError(f"a shape is described in text that is Unicode: {problem}") from problem
    if size > MESSAGE_BYTES_MAX - _ENVELOPE_BYTES:
        raise UsageError(
            f"a shape takes at most {MESSAGE_BYTES_MAX - _ENVELOPE_BYTES:,} bytes to describe, not {size:,}"
        )
    return spec


def _normal(
    table: str, where: str, columns: Sequence[str] | None, include: Sequence[Include], depth_left: int
) -> ShapeSpec:
    if not table:
        raise UsageError("a shape names a table")
    if include and depth_left == 0:
        raise UsageError(f"includes go at most {INCLUDE_DEPTH_MAX} levels deep")
    written: Sequence[object] = include
    for part in written:
        if not isinstance(part, Include):
            raise UsageError(f"{part!r} is no include", hint='write include=[Include("comments", on="issue_id")]')
    below = [
        (
            _names("the foreign key of an include", (one.on,) if isinstance(one.on, str) else one.on),
            _normal(one.table, one.where, one.columns, one.include, depth_left - 1),
        )
        for one in include
    ]
    if len(set(below)) != len(below):
        raise UsageError(f"the same rows are included twice below {table}")
    return ShapeSpec(
        table,
        where,
        () if columns is None else tuple(sorted(set(_names("columns", columns)))),
        tuple(sorted(below, key=lambda pair: (pair[0], spec_to_json(pair[1])))),
    )


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise UsageError(f"{what}: {names!r} is one name", hint=f"write ({names!r},)")
    if not names or not all(names):
        raise UsageError(f"{what}: at least one name is needed, and none may be empty")
    return tuple(names)


def spec_to_json(spec: ShapeSpec) -> str:
    return json.dumps(_described(spec))


def spec_from_json(text: str) -> ShapeSpec:
    return _spec(json.loads(text))


def _described(spec: ShapeSpec) -> dict[str, Any]:
    described: dict[str, Any] = {"table": spec.table, "where": spec.where}
    if spec.columns:
        described["columns"] = spec.columns
    if spec.include:
        described["include"] = [[on, _described(below)] for on, below in spec.include]
    return described


def _spec(described: Mapping[str, Any]) -> ShapeSpec:
    return ShapeSpec(
        described["table"],
        described["where"],
        tuple(described.get("columns", ())),
        tuple((tuple(on), _spec(below)) for on, below in described.get("include", ())),
    )
