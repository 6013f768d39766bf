"""The embedded server starts, is found again, and survives what it should."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import asyncpg
import pytest
from tests.npm.service import ServiceFailedError, ServiceProcess

from syncline.actors.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError, own_folder

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root's server runs as somebody else")


async def test_it_offers_logical_decoding_and_asks_for_a_password(postgres: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(postgres.dsn())
    assert await connection.fetchval("SHOW wal_level") == "logical"
    assert await connection.fetchval("SHOW password_encryption") == "scram-sha-256"
    await connection.close()
    assert "127.0.0.1" in postgres.dsn()


def test_a_second_start_on_the_same_folder_finds_the_running_server(server_dir: Path) -> None:
    first = EmbeddedPostgres(server_dir / "found-again")
    dsn = first.start()
    try:
        assert EmbeddedPostgres(server_dir / "found-again").start() == dsn
    finally:
        first.stop()
    assert first.running_port() is None


async def test_rows_survive_an_immediate_stop(server_dir: Path) -> None:
    server = EmbeddedPostgres(server_dir / "crashes")
    connection = await asyncpg.connect(server.start())
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
    server.stop("immediate")
    connection.terminate()
    again = await asyncpg.connect(server.start())
    assert await again.fetchval("SELECT id FROM kept") == 1
    await again.close()
    server.stop("immediate")


async def test_a_second_service_that_is_refused_leaves_the_server_of_the_first_running(tmp_path: Path) -> None:
    first = ServiceProcess("", tmp_path, {"SYNCLINE_RUNTIME": "local"})
    second = ServiceProcess("", tmp_path, {"SYNCLINE_RUNTIME": "local"})
    server = EmbeddedPostgres(first.data_dir / "postgres")
    try:
        await first.start()
        with pytest.raises(ServiceFailedError, match="works in"):
            await second.start()
        assert server.running_port() is not None
        assert await first.stop() == 0
        assert server.running_port() is None
    finally:
        await first.kill()
        server.stop("immediate")


# --- a folder that anybody may have put there -------------------------------------------------------------------------


def test_a_folder_is_made_for_its_owner_alone_and_found_again(tmp_path: Path) -> None:
    own_folder(tmp_path / "data", (os.geteuid(),))
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    own_folder(tmp_path / "data", (os.geteuid(),))


def test_a_link_a_file_and_what_others_own_or_may_write_are_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name in ("link", "dangling", "file", "open"):
        with pytest.raises(EmbeddedPostgresError, match=str(tmp_path / name)):
            own_folder(tmp_path / name, (os.geteuid(),))
    with pytest.raises(EmbeddedPostgresError, match=f"belongs to somebody else .user {os.geteuid()}"):
        own_folder(tmp_path / "target", (os.geteuid() + 1,))


@pytest.fixture
def hidden(server_dir: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A data folder that the server's user cannot reach, and where its stand-in will be."""
    temporary = server_dir / "tmp"
    temporary.mkdir(exist_ok=True)
    temporary.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    closed = Path(tempfile.mkdtemp(dir=server_dir))  # nobody else can enter it
    return closed / "postgres", EmbeddedPostgres(closed / "postgres").folder


@AS_ROOT
@pytest.mark.parametrize("planted", ["a link", "another's folder"])
def test_a_planted_stand_in_is_refused(hidden: tuple[Path, Path], tmp_path: Path, planted: str) -> None:
    wanted, stand_in = hidden
    if planted == "a link":
        stand_in.symlink_to(tmp_path)
    else:
        stand_in.mkdir(mode=0o700)
        os.chown(stand_in, 12345, 12345)
    with pytest.raises(EmbeddedPostgresError, match=f"{stand_in} .*somebody else"):
        EmbeddedPostgres(wanted).start()
    with pytest.raises(EmbeddedPostgresError, match="somebody else"):
        EmbeddedPostgres(wanted).running_port()
    assert not list(tmp_path.iterdir())


@AS_ROOT
def test_the_stand_in_of_a_folder_out_of_reach_is_used_again(hidden: tuple[Path, Path]) -> None:
    wanted, stand_in = hidden
    server = EmbeddedPostgres(wanted)
    assert server.folder == stand_in
    dsn = server.start()
    try:
        assert EmbeddedPostgres(wanted).start() == dsn
    finally:
        server.stop("immediate")


@AS_ROOT
def test_a_link_in_the_place_of_a_file_is_not_written_through(server_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("kept")
    folder = server_dir / "linked"
    folder.mkdir()
    (folder / "password").symlink_to(target)
    with pytest.raises(OSError, match="password"):
        EmbeddedPostgres(folder).start()
    assert target.read_text() == "kept"


@AS_ROOT
def test_a_temporary_folder_that_the_servers_user_cannot_enter_is_named(
    server_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Path(tempfile.mkdtemp(dir=server_dir))
    monkeypatch.setattr(tempfile, "tempdir", str(closed))
    with pytest.raises(EmbeddedPostgresError, match=f"cannot enter {closed}: set TMPDIR"):
        EmbeddedPostgres(closed / "postgres")
