"""What a supervisor knows about a child: how to start it, when to restart it, how long it may take to stop.

Pure: plain values, so that ``strategy`` can decide about them and a link can carry them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from syncline.cluster.actor import Actor

MAILBOX_CAPACITY = 1_000  # messages: enough to absorb a burst, few enough that a stuck actor is noticed within seconds


class Restart(Enum):
    """When a child that ended is started again."""

    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # only when it ended abnormally
    TEMPORARY = "temporary"  # never


class Strategy(Enum):
    """Which siblings share the fate of a child that has to be restarted."""

    ONE_FOR_ONE = "one_for_one"  # none
    REST_FOR_ONE = "rest_for_one"  # those started after it
    ONE_FOR_ALL = "one_for_all"  # all


class Overflow(Enum):
    """What happens to a message for a full mailbox. ``cast`` never waits, ``send`` and ``call`` may.

    ============  ==============================  =================
    policy        ``send``, ``call``              ``cast``
    ============  ==============================  =================
    BLOCK         wait for room                   returns ``False``
    REFUSE        raise ``MailboxFull``           returns ``False``
    DROP_OLDEST   the oldest message is dropped   same, ``True``
    CRASH         the actor crashes: ActorDown    returns ``False``
    ============  ==============================  =================
    """

    BLOCK = "block"
    DROP_OLDEST = "drop_oldest"
    REFUSE = "refuse"
    CRASH = "crash"


class ExitKind(Enum):
    """Why an actor is no more."""

    NORMAL = "normal"  # it stopped by itself, its work done
    SHUTDOWN = "shutdown"  # its supervisor or host asked it to stop, and it did in time
    KILLED = "killed"  # it was asked and did not stop in time, or its task was cancelled
    CRASHED = "crashed"  # an exception left one of its methods, or its mailbox overflowed under CRASH
    UNREACHABLE = "unreachable"  # its host is gone, so nobody can say
    NOT_FOUND = "not_found"  # it had ended before anyone asked, or never lived


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of an actor: its kind and, when there is one, the cause.

    ``cause`` is the exception itself in the host of the actor and ``None`` across a link, where ``detail`` says what
    can be told.
    """

    kind: ExitKind
    cause: BaseException | None = field(default=None, compare=False)
    detail: str = ""

    @property
    def abnormal(self) -> bool:
        """True unless it stopped by itself or was asked to: a transient child is then restarted."""
        return self.kind not in (ExitKind.NORMAL, ExitKind.SHUTDOWN)

    def __str__(self) -> str:
        text = self.detail or (f"{type(self.cause).__name__}: {self.cause}" if self.cause is not None else "")
        return f"{self.kind.value} ({text})" if text else self.kind.value


NORMAL = Exit(ExitKind.NORMAL)
SHUTDOWN = Exit(ExitKind.SHUTDOWN)


@dataclass(frozen=True, slots=True)
class Factory:
    """A ``start`` that can cross a link: the dotted path of a class or function, and its arguments.

    ``path`` is ``"package.module:name"``. Arguments must be values the wire codec knows.
    """

    path: str
    args: tuple[object, ...] = ()

    def __call__(self) -> Actor:
        """Imports and calls. Raises ``ValueError`` on a bad path, else whatever import or call raise."""
        return cast("Actor", dotted(self.path)(*self.args))


def dotted(path: str) -> Callable[..., object]:
    """The callable at ``"package.module:name"``. Raises ``ValueError`` when there is none."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"{path!r} is not of the form package.module:name")
    found = getattr(importlib.import_module(module_name), name, None)
    if not callable(found):
        raise ValueError(f"{module_name} has no callable {name!r}")
    return cast("Callable[..., object]", found)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How to start one child, and how to treat it.

    ``start`` makes a fresh actor at every start; it must not do I/O (``Actor.init`` may). ``name``, when given, is
    registered in the host's registry for as long as the child lives. ``init_s`` bounds ``init``: longer is a crash.
    ``shutdown_s`` is the time between being asked to stop and being killed; ``None`` waits for ever and is meant for
    supervisors, which bound their own children.
    """

    id: str
    start: Callable[[], Actor]
    restart: Restart = Restart.PERMANENT
    shutdown_s: float | None = 5.0
    init_s: float = 30.0
    mailbox_capacity: int = MAILBOX_CAPACITY
    overflow: Overflow = Overflow.BLOCK
    name: str | None = None
