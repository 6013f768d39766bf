"""Settings: where they come from, what they default to, and what is said when they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncline.actors.config import Config, ConfigError, find, load, without_password
from syncline.actors.devices.auth import InsecureAuth, SecureAuth
from syncline.actors.settings import SETTINGS, UNSUPPORTED

KEY = "k" * 32
REAL = {"DATABASE_URL": "postgresql://ann:pw@db.example:5432/app", "AUTH_JWT_ALG": "HS256", "AUTH_JWT_KEY": KEY}


def read(**environment: str) -> Config:
    return load({}, environment)


def problems(**environment: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load({}, environment)
    return {problem.variable: problem.message for problem in caught.value.problems}


def test_without_a_database_everything_is_a_trial_on_loopback_and_says_so() -> None:
    config = read()
    assert config.database_url is None
    assert (config.http_hosts, config.http_port) == (("127.0.0.1",), 5133)
    assert config.auth_mode == "insecure"
    assert isinstance(config.authenticator, InsecureAuth)
    assert config.data_dir == (Path.cwd() / ".syncline").resolve()
    assert any("INSECURE" in warning for warning in config.warnings)


def test_with_a_database_auth_is_secure_and_the_world_may_connect() -> None:
    config = read(**REAL)
    assert config.auth_mode == "secure"
    assert isinstance(config.authenticator, SecureAuth)
    assert config.http_hosts == ("0.0.0.0",)
    assert config.warnings == ()


def test_with_a_database_a_missing_key_is_an_error_that_names_the_variable() -> None:
    found = problems(DATABASE_URL=REAL["DATABASE_URL"])
    assert set(found) == {"AUTH_JWT_ALG", "AUTH_JWT_KEY"}
    assert "AUTH_MODE=insecure" in found["AUTH_JWT_KEY"]


def test_all_problems_are_reported_together() -> None:
    found = problems(
        DATABASE_URL="mysql://x/y",
        DATABASE_REQUIRE_SSL="maybe",
        HTTP_PORT="99999",
        AUTH_MODE="open",
        LOG_LEVEL="loud",
        SYNCLINE_RUNTIME="cloud",
    )
    assert set(found) == {
        "DATABASE_URL",
        "DATABASE_REQUIRE_SSL",
        "HTTP_PORT",
        "AUTH_MODE",
        "AUTH_JWT_ALG",
        "AUTH_JWT_KEY",
        "LOG_LEVEL",
        "SYNCLINE_RUNTIME",
    }


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("HTTP_PORT=1\nLOG_LEVEL=debug\nELECTRIC_INSTANCE_ID=from-file\n")
    environment = {"HTTP_PORT": "2", "LOG_LEVEL": "error"}
    config = load({"HTTP_PORT": "3", "LOG_LEVEL": None}, environment, dotenv)
    assert (config.http_port, config.log_level, config.instance_id) == (3, "error", "from-file")


def test_an_empty_value_counts_as_not_given() -> None:
    assert read(HTTP_PORT="", DATABASE_URL=" ").http_port == 5133


def test_an_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"HTTP_PORT=\xff\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load({}, {}, dotenv)


def test_numbers_of_processes_are_numbers() -> None:
    found = problems(SYNCLINE_RUNTIME="ray", SYNCLINE_EDGE_HOSTS="0", SYNCLINE_SHAPES_HOSTS="many")
    assert set(found) == {"SYNCLINE_EDGE_HOSTS", "SYNCLINE_SHAPES_HOSTS"}
    assert "from 1 to" in found["SYNCLINE_EDGE_HOSTS"]


def test_a_dedicated_placement_needs_processes_and_a_number_of_them() -> None:
    dedicated = {"SYNCLINE_RUNTIME": "ray", "SYNCLINE_CONNECTIONS_PLACEMENT": "dedicated"}
    assert read(**dedicated, SYNCLINE_CONNECTION_HOSTS="20").connection_hosts == 20
    assert set(problems(**dedicated)) == {"SYNCLINE_CONNECTION_HOSTS"}
    assert "SYNCLINE_CONNECTIONS_PLACEMENT" in problems(**{**dedicated, "SYNCLINE_RUNTIME": "local"})


def test_connections_are_packed_unless_said_otherwise() -> None:
    packed = read(SYNCLINE_CONNECTION_HOSTS="20")
    assert packed.connection_hosts == 0
    assert any("SYNCLINE_CONNECTION_HOSTS is set but not used" in warning for warning in packed.warnings)


# --- database ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "require", "expected"),
    [
        ("postgres://u:p@db.example/app", None, "postgresql://u:p@db.example/app?sslmode=require"),
        ("postgresql://u@db.example/app", "false", "postgresql://u@db.example/app?sslmode=prefer"),
        ("postgresql://u@127.0.0.1:5/app", None, "postgresql://u@127.0.0.1:5/app?sslmode=prefer"),
        ("postgresql://u@[::1]/app", None, "postgresql://u@[::1]/app?sslmode=prefer"),
        ("postgresql://u@localhost/app", "true", "postgresql://u@localhost/app?sslmode=require"),
        ("postgresql:///app?host=/run/pg", None, "postgresql:///app?host=/run/pg&sslmode=prefer"),
        ("postgresql://u@db/app?sslmode=verify-full", "true", "postgresql://u@db/app?sslmode=verify-full"),
        ("postgresql://u@db/app?sslmode=disable", None, "postgresql://u@db/app?sslmode=disable"),
    ],
)
def test_the_url_carries_the_tls_mode(url: str, require: str | None, expected: str) -> None:
    more = {} if require is None else {"DATABASE_REQUIRE_SSL": require}
    assert read(**{**REAL, "DATABASE_URL": url, **more}).database_url == expected


def test_contradicting_tls_settings_are_a_problem() -> None:
    url = "postgresql://u@db/app?sslmode=disable"
    assert "DATABASE_REQUIRE_SSL" in problems(**{**REAL, "DATABASE_URL": url, "DATABASE_REQUIRE_SSL": "true"})


@pytest.mark.parametrize(
    "url", ["db.example/app", "postgresql://db", "postgresql://u:p#w@db/app", "postgresql://db:x/app"]
)
def test_a_bad_url_is_refused_without_repeating_its_password(url: str) -> None:
    message = problems(**{**REAL, "DATABASE_URL": url})["DATABASE_URL"]
    assert "p#w" not in message
    assert "postgresql://user:password@host:port/database" in message


def test_secrets_are_not_shown() -> None:
    config = read(**REAL)
    assert "pw" not in repr(config)
    assert KEY not in repr(config)
    assert config.database_display == "postgresql://ann@db.example:5432/app"
    assert without_password("postgresql://db/app?password=x") == "postgresql://db/app"


def test_finding_the_database_asks_for_no_keys() -> None:
    found = find({"HTTP_PORT": "7"}, {"DATABASE_URL": REAL["DATABASE_URL"], "AUTH_MODE": "nonsense"})
    assert (found.http_port, found.database_url) == (7, REAL["DATABASE_URL"] + "?sslmode=require")
    with pytest.raises(ConfigError):
        find({}, {"DATABASE_URL": "nonsense"})


# --- auth -------------------------------------------------------------------------------------------------------------


def test_secure_settings_are_refused_in_insecure_mode() -> None:
    found = problems(
        AUTH_MODE="insecure", AUTH_JWT_ALG="HS256", AUTH_JWT_KEY=KEY, AUTH_JWT_ISS="us", AUTH_JWT_AUD="app"
    )
    assert set(found) == {"AUTH_JWT_ALG", "AUTH_JWT_KEY", "AUTH_JWT_ISS", "AUTH_JWT_AUD"}
    assert "AUTH_JWT_KEY" in problems(AUTH_JWT_KEY=KEY)


def test_the_embedded_database_may_be_served_securely() -> None:
    config = read(AUTH_MODE="secure", AUTH_JWT_ALG="HS256", AUTH_JWT_KEY=KEY, AUTH_JWT_NAMESPACE="ns")
    assert config.auth_mode == "secure"
    assert config.http_hosts == ("127.0.0.1",)


@pytest.mark.parametrize(("alg", "key"), [("HS256", "short"), ("RS256", KEY), ("HS512", KEY)])
def test_an_unusable_key_is_a_problem_of_the_key(alg: str, key: str) -> None:
    assert set(problems(**{**REAL, "AUTH_JWT_ALG": alg, "AUTH_JWT_KEY": key})) == {"AUTH_JWT_KEY"}


def test_opening_the_trial_to_the_network_takes_an_explicit_choice() -> None:
    assert "SYNCLINE_HTTP_HOST" in problems(SYNCLINE_HTTP_HOST="0.0.0.0")
    config = read(SYNCLINE_HTTP_HOST="0.0.0.0", AUTH_MODE="insecure")
    assert config.http_hosts == ("0.0.0.0",)
    assert any("Never in production" in warning for warning in config.warnings)


def test_several_addresses_and_ipv6() -> None:
    assert read(SYNCLINE_HTTP_HOST="127.0.0.1, ::1").http_hosts == ("127.0.0.1", "::1")
    assert read(**REAL, ELECTRIC_USE_IPV6="true").http_hosts == ("0.0.0.0", "::")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(UNSUPPORTED))
def test_a_variable_of_the_electric_line_without_meaning_here_is_named(name: str) -> None:
    assert any(warning.startswith(f"{name} is set but not used: ") for warning in read(**{**REAL, name: "x"}).warnings)


def test_a_misspelt_variable_of_ours_is_named_with_the_right_one() -> None:
    assert "SYNCLINE_DATADIR is not a setting; did you mean SYNCLINE_DATA_DIR?" in read(SYNCLINE_DATADIR="x").warnings


def test_every_setting_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "config.md").read_text()
    for name in [setting.name for setting in SETTINGS] + list(UNSUPPORTED):
        assert f"`{name}`" in page
    assert all(f"`{setting.flag}`" in page for setting in SETTINGS)


def test_how_far_a_clock_may_be_ahead_is_said_in_milliseconds() -> None:
    assert read().clock_skew_max_ms == 1_000
    assert read(SYNCLINE_CLOCK_SKEW_MAX="60000").clock_skew_max_ms == 60_000
    for given in ("0", "1.5", "-1", "1s", "9" * 30):
        assert set(problems(SYNCLINE_CLOCK_SKEW_MAX=given)) == {"SYNCLINE_CLOCK_SKEW_MAX"}


def test_what_is_removed_and_when_is_said_in_whole_numbers() -> None:
    policy = read(SYNCLINE_SHAPE_IDLE="60", SYNCLINE_DEVICES_KEPT="7", SYNCLINE_SHAPES_DISK_MAX="100").policy
    assert (policy.idle_s, policy.devices_kept_s, policy.disk_max_bytes) == (60, 7 * 86_400, 100 << 20)
    assert (read().policy.idle_s, read().policy.disk_max_bytes) == (3600, None)
    assert set(problems(SYNCLINE_SHAPE_IDLE="0", SYNCLINE_DEVICES_KEPT="-1", SYNCLINE_SHAPES_DISK_MAX="1.5")) == {
        "SYNCLINE_SHAPE_IDLE",
        "SYNCLINE_DEVICES_KEPT",
        "SYNCLINE_SHAPES_DISK_MAX",
    }
