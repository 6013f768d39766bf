"""The processes of a Ray head of our own, told from all others by what each of them has, and their end.

The head is a session leader, its processes stay in its session, and each has been given, or has opened, files in the
head's own folder. A number by itself tells nothing: once a process is gone, another one may have it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

POLL_S: Final = 0.1
KILLED_S: Final = 5.0  # a process is gone a moment after it was killed


def members(leader: int, folder: str) -> set[int]:
    """The processes of the session of ``leader`` that work in ``folder``."""
    return {pid for pid in _pids() if _belongs(pid, leader, folder)}


def leads(leader: int, folder: str) -> bool:
    """Whether the process ``leader`` leads a session, and works in ``folder``."""
    return _belongs(leader, leader, folder)


def _belongs(pid: int, leader: int, folder: str) -> bool:
    with contextlib.suppress(OSError):  # it is gone, or somebody else's
        return os.getsid(pid) == leader and any(folder in text for text in _traces(pid))
    return False


def end(leader: int, folder: str, within_s: float) -> None:
    """Asks the leader to end with all its processes, and kills what is left of them after ``within_s``. Blocks."""
    if leads(leader, folder):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(leader, signal.SIGTERM)
        deadline_s = time.monotonic() + within_s
        while lives(leader) and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
    deadline_s = time.monotonic() + KILLED_S
    while (left := members(leader, folder)) and time.monotonic() < deadline_s:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            lives(pid)  # one of our own children has to be waited for
        time.sleep(POLL_S)


def lives(pid: int) -> bool:
    """Whether there is such a process of ours, or of whoever has its number by now."""
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # nobody, or a process of somebody else
        return False
    return True


def _pids() -> list[int]:
    processes = Path("/proc")
    if processes.is_dir():
        return [int(path.name) for path in processes.iterdir() if path.name.isdigit()]
    return [int(word) for word in _ps("-ax", "-o", "pid=").split()]


def _traces(pid: int) -> Iterator[str]:
    """Its command, and where there is a /proc the names of the files it has open: Ray writes over the commands of some.
    Raises OSError for a process that is gone, or not ours."""
    process = Path(f"/proc/{pid}")
    if not process.parent.is_dir():
        yield _ps("-ww", "-o", "command=", "-p", str(pid))
        return
    yield (process / "cmdline").read_text(errors="replace")
    for descriptor in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed a moment ago
            yield os.readlink(descriptor)


def _ps(*options: str) -> str:
    """Where there is no /proc."""
    done = subprocess.run(["/bin/ps", *options], stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - no shell
    return done.stdout
