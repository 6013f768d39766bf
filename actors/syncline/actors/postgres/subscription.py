"""What is kept of a subscription in ``electric.subscriptions``. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from syncline.proto.values import ShapeRequest


@dataclass(frozen=True, slots=True)
class Subscription:
    """``cancelled``: kept so that a device that still lists it is not told to start over."""

    id: str
    shapes: tuple[ShapeRequest, ...]
    cancelled: bool


def described(shape: ShapeRequest) -> dict[str, Any]:
    """As ``electric.subscriptions`` keeps it: what is empty is left out."""
    kept: dict[str, Any] = {"request_id": shape.request_id, "table": shape.table}
    if shape.where:
        kept["where"] = shape.where
    if shape.columns:
        kept["columns"] = list(shape.columns)
    if shape.include:
        kept["include"] = [{"by": list(columns), "select": described(below)} for columns, below in shape.include]
    return kept


def request_of(kept: Mapping[str, Any]) -> ShapeRequest:
    """The shape that was ``described``. Raises KeyError where it was not."""
    include = tuple((tuple(below["by"]), request_of(below["select"])) for below in kept.get("include", ()))
    columns = tuple(kept.get("columns", ()))
    return ShapeRequest(kept["request_id"], kept["table"], kept.get("where", ""), include, columns)


def requests_of(shapes: str) -> tuple[ShapeRequest, ...]:
    """Of the JSON text of a subscription's shapes."""
    return tuple(map(request_of, json.loads(shapes)))
