"""What a process of the service asks of its system and of Python."""

from __future__ import annotations

import contextlib
import gc
import os
from pathlib import Path
from typing import Final

# Python looks for cycles each time 700 more objects live. A stretch of the stream is tens of thousands of rows that
# hold none and are gone in a moment; walking them took a tenth to a quarter of the CPU time of replication.
GC_THRESHOLDS: Final = (50_000, 20, 50)


def raise_open_files() -> None:
    """Every device is an open file, and the usual soft limit is 1,024: take what the hard limit allows."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def settle_garbage() -> None:
    """The start is over: what it has made stays to the end, and no collection walks it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def private_folder(folder: Path) -> None:
    """Makes it for our own user alone, or sees that it is. Raises OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user: remove it")
