"""The settings of the service: their names, flags, defaults and meanings, as documentation and ``--help`` tell them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from syncline.actors.devices.auth import ALGORITHMS

HOSTS_MAX: Final = 64  # of a kind


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable, and the flag that says the same; its ``default`` as documentation says it, and what it means."""

    name: str
    flag: str
    default: str
    meaning: str


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "DATABASE_URL",
        "--database-url",
        "an embedded Postgres",
        "The Postgres to sync: postgresql://user:password@host:port/database",
    ),
    Setting(
        "DATABASE_REQUIRE_SSL",
        "--database-require-ssl",
        "true; false for a local host",
        "Whether to insist on TLS to Postgres; sslmode=verify-full in the URL verifies the certificate too",
    ),
    Setting("HTTP_PORT", "--http-port", "5133", "Port for devices (/ws) and the HTTP API; 0 takes a free one"),
    Setting(
        "SYNCLINE_HTTP_HOST",
        "--http-host",
        "0.0.0.0; 127.0.0.1 with the embedded Postgres",
        "Addresses to listen on, separated by commas",
    ),
    Setting("ELECTRIC_USE_IPV6", "--use-ipv6", "false", "Whether to listen on all IPv6 addresses too"),
    Setting(
        "AUTH_MODE",
        "--auth-mode",
        "secure; insecure with the embedded Postgres",
        "secure: tokens are signed. insecure: any token is believed, for development",
    ),
    Setting("AUTH_JWT_ALG", "--auth-jwt-alg", "", f"Algorithm of signed tokens: {', '.join(ALGORITHMS)}"),
    Setting(
        "AUTH_JWT_KEY", "--auth-jwt-key", "", "The shared secret (HS...) or the public key in PEM form (RS..., ES...)"
    ),
    Setting(
        "AUTH_JWT_KEY_IS_BASE64_ENCODED", "--auth-jwt-key-is-base64-encoded", "false", "Whether AUTH_JWT_KEY is base64"
    ),
    Setting(
        "AUTH_JWT_NAMESPACE",
        "--auth-jwt-namespace",
        "",
        "The claim whose object holds sub or user_id; top level when not given",
    ),
    Setting("AUTH_JWT_ISS", "--auth-jwt-iss", "", "Required issuer of tokens; any when not given"),
    Setting("AUTH_JWT_AUD", "--auth-jwt-aud", "", "Required audience of tokens; any when not given"),
    Setting(
        "ELECTRIC_INSTANCE_ID",
        "--instance-id",
        "made once and kept in the database",
        "The server id that devices are told",
    ),
    Setting("LOG_LEVEL", "--log-level", "info", "error, warning, info or debug"),
    Setting(
        "SYNCLINE_RUNTIME",
        "--runtime",
        "local",
        "local: everything in one process. ray: spread over processes that Ray starts and restarts",
    ),
    Setting(
        "SYNCLINE_RAY_ADDRESS",
        "--ray-address",
        "a cluster of its own",
        "The Ray cluster to run in, as host:port (runtime ray)",
    ),
    Setting("SYNCLINE_SHAPES_HOSTS", "--shapes-hosts", "1", "Processes that hold shapes (runtime ray)"),
    Setting("SYNCLINE_EDGE_HOSTS", "--edge-hosts", "1", "Processes that hold connections (runtime ray)"),
    Setting(
        "SYNCLINE_SHAPES_PLACEMENT",
        "--shapes-placement",
        "packed",
        "packed: many shapes in a process. dedicated: each in one of its own, while there are free ones (runtime ray)",
    ),
    Setting(
        "SYNCLINE_CONNECTIONS_PLACEMENT",
        "--connections-placement",
        "packed",
        "packed: many connections in a process. dedicated: each in one of its own (runtime ray)",
    ),
    Setting(
        "SYNCLINE_CONNECTION_HOSTS",
        "--connection-hosts",
        "",
        "Processes with a connection each, and so the most devices at a time (placement dedicated)",
    ),
    Setting(
        "SYNCLINE_TAKE_OVER",
        "--take-over",
        "false",
        "Whether to take over at once from another Syncline that serves the database, rather than when it ends",
    ),
    Setting(
        "SYNCLINE_SHAPE_IDLE",
        "--shape-idle",
        "3600",
        "Seconds that a shape stays on the disk which no device's subscription names",
    ),
    Setting(
        "SYNCLINE_DEVICES_KEPT",
        "--devices-kept",
        "90",
        "Days after which a device that does not connect is forgotten: it compares its rows, or fetches them anew",
    ),
    Setting(
        "SYNCLINE_DELETED_KEPT",
        "--deleted-kept",
        "30",
        "Days for which it is remembered what a deleted row held; a write that had not seen the delete brings it back",
    ),
    Setting(
        "SYNCLINE_CLOCK_SKEW_MAX",
        "--clock-skew-max",
        "1000",
        "Milliseconds that a device's clock may be ahead of Postgres': a write with a later time counts as of then",
    ),
    Setting(
        "SYNCLINE_SHAPES_DISK_MAX",
        "--shapes-disk-max",
        "",
        "MiB that all shapes may take of the disk; beyond it those that no subscription names are removed at once",
    ),
    Setting(
        "SYNCLINE_DATA_DIR",
        "--data-dir",
        ".syncline",
        "Folder for shape logs and the embedded Postgres; can be rebuilt at any time",
    ),
)

_NO_PROXY = "there is no migrations proxy: electrify tables with `syncline electrify` or CALL electric.electrify"
_NO_PUBLISHER = "Postgres never connects back: device writes enter by SQL"
_NO_METRICS = "this version exports no metrics or traces"
UNSUPPORTED: Mapping[str, str] = {
    "DATABASE_USE_IPV6": "both address families are tried anyway",
    "PG_PROXY_PORT": _NO_PROXY,
    "PG_PROXY_PASSWORD": _NO_PROXY,
    "ELECTRIC_WRITE_TO_PG_MODE": "device writes always enter by SQL, as direct_writes meant",
    "LOGICAL_PUBLISHER_HOST": _NO_PUBLISHER,
    "LOGICAL_PUBLISHER_PORT": _NO_PUBLISHER,
    "ELECTRIC_RESUMABLE_WAL_WINDOW": "devices resume from logs on disk, not from a window of WAL",
    "ELECTRIC_TXN_CACHE_SIZE": "devices resume from logs on disk, not from a cache of transactions",
    "ELECTRIC_FEATURES": "there are no feature flags",
    "ELECTRIC_TELEMETRY": "nothing is ever reported to anybody",
    "METRICS_MEASUREMENT_PERIOD": _NO_METRICS,
    "STATSD_HOST": _NO_METRICS,
    "OTEL_EXPORT": _NO_METRICS,
    "OTLP_ENDPOINT": _NO_METRICS,
    "HONEYCOMB_API_KEY": _NO_METRICS,
    "PROXY_TRACING_ENABLE": _NO_METRICS,
    "DISABLE_TZDATA_AUTOUPDATE": "no time zone data is downloaded",
}
"""Variables of the Electric line that mean nothing here, and why."""
