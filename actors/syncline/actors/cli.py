"""The command ``syncline``. What a person reads goes through rich; what fails says what to do.

Exit codes: 0 done (a drained stop included), 1 it could not be done, 2 the question was wrong (usage, settings), 3 the
doctor has found something, 130 interrupted. Commands import what they need when they run, so ``--help`` and ``version``
answer at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from syncline.actors.config import Config, ConfigError, Whereabouts, find, load, settings_given
from syncline.actors.settings import SETTINGS

if TYPE_CHECKING:
    import asyncpg

    from syncline.actors.opening import Wanted

FAILED, WRONG, FOUND, INTERRUPTED = 1, 2, 3, 130
DOTENV = Path(".env")

app = typer.Typer(
    name="syncline",
    help="Local-first sync for Postgres: SQLite on the device and Postgres in step, both ways, live, offline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals hold keys and tokens
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_T = TypeVar("_T")
_BY_NAME = {setting.name: setting for setting in SETTINGS}


def _option(name: str) -> Any:
    """The flag of a setting, described by its table."""
    setting = _BY_NAME[name]
    default = f" Default: {setting.default}." if setting.default else ""
    return typer.Option(
        setting.flag, help=f"{setting.meaning}.{default} \\[{name}]", show_default=False, metavar="TEXT"
    )


DatabaseUrl = Annotated[str | None, _option("DATABASE_URL")]
DatabaseRequireSsl = Annotated[str | None, _option("DATABASE_REQUIRE_SSL")]
HttpPort = Annotated[str | None, _option("HTTP_PORT")]
HttpHost = Annotated[str | None, _option("SYNCLINE_HTTP_HOST")]
UseIpv6 = Annotated[str | None, _option("ELECTRIC_USE_IPV6")]
AuthModeOption = Annotated[str | None, _option("AUTH_MODE")]
AuthJwtAlg = Annotated[str | None, _option("AUTH_JWT_ALG")]
AuthJwtKey = Annotated[str | None, _option("AUTH_JWT_KEY")]
AuthJwtKeyIsBase64 = Annotated[str | None, _option("AUTH_JWT_KEY_IS_BASE64_ENCODED")]
AuthJwtNamespace = Annotated[str | None, _option("AUTH_JWT_NAMESPACE")]
AuthJwtIss = Annotated[str | None, _option("AUTH_JWT_ISS")]
AuthJwtAud = Annotated[str | None, _option("AUTH_JWT_AUD")]
InstanceId = Annotated[str | None, _option("ELECTRIC_INSTANCE_ID")]
LogLevelOption = Annotated[str | None, _option("LOG_LEVEL")]
Runtime = Annotated[str | None, _option("SYNCLINE_RUNTIME")]
RayAddress = Annotated[str | None, _option("SYNCLINE_RAY_ADDRESS")]
ShapesHosts = Annotated[str | None, _option("SYNCLINE_SHAPES_HOSTS")]
EdgeHosts = Annotated[str | None, _option("SYNCLINE_EDGE_HOSTS")]
ShapesPlacement = Annotated[str | None, _option("SYNCLINE_SHAPES_PLACEMENT")]
ConnectionsPlacement = Annotated[str | None, _option("SYNCLINE_CONNECTIONS_PLACEMENT")]
ShapeIdle = Annotated[str | None, _option("SYNCLINE_SHAPE_IDLE")]
DevicesKept = Annotated[str | None, _option("SYNCLINE_DEVICES_KEPT")]
DeletedKept = Annotated[str | None, _option("SYNCLINE_DELETED_KEPT")]
ClockSkewMax = Annotated[str | None, _option("SYNCLINE_CLOCK_SKEW_MAX")]
ShapesDiskMax = Annotated[str | None, _option("SYNCLINE_SHAPES_DISK_MAX")]
TakeOver = Annotated[str | None, _option("SYNCLINE_TAKE_OVER")]
ConnectionHosts = Annotated[str | None, _option("SYNCLINE_CONNECTION_HOSTS")]
DataDir = Annotated[str | None, _option("SYNCLINE_DATA_DIR")]
ServiceName = Annotated[
    str | None, typer.Option("--service", help="Its name, where several share a Ray cluster.", show_default=False)
]


@app.command()
def serve(
    database_url: DatabaseUrl = None,
    database_require_ssl: DatabaseRequireSsl = None,
    http_port: HttpPort = None,
    http_host: HttpHost = None,
    use_ipv6: UseIpv6 = None,
    auth_mode: AuthModeOption = None,
    auth_jwt_alg: AuthJwtAlg = None,
    auth_jwt_key: AuthJwtKey = None,
    auth_jwt_key_is_base64: AuthJwtKeyIsBase64 = None,
    auth_jwt_namespace: AuthJwtNamespace = None,
    auth_jwt_iss: AuthJwtIss = None,
    auth_jwt_aud: AuthJwtAud = None,
    instance_id: InstanceId = None,
    log_level: LogLevelOption = None,
    runtime: Runtime = None,
    ray_address: RayAddress = None,
    shapes_hosts: ShapesHosts = None,
    edge_hosts: EdgeHosts = None,
    shapes_placement: ShapesPlacement = None,
    connections_placement: ConnectionsPlacement = None,
    connection_hosts: ConnectionHosts = None,
    take_over: TakeOver = None,
    shape_idle: ShapeIdle = None,
    devices_kept: DevicesKept = None,
    deleted_kept: DeletedKept = None,
    clock_skew_max: ClockSkewMax = None,
    shapes_disk_max: ShapesDiskMax = None,
    data_dir: DataDir = None,
) -> None:
    """Run the sync service until it is told to stop (SIGTERM or Ctrl-C drains and exits 0).

    Every flag is also a variable, of the environment or of .env in this folder; flags win. Without a database an
    embedded Postgres is started, for this machine only and with any token believed.
    """
    flags = {
        "DATABASE_URL": database_url,
        "DATABASE_REQUIRE_SSL": database_require_ssl,
        "HTTP_PORT": http_port,
        "SYNCLINE_HTTP_HOST": http_host,
        "ELECTRIC_USE_IPV6": use_ipv6,
        "AUTH_MODE": auth_mode,
        "AUTH_JWT_ALG": auth_jwt_alg,
        "AUTH_JWT_KEY": auth_jwt_key,
        "AUTH_JWT_KEY_IS_BASE64_ENCODED": auth_jwt_key_is_base64,
        "AUTH_JWT_NAMESPACE": auth_jwt_namespace,
        "AUTH_JWT_ISS": auth_jwt_iss,
        "AUTH_JWT_AUD": auth_jwt_aud,
        "ELECTRIC_INSTANCE_ID": instance_id,
        "LOG_LEVEL": log_level,
        "SYNCLINE_RUNTIME": runtime,
        "SYNCLINE_RAY_ADDRESS": ray_address,
        "SYNCLINE_SHAPES_HOSTS": shapes_hosts,
        "SYNCLINE_EDGE_HOSTS": edge_hosts,
        "SYNCLINE_SHAPES_PLACEMENT": shapes_placement,
        "SYNCLINE_CONNECTIONS_PLACEMENT": connections_placement,
        "SYNCLINE_CONNECTION_HOSTS": connection_hosts,
        "SYNCLINE_TAKE_OVER": take_over,
        "SYNCLINE_SHAPE_IDLE": shape_idle,
        "SYNCLINE_DEVICES_KEPT": devices_kept,
        "SYNCLINE_DELETED_KEPT": deleted_kept,
        "SYNCLINE_CLOCK_SKEW_MAX": clock_skew_max,
        "SYNCLINE_SHAPES_DISK_MAX": shapes_disk_max,
        "SYNCLINE_DATA_DIR": data_dir,
    }
    config = _configured(flags)
    from syncline.actors.logs import set_up
    from syncline.actors.service import serve as serve_until_stopped

    set_up(config.log_level)
    for warning in config.warnings:
        err.print(f"[bold yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    raise typer.Exit(_run(serve_until_stopped(config)) or 0)


@app.command()
def stop(
    data_dir: DataDir = None,
    ray_address: RayAddress = None,
    service: ServiceName = None,
) -> None:
    """End a service of the runtime ray, in order, whoever started it: connections closed, everything flushed.

    It is found by the folder it works in, or by its name. A service of the runtime local is ended by SIGTERM.
    """
    from syncline.actors.logs import set_up
    from syncline.actors.ray_found import stop_service

    set_up("warning")
    place = _found(None, None, data_dir)
    address = ray_address or os.environ.get("SYNCLINE_RAY_ADDRESS")
    ended = _run(stop_service(place.data_dir, address, service))
    out.print(f"stopped: {', '.join(ended)}")


@app.command()
def restart(
    data_dir: DataDir = None,
    ray_address: RayAddress = None,
    service: ServiceName = None,
) -> None:
    """Restart the processes of a service of the runtime ray one after the other, while it serves.

    Each new process runs the code that is installed now, with the settings the service has and, over them, those of the
    environment and of .env in this folder. Numbers of processes, database and addresses stay as they are.
    """
    from syncline.actors.logs import set_up
    from syncline.actors.ray_restart import restart_service

    set_up("warning")
    place = _found(None, None, data_dir)
    address = ray_address or os.environ.get("SYNCLINE_RAY_ADDRESS")
    _run(restart_service(place.data_dir, address, service, settings_given(os.environ, DOTENV), out.print))


@app.command()
def demo() -> None:
    """Watch rows travel from a Postgres to two devices and back, through an offline spell, in under a minute."""
    from syncline.actors.demo import main as run_demo

    raise typer.Exit(run_demo() or 0)


@app.command()
def electrify(
    tables: Annotated[list[str] | None, typer.Argument(help="Tables, as schema.table.", show_default=False)] = None,
    schemas: Annotated[
        list[str] | None, typer.Option("--schema", help="All tables of this schema; may be given again.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All tables of the application.")] = False,
    with_parents: Annotated[bool, typer.Option("--with-parents", help="With whatever tables these refer to.")] = False,
    plan_only: Annotated[bool, typer.Option("--plan", help="Only say what would be done.")] = False,
    database_url: DatabaseUrl = None,
    database_require_ssl: DatabaseRequireSsl = None,
    data_dir: DataDir = None,
) -> None:
    """Open tables to devices. A table that is open already stays as it is.

    What is going to be done is said first: which tables are opened, in which order, and why others cannot be. The rest
    goes on without them, and the exit code is 1.
    """
    if not tables and not schemas and not everything:
        err.print("[bold red]error:[/] name tables, a --schema, or --all")
        raise typer.Exit(WRONG)
    from syncline.actors.opening import Wanted

    place = _found(database_url, database_require_ssl, data_dir)
    wanted = Wanted(tuple(tables or ()), tuple(schemas or ()), everything, with_parents)
    raise typer.Exit(_run(_electrify(place, wanted, plan_only)))


@app.command()
def doctor(
    schemas: Annotated[
        list[str] | None, typer.Option("--schema", help="Only the tables of this schema; may be given again.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document, for programs.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Name every table, and tell how each syncs.")] = False,
    database_url: DatabaseUrl = None,
    database_require_ssl: DatabaseRequireSsl = None,
    data_dir: DataDir = None,
) -> None:
    """Tell what of a database can sync, how, and what is missing. Nothing in it is changed, and no row is read.

    Exit code 0: everything can sync. 3: a table cannot, or a setting or a right is missing. 1: it could not be asked.
    """
    place = _found(database_url, database_require_ssl, data_dir)
    raise typer.Exit(_run(_examine(place, schemas or (), as_json, verbose)))


@app.command()
def status(
    url: Annotated[
        str | None, typer.Option(help="The service. Default: http://127.0.0.1 and HTTP_PORT.", show_default=False)
    ] = None,
    database_url: DatabaseUrl = None,
    database_require_ssl: DatabaseRequireSsl = None,
    http_port: HttpPort = None,
    data_dir: DataDir = None,
) -> None:
    """Tell whether the service is up (exit code 0 or 1) and, where the database can be reached, what it syncs."""
    place = _found(database_url, database_require_ssl, data_dir, http_port)
    service = url or f"http://127.0.0.1:{place.http_port}"
    from syncline.actors.status import NoAddress, ask, show_service

    try:
        answer = ask(service)
    except NoAddress as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(WRONG) from None
    show_service(out, service, answer)
    _run(_show_database(place))
    raise typer.Exit(0 if answer.up else FAILED)


@app.command()
def version() -> None:
    """Print the version."""
    out.print(distribution_version("syncline"))


def main() -> None:
    """The entry point of the command."""
    app()


# --- settings ---------------------------------------------------------------------------------------------------------


def _configured(flags: Mapping[str, str | None]) -> Config:
    try:
        return load(flags, os.environ, DOTENV)
    except ConfigError as error:
        _refuse(error)


def _found(
    database_url: str | None, require_ssl: str | None, data_dir: str | None, http_port: str | None = None
) -> Whereabouts:
    flags = {
        "DATABASE_URL": database_url,
        "DATABASE_REQUIRE_SSL": require_ssl,
        "SYNCLINE_DATA_DIR": data_dir,
        "HTTP_PORT": http_port,
    }
    try:
        return find(flags, os.environ, DOTENV)
    except ConfigError as error:
        _refuse(error)


def _refuse(error: ConfigError) -> NoReturn:
    err.print("[bold red]error:[/] these settings cannot be used")
    for problem in error.problems:
        err.print(f"  [bold]{problem.variable}[/] {escape(problem.message)}", soft_wrap=True)
    err.print("Every setting: syncline serve --help")
    raise typer.Exit(WRONG)


# --- running ----------------------------------------------------------------------------------------------------------


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Runs to the end, under uvloop where there is one; what the world does to us becomes a message and exit code 1."""
    from syncline.actors.faults import Fault
    from syncline.actors.postgres.away import AWAY
    from syncline.actors.postgres.bootstrap import BootstrapError
    from syncline.actors.postgres.embedded import EmbeddedPostgresError
    from syncline.actors.postgres.slot import PreconditionError

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except ConfigError as error:
        _refuse(error)
    except (
        Fault,
        BootstrapError,
        EmbeddedPostgresError,
        PreconditionError,
        *AWAY,
    ) as error:
        text = error.message if isinstance(error, Fault) else str(error) or type(error).__name__
        err.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
        hint = getattr(error, "hint", None)
        if hint and hint not in text:
            err.print(f"hint: {escape(hint)}", soft_wrap=True)
        raise typer.Exit(FAILED) from None


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


# --- the database -----------------------------------------------------------------------------------------------------


def _dsn(place: Whereabouts) -> str | None:
    """The configured database, else the embedded one if it runs. Raises Fault, EmbeddedPostgresError."""
    if place.database_url is not None:
        return place.database_url
    from syncline.actors.faults import in_folder
    from syncline.actors.postgres.embedded import EmbeddedPostgres

    with in_folder(place.data_dir):
        server = EmbeddedPostgres(place.embedded_dir)
        if not server.folder.exists():
            return None
        server.port = server.running_port()
        return None if server.port is None else server.dsn()


@contextlib.asynccontextmanager
async def _connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Raises Fault."""
    from syncline.actors.faults import database_fault
    from syncline.actors.postgres.away import AWAY
    from syncline.actors.postgres.session import connect

    try:
        connection = await connect(dsn, {"application_name": "syncline cli"})
    except AWAY as error:
        raise database_fault(error, dsn) from error
    try:
        yield connection
    finally:
        await connection.close()


def _required_dsn(place: Whereabouts) -> str:
    """As ``_dsn``. Raises Fault where there is none, too."""
    from syncline.actors.faults import Fault

    dsn = _dsn(place)
    if dsn is None:
        raise Fault("no database", "set DATABASE_URL, or start the embedded one with `syncline serve`")
    return dsn


async def _examine(place: Whereabouts, schemas: Sequence[str], as_json: bool, verbose: bool) -> int:
    from syncline.actors.doctor.command import examine

    async with _connection(_required_dsn(place)) as connection:
        ready = await examine(connection, schemas, out, as_json=as_json, verbose=verbose)
    return 0 if ready else FOUND


async def _electrify(place: Whereabouts, wanted: Wanted, plan_only: bool) -> int:
    from syncline.actors.opening import open_tables

    async with _connection(_required_dsn(place)) as connection:
        return 0 if await open_tables(connection, wanted, out, err, plan_only=plan_only) else FAILED


async def _show_database(place: Whereabouts) -> None:
    """What the database says; that it cannot be reached from here is no failure of the service."""
    from syncline.actors.faults import Fault
    from syncline.actors.postgres.away import AWAY
    from syncline.actors.postgres.embedded import EmbeddedPostgresError
    from syncline.actors.status import show_database, show_fault

    try:
        dsn = _dsn(place)
        if dsn is None:
            raise Fault(
                "does not run in the data folder",
                "to see what is synced, set DATABASE_URL, or the service's SYNCLINE_DATA_DIR",
            )
        async with _connection(dsn) as connection:
            await show_database(out, place.database_display, connection)
    except Fault as fault:
        show_fault(out, place.database_display, fault)
    except (EmbeddedPostgresError, *AWAY) as error:
        unread = Fault(f"what it syncs cannot be read: {error}", "ask as the user, and as the role, of the service")
        show_fault(out, place.database_display, unread)
