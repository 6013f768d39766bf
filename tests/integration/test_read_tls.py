"""TLS and authentication methods on real sockets.

The embedded server is built without TLS, so a terminator stands before it, as a connection pooler might: it agrees to
the TLS request, does the handshake with a certificate of its own, and passes the rest on.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.patience import PATIENCE_S

from syncline.actors.postgres.pgoutput import Begin
from syncline.actors.postgres.stream import ReplicationStream, StreamError
from syncline.actors.postgres.walsender import SSL_REQUEST


def write_certificate(folder: Path) -> Path:
    """A self-signed certificate for ``localhost``, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file = folder / "server.pem"
    file.write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, private, serialization.NoEncryption()))
    return file


class Terminator:
    """``handshakes`` counts the connections that came with TLS."""

    def __init__(self, dsn: str, certificate: Path) -> None:
        self._server = urlsplit(dsn)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate)
        self._tasks: set[asyncio.Task[None]] = set()
        self.handshakes = 0

    async def start(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    def dsn(self, host: str = "localhost", user: str = "") -> str:
        port = self._listener.sockets[0].getsockname()[1]
        user = user or self._server.netloc.rpartition("@")[0]
        return urlunsplit(self._server._replace(netloc=f"{user}@{host}:{port}"))

    async def stop(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
            start = await reader.readexactly(len(SSL_REQUEST))
            if start == SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(self._context)
                self.handshakes += 1
                start = b""
            there = await asyncio.open_connection(self._server.hostname, self._server.port)
            there[1].write(start)
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
        writer.close()


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def slot(database: str) -> str:
    app = await asyncpg.connect(database)
    await app.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
    name: str = await app.fetchval("SELECT 'slot_' || current_database()")
    await app.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", name)
    await app.execute("INSERT INTO t SELECT generate_series(1, 20000)")
    await app.close()
    return name


@pytest.fixture
async def terminator(database: str, certificate: Path) -> AsyncIterator[Terminator]:
    terminator = Terminator(database, certificate)
    await terminator.start()
    yield terminator
    await terminator.stop()


async def first_message(dsn: str, slot: str) -> None:
    async with asyncio.timeout(PATIENCE_S), ReplicationStream(dsn, slot, "p") as stream:
        async for message in stream:
            if isinstance(message, Begin):
                return


@pytest.mark.parametrize(
    ("mode", "handshakes"), [("disable", 0), ("prefer", 1), ("require", 1), ("verify-ca", 1), ("verify-full", 1)]
)
async def test_each_mode_streams(
    terminator: Terminator, slot: str, certificate: Path, mode: str, handshakes: int
) -> None:
    root = f"&sslrootcert={certificate}" if mode.startswith("verify") else ""
    await first_message(f"{terminator.dsn()}?sslmode={mode}{root}", slot)
    assert terminator.handshakes == handshakes


async def test_a_certificate_nobody_vouches_for_is_refused(terminator: Terminator, slot: str) -> None:
    with pytest.raises(StreamError, match="sslrootcert"):
        await first_message(terminator.dsn() + "?sslmode=verify-full", slot)


async def test_a_certificate_for_another_name_is_refused(terminator: Terminator, slot: str, certificate: Path) -> None:
    dsn = f"{terminator.dsn('127.0.0.1')}?sslmode=verify-full&sslrootcert={certificate}"
    with pytest.raises(StreamError, match=r"127\.0\.0\.1"):
        await first_message(dsn, slot)


async def test_requiring_tls_of_a_server_without_it_is_refused(database: str, slot: str) -> None:
    with pytest.raises(StreamError, match="does not offer TLS"):
        await first_message(database + "?sslmode=require", slot)


async def test_preferring_tls_of_a_server_without_it_streams(database: str, slot: str) -> None:
    await first_message(database + "?sslmode=prefer", slot)
