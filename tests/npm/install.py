"""The published ``electric-sql`` client made runnable, once per checkout.

``npm ci`` verifies every archive against the hash in ``package-lock.json`` (which names no address, so any registry
serves) and runs no script. What is native, better-sqlite3, is then compiled here with the headers of the Node that will
load it: its own installer would download a binary, which not every machine may. The result lives in ``node_modules``
and is marked with what it was made from, so that later calls cost milliseconds and a new lock or another Node starts
afresh.

To change a version: edit ``package.json``, run ``npm install`` here, drop the ``funding`` entries it adds to the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).resolve().parent
_MODULES = HOME / "node_modules"
_MARK = _MODULES / ".made-from"
_COMPILER_NAMES = ("c++", "g++", "clang++")


class NpmUnavailableError(RuntimeError):
    """The npm client cannot be made to run on this machine; the message says what to install or what failed."""


def ensure_npm() -> Path:
    """Installs and builds the client if needed; returns the folder whose ``driver.mjs`` then runs under ``node``.

    Safe to call from several processes at once. Raises `NpmUnavailableError`.
    """
    node = _program("node", "Node.js 18 or newer")
    made_from = f"{_node_facts(node)} {hashlib.sha256((HOME / 'package-lock.json').read_bytes()).hexdigest()}"
    folder = os.open(HOME, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not (_MARK.exists() and _MARK.read_text() == made_from):
            _install()
            _build(node)
            _MARK.write_text(made_from)
    finally:
        os.close(folder)
    return HOME


def _install() -> None:
    npm = _program("npm", "npm, which comes with Node.js")
    _run([npm, "ci"], cwd=HOME)


def _build(node: str) -> None:
    npm = _program("npm", "npm, which comes with Node.js")
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), *_COMPILER_NAMES)):
        raise NpmUnavailableError(
            "building better-sqlite3 needs a C++ compiler and make: install g++ and make (or set CXX), then try again"
        )
    _program("make", "make")
    environment = {**os.environ, "npm_config_python": sys.executable}
    prefix = Path(node).resolve().parent.parent
    if (prefix / "include" / "node" / "node.h").exists():  # otherwise node-gyp downloads the headers
        environment["npm_config_nodedir"] = str(prefix)
    _run([npm, "run", "build-release"], cwd=_MODULES / "better-sqlite3", environment=environment)


def _program(name: str, description: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise NpmUnavailableError(f"the tests of the npm client need {description}: no `{name}` on the PATH")
    return path


def _node_facts(node: str) -> str:
    """Everything of this Node a native module depends on."""
    script = "process.stdout.write([process.platform, process.arch, process.versions.modules].join(' '))"
    return subprocess.run([node, "-e", script], check=True, capture_output=True, text=True).stdout


def _run(command: list[str], *, cwd: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise NpmUnavailableError(f"`{' '.join(command)}` in {cwd} ended with {done.returncode}:\n{tail}")
