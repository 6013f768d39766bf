"""Frames of a device's stream, and transactions beside it, as messages for its socket. Pure.

``outbound`` decides what is sent next. Here it becomes messages, as large as is fit; the window and the echoes hear of
each transaction that goes, and the device's position moves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from syncline.actors.devices.echoes import Echoes, More
from syncline.actors.devices.held import HeldShapes
from syncline.actors.devices.steps import MESSAGE_BYTES, Echo, Send, Steps, Wait
from syncline.actors.shapes.frames import Frame, begun_by, lsn_bytes
from syncline.proto import codec
from syncline.proto.flow import Window
from syncline.proto.values import POSTGRES_ORIGIN, Change, Migrate, RejectionReason

# Ids of transactions that are not in the stream; far below any LSN, so they never meet a real one.
SYNTHETIC_ID_MAX = 1 << 20


class FrameQueue(deque[Frame]):
    """Frames that are to be sent, in order. ``size_bytes``: of their bodies."""

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        super().__init__()
        self.size_bytes = 0
        for frame in frames:
            self.add(frame)

    def add(self, frame: Frame) -> None:
        self.append(frame)
        self.size_bytes += len(frame.body or b"")

    def take(self) -> Frame:
        """The first. Raises IndexError when there is none."""
        frame = self.popleft()
        self.size_bytes -= len(frame.body or b"")
        return frame

    def drop(self) -> None:
        """All of them."""
        self.clear()
        self.size_bytes = 0


class Sending:
    """To ``client_id``, which has ``held``. ``position``: every transaction at or below it has been sent.
    ``extensions``: whether the device takes them."""

    def __init__(
        self, client_id: str, position: int, window: Window, echoes: Echoes, held: HeldShapes, *, extensions: bool
    ) -> None:
        self.position = position
        self._client_id = client_id
        self._window = window
        self._echoes = echoes
        self._held = held
        self._extensions = extensions
        self._synthetic_id = 0
        self._is_echo = False  # the transaction of the device itself that is being sent, by its frame

    # --- frames -------------------------------------------------------------------------------------------------------

    def send_run(self, run: FrameQueue) -> Steps:
        """Send the head of ``run`` and as many after it as make one message."""
        frame = run.take()  # at once: what is left of a queue may be dropped while this waits
        if frame.starts:
            # While the window is shut, echoes may turn up that belong before this frame.
            while self._echoes.due(_before(frame)) or not self._window.open:
                yield from self.send_echoes(_before(frame))
                yield from self._await_window()
        yield Send(self.message(frame, run))

    def message(self, frame: Frame, run: FrameQueue) -> tuple[bytes, ...]:
        """``frame``, which may go, and as many of ``run`` behind it as make one message."""
        bodies = [self._count(frame)]
        size = len(bodies[0])
        while run and size < MESSAGE_BYTES and self._may_join(run[0]):
            bodies.append(self._count(run.take()))
            size += len(bodies[-1])
        return (*frame.prelude, codec.oplog_message(*bodies))

    def _may_join(self, frame: Frame) -> bool:
        if frame.prelude:
            return False
        return not frame.starts or (self._window.open and not self._echoes.due(_before(frame)))

    def _count(self, frame: Frame) -> bytes:
        body = frame.body or b""
        if frame.starts:
            id = frame.lsn if frame.transaction_id is None else frame.transaction_id
            self._window.sent(id, frame.lsn)
            body = self._begun(frame, body)
        if self._echoes.healing.watching:
            self._echoes.healing.passed(body, self._held.projections)
        if frame.ends:
            self.position = frame.lsn
            self._echoes.passed(frame, is_own=frame.origin == self._client_id, is_echo=self._is_echo)
        # Where there is a migration, relations go before it.
        return body if self._extensions or not frame.prelude else codec.without_extensions(body)

    def _begun(self, frame: Frame, body: bytes) -> bytes:
        """``body`` with the begin that the device gets: one of its own that is not the echo is for it as another's."""
        origin, carried_out = frame.origin, self._echoes.carried_out
        if frame.since is not None:
            self._echoes.pass_by(frame.lsn)
        if origin == self._client_id:
            self._is_echo = self._echoes.passes(frame.commit_ms)
            if not self._is_echo:
                origin = POSTGRES_ORIGIN
                carried_out.passed(frame.commit_ms)
        if origin == frame.origin and not carried_out:
            return body
        return begun_by(frame, origin, carried_out.take())

    def _await_window(self) -> Steps:
        while not self._window.open:
            yield Wait()

    # --- transactions that are not in the stream ----------------------------------------------------------------------

    def tell_carried_out(self) -> Steps:
        """What comes next is no transaction, and the device has to know before."""
        if self._echoes.carried_out:
            yield from self.send_synthetic(0, POSTGRES_ORIGIN, ())

    def send_echoes(self, upto: int) -> Steps:
        """Those whose place is at or before ``upto``."""

        def send(echo: Echo, changes: tuple[Change, ...], more: More) -> Steps:
            reason = None if echo.heal is None or not self._extensions else echo.heal.reason
            # Whatever came before its place has been sent. It may tell of what is not before where the device stood.
            self.position = max(self.position, echo.lsn)
            yield from self.send_synthetic(echo.commit_ms, self._client_id, changes, more, reason)

        yield from self._echoes.sending(upto, self._await_window, send)

    def send_synthetic(
        self,
        commit_ms: int,
        origin: str,
        changes: tuple[Change, ...],
        more: More | None = None,
        reason: RejectionReason | None = None,
    ) -> Steps:
        """One transaction of ``changes`` and, when these have gone, of ``more``. ``reason``: it was rejected for it."""
        yield from self._await_window()
        self._synthetic_id = self._synthetic_id % SYNTHETIC_ID_MAX + 1
        self._window.sent(self._synthetic_id, self.position)
        lsn = lsn_bytes(self.position)
        is_migration = any(isinstance(change, Migrate) for change in changes)
        bodies = [
            codec.encode_begin(
                commit_ms,
                lsn,
                origin,
                self._synthetic_id,
                is_migration=is_migration,
                rejection=reason,
                carried_out=self._echoes.carried_out.take(),
            )
        ]
        size = 0
        following: tuple[Change, ...] | None = changes
        while following is not None:
            for change in following:
                ops = codec.encode_ops((change,))
                bodies.append(ops if self._extensions or not is_migration else codec.without_extensions(ops))
                size += len(bodies[-1])
                if size >= MESSAGE_BYTES:
                    yield Send((codec.oplog_message(*bodies),))
                    bodies, size = [], 0
            following = None if more is None else (yield from more())
        yield Send((codec.oplog_message(*bodies, codec.encode_commit(commit_ms, lsn)),))


def _before(frame: Frame) -> int:
    """Echoes up to there go before ``frame``."""
    return (frame.lsn if frame.since is None else frame.since) - 1
