"""The product's limits, made small, so that a run of a few seconds meets every one of them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import ModuleType
from unittest import mock

SMALL = {
    "LIVE_TRANSACTION_BYTES_MAX": 600,
    "OVERLAYS_MAX": 2,
    "OVERLAY_CHUNK_ROWS": 3,
    "STEP_ROWS": 2,
    "ENCODE_ROWS": 2,
    "DELETE_ROWS_MAX": 3,
    "SEGMENT_BYTES_MAX": 4_000,
    "FOLD_BYTES_MIN": 1_500,
    "FOLD_CHUNK_BYTES": 200,
    "INDEX_EVERY_BYTES": 500,
    "INDEX_AGAIN_BYTES": 700,
    "READ_WINDOW_BYTES": 300,
    "PAGE_BYTES": 400,
    "LIVE_BYTES_MAX": 1_500,
    "MESSAGE_BYTES": 500,
    "WINDOW_TRANSACTIONS": 5,
    "OWN_WINDOW_TRANSACTIONS": 5,
    "FRAMES_WAITING_MAX": 3,
    "ADMITTING_AT_ONCE": 1,
    "WRITES_OUT_MAX": 3,
    "UP_WAITING_MAX": 4,
    "BACKLOG_ENTRIES": 4,
    "BATCH_TRANSACTIONS_MAX": 3,
    "STAGE_ROWS_MAX": 4,
    "KEYS_MAX": 2,
}
ROOMS = ("syncline.actors.devices", "syncline.actors.shapes", "syncline.client")


@cache
def modules() -> tuple[ModuleType, ...]:
    """Every module that takes part."""
    found = []
    for room in ROOMS:
        package = importlib.import_module(room)
        found += [importlib.import_module(f"{room}.{info.name}") for info in pkgutil.iter_modules(package.__path__)]
    return tuple(found)


def having(name: str) -> list[ModuleType]:
    """The modules that know ``name``, their own or imported. Raises LookupError when nobody does any more."""
    found = [module for module in modules() if hasattr(module, name)]
    if not found:
        raise LookupError(f"no module has {name}: the simulator has to follow the product")
    return found


@contextmanager
def small() -> Iterator[None]:
    with ExitStack() as stack:
        for name, value in SMALL.items():
            for module in having(name):
                stack.enter_context(mock.patch.object(module, name, value))
        yield
