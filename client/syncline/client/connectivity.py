"""What to do when a connection ends, and what the application is told about it. Pure.

Every end of a connection is one of five cases, by whose fault it was:

    the world's   socket, timeout                           retry with backoff, for ever
    nobody's      the server restarts, and says so          come back at once
    our place     the server no longer has our position     reset: give up synced rows, keep local writes, start anew
    the token     expired or not accepted                    ask the token callback once more, else stop and say so
    refused       our schema or identity is not known        stop and say so; data and pending writes stay

Backoff has full jitter: after a crash of the service its devices come back spread out, not in step. One that ends in
order sends its devices away in turns, so they need not spread, and somebody else is there to take them. Where nobody
is there to be asked, asking costs nobody anything: a service that starts again takes seconds, so it is asked often for
a quarter of a minute.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from syncline.proto.errors import Family, family_of

BACKOFF_FIRST_S = 0.25
BACKOFF_MAX_S = 10.0
_DOUBLINGS_MAX = 16
ABSENT_MAX_S = 1.0
ABSENT_FAILURES = 30
RETURN_MAX_S = 0.05

# WebSocket close codes: going away, service restart.
RESTARTS = frozenset({1001, 1012})

EXPIRED_CLOSE_REASON = "JWT-expired"


class Next(Enum):
    """What the satellite does after a connection has ended."""

    RETRY = "retry"
    RETURN = "come back at once"
    RESET = "reset"
    RENEW_TOKEN = "renew token"  # noqa: S105 - the name of a step, not a secret
    STOP_AUTH = "stop: token refused"
    STOP_REFUSED = "stop: refused"


INVALID_AUTH_REQUEST = "INVALID_AUTH_REQUEST"
"""Our name for INVALID_REQUEST as the answer to an authentication."""

FORKED = "FORKED"
"""Our name for the end of a connection upon which we have taken another client id."""

_AUTH_CODES = frozenset({"AUTH_REQUIRED", "AUTH_FAILED"})


def after(code: str | None, *, token_renewable: bool, token_fresh: bool, restarts: bool = False) -> Next:
    """The next step after a connection that ended with ``code``: a protocol code, a close reason, or None.

    ``restarts``: it was a live stream, and the server ended it because it restarts (``RESTARTS``).
    ``token_renewable``: the application gave a callback. ``token_fresh``: the refused token came from it just now and
    no connection has succeeded with it, so asking again would only spin.

    INVALID_REQUEST is retried: it may be about one write, and a server that learns to take it heals the device. Only
    when it answers the authentication will the next attempt surely meet the same answer.
    """
    if code is None:
        return Next.RETURN if restarts else Next.RETRY
    if code == FORKED:
        return Next.RETURN
    if code == EXPIRED_CLOSE_REASON:
        return Next.RENEW_TOKEN if token_renewable else Next.STOP_AUTH
    if code in _AUTH_CODES:
        return Next.RENEW_TOKEN if token_renewable and not token_fresh else Next.STOP_AUTH
    family = family_of(code)
    if family is Family.RESET:
        return Next.RESET
    return Next.STOP_REFUSED if family is Family.REFUSE or code == INVALID_AUTH_REQUEST else Next.RETRY


def backoff_s(failures: int, jitter: float, *, absent: bool = False) -> float:
    """Seconds to wait after ``failures`` (>= 1) in a row; ``jitter``: uniform in 0..1; ``absent``: nobody was there."""
    doublings = min(failures - 1, _DOUBLINGS_MAX)
    ceiling_s: float = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2**doublings)
    if absent and failures <= ABSENT_FAILURES:
        ceiling_s = min(ABSENT_MAX_S, ceiling_s)
    return ceiling_s * jitter


class Backoff:
    """How long to wait after each connection that has ended.

    Where nobody was there is counted by itself: a server that has been away for seconds, and is killed again before
    the new connection has come to anything, is asked again as soon as one that had just answered.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Somebody has ended the connection in order."""
        self._failures = self._absences = 0

    def after_s(self, jitter: float, *, absent: bool, settled: bool) -> float:
        """``absent``: nobody was there; ``settled``: it had come to something; ``jitter``: as for `backoff_s`."""
        if absent:
            self._absences += 1
            return backoff_s(self._absences, jitter, absent=True)
        if settled:
            self.reset()
        self._failures += 1
        return backoff_s(self._failures, jitter)


def return_s(jitter: float) -> float:
    """Seconds to wait before the server is asked again that sent us away in order; ``jitter`` is uniform in 0..1."""
    return RETURN_MAX_S * jitter


@dataclass(frozen=True, slots=True)
class Status:
    """What an application can show its user.

    ``connected``: the stream from the server is live. ``pending_writes``: local transactions the server has not
    confirmed. ``behind``: shapes whose data has been asked for and is not here yet; it does not count changes, for a
    server does not say how far ahead it is. ``last_error``: the newest problem, None once a connection has succeeded
    after it (but not while a write is withheld that the server calls invalid). ``reason``: why not connected: ``"never
    connected"``, ``"disconnected"`` (asked for), ``"connecting"``, ``"unreachable"`` (retrying), ``"token refused"``,
    ``"refused"`` (see ``last_error``; both wait for the next ``connect``); None while connected. ``rejections``: local
    transactions that the server has rejected and nobody has dismissed.
    """

    connected: bool = False
    pending_writes: int = 0
    behind: int = 0
    last_error: str | None = None
    reason: str | None = "never connected"
    rejections: int = 0
