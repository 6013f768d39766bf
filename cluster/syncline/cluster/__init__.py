"""Supervised asyncio actors, and hosts that talk over links. Knows nothing of what the actors do.

``Actor`` is subclassed, ``ChildSpec`` says how to start one, ``Supervisor`` and ``DynamicSupervisor`` keep them alive,
``Ref`` is how to reach one. The reference page is ``docs/reference/runtime.md``.
"""

from __future__ import annotations

from syncline.cluster.actor import Actor
from syncline.cluster.cell import MailboxOverflow, Reply
from syncline.cluster.clock import Clock, SystemClock, Timer, VirtualClock
from syncline.cluster.context import Context
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.mailbox import MailboxFull
from syncline.cluster.pubsub import PubSub
from syncline.cluster.ref import ActorDown, Address, CallTimeout, Down, Monitor, Ref, Refusal
from syncline.cluster.registry import NamedRef, NameTaken, Registry
from syncline.cluster.spec import ChildSpec, Exit, ExitKind, Factory, Overflow, Restart, Strategy
from syncline.cluster.supervisor import (
    DynamicSupervisor,
    StartFailed,
    Supervisor,
    TooManyRestarts,
    start_child,
    stop_child,
)
from syncline.cluster.wire import Form, Forms

__all__ = [
    "Actor",
    "ActorDown",
    "Address",
    "CallTimeout",
    "ChildSpec",
    "Clock",
    "Context",
    "Down",
    "DynamicSupervisor",
    "Exit",
    "ExitKind",
    "Factory",
    "Form",
    "Forms",
    "LocalRef",
    "MailboxFull",
    "MailboxOverflow",
    "Monitor",
    "NameTaken",
    "NamedRef",
    "Overflow",
    "PubSub",
    "Ref",
    "Refusal",
    "Registry",
    "Reply",
    "Restart",
    "StartFailed",
    "Strategy",
    "Supervisor",
    "SystemClock",
    "Timer",
    "TooManyRestarts",
    "VirtualClock",
    "start_child",
    "stop_child",
]
