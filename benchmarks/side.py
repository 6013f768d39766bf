"""Processes beside the one that measures: devices, load and readers, so that none slows another's event loop."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT_S = 300.0


class Side:
    """A started process; what it sends through its end of the pipe is received here, and the other way round."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def send(self, message: object) -> None:
        self._pipe.send(message)

    async def receive(self) -> Any:
        """The next message. Raises EOFError when the process has ended, TimeoutError when it says nothing."""
        ready = await asyncio.to_thread(self._pipe.poll, TIMEOUT_S)
        if not ready:
            raise TimeoutError("a process of the benchmark says nothing any more")
        return self._pipe.recv()


@contextlib.asynccontextmanager
async def beside(target: Callable[..., None], *arguments: object) -> AsyncIterator[Side]:
    """Runs ``target(pipe, *arguments)`` in a process of its own until the block ends."""
    context = multiprocessing.get_context("forkserver")  # imports once, for all of them
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield Side(ours)
    finally:
        ours.close()
        process.terminate()
        await asyncio.to_thread(process.join)


def now_ms() -> float:
    """A clock that all processes of this machine share."""
    return time.monotonic_ns() / 1e6
