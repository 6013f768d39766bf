"""What devices call the tables and indexes of schemas other than ``public``. Pure.

SQLite has no schemas, and the published client writes names as they are into its statements: so what ``public`` has
keeps its name, and ``app.users`` is ``app__users``. ``electric.device_name`` says the same in SQL; there, what devices
could not tell apart by these names is refused (``electric.require_names``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def device_name(schema: str, name: str) -> str:
    """Of a table, or of an index."""
    return name if schema == "public" else f"{schema}__{name}"


def on_devices(description: Mapping[str, Any]) -> Mapping[str, Any]:
    """A description, as ``electric.describe`` makes it, with the names of devices."""
    schema = description["schema"]
    return {
        **description,
        "table": device_name(schema, description["table"]),
        "fks": [{**fk, "table": device_name(fk["schema"], fk["table"])} for fk in description["fks"]],
        "indexes": [{**index, "name": device_name(schema, index["name"])} for index in description["indexes"]],
    }
