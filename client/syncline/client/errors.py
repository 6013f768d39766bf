"""What an application may catch. Each error says whose fault it was and what to do about it.

``SynclineError`` is the root. Problems of the world (no network, a server that restarts) are not here: the library
retries those by itself and shows them in ``Status.last_error``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

    from syncline.client.rejections import Rejection


class SynclineError(Exception):
    """Root of every error this library raises on purpose. ``hint`` tells a human what to do next."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message} ({hint})")
        self.message = message
        self.hint = hint


class UsageError(SynclineError):
    """The application asked for something that cannot work: a bug in the caller."""


class TransactionRolledBack(SynclineError):
    """SQLite has rolled back the local transaction by itself, for the error that is the cause; nothing of it stays."""

    def __init__(self, cause: sqlite3.Error | None) -> None:
        super().__init__(
            f"SQLite has rolled back this transaction: {cause}",
            hint="let that error leave the block, and begin the transaction anew",
        )


class DatabaseInUse(SynclineError):
    """Another process, or another ``open_db`` of this one, owns the database file."""


class DatabaseUnusable(SynclineError):
    """The file is not ours to open: written by a newer release, or not a database."""


class AuthRefused(SynclineError):
    """The server does not accept the token. Call ``connect`` again with another one."""


class ServerRefused(SynclineError):
    """The server will not stream to this device: it knows nothing of our schema version, or saw a bug of ours."""


class SequenceExhausted(SynclineError):
    """An insert leaves out a key that takes the values of a sequence, and this device has not enough of these left.
    Nothing has been written. ``table`` and ``column``: of the key."""

    def __init__(self, table: str, column: str) -> None:
        super().__init__(
            f"not enough values are left for {table}.{column}",
            hint="connect, with a shape of the table, for more to be reserved, and see db.reserve for many at a time; "
            "or give the values yourself",
        )
        self.table = table
        self.column = column


class WriteRejected(SynclineError):
    """The server has rejected the local transaction that was waited for: ``rejection`` says why."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"rejected: {rejection.message} (SQLSTATE {rejection.sqlstate})", hint=rejection.hint)
        self.rejection = rejection


class ShapeRefused(SynclineError):
    """The server will not deliver a shape. ``code`` is the name the protocol gives the reason. No data was touched."""

    def __init__(self, message: str, *, code: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code
