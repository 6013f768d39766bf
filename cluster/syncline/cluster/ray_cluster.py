"""A Ray cluster for our hosts: one that somebody runs, or one of our own on this machine.

Ray places, starts, restarts and names processes here, and never carries a message of ours. A cluster of our own is a
head node for this machine alone, in processes that outlive whoever started it: the next command finds it by what is
noted in its folder. It asks every caller for a token, is bound to the loopback address, and reports nothing to anybody.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from syncline.cluster import ray_session
from syncline.cluster.ray_session import lives

log = logging.getLogger(__name__)

NAMESPACE: Final = "syncline"
NOTE: Final = "ray.json"
SAID: Final = "start.log"
# Of the whole loopback network Ray takes 127.0.0.1 alone for a mistake, and binds to an outer address in its place.
LOOPBACK: Final = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
START_S: Final = 60.0
CONNECT_S: Final = 60.0
STOP_S: Final = 15.0
POLL_S: Final = 0.1
OBJECT_STORE_BYTES: Final = 80 << 20  # the least Ray accepts: nothing of ours goes through it
# A dead address in the environment makes Ray wait for a minute.
_OURS_TO_SET: Final = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_NAMESPACE")
# Ray tries for a quarter of an hour to enter a cluster that has just ended, and nothing cuts that short.
_TO_ENTER: Final = {"RAY_NUM_REDIS_GET_RETRIES": "2", "RAY_py_gcs_connect_timeout_s": "5"}


class ClusterUnavailable(Exception):
    """There is no Ray cluster and none could be started; the message says why."""


@dataclass(frozen=True, slots=True)
class Head:
    """A cluster of our own: the ``address`` drivers connect to, none while it starts, the ``pid`` that ends it, and
    where it keeps its sockets and logs."""

    address: str
    pid: int
    token: str
    temp_dir: str


class RayCluster:
    """``head``: None when the cluster is somebody else's. ``started``: by us, now."""

    def __init__(self, address: str, head: Head | None, note: Path, *, started: bool) -> None:
        self.address = address
        self.head = head
        self.started = started
        self._note = note

    @classmethod
    def find(cls, folder: Path, address: str | None = None) -> RayCluster | None:
        """The cluster at ``address``, or the one of our own noted in ``folder`` if it lives."""
        note = folder / NOTE
        head = _noted(note) if address is None else None
        if head is not None:
            return cls(head.address, head, note, started=False)
        return None if address is None else cls(address, None, note, started=False)

    @classmethod
    def meet(cls, folder: Path, address: str | None = None) -> RayCluster | None:
        """The same, also if it takes a while to answer. Blocks for as long."""
        found = cls.find(folder, address)
        head = _written(folder / NOTE) if address is None else None
        if found is None and head is not None and _comes_back(head):
            return cls(head.address, head, folder / NOTE, started=False)
        return found

    @classmethod
    def open(cls, folder: Path, address: str | None = None) -> RayCluster:
        """The same, or else a new one, noted in ``folder``. What one before it has left there is removed. Blocks for
        seconds. Raises ClusterUnavailable."""
        found = cls.meet(folder, address)
        if found is not None:
            return found
        earlier = _written(folder / NOTE)
        if earlier is not None:
            _end(earlier)
        # A process can be in clusters of one token only: Ray reads it once.
        head = _start_head(folder / NOTE, secrets.token_hex(32) if earlier is None else earlier.token)
        return cls(head.address, head, folder / NOTE, started=True)

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return _answers(self.address)

    @property
    def ended(self) -> bool:
        """Whether it is our own and its first process is gone, which no part of it is meant to outlive."""
        return self.head is not None and not lives(self.head.pid)

    @staticmethod
    def is_noted(folder: Path) -> bool:
        """Whether one of our own is noted in ``folder``, dead or alive."""
        return _written(folder / NOTE) is not None

    @property
    def noted(self) -> bool:
        """Whether it is our own, and nobody has ended it by ``stop``: a note of it, or of one after it, is there."""
        return self.head is not None and _written(self._note) is not None

    @staticmethod
    def clear(folder: Path) -> bool:
        """Ends the processes and removes the files of a cluster of our own noted in ``folder``, which is dead or as
        good as that, and the note. Whether there was one. Blocks."""
        head = _written(folder / NOTE)
        if head is None:
            return False
        _end(head)
        (folder / NOTE).unlink(missing_ok=True)
        return True

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Hosts can be brought up, found and ended meanwhile. Entering blocks for a second or two; one at a time.

        Raises ClusterUnavailable, also for whatever happens because the cluster ends meanwhile. Nobody may stay long in
        a cluster that has ended: after a minute Ray ends the process.
        """
        if self.head is not None:
            _authenticate(self.head.token)
        os.environ.update(_TO_ENTER)
        import ray  # it reads its settings, the token among them, when it is imported
        from ray.exceptions import RayError

        deadline_s = time.monotonic() + CONNECT_S
        with _sigterm_left_alone():
            while not ray.is_initialized():
                self._join(deadline_s)
        try:
            yield
        except ClusterUnavailable:
            raise
        except Exception as error:
            if isinstance(error, RayError) or not self.alive:
                why = str(error).partition("\n")[0] or type(error).__name__
                raise ClusterUnavailable(f"the Ray cluster at {self.address} fails: {why}") from error
            raise
        finally:
            ray.shutdown()

    def _join(self, deadline_s: float) -> None:
        """One attempt, which Ray gives up within seconds on a busy machine. Raises ClusterUnavailable when it was the
        last."""
        import ray

        try:
            ray.init(
                address=self.address,
                _node_ip_address=self.address.rpartition(":")[0] if self.head is not None else None,
                namespace=NAMESPACE,
                log_to_driver=False,
                configure_logging=False,
            )
        except Exception as error:  # of any kind: Ray has none of its own for this
            ray.shutdown()
            if not self.alive or time.monotonic() > deadline_s:
                raise ClusterUnavailable(f"no Ray cluster answers at {self.address}: {error}") from error
            log.info("the Ray cluster at %s is not ready yet: %s", self.address, error)
            time.sleep(POLL_S)

    @staticmethod
    def nodes() -> list[str]:
        """The ids of those that live and take work, in the same order at each look. In a connected cluster."""
        import ray

        there = ray.nodes()  # type: ignore[no-untyped-call]
        alive = sorted((node for node in there if node["Alive"]), key=lambda node: str(node["NodeManagerAddress"]))
        return [str(node["NodeID"]) for node in [each for each in alive if each["Resources"].get("CPU")] or alive]

    def stop(self) -> None:
        """Ends it if it is our own. Blocks."""
        if self.head is not None:
            if _written(self._note) == self.head:
                self._note.unlink(missing_ok=True)
            _end(self.head)


@contextlib.contextmanager
def _sigterm_left_alone() -> Iterator[None]:
    """Ray would have it end the process on the spot, also while it enters a cluster, which takes a while."""
    import ray._private.utils as internal

    setting = internal.set_sigterm_handler
    internal.set_sigterm_handler = lambda _: None
    try:
        yield
    finally:
        internal.set_sigterm_handler = setting


def still_there() -> None:
    """Raises ClusterUnavailable when the connected cluster does not answer: whoever asked it something then would wait
    for a minute, and be ended by Ray. Blocks for a second at most."""
    import ray

    address = str(ray.get_runtime_context().gcs_address)
    if not _answers(address):
        raise ClusterUnavailable(f"the Ray cluster at {address} is gone")


def _authenticate(token: str) -> None:
    for name in _OURS_TO_SET:
        os.environ.pop(name, None)
    os.environ.update(_environment(token))


def _environment(token: str) -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # it would take SIGTERM away from us
        "RAY_kill_worker_timeout_milliseconds": "1000",  # what a frozen process is given to end by itself
        "RAY_memory_monitor_refresh_ms": "0",  # it would kill hosts because others take the machine's memory
        "RAY_worker_niceness": "0",  # Ray's 15 is for batches: on a busy machine hosts would hardly get a turn
    }


def _noted(note: Path) -> Head | None:
    """The cluster that ``note`` tells of, if it still lives."""
    head = _written(note)
    return head if head is not None and _is_up(head) else None


def _is_up(head: Head) -> bool:
    """Whether it is that very head which answers: numbers and ports go to others once it is gone."""
    return bool(head.address) and ray_session.leads(head.pid, head.temp_dir) and _answers(head.address)


def _written(note: Path) -> Head | None:
    try:
        return Head(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_note(note: Path, head: Head) -> None:
    """In one step, as others look at it. Our own user alone may read it: who has the token may run code there."""
    note.parent.mkdir(parents=True, exist_ok=True)
    written = note.with_suffix(".new")
    descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(head), file)
    written.replace(note)


def _start_head(note: Path, token: str) -> Head:
    """It is noted at once, as whoever starts it may be killed. Every port that may be any port is Ray's to choose: what
    we found free might be taken by the time it is bound."""
    temp_dir = tempfile.mkdtemp(prefix="syncline-ray-")  # short: Ray puts sockets in it
    command = [
        *(sys.executable, "-m", "syncline.cluster.ray_head", "start", "--head", "--block"),
        *("--node-ip-address", LOOPBACK, "--port", "0", "--temp-dir", temp_dir, "--dashboard-port", str(_free_port())),
        *("--min-worker-port", "0", "--max-worker-port", "0", "--dashboard-agent-listen-port", "0"),
        *("--include-dashboard", "false", "--include-log-monitor", "false", "--no-monitor", "--disable-usage-stats"),
        *("--object-store-memory", str(OBJECT_STORE_BYTES)),
    ]
    environment = {name: value for name, value in os.environ.items() if name not in (*_OURS_TO_SET, *_TO_ENTER)}
    with Path(temp_dir, SAID).open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own arguments
            command,
            env=environment | _environment(token),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at our terminal is not meant for it
        )
    head = Head("", process.pid, token, temp_dir)
    try:
        _write_note(note, head)
        head = replace(head, address=_address(process, temp_dir))
        _write_note(note, head)
    except BaseException:
        _end(head)
        note.unlink(missing_ok=True)
        raise
    return head


def _address(process: subprocess.Popen[bytes], temp_dir: str) -> str:
    """Waits until the head has started. Raises ClusterUnavailable."""
    deadline_s = time.monotonic() + START_S
    while not (address := _started(temp_dir)):
        if process.poll() is not None or time.monotonic() > deadline_s:
            words = Path(temp_dir, SAID).read_text(errors="replace").strip().splitlines()[-5:]
            raise ClusterUnavailable("Ray did not start: " + " / ".join(words))
        time.sleep(POLL_S)
    return address


def _started(temp_dir: str) -> str:
    """The address of the cluster, which Ray notes there once all of it has started."""
    with contextlib.suppress(OSError):
        return Path(temp_dir, "ray_current_cluster").read_text().strip()
    return ""


def _end(head: Head) -> None:
    """Asks the head to end with all its processes, and makes sure of it."""
    ray_session.end(head.pid, head.temp_dir, STOP_S)
    shutil.rmtree(head.temp_dir, ignore_errors=True)


def _comes_back(head: Head) -> bool:
    """Whether it lives, and answers before long: it may be ending, or held up."""
    if not head.address or not ray_session.leads(head.pid, head.temp_dir):
        return False
    deadline_s = time.monotonic() + STOP_S
    while lives(head.pid) and time.monotonic() < deadline_s:
        if _answers(head.address):
            return True
        time.sleep(POLL_S)
    return False


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        return int(taken.getsockname()[1])
