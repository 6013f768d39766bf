"""The migrations archive: a zip with two files a version, from which the published client's generator builds its code.

``<version>/migration.sql`` is for people: the statements, a blank line between. ``<version>/metadata.json`` is what
the generator reads: each operation as the base64 of the message a connected device would have been sent. The same
history always gives the same bytes.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Sequence

from syncline.proto.ops import encode_migrate
from syncline.proto.values import Migrate

VersionOperations = tuple[str, tuple[Migrate, ...]]

# A zip entry needs a time, and the earliest it can write keeps the archive reproducible.
_ENTRY_TIME = (1980, 1, 1, 0, 0, 0)


class UnknownVersion(ValueError):
    """The device names a version that is not in our history."""


def after_version(history: Sequence[VersionOperations], version: str) -> list[VersionOperations]:
    """What comes after ``version``; all of it when that is empty. Raises UnknownVersion."""
    if not version:
        return list(history)
    versions = [known for known, _ in history]
    if version not in versions:
        raise UnknownVersion(f"Unknown version {version!r}")
    return list(history[versions.index(version) + 1 :])


def archive(history: Sequence[VersionOperations]) -> bytes:
    """The zip of these versions."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as target:
        for version, migrates in history:
            _add(target, f"{version}/migration.sql", migration_sql(migrates))
            _add(target, f"{version}/metadata.json", metadata_json(version, migrates))
    return content.getvalue()


def migration_sql(migrates: Sequence[Migrate]) -> str:
    return "\n\n".join(sql for migrate in migrates for _, sql in migrate.statements) + "\n"


def metadata_json(version: str, migrates: Sequence[Migrate]) -> str:
    """Exactly the keys the generator knows."""
    ops = [base64.b64encode(encode_migrate(migrate)).decode() for migrate in migrates]
    return json.dumps(
        {"format": "SatOpMigrate", "ops": ops, "protocol_version": "Electric.Satellite", "version": version}
    )


def _add(target: zipfile.ZipFile, name: str, text: str) -> None:
    entry = zipfile.ZipInfo(name, _ENTRY_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    target.writestr(entry, text)
