from __future__ import annotations

import ssl

import pytest

from syncline.actors.postgres.dsn import parse_dsn
from syncline.actors.postgres.pgoutput import PgoutputError
from syncline.actors.postgres.server_messages import ServerError, WalsenderError
from syncline.actors.postgres.stream import BACKOFF_MAX_S, backoff_s, needs_operator
from syncline.actors.postgres.walsender import TlsMode


def test_a_url_says_where_and_as_whom() -> None:
    endpoint = parse_dsn("postgresql://me:p%40ss@db.example:5433/shop", {})
    assert (endpoint.host, endpoint.port, endpoint.socket_path) == ("db.example", 5433, None)
    assert endpoint.password == "p@ss"
    assert endpoint.startup == {"user": "me", "database": "shop"}
    assert endpoint.tls is TlsMode.PREFER


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql:///shop?host=/run/pg&port=5433&user=me",
        "postgresql://me@:5433/shop?host=/run/pg",
        "postgresql://me@%2Frun%2Fpg:5433/shop",
    ],
)
def test_a_folder_as_host_means_a_unix_socket_without_tls(dsn: str) -> None:
    endpoint = parse_dsn(dsn, {})
    assert endpoint.socket_path == "/run/pg/.s.PGSQL.5433"
    assert endpoint.startup == {"user": "me", "database": "shop"}
    assert endpoint.tls is TlsMode.DISABLE


def test_an_ipv6_address_is_bracketed() -> None:
    assert parse_dsn("postgres://me@[::1]:5433/shop", {}).host == "::1"
    endpoint = parse_dsn("postgres://me@[::1]/shop", {})
    assert (endpoint.host, endpoint.port) == ("::1", 5432)


def test_the_environment_fills_the_gaps() -> None:
    environment = {
        "PGHOST": "h",
        "PGPORT": "1",
        "PGUSER": "u",
        "PGPASSWORD": "p",
        "PGDATABASE": "d",
        "PGSSLMODE": "require",
    }
    endpoint = parse_dsn("postgresql://", environment)
    assert (endpoint.host, endpoint.port, endpoint.password, endpoint.tls) == ("h", 1, "p", TlsMode.REQUIRE)
    assert endpoint.startup == {"user": "u", "database": "d"}


def test_the_database_defaults_to_the_user() -> None:
    assert parse_dsn("postgresql://me@h", {}).startup == {"user": "me", "database": "me"}


def test_other_parameters_become_settings_of_the_session() -> None:
    endpoint = parse_dsn("postgresql://me@h/d?application_name=x&connect_timeout=3", {})
    assert endpoint.startup == {"user": "me", "database": "d", "application_name": "x"}


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("mysql://me:secret@h/d", "not a Postgres URL"),
        ("postgresql://me:secret@h:http/d", "port"),
        ("postgresql://me:secret@h:0/d", "port"),
        ("postgresql://me:secret@a,b/d", "several hosts"),
        ("postgresql://me:secret@h/d?sslmode=always", "sslmode=always"),
    ],
)
def test_a_bad_url_is_explained_without_its_password(dsn: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        parse_dsn(dsn, {})
    assert "secret" not in str(refused.value)


def test_an_endpoint_never_prints_its_password() -> None:
    assert "secret" not in repr(parse_dsn("postgresql://me:secret@h/d", {}))


@pytest.mark.parametrize(
    ("mode", "verify", "hostname"),
    [
        ("require", ssl.CERT_NONE, False),
        ("verify-ca", ssl.CERT_REQUIRED, False),
        ("verify-full", ssl.CERT_REQUIRED, True),
    ],
)
def test_certificates_are_checked_as_far_as_the_mode_asks(mode: str, verify: ssl.VerifyMode, hostname: bool) -> None:
    context = parse_dsn(f"postgresql://me@h/d?sslmode={mode}", {}).tls_context()
    assert (context.verify_mode, context.check_hostname) == (verify, hostname)


@pytest.mark.parametrize("sqlstate", ["57P01", "57P03", "55006", "53300", "08006", "XX000"])
def test_the_worlds_faults_are_retried(sqlstate: str) -> None:
    assert not needs_operator(ServerError({"C": sqlstate}))
    assert not needs_operator(ConnectionResetError())


@pytest.mark.parametrize("sqlstate", ["28P01", "28000", "3D000", "42704", "55000"])
def test_what_only_an_operator_can_mend_is_not(sqlstate: str) -> None:
    assert needs_operator(ServerError({"C": sqlstate}))
    assert needs_operator(WalsenderError("no TLS"))
    assert needs_operator(PgoutputError("unknown message"))


def test_backoff_grows_to_a_limit_and_is_spread() -> None:
    assert backoff_s(0, 0.0) < backoff_s(0, 0.99) < backoff_s(3, 0.0)
    assert backoff_s(10_000, 0.999) <= BACKOFF_MAX_S
