"""Who may connect as which device.

A client id names a device in tags and in ``electric.clients``, where how far its writes are decided is kept. Who may
write under it can have the device's later writes passed over as repetitions. So where tokens prove who comes, it
belongs to the user who first came with it (see docs/decisions/0013).
"""

from __future__ import annotations

from collections.abc import Sequence

from syncline.actors.devices.auth import AuthError, Identity
from syncline.actors.devices.reception import Surroundings
from syncline.proto.errors import ErrorCode
from syncline.proto.forks import Opening, Parted

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


async def admit(
    client_id: str, token: str, around: Surroundings, now_s: float, openings: Sequence[Opening] = ()
) -> Identity:
    """The user who connects as ``client_id``, and is on record with it. ``now_s``: seconds since the epoch.
    ``openings``: those of the device's file, if it tells; it is not that of another then.

    Raises NotAdmitted, and what the database raises.
    """
    identity = _identify(token, around, now_s)
    if not await around.database.device_seen(client_id, identity.user_id, proven=identity.proven):
        reason = f"user {identity.user_id!r} came with the client id {client_id} of another user"
        raise NotAdmitted(ErrorCode.INVALID_REQUEST, ANOTHERS, reason)
    if openings and (parted := await around.database.open_file(client_id, openings)) is not None:
        reason = f"the file of client id {client_id} is a copy of one that went on by itself: it takes another id"
        raise NotAdmitted(ErrorCode.INVALID_REQUEST, COPIED, reason, parted)
    return identity


async def may_write_as(client_id: str, identity: Identity, around: Surroundings) -> bool:
    """Whether what was written under another ``client_id`` may come from ``identity``. Raises what the database
    raises."""
    return not identity.proven or await around.database.owner_of(client_id) == identity.user_id


def readmit(client_id: str, token: str, known: tuple[str, Identity], around: Surroundings, now_s: float) -> Identity:
    """A newer token on the connection of ``known``, a client id and its user. Raises NotAdmitted."""
    identity = _identify(token, around, now_s, renewal=True)
    if (client_id, identity.user_id) != (known[0], known[1].user_id):
        reason = "a renewed token must be for the same client and user"
        raise NotAdmitted(ErrorCode.INVALID_REQUEST, FAILED, reason)
    return identity


def _identify(token: str, around: Surroundings, now_s: float, *, renewal: bool = False) -> Identity:
    """Whom ``token`` names. Raises NotAdmitted."""
    try:
        return around.authenticator.authenticate(token, now_s)
    except AuthError as refused:
        code = ErrorCode.INVALID_REQUEST if renewal else ErrorCode.AUTH_REQUIRED
        raise NotAdmitted(code, FAILED, refused.reason) from refused
