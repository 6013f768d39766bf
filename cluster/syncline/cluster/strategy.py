"""What to do when a child ends: supervision as a decision about data.

A supervisor meets one question again and again: this child ended, in this way, at this time; which children have to
be stopped, which started, in which order, or is it time to give up? The answer depends on the list of children (in
start order: a later child may rely on an earlier one), on the strategy, on the child's restart type, and on how many
restarts happened lately. Nothing here waits, so every combination can be tested as a plain function.

The rules are those of Erlang/OTP's ``supervisor``:

1.  A permanent child is always restarted, a transient one only after an abnormal end, a temporary one never. A child
    that is not restarted affects nobody.
2.  A restart counts. More than ``max_restarts`` of them within ``max_seconds`` means that restarting does not help:
    the supervisor gives up, stops everything and ends abnormally, and its own supervisor decides (escalation).
3.  A group is stopped last-started first and started in start order. Temporary members of a stopped group are
    forgotten; transient ones that had ended normally start again with their group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncline.cluster.spec import Exit, Restart, Strategy


@dataclass(frozen=True, slots=True)
class Intensity:
    """More than ``max_restarts`` restarts within ``max_seconds`` is too many."""

    max_restarts: int = 3
    max_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Child:
    """What the decision needs to know of a child."""

    id: str
    restart: Restart
    running: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """Effects, in the order to perform them: forget, stop (each in turn), start (each in turn), or escalate.

    ``forget`` drops the spec as well; a forgotten child that still runs is in ``stop`` too. With ``escalate`` the
    other fields are empty: the supervisor stops all its children and ends.
    """

    stop: tuple[str, ...] = ()
    start: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()
    escalate: bool = False


def restarts(restart: Restart, exit: Exit) -> bool:
    """Rule 1: is a child of this type started again after this end?"""
    return restart is Restart.PERMANENT or (restart is Restart.TRANSIENT and exit.abnormal)


def decide(
    strategy: Strategy,
    children: Sequence[Child],
    ended: str,
    exit: Exit,
    history: tuple[float, ...],
    now: float,
    intensity: Intensity,
) -> tuple[Decision, tuple[float, ...]]:
    """The answer, and the new history (times of recent restarts, oldest first, in seconds of the ``now`` given).

    ``children`` are in start order and include ``ended``, which no longer runs. Raises ``KeyError`` if they do not.
    """
    position = next((index for index, child in enumerate(children) if child.id == ended), None)
    if position is None:
        raise KeyError(ended)
    if not restarts(children[position].restart, exit):
        return Decision(forget=(ended,) if children[position].restart is Restart.TEMPORARY else ()), history
    history = recent(history, now, intensity)
    if len(history) >= intensity.max_restarts:
        return Decision(escalate=True), history
    group = _group(strategy, children, position)
    return (
        Decision(
            stop=tuple(child.id for child in reversed(group) if child.running and child.id != ended),
            start=tuple(child.id for child in group if child.restart is not Restart.TEMPORARY),
            forget=tuple(child.id for child in group if child.restart is Restart.TEMPORARY),
        ),
        (*history, now),
    )


def recent(history: tuple[float, ...], now: float, intensity: Intensity) -> tuple[float, ...]:
    """The restarts that still count at ``now``: those less than ``max_seconds`` ago."""
    return tuple(at for at in history if now - at < intensity.max_seconds)


def _group(strategy: Strategy, children: Sequence[Child], position: int) -> Sequence[Child]:
    if strategy is Strategy.ONE_FOR_ONE:
        return children[position : position + 1]
    return children[position:] if strategy is Strategy.REST_FOR_ONE else children
