"""From what a device asks to the shapes that hold it. Pure.

A shape request names one table. The rows it refers to come along, so that foreign keys hold on the device: the tables
it references, directly or not, are added, referenced tables first.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from syncline.actors.devices.steps import Delivery
from syncline.actors.postgres.catalog import Catalog, TableInfo
from syncline.actors.shapes.shape import Shape
from syncline.proto.values import Relation, ShapeRequest

SUBSCRIPTION_ID_CHARS_MAX = 128
TABLE_NAME_CHARS_MAX = 64
# Of one device at a time, and the shapes that all of them ask for.
SUBSCRIPTIONS_MAX = 1_000
SHAPES_MAX = 10_000


class PlanRefused(Exception):
    """``code``: a SatSubsError.Code name; ``errors``: (request id, ShapeReqError.Code name, message) per shape."""

    def __init__(self, code: str, message: str, errors: tuple[tuple[str, str, str], ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Planned:
    """``requests``: (request id, hashes, referenced tables first). ``shapes`` and ``relations``, those of the tables a
    shape may have rows of, are by hash."""

    requests: tuple[tuple[str, tuple[str, ...]], ...]
    shapes: Mapping[str, Shape]
    relations: Mapping[str, tuple[Relation, ...]]

    def delivery(self, subscription_id: str) -> Delivery:
        return Delivery((subscription_id,), self.requests, self.relations)


def table_shape(table: TableInfo) -> Shape:
    """The shape of a whole table."""
    relation = table.relation
    return Shape("table", relation.schema, relation.table, relation.id, relation.names)


def check_ids(subscription_id: str, requests: tuple[ShapeRequest, ...]) -> None:
    """Raises PlanRefused for ids the protocol does not allow."""
    try:
        canonical = len(subscription_id) <= SUBSCRIPTION_ID_CHARS_MAX and str(uuid.UUID(subscription_id))
    except ValueError:
        canonical = False
    if canonical != subscription_id.lower():
        raise PlanRefused("CODE_UNSPECIFIED", f"a subscription id is a UUID, not {subscription_id[:64]!r}")
    if not requests:
        raise PlanRefused("CODE_UNSPECIFIED", "a subscription asks for at least one shape")
    if len({request.request_id for request in requests}) != len(requests):
        raise PlanRefused("CODE_UNSPECIFIED", "request ids must be unique")


def check_room(held: Mapping[str, Planned], requests: tuple[ShapeRequest, ...]) -> None:
    """Raises PlanRefused when a device that has ``held`` asks for more than we keep for one."""
    if len(held) >= SUBSCRIPTIONS_MAX:
        raise PlanRefused("CODE_UNSPECIFIED", f"a device has at most {SUBSCRIPTIONS_MAX:,} subscriptions: end some")
    if sum(len(planned.requests) for planned in held.values()) + len(requests) > SHAPES_MAX:
        raise PlanRefused("CODE_UNSPECIFIED", f"a device has at most {SHAPES_MAX:,} shapes: end some subscriptions")


def plan(requests: tuple[ShapeRequest, ...], catalog: Catalog) -> Planned:
    """The shapes of a subscription. Raises PlanRefused, which names every shape that cannot be had."""
    errors: list[tuple[str, str, str]] = []
    shapes: dict[str, Shape] = {}
    relations: dict[str, tuple[Relation, ...]] = {}
    planned: list[tuple[str, tuple[str, ...]]] = []
    for request in requests:
        table, refused = _find(request, catalog)
        if table is None:
            errors.append((request.request_id, *refused))
            continue
        hashes = []
        for needed in _with_referenced(table, catalog):
            shape = table_shape(needed)
            shapes[shape.hash], relations[shape.hash] = shape, (needed.relation,)
            hashes.append(shape.hash)
        planned.append((request.request_id, tuple(hashes)))
    if errors:
        raise PlanRefused("SHAPE_REQUEST_ERROR", errors[0][2], tuple(errors))
    return Planned(tuple(planned), shapes, relations)


def plan_held(requests: tuple[ShapeRequest, ...], catalog: Catalog) -> Planned:
    """What there is to a subscription that a device has already: what asks for a table that is gone is left out."""
    return plan(tuple(request for request in requests if _find(request, catalog)[0] is not None), catalog)


def _find(request: ShapeRequest, catalog: Catalog) -> tuple[TableInfo | None, tuple[str, str]]:
    if not request.table:
        return None, ("EMPTY_SHAPE_DEFINITION", "a shape names a table")
    table = catalog.named(request.table) if len(request.table) <= TABLE_NAME_CHARS_MAX else None
    if table is None:
        hint = f"run CALL electric.electrify('{request.table[:TABLE_NAME_CHARS_MAX]}')"
        return None, ("TABLE_NOT_FOUND", f'table "{request.table[:TABLE_NAME_CHARS_MAX]}" is not synced: {hint}')
    if request.where:
        return None, ("INVALID_WHERE_CLAUSE", "this version syncs whole tables: leave out where")
    if request.include:
        return None, ("INVALID_INCLUDE_TREE", "this version syncs whole tables: sync the included tables by themselves")
    return table, ("", "")


def _with_referenced(table: TableInfo, catalog: Catalog) -> list[TableInfo]:
    """``table`` preceded by every table it references, directly or not; cycles end where they began."""
    ordered: dict[int, TableInfo] = {}
    visiting: set[int] = set()

    def visit(at: TableInfo) -> None:
        if at.oid in visiting:
            return
        visiting.add(at.oid)
        for key in at.description["fks"]:
            parent = catalog.named(key["table"], key["schema"])
            if parent is not None:
                visit(parent)
        ordered[at.oid] = at

    visit(table)
    return list(ordered.values())
