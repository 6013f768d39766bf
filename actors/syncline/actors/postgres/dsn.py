"""Where and as whom to connect: Postgres URLs as asyncpg reads them, for the replication connection."""

from __future__ import annotations

import getpass
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from syncline.actors.postgres.walsender import TlsMode

_DSN_FORM: Final = "postgresql://user:password@host:5432/database"
_TLS_WORDS: Final = {mode.value: mode for mode in TlsMode} | {"allow": TlsMode.PREFER}
_FILES: Final = ("sslrootcert", "sslcert", "sslkey")
_CLIENT_SIDE: Final = frozenset({"connect_timeout", "target_session_attrs", "gssencmode", "channel_binding"})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and as whom to connect. ``socket_path`` instead of host and port for a unix socket.

    ``startup``: startup parameters, ``user`` and ``database`` among them. ``files``: sslrootcert, sslcert, sslkey.
    """

    host: str
    port: int
    socket_path: str | None
    password: str | None = field(repr=False)
    tls: TlsMode
    startup: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)

    def tls_context(self) -> ssl.SSLContext:
        """As libpq: ``require`` checks the certificate only when a root certificate is given."""
        root = self.files.get("sslrootcert")
        context = ssl.create_default_context(cafile=None if root == "system" else root)
        context.check_hostname = self.tls is TlsMode.VERIFY_FULL
        if self.tls in (TlsMode.PREFER, TlsMode.REQUIRE) and root is None:
            context.verify_mode = ssl.CERT_NONE
        if "sslcert" in self.files:
            context.load_cert_chain(self.files["sslcert"], self.files.get("sslkey"))
        return context


def parse_dsn(dsn: str, environment: Mapping[str, str] = os.environ) -> Endpoint:
    """Reads the URLs that asyncpg reads, with ``?host=/folder`` for unix sockets; ``PG*`` variables fill the gaps.

    Raises ValueError, whose text never contains the password.
    """
    parts = urlsplit(dsn)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError(f"not a Postgres URL: it must look like {_DSN_FORM}")
    given = dict(parse_qsl(parts.query))
    user_info, _, host_info = parts.netloc.rpartition("@")
    user, _, password = user_info.partition(":")
    if "," in host_info:
        raise ValueError("the URL names several hosts: name the primary alone")
    host, port = host_info, ""
    if ":" in host_info[host_info.rfind("]") + 1 :]:
        host, _, port = host_info.rpartition(":")
    where = given.pop("host", "") or unquote(host).strip("[]") or environment.get("PGHOST", "") or "localhost"
    port = given.pop("port", "") or port or environment.get("PGPORT", "") or "5432"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"the port in the URL is not a number between 1 and 65535: {port!r}")
    user = given.pop("user", "") or unquote(user) or environment.get("PGUSER", "") or getpass.getuser()
    database = given.pop("database", "") or given.pop("dbname", "") or unquote(parts.path.lstrip("/"))
    secret = given.pop("password", "") or unquote(password) or environment.get("PGPASSWORD", "")
    local = where.startswith("/")
    mode = given.pop("sslmode", "") or environment.get("PGSSLMODE", "") or "prefer"
    if mode not in _TLS_WORDS:
        raise ValueError(f"sslmode={mode} is unknown: use one of {', '.join(_TLS_WORDS)}")
    return Endpoint(
        host=where,
        port=int(port),
        socket_path=f"{where}/.s.PGSQL.{port}" if local else None,
        password=secret or None,
        tls=TlsMode.DISABLE if local else _TLS_WORDS[mode],
        files={name: given.pop(name) for name in _FILES if name in given},
        startup={
            "user": user,
            "database": database or environment.get("PGDATABASE", "") or user,
            **{name: value for name, value in given.items() if name not in _CLIENT_SIDE},
        },
    )
