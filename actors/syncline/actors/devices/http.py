"""What the edge answers over plain HTTP: is Postgres there, and which migrations would a device need.

The published client's ``generate`` and ``start`` commands read these endpoints, so paths, statuses and texts are its
(the spelling of "Posgres" included). Where the answers come from is given: two callables.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from http import HTTPStatus

from syncline.actors.devices.migrations import UnknownVersion, after_version, archive
from syncline.actors.devices.request import Request, Response
from syncline.actors.postgres.dialect import DIALECTS, History, operations

STATUS_PATH = "/api/status"
MIGRATIONS_PATH = "/api/migrations"


class PostgresState(Enum):
    """How it stands with Postgres, as a device's operator is told."""

    STARTING = "Initializing connection to Posgres..."
    UP = "Connection to Postgres is up!"
    DOWN = "Database connection failure."


class Api:
    """The plain half of the edge's port.

    ``state``: how it stands with Postgres now. ``history``: all migrations so far, oldest first; may raise, which the
    edge answers with a 500. ``vitals``: what else there is to say for who asks for JSON.
    """

    def __init__(
        self,
        state: Callable[[], PostgresState],
        history: Callable[[], Awaitable[History]],
        vitals: Callable[[], Awaitable[Mapping[str, object]]],
    ) -> None:
        self._state = state
        self._history = history
        self._vitals = vitals

    async def __call__(self, request: Request) -> Response:
        path = request.path.rstrip("/")
        if path not in (STATUS_PATH, MIGRATIONS_PATH):
            return Response(HTTPStatus.NOT_FOUND, b"Not found")
        if request.method not in ("GET", "HEAD"):
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, b"Method not allowed", headers={"Allow": "GET, HEAD"})
        return await self._status(request) if path == STATUS_PATH else await self._migrations(request)

    async def _status(self, request: Request) -> Response:
        """The text clients know, unless JSON is asked for: the published client asks for nothing in particular."""
        state = self._state()
        status = HTTPStatus.OK if state is PostgresState.UP else HTTPStatus.SERVICE_UNAVAILABLE
        vary = {"Vary": "Accept"}
        if "application/json" not in request.headers.get("accept", ""):
            return Response(status, state.value.encode(), headers=vary)
        facts = {"status": state.name.lower(), "message": state.value, **await self._vitals()}
        return Response(status, json.dumps(facts).encode(), "application/json; charset=utf-8", headers=vary)

    async def _migrations(self, request: Request) -> Response:
        dialect = next((known for known in DIALECTS if known == request.query.get("dialect")), None)
        if dialect is None:
            given = request.query.get("dialect")
            problem = f"Unsupported dialect {given!r}" if given else "Missing dialect"
            return _refused(f"{problem}: give dialect={' or dialect='.join(DIALECTS)}")
        try:
            wanted = after_version(operations(await self._history(), dialect), request.query.get("version", ""))
        except UnknownVersion as error:
            return _refused(str(error))
        if not wanted:
            return Response(HTTPStatus.NO_CONTENT)
        return Response(HTTPStatus.OK, archive(wanted), "application/zip")


def _refused(error: str) -> Response:
    return Response(HTTPStatus.FORBIDDEN, json.dumps({"error": error}).encode(), "application/json; charset=utf-8")
