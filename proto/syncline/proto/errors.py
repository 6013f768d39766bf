"""What can go wrong between two peers, and whose move it is then.

A code says what happened; its family says what the receiver does about it. Old devices know the codes by number, so the
numbers are the wire's; the families are ours, and every code, pushed or inside an answer, belongs to exactly one.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final


class ErrorCode(IntEnum):
    """``SatErrorResp.ErrorCode``: the error codes of the wire, by their numbers."""

    INTERNAL = 0
    AUTH_REQUIRED = 1
    AUTH_FAILED = 2
    REPLICATION_FAILED = 3
    INVALID_REQUEST = 4
    PROTO_VSN_MISMATCH = 5
    SCHEMA_VSN_MISMATCH = 6


def error_name(number: int) -> str:
    """The name of an error code on the wire, "UNKNOWN" for a number new to us."""
    try:
        return ErrorCode(number).name
    except ValueError:
        return "UNKNOWN"


class Family(Enum):
    """What the one who is told of an error should do."""

    RETRY = "retry"  # nobody's fault for long: connect again, with backoff
    RESET = "reset"  # our position is of no use to the peer: start over, keeping writes it has not echoed
    REFUSE = "refuse"  # the peer will not have us as we are: another token, another version; do not try again unchanged
    BUG = "bug"  # one of the two broke the protocol: stop and tell a human


_FAMILIES: Final = {
    "INTERNAL": Family.RETRY,
    "REPLICATION_FAILED": Family.RETRY,
    "BEHIND_WINDOW": Family.RESET,
    "INVALID_POSITION": Family.RESET,
    "SUBSCRIPTION_NOT_FOUND": Family.RESET,
    "MALFORMED_LSN": Family.RESET,
    "AUTH_REQUIRED": Family.REFUSE,
    "AUTH_FAILED": Family.REFUSE,
    "PROTO_VSN_MISMATCH": Family.REFUSE,
    "SCHEMA_VSN_MISMATCH": Family.REFUSE,
    "UNKNOWN_SCHEMA_VSN": Family.REFUSE,
    "INVALID_REQUEST": Family.BUG,
}


def family_of(code: ErrorCode | str) -> Family:
    """The family of an error code or of a ``ReplicationError.Code`` name; a name new to us is worth another try."""
    return _FAMILIES.get(code.name if isinstance(code, ErrorCode) else code, Family.RETRY)


class ProtocolError(Exception):
    """The peer, or our own caller, broke the protocol; the connection cannot go on.

    ``code``: INVALID_REQUEST and AUTH_REQUIRED are the peer's fault, INTERNAL is ours. ``message``: one sentence for a
    human. ``lsn``: the transaction at fault, in its sender's numbering. ``hint``: what to do about it.
    """

    def __init__(self, code: ErrorCode, message: str, *, lsn: bytes | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.lsn = lsn
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" + (f" ({self.hint})" if self.hint else "")

    @property
    def family(self) -> Family:
        return family_of(self.code)


def invalid(message: str, *, lsn: bytes | None = None, hint: str | None = None) -> ProtocolError:
    """The peer sent what it must not."""
    return ProtocolError(ErrorCode.INVALID_REQUEST, message, lsn=lsn, hint=hint)


def misuse(message: str, *, hint: str | None = None) -> ProtocolError:
    """Our own side was about to send what it must not."""
    return ProtocolError(ErrorCode.INTERNAL, message, hint=hint)
