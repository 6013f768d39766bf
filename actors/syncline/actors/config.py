"""What the operator wants, read once and checked as a whole.

A setting comes from a flag, else from the environment, else from ``.env`` in the current folder; an empty value counts
as not given. Every problem is reported, each with the variable's name and what to do, because an operator who mends one
at a time restarts once for each. Names are those of the Electric line this service replaces, where it had one; a
variable of that line which has no meaning here is named in a warning, since its owner believes it does something.

Two situations decide the defaults. With DATABASE_URL this is somebody's real database: tokens must be signed, and a
missing key is an error. Without it everything is a trial: an embedded Postgres, unsigned tokens, loopback only.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import parse_qs, urlsplit

from dotenv import dotenv_values

from syncline.actors.devices.auth import ALGORITHMS, Authenticator, InsecureAuth, KeyRefused, SecureAuth
from syncline.actors.postgres.dsn import parse_dsn
from syncline.actors.postgres.writer import SKEW_MS
from syncline.actors.settings import HOSTS_MAX, SETTINGS, UNSUPPORTED
from syncline.actors.shapes.reaping import Policy

AuthMode = Literal["secure", "insecure"]
LogLevel = Literal["error", "warning", "info", "debug"]
AUTH_MODES: tuple[AuthMode, ...] = ("secure", "insecure")
LOG_LEVELS: tuple[LogLevel, ...] = ("error", "warning", "info", "debug")
Runtime = Literal["local", "ray"]
RUNTIMES: tuple[Runtime, ...] = ("local", "ray")
Placement = Literal["packed", "dedicated"]
PLACEMENTS: tuple[Placement, ...] = ("packed", "dedicated")
DAYS_MAX = 36_525
YEAR_MS = 366 * 24 * 3_600_000
LOOPBACK = ("127.0.0.1",)
EVERYWHERE = ("0.0.0.0",)  # noqa: S104 - a server for devices listens to the world, behind its operator's proxy
EVERYWHERE_IPV6 = (*EVERYWHERE, "::")

_Choice = TypeVar("_Choice", bound=str)
_Result = TypeVar("_Result")


# Insecure mode looks into the namespace too; the others would only pretend to protect.
_SECURE_ONLY = ("AUTH_JWT_ALG", "AUTH_JWT_KEY", "AUTH_JWT_KEY_IS_BASE64_ENCODED", "AUTH_JWT_ISS", "AUTH_JWT_AUD")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass(frozen=True, slots=True)
class Problem:
    """``variable`` is wrong or missing; ``message`` says how, and what to do."""

    variable: str
    message: str


class ConfigError(Exception):
    """The settings cannot be used. ``problems``: all of them."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(f"{problem.variable}: {problem.message}" for problem in problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where the database and the service are. ``database_url`` None: embedded, in ``data_dir``; else with sslmode."""

    database_url: str | None = field(repr=False)
    data_dir: Path
    http_port: int

    @property
    def embedded_dir(self) -> Path:
        """Where the embedded Postgres lives when there is no ``database_url``."""
        return embedded_dir(self.data_dir)

    @property
    def database_display(self) -> str:
        """The database as it may be shown: without the password."""
        return "an embedded Postgres" if self.database_url is None else without_password(self.database_url)


@dataclass(frozen=True, slots=True)
class Config(Whereabouts):
    """What ``serve`` needs to know, checked. Secrets are not in its repr.

    ``http_hosts``: addresses to listen on. ``instance_id`` None: the one kept in the database. ``warnings``: sentences
    the operator should read. ``shapes_hosts``, ``edge_hosts``: how many of them the runtime ray has, and
    ``connection_hosts`` with a connection each; none where connections are packed. ``shapes_placement``: whether each
    shape is to be alone. ``policy``: of what is removed. ``clock_skew_max_ms``: how far
    devices' clocks are believed that are ahead. ``take_over``: at once, whoever serves the database now.
    ``values``: what it was read from, for a host that reads it again.
    """

    http_hosts: tuple[str, ...]
    auth_mode: AuthMode
    authenticator: Authenticator = field(repr=False, compare=False)
    instance_id: str | None
    log_level: LogLevel
    runtime: Runtime = "local"
    ray_address: str | None = None
    shapes_hosts: int = 1
    edge_hosts: int = 1
    connection_hosts: int = 0
    shapes_placement: Placement = "packed"
    take_over: bool = False
    policy: Policy = field(default_factory=Policy)
    clock_skew_max_ms: int = SKEW_MS
    warnings: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


def load(flags: Mapping[str, str | None], environment: Mapping[str, str], dotenv: Path | None = None) -> Config:
    """Everything ``serve`` needs. ``flags`` are keyed by variable name. Raises ConfigError with every problem."""
    reader = _Reader(flags, environment, dotenv)
    return reader.checked(reader.config())


def embedded_dir(data_dir: Path) -> Path:
    """Where the embedded Postgres of a service in ``data_dir`` lives."""
    return data_dir / "postgres"


def settings_given(environment: Mapping[str, str], dotenv: Path | None = None) -> dict[str, str]:
    """The settings that are given there, unchecked."""
    values = _Reader({}, environment, dotenv).values
    return {setting.name: values[setting.name] for setting in SETTINGS if setting.name in values}


def find(flags: Mapping[str, str | None], environment: Mapping[str, str], dotenv: Path | None = None) -> Whereabouts:
    """What it takes to reach the database and the service, whose other settings may be anything. Raises ConfigError."""
    reader = _Reader(flags, environment, dotenv)
    return reader.checked(reader.whereabouts())


def without_password(url: str) -> str:
    """``url`` fit for a log."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"


def _given(values: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value.strip() for name, value in values.items() if value is not None and value.strip()}


class _Reader:
    """Reads one setting after another and keeps what is wrong."""

    def __init__(self, flags: Mapping[str, str | None], environment: Mapping[str, str], dotenv: Path | None) -> None:
        self.problems: list[Problem] = []
        from_file: Mapping[str, str | None] = {}
        try:
            if dotenv is not None and dotenv.is_file():
                from_file = dotenv_values(dotenv)
        except (OSError, UnicodeDecodeError) as error:
            self._problem(str(dotenv), f"cannot be read: {error}")
        self.values = {**_given(from_file), **_given(environment), **_given(flags)}
        self.warnings: list[str] = []

    def checked(self, result: _Result) -> _Result:
        if self.problems:
            raise ConfigError(tuple(self.problems))
        return result

    def whereabouts(self) -> Whereabouts:
        return Whereabouts(self._database_url(), self._data_dir(), self._port())

    def config(self) -> Config:
        embedded = "DATABASE_URL" not in self.values
        default: AuthMode = "insecure" if embedded else "secure"
        auth_mode = self._choice("AUTH_MODE", AUTH_MODES, default)
        hosts = self._hosts(embedded)
        if auth_mode == "insecure":
            self._warn_of_insecurity(hosts)
        self._unknown_variables()
        runtime = self._choice("SYNCLINE_RUNTIME", RUNTIMES, "local")
        return Config(
            database_url=self._database_url(),
            data_dir=self._data_dir(),
            http_port=self._port(),
            http_hosts=hosts,
            auth_mode=auth_mode,
            authenticator=self._authenticator(auth_mode),
            instance_id=self.values.get("ELECTRIC_INSTANCE_ID"),
            log_level=self._choice("LOG_LEVEL", LOG_LEVELS, "info"),
            runtime=runtime,
            ray_address=self.values.get("SYNCLINE_RAY_ADDRESS"),
            shapes_hosts=self._hosts_of("SYNCLINE_SHAPES_HOSTS"),
            edge_hosts=self._hosts_of("SYNCLINE_EDGE_HOSTS"),
            connection_hosts=self._connection_hosts(runtime),
            shapes_placement=self._placement("SYNCLINE_SHAPES_PLACEMENT", runtime),
            take_over=self._flag("SYNCLINE_TAKE_OVER", False),
            policy=self._policy(),
            clock_skew_max_ms=self._clock_skew_max_ms(),
            warnings=tuple(self.warnings),
            values={setting.name: self.values[setting.name] for setting in SETTINGS if setting.name in self.values},
        )

    def _problem(self, variable: str, message: str) -> None:
        self.problems.append(Problem(variable, message))

    def _choice(self, name: str, choices: tuple[_Choice, ...], default: _Choice) -> _Choice:
        given = self.values.get(name, default).lower()
        for choice in choices:
            if choice == given:
                return choice
        self._problem(name, f"{self.values[name]!r} is not one of {', '.join(choices)}")
        return default

    def _flag(self, name: str, default: bool) -> bool:
        given = self.values.get(name, "").lower()
        if given and given not in (*_TRUE, *_FALSE):
            self._problem(name, f"{self.values[name]!r} is neither true nor false")
        return given in _TRUE if given else default

    def _data_dir(self) -> Path:
        return Path(self.values.get("SYNCLINE_DATA_DIR", ".syncline")).expanduser().resolve()

    def _port(self) -> int:
        given = self.values.get("HTTP_PORT", "5133")
        if given.isascii() and given.isdigit() and int(given) < 65536:
            return int(given)
        self._problem("HTTP_PORT", f"{given!r} is not a port: give a number from 0 to 65535")
        return 0

    def _database_url(self) -> str | None:
        """The URL with the TLS mode in it, where every client of Postgres looks for it."""
        require = self._flag("DATABASE_REQUIRE_SSL", True)
        url = self.values.get("DATABASE_URL")
        if url is None:
            return None
        how = "give postgresql://user:password@host:port/database, with special characters percent-encoded"
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            self._problem("DATABASE_URL", f"not a URL: {how}")
            return None
        if parts.scheme not in ("postgresql", "postgres"):
            self._problem("DATABASE_URL", f"not a Postgres URL: {how}")
            return None
        if not parts.path.strip("/") or parts.fragment:
            self._problem("DATABASE_URL", f"does not end in a database's name: {how}")
            return None
        try:
            parse_dsn(url)
        except ValueError as error:
            self._problem("DATABASE_URL", str(error))
            return None
        options = parse_qs(parts.query)
        given_host = (options.get("host") or [host or ""])[-1]
        mode = (options.get("sslmode") or [""])[-1]
        if "DATABASE_REQUIRE_SSL" in self.values and mode:
            if require and mode in ("disable", "allow", "prefer"):
                self._problem("DATABASE_REQUIRE_SSL", f"contradicts sslmode={mode} in DATABASE_URL: remove one of them")
        elif not mode:
            insist = require and ("DATABASE_REQUIRE_SSL" in self.values or not _is_local(given_host))
            addition = f"sslmode={'require' if insist else 'prefer'}"
            url += f"&{addition}" if parts.query else f"?{addition}"
        return "postgresql" + url.removeprefix(parts.scheme)

    def _hosts(self, embedded: bool) -> tuple[str, ...]:
        ipv6 = self._flag("ELECTRIC_USE_IPV6", False)
        given = self.values.get("SYNCLINE_HTTP_HOST")
        if given is None:
            return LOOPBACK if embedded else EVERYWHERE_IPV6 if ipv6 else EVERYWHERE
        hosts = tuple(host.strip() for host in given.split(",") if host.strip())
        if "AUTH_MODE" not in self.values and embedded and not all(map(_is_local, hosts)):
            self._problem(
                "SYNCLINE_HTTP_HOST",
                "would open a service that believes any token to the network: set AUTH_MODE=secure with a key, or "
                "AUTH_MODE=insecure if that is really wanted",
            )
        return hosts

    def _authenticator(self, mode: AuthMode) -> Authenticator:
        namespace = self.values.get("AUTH_JWT_NAMESPACE")
        if mode == "insecure":
            why = "AUTH_MODE is insecure" if "AUTH_MODE" in self.values else "without DATABASE_URL auth is insecure"
            for name in _SECURE_ONLY:
                if name in self.values:
                    self._problem(name, f"has no effect, since {why}: set AUTH_MODE=secure, or remove it")
            return InsecureAuth(namespace)
        encoded = self._flag("AUTH_JWT_KEY_IS_BASE64_ENCODED", False)
        algorithm, key = self.values.get("AUTH_JWT_ALG"), self.values.get("AUTH_JWT_KEY")
        if algorithm is None:
            self._problem("AUTH_JWT_ALG", f"is missing, and auth is secure: set it to one of {', '.join(ALGORITHMS)}")
        elif algorithm not in ALGORITHMS:
            self._problem("AUTH_JWT_ALG", f"{algorithm!r} is not one of {', '.join(ALGORITHMS)}")
        if key is None:
            self._problem(
                "AUTH_JWT_KEY",
                "is missing, and auth is secure: set it to the secret or public key that verifies your tokens, or set "
                "AUTH_MODE=insecure for development",
            )
        if algorithm in ALGORITHMS and key is not None:
            issuer, audience = self.values.get("AUTH_JWT_ISS"), self.values.get("AUTH_JWT_AUD")
            try:
                return SecureAuth(
                    algorithm, key, key_is_base64=encoded, issuer=issuer, audience=audience, namespace=namespace
                )
            except KeyRefused as refused:
                self._problem("AUTH_JWT_KEY", str(refused))
        return InsecureAuth(namespace)  # never used: there is a problem

    def _warn_of_insecurity(self, hosts: tuple[str, ...]) -> None:
        if all(map(_is_local, hosts)):
            self.warnings.append("Auth is INSECURE: any token is believed. Only this machine can connect.")
        else:
            self.warnings.append(
                f"Auth is INSECURE: any token is believed, and whoever reaches {', '.join(hosts)} can read and write "
                "everything that is synced. Never in production."
            )

    def _hosts_of(self, name: str) -> int:
        given = self.values.get(name, "1")
        if given.isascii() and given.isdigit() and 1 <= int(given) <= HOSTS_MAX:
            return int(given)
        self._problem(name, f"{given!r} is not a number of processes: give one from 1 to {HOSTS_MAX}")
        return 1

    def _policy(self) -> Policy:
        disk_max = self._whole("SYNCLINE_SHAPES_DISK_MAX", 0, "MiB") << 20
        return Policy(
            float(self._whole("SYNCLINE_SHAPE_IDLE", 3600, "seconds")),
            self._days("SYNCLINE_DEVICES_KEPT", 90),
            disk_max or None,
            self._days("SYNCLINE_DELETED_KEPT", 30),
        )

    def _clock_skew_max_ms(self) -> int:
        name = "SYNCLINE_CLOCK_SKEW_MAX"
        given = self._whole(name, SKEW_MS, "milliseconds")
        if given <= YEAR_MS:
            return given
        self._problem(name, "is more than a year: a device that far ahead would win all conflicts for as long")
        return SKEW_MS

    def _days(self, name: str, default: int) -> float:
        """In seconds."""
        days = self._whole(name, default, "days")
        if days > DAYS_MAX:
            self._problem(name, f"{days} is more than {DAYS_MAX} days")
        return min(days, DAYS_MAX) * 24 * 3600.0

    def _whole(self, name: str, default: int, unit: str) -> int:
        given = self.values.get(name, str(default))
        if given.isascii() and given.isdigit() and (int(given) > 0 or name not in self.values):
            return int(given)
        self._problem(name, f"{given!r} is not a number of {unit}: give a whole one, 1 or more")
        return default

    def _placement(self, name: str, runtime: Runtime) -> Placement:
        placement = self._choice(name, PLACEMENTS, "packed")
        if placement == "dedicated" and runtime == "local":
            self._problem(name, "dedicated takes several processes: set SYNCLINE_RUNTIME=ray, or packed")
        return placement

    def _connection_hosts(self, runtime: Runtime) -> int:
        name, placement = "SYNCLINE_CONNECTION_HOSTS", "SYNCLINE_CONNECTIONS_PLACEMENT"
        if self._placement(placement, runtime) == "packed":
            if name in self.values:
                self.warnings.append(f"{name} is set but not used, since {placement} is packed.")
            return 0
        if name not in self.values:
            self._problem(
                name, f"is missing, and {placement} is dedicated: say how many devices there can be at a time"
            )
        return self._hosts_of(name)

    def _unknown_variables(self) -> None:
        self.warnings += [
            f"{name} is set but not used: {why}." for name, why in UNSUPPORTED.items() if name in self.values
        ]
        known = {setting.name for setting in SETTINGS}
        for name in sorted(self.values):
            if name.startswith("SYNCLINE_") and name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                self.warnings.append(f"{name} is not a setting" + (f"; did you mean {close[0]}?" if close else "."))


def _is_local(host: str) -> bool:
    """A Unix socket, localhost or a loopback address: nobody can listen in between."""
    if host in ("", "localhost") or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
