"""From what a device asks to the shapes that hold it. Pure.

A shape request names one table. The rows it refers to come along, so that foreign keys hold on the device. Asked for
whole, a table and those it refers to, directly or not, are a shape each, referenced tables first: many devices share
them. With a clause or an include tree the request is one shape, of exactly the rows that belong to it (``planning``).
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass

from syncline.actors.devices.planning import PlanRefused, TableUnknown, find_table, projected, selected_shape
from syncline.actors.devices.steps import Delivery
from syncline.actors.postgres.catalog import Catalog, TableInfo
from syncline.actors.shapes.projection import clash, wire_relations
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.stretch import at_a_stretch
from syncline.proto.values import Relation, ShapeRequest

SUBSCRIPTION_ID_CHARS_MAX = 128
# Of one device at a time, and the shapes that all of them ask for.
SUBSCRIPTIONS_MAX = 1_000
SHAPES_MAX = 10_000
PLANNED_AT_ONCE = 20  # shapes: some milliseconds


@dataclass(frozen=True, slots=True)
class Planned:
    """``requests``: (request id, hashes, referenced tables first). ``shapes`` and ``relations``, as which the device
    gets the rows of the tables that a shape may have rows of, are by hash."""

    requests: tuple[tuple[str, tuple[str, ...]], ...]
    shapes: Mapping[str, Shape]
    relations: Mapping[str, tuple[Relation, ...]]

    def delivery(self, subscription_id: str) -> Delivery:
        return Delivery((subscription_id,), self.requests, self.relations)


class SubscriptionRefused(Exception):
    """``code``: a SatSubsError.Code name; ``errors``: (request id, ShapeReqError.Code name, message) per shape."""

    def __init__(self, code: str, message: str, errors: tuple[tuple[str, str, str], ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.errors = errors


def table_shape(table: TableInfo, projected: tuple[tuple[int, tuple[str, ...]], ...] = ()) -> Shape:
    """The shape of all rows of a table."""
    relation = table.relation
    return Shape("table", relation.schema, relation.table, relation.id, relation.names, projected=projected)


def check_ids(subscription_id: str, requests: tuple[ShapeRequest, ...]) -> None:
    """Raises SubscriptionRefused for ids the protocol does not allow."""
    try:
        canonical = len(subscription_id) <= SUBSCRIPTION_ID_CHARS_MAX and str(uuid.UUID(subscription_id))
    except ValueError:
        canonical = False
    if canonical != subscription_id.lower():
        raise SubscriptionRefused("CODE_UNSPECIFIED", f"a subscription id is a UUID, not {subscription_id[:64]!r}")
    if not requests:
        raise SubscriptionRefused("CODE_UNSPECIFIED", "a subscription asks for at least one shape")
    if len({request.request_id for request in requests}) != len(requests):
        raise SubscriptionRefused("CODE_UNSPECIFIED", "request ids must be unique")


def check_room(held: Mapping[str, Planned], requests: tuple[ShapeRequest, ...]) -> None:
    """Raises SubscriptionRefused when a device that has ``held`` asks for more than we keep for one."""
    if len(held) >= SUBSCRIPTIONS_MAX:
        raise SubscriptionRefused(
            "CODE_UNSPECIFIED", f"a device has at most {SUBSCRIPTIONS_MAX:,} subscriptions: end some"
        )
    if sum(len(planned.requests) for planned in held.values()) + len(requests) > SHAPES_MAX:
        raise SubscriptionRefused(
            "CODE_UNSPECIFIED", f"a device has at most {SHAPES_MAX:,} shapes: end some subscriptions"
        )


def relations_of(planned: Iterable[Planned]) -> dict[int, Relation]:
    """By id, those as which a device gets the rows of these."""
    every = (relations for one in planned for relations in one.relations.values())
    return {relation.id: relation for relations in every for relation in relations}


def check_relations(held: Mapping[int, Relation], planned: Planned) -> None:
    """Raises SubscriptionRefused when a device that has these relations, by id, could not tell two apart."""
    fresh = [relation for relations in planned.relations.values() for relation in relations]
    known = {relation.id: held[relation.id] for relation in fresh if relation.id in held}
    two = clash((*known.values(), *fresh))
    if two is not None:
        names = " and ".join(f"{relation.table} ({', '.join(relation.names)})" for relation in two)
        raise SubscriptionRefused("CODE_UNSPECIFIED", f"{names} cannot be told apart: name one column more")


def planning(
    requests: tuple[ShapeRequest, ...], catalog: Catalog, *, held: bool = False
) -> Generator[None, None, Planned]:
    """The shapes of a subscription. Yields between some of them and the next. Raises SubscriptionRefused, which names
    every shape that cannot be had. ``held``: a device has it already, and what asks for a table that is gone is left
    out."""
    errors: list[tuple[str, str, str]] = []
    shapes: dict[str, Shape] = {}
    relations: dict[str, tuple[Relation, ...]] = {}
    planned: list[tuple[str, tuple[str, ...]]] = []
    for number, request in enumerate(requests, 1):
        if number % PLANNED_AT_ONCE == 0:
            yield
        try:
            needed = _shapes_of(request, catalog)
        except PlanRefused as refused:
            if not (held and isinstance(refused, TableUnknown)):
                errors.append((request.request_id, refused.code, refused.message))
            continue
        for shape in needed:
            shapes[shape.hash] = shape
            tables = (catalog.tables[relation_id].relation for relation_id in shape.tables)
            relations[shape.hash] = wire_relations(shape, tables)
        planned.append((request.request_id, tuple(shape.hash for shape in needed)))
    if errors:
        raise SubscriptionRefused("SHAPE_REQUEST_ERROR", errors[0][2], tuple(errors))
    return Planned(tuple(planned), shapes, relations)


def plan(requests: tuple[ShapeRequest, ...], catalog: Catalog, *, held: bool = False) -> Planned:
    """``planning`` without a pause."""
    return at_a_stretch(planning(requests, catalog, held=held))


def _shapes_of(request: ShapeRequest, catalog: Catalog) -> list[Shape]:
    """Raises PlanRefused."""
    if request.where or request.include:
        return [selected_shape(request, catalog)]
    table = find_table(request, catalog)
    selected = projected({table.oid: frozenset(request.columns) or None}, catalog)
    tables = _with_referenced(table, catalog)
    return [table_shape(one, selected if one is table else ()) for one in tables]


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
