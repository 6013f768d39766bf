"""The states of a connection and the arrows between them, for both roles: one table that code, tests and docs read.

A connection walks through five states::

    CONNECTING       nobody has said who they are
    AUTHENTICATING   the device has sent its token and has no answer yet
    AUTHENTICATED    known, and at rest: nothing is streamed to the device
    STARTING         the device has asked for the stream and has no answer yet
    STREAMING        subscriptions, transactions and acks flow

and ends in CLOSED, after which no frame counts. The writes of the device run beside this, on a state of their own: off
until the server's startReplication is answered, on until a stopReplication.

``ARROWS[state, step]`` is where a step leads; a step without an arrow is refused. A step is an RPC method (a request
seen by the server or sent by the device) or the answer to one: ``method + "!"`` when granted, ``method + "?"``
when not.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

AUTHENTICATE: Final = "authenticate"
START: Final = "startReplication"
STOP: Final = "stopReplication"
SUBSCRIBE: Final = "subscribe"
UNSUBSCRIBE: Final = "unsubscribe"
REACH: Final = "reach"
RESERVE: Final = "reserve"
RELEASE: Final = "release"
EXTENSIONS: Final = frozenset((REACH, RESERVE, RELEASE))
METHODS: Final = EXTENSIONS | {AUTHENTICATE, START, STOP, SUBSCRIBE, UNSUBSCRIBE}


class State(Enum):
    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    AUTHENTICATED = "authenticated"
    STARTING = "starting"
    STREAMING = "streaming"
    CLOSED = "closed"


def granted(method: str) -> str:
    """The step that answers ``method`` with yes."""
    return method + "!"


def refused(method: str) -> str:
    """The step that answers ``method`` with no."""
    return method + "?"


_S = State
ARROWS: Final[dict[tuple[State, str], State]] = {
    (_S.CONNECTING, AUTHENTICATE): _S.AUTHENTICATING,
    (_S.AUTHENTICATING, granted(AUTHENTICATE)): _S.AUTHENTICATED,
    (_S.AUTHENTICATING, refused(AUTHENTICATE)): _S.CONNECTING,
    # A renewed token changes nothing else, whenever it comes.
    (_S.AUTHENTICATED, AUTHENTICATE): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, granted(AUTHENTICATE)): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, refused(AUTHENTICATE)): _S.AUTHENTICATED,
    (_S.STARTING, AUTHENTICATE): _S.STARTING,
    (_S.STARTING, granted(AUTHENTICATE)): _S.STARTING,
    (_S.STARTING, refused(AUTHENTICATE)): _S.STARTING,
    (_S.STREAMING, AUTHENTICATE): _S.STREAMING,
    (_S.STREAMING, granted(AUTHENTICATE)): _S.STREAMING,
    (_S.STREAMING, refused(AUTHENTICATE)): _S.STREAMING,
    (_S.AUTHENTICATED, START): _S.STARTING,
    (_S.STARTING, granted(START)): _S.STREAMING,
    (_S.STARTING, refused(START)): _S.AUTHENTICATED,
    (_S.STREAMING, STOP): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, STOP): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, granted(STOP)): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, refused(STOP)): _S.AUTHENTICATED,
    # Answers that were still owed when the stream stopped.
    (_S.AUTHENTICATED, granted(SUBSCRIBE)): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, refused(SUBSCRIBE)): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, granted(UNSUBSCRIBE)): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, refused(UNSUBSCRIBE)): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, granted(REACH)): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, refused(REACH)): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, granted(RESERVE)): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, refused(RESERVE)): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, granted(RELEASE)): _S.AUTHENTICATED,
    (_S.AUTHENTICATED, refused(RELEASE)): _S.AUTHENTICATED,
    (_S.STREAMING, REACH): _S.STREAMING,
    (_S.STREAMING, granted(REACH)): _S.STREAMING,
    (_S.STREAMING, refused(REACH)): _S.STREAMING,
    (_S.STREAMING, RESERVE): _S.STREAMING,
    (_S.STREAMING, granted(RESERVE)): _S.STREAMING,
    (_S.STREAMING, refused(RESERVE)): _S.STREAMING,
    (_S.STREAMING, RELEASE): _S.STREAMING,
    (_S.STREAMING, granted(RELEASE)): _S.STREAMING,
    (_S.STREAMING, refused(RELEASE)): _S.STREAMING,
    (_S.STREAMING, SUBSCRIBE): _S.STREAMING,
    (_S.STREAMING, granted(SUBSCRIBE)): _S.STREAMING,
    (_S.STREAMING, refused(SUBSCRIBE)): _S.STREAMING,
    (_S.STREAMING, UNSUBSCRIBE): _S.STREAMING,
    (_S.STREAMING, granted(UNSUBSCRIBE)): _S.STREAMING,
    (_S.STREAMING, refused(UNSUBSCRIBE)): _S.STREAMING,
}

# States in which nobody is known to the server yet.
UNAUTHENTICATED: Final = frozenset((State.CONNECTING, State.AUTHENTICATING))
