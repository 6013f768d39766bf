"""Who may connect as which device.

A client id names a device in tags and in ``electric.clients``, where how far its writes are decided is kept. Who may
write under it can have the device's later writes passed over as repetitions. So where tokens prove who comes, it
belongs to the user who first came with it (see docs/decisions/0013).
"""

from __future__ import annotations

from typing import Final

from syncline.actors.devices.auth import AuthError, Identity
from syncline.actors.devices.reception import Claim, Socket, Surroundings
from syncline.cluster import Clock, Ref
from syncline.proto.errors import ErrorCode, invalid
from syncline.proto.events import AuthRequested, WriteReceived
from syncline.proto.forks import Parted

# As long as a device waits for its stream: it hears at once of a gateway that ends, and of a busy one a little later.
CLAIM_TIMEOUT_S: Final = 30.0

FAILED = "authentication failed"
COPIED = "this database file is a copy of another one, which has the client id"
ANOTHERS = "this client id belongs to another user: give each user a local database of their own"


class NotAdmitted(Exception):
    """``code``, ``message`` and ``parted`` are for the device, ``reason`` for our log."""

    def __init__(self, code: ErrorCode, message: str, reason: str, parted: Parted | None = None) -> None:
        super().__init__(reason)
        self.parted = parted
        self.code = code
        self.message = message
        self.reason = reason


class Admission:
    """Of one connection. ``identity`` and ``client_id``: who is there, once that is known."""

    def __init__(self, around: Surroundings, clock: Clock, gateway: Ref) -> None:
        self._around = around
        self._clock = clock
        self._gateway = gateway
        self._origins: set[str] = set()  # other client ids under which it has written
        self.identity: Identity | None = None
        self.client_id = ""

    async def authenticate(self, event: AuthRequested, device: Ref, connection: Socket) -> Identity | None:
        """Who comes, or has a newer token: the only ``device`` of its client id from now on. None: it is gone again.

        Raises NotAdmitted, and what the database and the gateway raise.
        """
        if self.identity is not None:
            self.identity = self._readmitted(event, self.identity)
            return self.identity
        async with self._around.admissions:
            if not connection.open:
                return None  # it waited long enough to give up, and will come again
            identity = await self._admitted(event)
            claim = Claim(event.client_id, device, str(connection.remote))
            contested = await self._gateway.call(claim, CLAIM_TIMEOUT_S)
        if contested is not None:
            assert isinstance(contested, str)
            raise NotAdmitted(ErrorCode.INVALID_REQUEST, contested, "its client id is in use twice")
        self.identity, self.client_id = identity, event.client_id
        return identity

    async def _admitted(self, event: AuthRequested) -> Identity:
        """The user, who is on record with the client id. A file that tells of its openings is not that of another."""
        database, client_id = self._around.database, event.client_id
        identity = self._identify(event.token)
        if not await database.device_seen(client_id, identity.user_id, proven=identity.proven):
            reason = f"user {identity.user_id!r} came with the client id {client_id} of another user"
            raise NotAdmitted(ErrorCode.INVALID_REQUEST, ANOTHERS, reason)
        if event.openings and (parted := await database.open_file(client_id, event.openings)) is not None:
            reason = f"the file of client id {client_id} is a copy of one that went on by itself: it takes another id"
            raise NotAdmitted(ErrorCode.INVALID_REQUEST, COPIED, reason, parted)
        return identity

    def _readmitted(self, event: AuthRequested, known: Identity) -> Identity:
        identity = self._identify(event.token, renewal=True)
        if (event.client_id, identity.user_id) != (self.client_id, known.user_id):
            reason = "a renewed token must be for the same client and user"
            raise NotAdmitted(ErrorCode.INVALID_REQUEST, FAILED, reason)
        return identity

    def _identify(self, token: str, *, renewal: bool = False) -> Identity:
        """Whom ``token`` names."""
        try:
            return self._around.authenticator.authenticate(token, self._clock.wall_ms() / 1000)
        except AuthError as refused:
            code = ErrorCode.INVALID_REQUEST if renewal else ErrorCode.AUTH_REQUIRED
            raise NotAdmitted(code, FAILED, refused.reason) from refused

    async def check_origin(self, write: WriteReceived) -> None:
        """What a device has written under an id that it does not have any more is of the same user.

        Raises ProtocolError, and what the database raises.
        """
        origin = write.origin
        if origin is None or origin in self._origins:
            return
        assert self.identity is not None, "it writes"
        if self.identity.proven and await self._around.database.owner_of(origin) != self.identity.user_id:
            raise invalid(f"{origin} is not a client id of this user", lsn=write.lsn)
        self._origins.add(origin)
