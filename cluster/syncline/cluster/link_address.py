"""Where hosts meet: ``unix:/path`` on one machine, ``tcp:host:port`` between several.

With a token, TCP is TLS (``link_tls``): neither the token nor what is said can be read on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from syncline.cluster.link_tls import NAME, answering, calling

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def parse_address(address: str) -> tuple[str, str, int]:
    """``("unix", path, 0)`` or ``("tcp", host, port)``. Raises ``ValueError``."""
    kind, _, rest = address.partition(":")
    if kind == "unix" and rest:
        return kind, rest, 0
    host, _, port = rest.rpartition(":")
    if kind == "tcp" and host and port.isdigit():
        return kind, host, int(port)
    raise ValueError(f"{address!r} is neither unix:/path nor tcp:host:port")


async def listening(address: str, accept: Accept, token: str) -> tuple[asyncio.Server, str]:
    """A server there, and the address with the port that was really taken. Raises ``OSError``, ``ValueError``."""
    kind, where, port = parse_address(address)
    if kind == "unix":
        _make_way(where)
        return await asyncio.start_unix_server(accept, where), address
    server = await asyncio.start_server(accept, where, port, ssl=answering(token) if token else None)
    return server, f"tcp:{where}:{server.sockets[0].getsockname()[1]}"


async def connected(address: str, token: str, tls_within_s: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to whoever listens there. Raises ``OSError``, ``TimeoutError`` among it, and ``ValueError``."""
    kind, where, port = parse_address(address)
    if kind == "unix":
        return await asyncio.open_unix_connection(where)
    if not token:
        return await asyncio.open_connection(where, port)
    async with asyncio.timeout(tls_within_s):
        return await asyncio.open_connection(where, port, ssl=calling(token), server_hostname=NAME)


def _make_way(path: str) -> None:
    """A dead process leaves its socket behind."""
    Path(path).unlink(missing_ok=True)
