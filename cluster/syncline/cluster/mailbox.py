"""The queue in front of an actor: bounded, first in first out, with one lane that overtakes.

A mailbox is the only place where work piles up, so it is the place with a limit. What happens at the limit is the
owner's policy (``spec.Overflow``), because only the owner knows whether its senders can wait, whether old news are
worthless, or whether falling behind is a fault.

Three kinds of entries share it:

*   *casts and calls* count against ``capacity`` and meet the policy;
*   *infos* (``Down``, timers, a supervisor's news of its children) keep their place in the queue, so that a ``Down``
    never overtakes the last words of the actor it is about, but they do not count: their number is bounded by the
    monitors, timers and children that the owner itself created, and losing one would lose a fact for ever;
*   *stop* overtakes everything: an overloaded actor must still obey its supervisor.

One reader; any number of senders, who wait for room in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from syncline.cluster.spec import Exit, Overflow

CAST: Final = 0
CALL: Final = 1
INFO: Final = 2
STOP: Final = 3

Entry = tuple[int, object]


class MailboxFull(Exception):
    """The mailbox is at its capacity and its policy refuses more, or this message was the oldest and was dropped."""


# A deque takes 0.7 KiB before there is anything in it. Nothing is ever put into this one.
EMPTY: Final[deque[Entry]] = deque(maxlen=0)


class Mailbox:
    """See the module. ``offer`` never waits; ``room`` waits; the owner calls ``take``, or ``wait`` when empty."""

    __slots__ = ("_bounded", "_entries", "_reader", "_senders", "_stop", "capacity", "closed", "dropped", "overflow")

    def __init__(self, capacity: int, overflow: Overflow) -> None:
        if capacity < 1:
            raise ValueError("a mailbox holds at least one message")
        self.capacity = capacity
        self.overflow = overflow
        self.closed = False
        self.dropped = 0  # messages refused or dropped so far
        self._entries: deque[Entry] = EMPTY
        self._bounded = 0
        self._stop: Exit | None = None
        self._reader: asyncio.Future[None] | None = None
        self._senders: deque[asyncio.Future[None]] | None = None

    @property
    def waits(self) -> bool:
        """Whether the owner waits for a message, and there is none."""
        return self._reader is not None and not self._entries and self._stop is None

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        return self._bounded >= self.capacity

    def offer(self, entry: Entry) -> bool:
        """Queues a cast or call if there is room. ``False``, and nothing queued, when full or closed."""
        if self._bounded >= self.capacity or self.closed:
            return False
        self._bounded += 1
        if self._entries is EMPTY:
            self._entries = deque()
        self._entries.append(entry)
        if self._reader is not None:
            self._wake()
        return True

    def fold(self) -> None:
        """Takes no room until there is a message: for an owner who waits for long."""
        if not self._entries:
            self._entries = EMPTY

    def drop_oldest(self) -> Entry | None:
        """Takes out the oldest cast or call to make room, and returns it (``None``: there was none)."""
        for index, entry in enumerate(self._entries):
            if entry[0] != INFO:
                del self._entries[index]
                self._bounded -= 1
                self.dropped += 1
                return entry
        return None

    async def room(self) -> None:
        """Waits until ``offer`` may succeed or the mailbox is closed. Senders are let in first come, first served."""
        while self._bounded >= self.capacity and not self.closed:
            if self._senders is None:
                self._senders = deque()
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._senders.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._admit()  # our turn goes to the next in line
                raise

    def inform(self, message: object) -> None:
        """Queues an info: in order, above capacity, unless closed."""
        if not self.closed:
            if self._entries is EMPTY:
                self._entries = deque()
            self._entries.append((INFO, message))
            if self._reader is not None:
                self._wake()

    def stop(self, exit: Exit) -> None:
        """The next entry taken is this stop. The first reason given stays."""
        if self._stop is None and not self.closed:
            self._stop = exit
            if self._reader is not None:
                self._wake()

    def take(self) -> Entry | None:
        """The next entry, stop first; ``None`` when there is none."""
        if self._stop is not None:
            return STOP, self._stop
        if not self._entries:
            return None
        entry = self._entries.popleft()
        if entry[0] != INFO:
            self._bounded -= 1
            if self._senders:
                self._admit()
        return entry

    async def wait(self) -> None:
        """Returns once ``take`` has something to give."""
        if not self._entries and self._stop is None:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    def close(self) -> list[Entry]:
        """Nothing enters from now on; whoever waits for room is let go. Returns what was never handled."""
        self.closed = True
        rest = list(self._entries)
        self._entries = EMPTY
        self._bounded = 0
        if self._senders:
            for turn in self._senders:
                if not turn.done():
                    turn.set_result(None)
            self._senders = None
        return rest

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _admit(self) -> None:
        while self._senders:
            turn = self._senders.popleft()
            if not turn.done():
                turn.set_result(None)
                return
