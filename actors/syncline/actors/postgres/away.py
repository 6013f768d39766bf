"""What is raised when Postgres is away, or breaks off: it passes, so whoever catches it tries again or does without."""

from __future__ import annotations

from typing import Final

import asyncpg

AWAY: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""A time that is over (``TimeoutError``) is an OSError. InternalClientError: asyncpg's, of an answer cut short."""
