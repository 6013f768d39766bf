"""What the world does to an operator, in words: what is wrong, with which thing, and what to do about it.

Errors of sockets, folders and Postgres name a number or a function; an operator needs the host, the port, the folder or
the variable. Each function here takes such an error and says that; none does anything.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from syncline.actors.postgres.dsn import Endpoint, parse_dsn

_DATABASE = "DATABASE_URL"
_ADDRESS_HINT = f"start Postgres there, or correct host and port in {_DATABASE}"


class Fault(Exception):
    """The message says what is wrong and why, ``hint`` what to do. ``passing``: it may mend itself, so try again."""

    def __init__(self, message: str, hint: str, *, passing: bool = False) -> None:
        super().__init__(f"{message}: {hint}")
        self.message = message
        self.hint = hint
        self.passing = passing


def database_fault(error: BaseException, dsn: str) -> Fault:
    """Why no connection to ``dsn`` could be made. The password is not in it."""
    try:
        at = parse_dsn(dsn)
    except ValueError as wrong:
        return Fault(f"{_DATABASE} cannot be used: {wrong}", "correct it")
    where = at.socket_path or (f"[{at.host}]:{at.port}" if ":" in at.host else f"{at.host}:{at.port}")
    if isinstance(error, asyncpg.PostgresError):
        return _refused(error, f"Postgres at {where}", at)
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | ValueError):
        return Fault(f"Postgres at {where} cannot be spoken to: {error}", f"correct {_DATABASE}")
    return _not_reached(error, f"Postgres at {where}", at)


def _refused(error: asyncpg.PostgresError, postgres: str, at: Endpoint) -> Fault:
    """Postgres is there, and has said no."""
    user, database = at.startup["user"], at.startup["database"]
    match error:
        case asyncpg.InvalidPasswordError():
            return Fault(
                f"{postgres} refuses the password of user {user!r}, or knows no such user",
                f"correct user and password in {_DATABASE}; special characters are percent-encoded there",
            )
        case asyncpg.InvalidAuthorizationSpecificationError():
            return Fault(
                f"{postgres} does not let user {user!r} in: {error}",
                f"allow it in pg_hba.conf, or correct user and sslmode in {_DATABASE}",
            )
        case asyncpg.InvalidCatalogNameError():
            return Fault(
                f"{postgres} has no database {database!r}",
                f"make it (CREATE DATABASE), or correct the name at the end of {_DATABASE}",
            )
        case asyncpg.InsufficientPrivilegeError():
            return Fault(
                f"{postgres} does not let user {user!r} into database {database!r}: {error}",
                "grant it CONNECT on the database",
            )
        case asyncpg.TooManyConnectionsError():
            return Fault(
                f"{postgres} has no connection left: {error}",
                "raise max_connections (or the limit of role or database), or end connections that are not needed",
                passing=True,
            )
        case asyncpg.CannotConnectNowError():
            return Fault(f"{postgres} takes no connections now: {error}", "wait until it is up", passing=True)
        case asyncpg.PostgresConnectionError():
            return Fault(
                f"{postgres} ended the connection before it was made: {error}",
                f"see that it is Postgres which listens there, and its log; else correct {_DATABASE}",
                passing=True,
            )
    return Fault(f"{postgres} refuses the connection: {error}", error.hint or "its log says more")


def _not_reached(error: BaseException, postgres: str, at: Endpoint) -> Fault:
    """Between us and Postgres something is wrong."""
    numbers = set(re.findall(r"\[Errno (\d+)\]", str(error)))
    if isinstance(error, OSError) and error.errno is None and len(numbers) == 1:  # the same at each address of the host
        number = int(numbers.pop())
        error = OSError(number, os.strerror(number))
    match error:
        case socket.gaierror():
            return Fault(
                f"no host {at.host!r} is known here ({error.strerror})",
                f"correct the host in {_DATABASE}, or make the name known to this machine",
                passing=True,
            )
        case ssl.SSLCertVerificationError():
            return Fault(
                f"the certificate of {postgres} is not trusted: {error.verify_message}",
                "name the certificate of its authority with sslrootcert, and the host as it is certified",
            )
        case ssl.SSLError():
            return Fault(f"TLS with {postgres} failed: {error}", "see to its certificate and TLS versions")
        case ConnectionRefusedError():
            return Fault(f"{postgres} cannot be reached: nothing listens there", _ADDRESS_HINT, passing=True)
        case TimeoutError():
            return Fault(
                f"{postgres} cannot be reached: it does not answer",
                f"look for a firewall in between, or correct host and port in {_DATABASE}",
                passing=True,
            )
        case FileNotFoundError() | PermissionError() if at.socket_path:
            return Fault(f"{postgres} cannot be reached: {error.strerror}", _ADDRESS_HINT, passing=True)
        case OSError(errno=int(number)):
            return Fault(f"{postgres} cannot be reached: {os.strerror(number)}", _ADDRESS_HINT, passing=True)
        case OSError() if "rejected SSL upgrade" in str(error):
            return Fault(
                f"{postgres} does not offer TLS, which is asked for (or it is not Postgres that listens there)",
                "turn ssl on in Postgres; or, where nobody can listen in, set DATABASE_REQUIRE_SSL=false or "
                f"sslmode=prefer in {_DATABASE}",
            )
    return Fault(f"{postgres} cannot be reached: {str(error) or type(error).__name__}", _ADDRESS_HINT, passing=True)


def port_fault(error: OSError, hosts: Sequence[str], port: int) -> Fault:
    """Why nobody can listen on ``port`` of ``hosts``."""
    named = ", ".join(hosts)
    match error:
        case socket.gaierror():
            return Fault(
                f"an address to listen on is not known here: {named} ({error.strerror})", "correct SYNCLINE_HTTP_HOST"
            )
        case OSError(errno=errno.EADDRINUSE):
            return Fault(
                f"port {port} of {named} is in use",
                "end what listens there, another service perhaps, or take another port with HTTP_PORT",
            )
        case OSError(errno=errno.EADDRNOTAVAIL):
            return Fault(f"not an address of this machine: {named}", "correct SYNCLINE_HTTP_HOST")
        case OSError(errno=errno.EACCES | errno.EPERM):
            return Fault(
                f"the service's user may not listen on port {port}",
                "take one above 1023 with HTTP_PORT, and put a proxy in front",
            )
        case OSError(errno=errno.EAFNOSUPPORT):
            return Fault(f"this machine has no IPv6: {named}", "remove ELECTRIC_USE_IPV6, or the address")
    return Fault(f"nobody can listen on port {port} of {named}: {error}", "correct HTTP_PORT and SYNCLINE_HTTP_HOST")


def folder_fault(error: OSError, folder: Path) -> Fault:
    """Why the data folder cannot be used."""
    path = error.filename or folder
    match error:
        case FileExistsError() | NotADirectoryError():
            return Fault(
                f"the data folder {folder} cannot be made: a file is in its way ({path})",
                "remove the file, or name another folder with SYNCLINE_DATA_DIR",
            )
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return Fault(f"the disk of the data folder {folder} is full", "free space, or set SYNCLINE_DATA_DIR")
    return Fault(
        f"the data folder {folder} cannot be used: {os.strerror(error.errno or 0)} ({path})",
        "let the service's user own it, or name another folder with SYNCLINE_DATA_DIR",
    )


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Files below ``folder`` are at work: their errors become a Fault."""
    try:
        yield
    except (ConnectionError, TimeoutError):  # a socket's
        raise
    except OSError as error:
        raise folder_fault(error, folder) from error


def service_fault(error: Exception, host: str, port: int) -> Fault:
    """Why a service's status could not be asked for."""
    where = f"{host}:{port}"
    match error:
        case socket.gaierror():
            return Fault(f"not reachable, no host {host!r} is known here", "correct --url")
        case ConnectionRefusedError():
            return Fault(
                f"not reachable, nothing listens on {where}",
                "start it (syncline serve), or give its address with --url",
            )
        case TimeoutError():
            return Fault(f"not reachable, {where} does not answer", "look for a firewall, or correct --url")
        case ssl.SSLError():
            return Fault(f"not reachable, {where} speaks no TLS as we do ({error})", "try http:// in --url")
        case OSError():
            return Fault(f"not reachable, {error.strerror or error}", "correct --url")
    return Fault(f"not reachable, what listens on {where} does not speak HTTP", "correct --url")
