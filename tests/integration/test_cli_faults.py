"""What goes wrong for an operator, really made: a message names the thing and the remedy, and never is a traceback."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from tests.conftest import with_database

from syncline.actors.postgres.embedded import EmbeddedPostgres

SYNCLINE = Path(sys.executable).with_name("syncline")
TIMEOUT_S = 60
SERVE = ("serve", "--http-port", "0", "--http-host", "127.0.0.1", "--auth-mode", "insecure")


def environment(**more: str) -> dict[str, str]:
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH") if name in os.environ}
    return {**clean, "NO_COLOR": "1", **more}


def bound_by_modes() -> None:
    """For root, in a child: what a folder's mode forbids is forbidden."""
    if os.geteuid() == 0:
        drop_from_bounding_set, may_override_modes = 24, 1
        assert ctypes.CDLL(None).prctl(drop_from_bounding_set, may_override_modes, 0, 0, 0) == 0


def run(
    *arguments: str, cwd: Path, before: Callable[[], None] | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(SYNCLINE), *arguments],
        cwd=cwd,
        env=environment(**variables),
        preexec_fn=before,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    return done


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A port where somebody answers whatever comes with ``answer``, and hangs up."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def up() -> Iterator[str]:
    """A service that is up."""
    body = b"Connection to Postgres is up!"
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as port:
        yield f"http://127.0.0.1:{port}"


# --- the database -----------------------------------------------------------------------------------------------------

FAULTS = {
    "password": ("refuses the password of user 'postgres'", "correct user and password in DATABASE_URL"),
    "database": ("has no database 'missing'", "CREATE DATABASE"),
    "no TLS": ("does not offer TLS", "turn ssl on in Postgres"),
    "web server": ("not Postgres that listens there", "sslmode=prefer"),
    "refused": ("nothing listens there", "start Postgres there, or correct host and port in DATABASE_URL"),
    "host": ("no host 'no-such-host.invalid'", "correct the host in DATABASE_URL"),
    "socket": ("cannot be reached: No such file or directory", "correct host and port in DATABASE_URL"),
    "hangs up": ("ended the connection before it was made", "see that it is Postgres which listens there"),
}
PASSING = ("refused", "host", "socket", "hangs up")


@pytest.fixture(params=FAULTS)
def broken(request: pytest.FixtureRequest, postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The name of a fault, and a URL that meets it."""
    at = urlsplit(postgres.dsn())
    here = f"{at.hostname}:{at.port}"
    with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as web, answering(b"") as silent:
        yield (
            request.param,
            {
                "password": f"postgresql://postgres:hunter2@{here}/postgres",
                "database": with_database(postgres.dsn(), "missing"),
                "no TLS": f"{postgres.dsn()}?sslmode=require",
                "web server": f"postgresql://u:hunter2@127.0.0.1:{web}/db?sslmode=require",
                "refused": f"postgresql://u:hunter2@127.0.0.1:{closed_port()}/db",
                "host": "postgresql://u:hunter2@no-such-host.invalid/db",
                "socket": f"postgresql://u:hunter2@/db?host={tmp_path}",
                "hangs up": f"postgresql://u:hunter2@127.0.0.1:{silent}/db?sslmode=disable",
            }[request.param],
        )


def test_a_database_out_of_reach_is_named_with_the_remedy(broken: tuple[str, str], tmp_path: Path, up: str) -> None:
    fault, url = broken
    what, remedy = FAULTS[fault]
    done = run("electrify", "items", cwd=tmp_path, DATABASE_URL=url)
    assert done.returncode == 1
    assert what in done.stderr
    assert remedy in done.stderr

    # The service answered: it is up, whatever can be reached from here.
    done = run("status", "--url", up, cwd=tmp_path, DATABASE_URL=url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Connection to Postgres is up!" in done.stdout
    assert what in done.stdout
    assert remedy in done.stdout

    if fault not in PASSING:
        done = run(*SERVE, cwd=tmp_path, DATABASE_URL=url)
        assert done.returncode == 1
        assert what in done.stderr
        assert remedy in done.stderr
        return
    with subprocess.Popen(
        [str(SYNCLINE), *SERVE], cwd=tmp_path, env=environment(DATABASE_URL=url), stderr=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stderr is not None
        for line in serving.stderr:
            if what in line and remedy in line:
                break
        assert "tried again" in line
        serving.terminate()
        assert "Traceback" not in serving.stderr.read()
        assert serving.wait(TIMEOUT_S) == 0


def test_a_url_that_cannot_be_used_is_a_wrong_setting(tmp_path: Path) -> None:
    for url, problem in (
        ("postgresql://u:hunter2@a,b/db", "several hosts"),
        ("postgresql://u:hunter2@a/db?sslmode=perhaps", "sslmode=perhaps is unknown"),
    ):
        for command in (("serve", "--auth-mode", "insecure"), ("status",), ("electrify", "items")):
            done = run(*command, cwd=tmp_path, DATABASE_URL=url)
            assert (done.returncode, problem in done.stderr) == (2, True), done.stderr


# --- the port and the folder ------------------------------------------------------------------------------------------


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with answering(b"") as port:
        done = run(*SERVE, "--http-port", str(port), cwd=tmp_path)
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is in use" in done.stderr
    assert "HTTP_PORT" in done.stderr


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    for host, what in (
        ("203.0.113.9", "not an address of this machine"),
        ("no-such-host.invalid", "is not known here"),
    ):
        done = run(*SERVE, "--http-host", host, cwd=tmp_path)
        assert done.returncode == 1
        assert what in done.stderr
        assert "correct SYNCLINE_HTTP_HOST" in done.stderr


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_the_place_of_the_data_folder_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    done = run(*SERVE, "--data-dir", f"file/{below}", cwd=tmp_path)
    assert done.returncode == 1
    assert "a file is in its way" in done.stderr
    assert "SYNCLINE_DATA_DIR" in done.stderr


@pytest.mark.parametrize("embedded", [True, False])
def test_a_data_folder_that_cannot_be_written_is_named(server_dir: Path, database: str, embedded: bool) -> None:
    folder = Path(tempfile.mkdtemp(dir=server_dir))
    folder.chmod(0o555)
    variables = {} if embedded else {"DATABASE_URL": database}
    done = run(*SERVE, "--data-dir", str(folder), cwd=server_dir, before=bound_by_modes, **variables)
    assert done.returncode == 1
    assert f"the data folder {folder} cannot be used: Permission denied" in done.stderr
    assert "let the service's user own it" in done.stderr


def test_a_data_folder_in_use_is_named(server_dir: Path, database: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=server_dir))
    serving = subprocess.Popen(
        [str(SYNCLINE), *SERVE, "--data-dir", str(folder)],
        env=environment(DATABASE_URL=database),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert serving.stdout is not None
        assert b"ready" in serving.stdout.readline()
        done = run(*SERVE, "--data-dir", str(folder), cwd=server_dir, DATABASE_URL=database)
        assert done.returncode == 1
        assert f"process {serving.pid}" in done.stderr
        assert "set SYNCLINE_DATA_DIR" in done.stderr
    finally:
        serving.terminate()
        serving.communicate(timeout=TIMEOUT_S)


def test_a_data_folder_that_fails_later_is_named_too(server_dir: Path, database: str) -> None:
    folder = Path(tempfile.mkdtemp(dir=server_dir))
    serve = [str(SYNCLINE), *SERVE, "--data-dir", str(folder)]
    variables = environment(DATABASE_URL=database)
    with subprocess.Popen(serve, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as serving:
        assert serving.stdout is not None
        assert b"ready" in serving.stdout.readline()
        serving.terminate()
    (progress,) = folder.glob("shapes/*/progress.json")
    progress.unlink()  # so that the shapes have to go, but one of them cannot
    kept = progress.with_name("kept")
    kept.mkdir()
    (kept / "file").write_text("")
    kept.chmod(0o500)
    done = subprocess.run(
        serve,
        env=variables,
        preexec_fn=bound_by_modes,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    said = done.stderr[done.stderr.index("error: ") :]  # behind the log, where the part that failed left its traceback
    assert f"error: the data folder {folder} cannot be used: Permission denied" in said
    assert "let the service's user own it" in said
    assert "Traceback" not in said


# --- the service ------------------------------------------------------------------------------------------------------


def test_a_service_out_of_reach_is_named_with_the_remedy(tmp_path: Path) -> None:
    page = b"HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\n<html></html>"
    with answering(page) as web, answering(b"garbage\r\n\r\n") as garbage:
        for url, what, remedy in (
            (f"http://127.0.0.1:{closed_port()}", "nothing listens on", "syncline serve"),
            ("http://no-such-host.invalid", "no host 'no-such-host.invalid'", "correct --url"),
            (f"http://127.0.0.1:{web}", "answers 404", "correct --url"),
            (f"http://127.0.0.1:{garbage}", "does not speak HTTP", "correct --url"),
            (f"https://127.0.0.1:{web}", "speaks no TLS", "http://"),
        ):
            done = run("status", "--url", url, cwd=tmp_path)
            assert (done.returncode, what in done.stdout, remedy in done.stdout) == (1, True, True), done.stdout
            assert "<html>" not in done.stdout


@pytest.mark.parametrize(
    "body",
    [
        b'{"message": "fine"}',
        b'{"message": "fine", "devices": "many", "shapes": null, "held_writes": {"writes": "all"}}',
        b'{"message": "fine", "devices": 1.5, "held_writes": [3], "rejections": {"transactions": "x"}}',
        b"fine\nand more",
    ],
)
def test_status_shows_what_it_understands_of_another_versions_answer(tmp_path: Path, body: bytes) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as port:
        done = run("status", "--url", f"http://127.0.0.1:{port}", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].endswith("  fine")


def test_status_says_that_there_is_no_database_to_show(tmp_path: Path, up: str) -> None:
    done = run("status", "--url", up, cwd=tmp_path)
    assert done.returncode == 0
    assert "does not run in the data folder" in done.stdout


# --- what is left behind ----------------------------------------------------------------------------------------------


def processes_in(folder: Path) -> list[str]:
    """The command lines that name ``folder``."""
    lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if str(folder) in line]


def interruptible() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and whatever that starts inherits it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def appears(folder: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    """Returns at the moment when there is such a file; ``process`` is to make it."""
    began = time.monotonic()
    while not list(folder.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < TIMEOUT_S, f"no {pattern}"
        time.sleep(0.01)  # a folder tells nobody


def test_a_serve_that_is_stopped_while_its_postgres_starts_leaves_no_server(server_dir: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=server_dir))
    folder.chmod(0o755)
    serving = subprocess.Popen(
        [str(SYNCLINE), *SERVE, "--data-dir", str(folder)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    appears(folder, "postgres/password", serving)
    serving.terminate()
    _, errors = serving.communicate(timeout=TIMEOUT_S)
    assert serving.returncode == 0, errors
    assert "Traceback" not in errors
    assert not processes_in(folder)


@pytest.mark.parametrize(("moment", "how"), [("*/postgres/password", signal.SIGTERM), ("*/phone.db", signal.SIGINT)])
def test_a_demo_that_is_stopped_leaves_nothing(server_dir: Path, moment: str, how: signal.Signals) -> None:
    folder = Path(tempfile.mkdtemp(dir=server_dir))
    folder.chmod(0o755)
    demo = subprocess.Popen(
        [str(SYNCLINE), "demo"],
        env=environment(TMPDIR=str(folder)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=interruptible,
    )
    appears(folder, moment, demo)
    demo.send_signal(how)
    said, _ = demo.communicate(timeout=TIMEOUT_S)
    assert demo.returncode == 130, said
    assert "Traceback" not in said
    assert "everything is stopped and removed" in said
    assert not processes_in(folder)
    left = sorted(path.name for path in folder.iterdir())
    assert [name for name in left if not re.search(rf"(?<!\S){re.escape(str(folder / name))}(?!\S)", said)] == []


def test_a_demo_without_a_temporary_folder_says_so(server_dir: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=server_dir))
    done = run("demo", cwd=server_dir, TMPDIR=str(folder))
    if os.geteuid() != 0:  # whoever is not root needs no folder that others can enter
        assert done.returncode == 0
        return
    assert done.returncode == 1
    assert f"cannot enter {folder}: set TMPDIR" in done.stdout
    assert not list(folder.iterdir())
