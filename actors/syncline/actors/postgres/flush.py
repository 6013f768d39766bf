"""Which position may be confirmed to the slot.

Postgres forgets WAL up to the position we confirm, so nothing may be confirmed before everyone who was handed a
transaction has made it durable. Targets (log hosts, the absorber) flush at their own pace and report "durable up to
LSN"; the answer is the watermark: the largest LSN such that everything dispatched at or below it is done.

Every dispatched LSN counts the targets still owing it; a target's debts are a queue in dispatch order, as is the whole
list. A report pays off the front of one queue, then the front of the list is dropped while nobody owes it: amortised
constant time, however many targets there are. An idle position of the stream (``ReplicationStream.idle_lsn``)
is dispatched to nobody: it counts once all before it is done, which is how an idle database still advances its slot.

Nor may a transaction be confirmed that a new snapshot does not see yet (``Unseen``). A service that starts is not sent
it again, so a table that is read then has it neither in its snapshot nor in what follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable

from syncline.actors.postgres.lsn import Lsn

# Transactions that were streamed and may still be invisible to a new snapshot. Only a wait for a synchronous standby
# keeps one invisible for long, and not this many commit meanwhile.
RECENT_TRANSACTIONS_MAX = 10_000


class Unseen:
    """The newest transactions of the stream that no snapshot is known to see."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT_TRANSACTIONS_MAX)  # (LSN, xid)

    def streamed(self, lsn: int, xid: int) -> None:
        """LSNs are commit positions and come in rising order."""
        self._recent.append((lsn, xid))

    def before(self, lsn: int, visible: Callable[[int], bool]) -> int:
        """The largest position at or below ``lsn`` up to which everything streamed is visible: ``visible`` tells it of
        an xid, by a snapshot that was taken after ``lsn`` had been streamed."""
        while self._recent and self._recent[0][0] <= lsn:
            at, xid = self._recent[0]
            if not visible(xid):
                return at - 1
            self._recent.popleft()
        return lsn


class _Dispatch:
    __slots__ = ("lsn", "owing")

    def __init__(self, lsn: Lsn, owing: int) -> None:
        self.lsn = lsn
        self.owing = owing


class Progress:
    """The watermark over dispatched transactions. LSNs are commit positions and are dispatched in rising order."""

    def __init__(self, start: int = 0) -> None:
        self._watermark = Lsn(start)
        self._last = Lsn(start)
        self._outstanding: deque[_Dispatch] = deque()
        self._debts: dict[Hashable, deque[_Dispatch]] = {}

    @property
    def watermark(self) -> Lsn:
        """Everything dispatched at or below this is done. Never falls."""
        return self._watermark

    @property
    def outstanding(self) -> int:
        """How many dispatched positions someone still owes."""
        return len(self._outstanding)

    def owes(self, target: Hashable) -> bool:
        """Whether ``target`` was handed something that is not done."""
        return target in self._debts

    def dispatched(self, lsn: int, targets: Iterable[Hashable]) -> None:
        """``targets`` were handed everything up to ``lsn``. Without targets it is done at once.

        Raises ValueError when ``lsn`` lies below one dispatched before. One dispatched again is done when both are,
        unless the watermark has reached it already.
        """
        if lsn < self._last:
            raise ValueError(f"dispatched {Lsn(lsn)} after {self._last}")
        self._last = Lsn(lsn)
        owed = set(targets)
        dispatch = _Dispatch(self._last, len(owed))
        self._outstanding.append(dispatch)
        for target in owed:
            self._debts.setdefault(target, deque()).append(dispatch)
        self._settle()

    def done(self, lsn: int, target: Hashable) -> None:
        """``target`` has made everything it was handed at or below ``lsn`` durable. Repeats are harmless."""
        debts = self._debts.get(target)
        if debts is None:
            return
        while debts and debts[0].lsn <= lsn:
            debts.popleft().owing -= 1
        if not debts:
            del self._debts[target]
        self._settle()

    def forget(self, target: Hashable) -> None:
        """``target`` is gone for good (its shape was dropped): nobody waits for it any more."""
        for dispatch in self._debts.pop(target, ()):
            dispatch.owing -= 1
        self._settle()

    def _settle(self) -> None:
        outstanding = self._outstanding
        while outstanding and not outstanding[0].owing:
            lsn = outstanding.popleft().lsn
            if lsn > self._watermark and not (outstanding and outstanding[0].lsn == lsn):
                self._watermark = lsn
