"""The schema's history: what every migration does to a device, in each dialect.

Devices replay migrations in order, each recorded by its version. Steps are differences to what came before, so the
history is always computed from its beginning, and only grows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from syncline.actors.postgres.catalog import table_info
from syncline.actors.postgres.dialect import DIALECTS, DeviceSchema, History
from syncline.proto.values import Migrate, Relation

_MIGRATIONS = """
SELECT id, version, tables::text AS tables, (extract(epoch FROM created_at) * 1000)::bigint AS created_ms
FROM electric.migrations WHERE id > $1 ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class MigrationSteps:
    """One migration. ``created_ms``: when it was recorded, ms since the epoch. ``relations``: its tables afterwards.

    ``steps``: by dialect, what a device does; possibly nothing.
    """

    id: int
    version: str
    created_ms: int
    tables: Sequence[Mapping[str, Any]]
    relations: tuple[Relation, ...]
    steps: Mapping[str, tuple[Migrate, ...]]


class UnknownVersion(Exception):
    """A device has a migration that this database's history does not."""


class SchemaHistory:
    """All migrations so far, oldest first."""

    def __init__(self) -> None:
        self.migrations: list[MigrationSteps] = []
        self._schemas = {dialect: DeviceSchema(dialect) for dialect in DIALECTS}

    @property
    def newest(self) -> int:
        """The id of the last migration, 0 for none."""
        return self.migrations[-1].id if self.migrations else 0

    async def read(self, connection: asyncpg.Connection | asyncpg.Pool) -> None:
        """Read what was added since the last time. Raises what asyncpg raises."""
        for row in await connection.fetch(_MIGRATIONS, self.newest):
            self.add(row["id"], row["version"], row["created_ms"], json.loads(row["tables"]))

    def add(self, id: int, version: str, created_ms: int, tables: Sequence[Mapping[str, Any]]) -> None:
        """The next migration. Ids rise."""
        steps: dict[str, tuple[Migrate, ...]] = {
            dialect: schema.migrate(version, tables) for dialect, schema in self._schemas.items()
        }
        relations = tuple(table_info(table).relation for table in tables)
        self.migrations.append(MigrationSteps(id, version, created_ms, tables, relations, steps))

    def after(self, version: str | None) -> list[MigrationSteps]:
        """What a device with ``version`` lacks; all of it without one. Raises UnknownVersion."""
        if not version:
            return list(self.migrations)
        for number, migration in enumerate(self.migrations):
            if migration.version == version:
                return self.migrations[number + 1 :]
        raise UnknownVersion(f"no migration {version!r} in this database's history")

    def as_history(self) -> History:
        """What the migrations endpoint renders."""
        return [(migration.version, migration.tables) for migration in self.migrations]
