"""Fixtures every suite shares: one real Postgres a session, one database a test."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from tests.npm.service import RUNTIME
from tests.patience import until
from tests.postgres_majors import NoBuildError, PostgresUnavailableError, installation_under_test

from syncline.actors.postgres.embedded import EmbeddedPostgres

settings.register_profile("syncline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("syncline")

_numbers = itertools.count(1)

# Some tests hold a thousand sockets at both ends; the usual soft limit is 1,024 files.
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)


def pytest_configure() -> None:
    """A Postgres that has to be fetched first is fetched before the tests, and what goes wrong is said once."""
    try:
        installation_under_test()
    except NoBuildError:
        pass  # every test that wants it is skipped, with the reason
    except PostgresUnavailableError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What only means something on the runtime local is left out on the other, with its reason."""
    if RUNTIME == "local":
        return
    for item in items:
        for mark in item.iter_markers("one_process"):
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))


def server_under_test(data_dir: Path, settings: Mapping[str, str]) -> EmbeddedPostgres:
    """A server, not yet started, of the Postgres this run is for: see tests/postgres_majors.py."""
    try:
        return EmbeddedPostgres(data_dir, settings=settings, installation=installation_under_test())
    except NoBuildError as error:  # nobody builds it for this platform; one that cannot be fetched fails
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def server_dir() -> Iterator[Path]:
    """A folder that an unprivileged server can reach, also when pytest runs as root."""
    path = Path(tempfile.mkdtemp(prefix="syncline-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(server_dir: Path) -> Iterator[EmbeddedPostgres]:
    """The session's Postgres, running. A test that stops it starts it again."""
    server = server_under_test(server_dir / "postgres", {"fsync": "off"})
    server.start()
    yield server
    server.stop("immediate")


@pytest.fixture
def original(server_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A running server of the test's own, of which it makes a copy."""
    server = EmbeddedPostgres(server_dir / "original", settings={"fsync": "off"})
    server.start()
    yield server
    server.stop("immediate")


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The DSN of a fresh, empty database; dropped afterwards with its replication slots."""
    async with fresh_database(postgres) as dsn:
        yield dsn


@pytest.fixture
async def another_database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The same, for a test that needs two."""
    async with fresh_database(postgres) as dsn:
        yield dsn


@contextlib.asynccontextmanager
async def fresh_database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """See ``database``."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f'CREATE DATABASE "{name}"')
    await admin.close()
    yield postgres.dsn(name)
    postgres.start()
    await drop_database(postgres.dsn(), name)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A session in it."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def drop_database(admin_dsn: str, name: str) -> None:
    """Drops ``name`` and the slots that would keep it."""
    admin = await asyncpg.connect(admin_dsn)
    try:
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        for _ in range(50):
            try:
                await admin.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1", name
                )
                break
            except asyncpg.ObjectInUseError:
                await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
                await admin.execute("SELECT pg_sleep(0.1)")  # a session that is ended takes a moment to go
        await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await admin.close()


async def drop_slots(connection: asyncpg.Connection) -> None:
    """Drops the slots of ``connection``'s database, once Postgres has noticed that nobody reads them any more."""

    async def dropped() -> bool:
        try:
            await connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots "
                "WHERE database = current_database() AND slot_name LIKE 'electric%'"
            )
        except asyncpg.ObjectInUseError:
            return False
        return True

    await until(dropped)


def with_database(dsn: str, name: str) -> str:
    """``dsn`` with another database name."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
