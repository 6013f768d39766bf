"""Where clauses that only Postgres can evaluate: whether it is to be trusted with one, and its answers.

``check`` is asked once a clause, before a shape has it. Postgres analyses the clause as the rule of a view, in a
transaction that is rolled back, and what came out of overload resolution is looked at: every function, operator and
conversion must be immutable, or one of those STABLE ones of Postgres' own that depend on nothing but settings that each
of our sessions has (``typemap.SESSION_SETTINGS``). So a clause can only mean the same tomorrow, and in every session.

``evaluate`` asks about rows as the stream has them. Their cells become values of the columns' very types and
collations, so the answer is what a query of the table itself would give. A row for which the clause raises an error is
outside; so is one on which it takes longer than ``EVALUATION_S``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import asyncpg

from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.nodetree import Uses, condition, uses
from syncline.actors.postgres.rowkey import quote_identifier
from syncline.actors.shapes.where.refusal import WhereRefused
from syncline.actors.shapes.where.rendering import Rendered
from syncline.actors.shapes.where.tree import Node
from syncline.actors.shapes.where.where import Where
from syncline.proto.values import Cell, Row

log = logging.getLogger(__name__)

CHECK_S: Final = 10.0
EVALUATION_S: Final = 5.0  # of one batch; the rows of one that takes longer are asked one by one
BATCH_ROWS_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 4 << 20

_SETTLED: Final = frozenset(
    {
        # text of a value, and JSON of one
        *("array_out", "date_out", "timestamp_out", "timestamptz_out", "interval_out", "enum_out", "enum_in"),
        *("interval_in", "anytextcat", "textanycat", "concat", "concat_ws", "format", "quote_literal"),
        *("quote_nullable", "array_to_string", "array_to_json", "to_json", "to_jsonb", "json_build_array"),
        *("json_build_object", "jsonb_build_array", "jsonb_build_object"),
        *("convert", "convert_from", "convert_to", "length"),
        # the time zone
        *("age", "date", "date_add", "date_subtract", "date_part", "date_trunc", "extract", "interval_pl_timestamptz"),
        *("make_timestamptz", "overlaps", "time", "timestamp", "timestamptz", "timezone"),
        *("timestamptz_pl_interval", "timestamptz_mi_interval"),
        *(f"date_{test}_timestamptz" for test in ("eq", "ne", "lt", "le", "gt", "ge")),
        *(f"timestamp_{test}_timestamptz" for test in ("eq", "ne", "lt", "le", "gt", "ge")),
        *(f"timestamptz_{test}_date" for test in ("eq", "ne", "lt", "le", "gt", "ge")),
        *(f"timestamptz_{test}_timestamp" for test in ("eq", "ne", "lt", "le", "gt", "ge")),
        *("jsonb_path_exists_tz", "jsonb_path_match_tz", "jsonb_path_query_array_tz", "jsonb_path_query_first_tz"),
    }
)
"""STABLE functions of Postgres that depend on TimeZone, DateStyle and the like: the same in all our sessions."""

_BY_FORMAT: Final = frozenset({"to_char", "to_date", "to_timestamp", "to_number"})
"""STABLE too, and settled unless the format asks for the names or signs of a locale."""
_OF_A_NUMBER: Final = re.compile("[09]")
_LOCAL_SIGNS: Final = re.compile("[LDG]", re.IGNORECASE)
_READ_BY_THE_CLOCK: Final = frozenset({"date_in", "time_in", "timetz_in", "timestamp_in", "timestamptz_in", "array_in"})
_TIME_WORDS: Final = re.compile(r"\b(now|today|tomorrow|yesterday)\b", re.IGNORECASE)
_OF_THE_CLAUSE: Final = frozenset({"42501", "42601", "42703", "42704", "42883", "42P01"})
_TIMETZ: Final = frozenset({1266, 1270})

_ROUTINES: Final = """
SELECT p.proname, n.nspname, p.provolatile, p.pronargs, p.oid < 16384 AS built_in
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.oid = ANY ($1::oid[]) OR p.oid IN (SELECT o.oprcode FROM pg_operator o WHERE o.oid = ANY ($2::oid[]))
   OR p.oid IN (SELECT t.typoutput FROM pg_type t WHERE t.oid = ANY ($3::oid[]))
   OR p.oid IN (SELECT t.typinput FROM pg_type t WHERE t.oid = ANY ($4::oid[]))
ORDER BY p.proname
"""


# --- check ------------------------------------------------------------------------------------------------------------


async def check(pool: asyncpg.Pool, where: Where, table: TableInfo) -> None:
    """Whether a shape may have this clause: its types are right, and it depends on the row alone.

    Raises WhereRefused with the reason; what asyncpg raises when Postgres cannot be asked.
    """
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(f"SET LOCAL statement_timeout = {int(CHECK_S * 1000)}")
            analysed = await _analysed(connection, where.tree, table)
            await _check_literals(connection, where.tree, table)
            await _check_uses(connection, analysed, where.tree)
        finally:
            await transaction.rollback()


async def _analysed(connection: asyncpg.Connection, tree: Node, table: TableInfo) -> Uses:
    """What Postgres understands; the view it takes is never committed."""
    name = f"electric.{quote_identifier(f'where {connection.get_server_pid()}')}"
    columns = ", ".join(
        f"NULL::{table.cast_type(column.name)} AS {quote_identifier(column.name)}" for column in table.relation.columns
    )
    beginning = f"CREATE VIEW {name} AS SELECT FROM (SELECT {columns}) AS this WHERE "
    rendered = Rendered(tree)
    try:
        async with connection.transaction():
            await connection.execute(beginning + rendered.text)
            rule = await connection.fetchval(
                "SELECT ev_action::text FROM pg_rewrite WHERE ev_class = $1::text::regclass", name
            )
            await connection.execute(f"DROP VIEW {name}")
    except asyncpg.PostgresError as error:
        refusal = _refusal(error, rendered, len(beginning))
        if refusal is None:
            raise
        raise refusal from error
    return uses(condition(rule))


def _refusal(error: asyncpg.PostgresError, rendered: Rendered, offset: int) -> WhereRefused | None:
    """What Postgres says of the clause, for its writer; None where it says something else."""
    if isinstance(error, asyncpg.QueryCanceledError):
        return WhereRefused("Postgres takes too long to analyse the clause")
    if str(error.sqlstate)[:2] not in ("0A", "22", "42", "54"):
        return None
    position = int(error.position) - 1 - offset if error.position else -1
    message = str(error.message).replace("WHERE", "a where clause")
    return WhereRefused(message, rendered.origin(position) if position >= 0 else None, str(error.hint or ""))


async def _check_literals(connection: asyncpg.Connection, tree: Node, table: TableInfo) -> None:
    """``'today'`` is a date of its own each day, but only where it is a date: with another word it would be none."""
    if not any(node.kind == "text" and _TIME_WORDS.search(str(node.value)) for node in tree.walk()):
        return
    try:
        await _analysed(connection, _without_time_words(tree), table)
    except WhereRefused as refused:
        if not isinstance(refused.__cause__, asyncpg.InvalidDatetimeFormatError):
            raise
        raise WhereRefused(
            "today, now and the like are another time each time", refused.position, "write the date or time itself"
        ) from None


def _without_time_words(tree: Node) -> Node:
    args = tuple(_without_time_words(arg) for arg in tree.args)
    value = _TIME_WORDS.sub("nonsense", str(tree.value)) if tree.kind == "text" else tree.value
    return replace(tree, value=value, args=args)


async def _check_uses(connection: asyncpg.Connection, used: Uses, tree: Node) -> None:
    if used.unknown:
        raise WhereRefused(f"a where clause cannot contain this ({', '.join(sorted(used.unknown))})")
    if used.constant_types & _TIMETZ:
        raise WhereRefused("a time with time zone depends on the day", None, "use a timestamptz, or a time")
    sources, targets = ([pair[i] for pair in used.conversions] for i in (0, 1))
    routines = await connection.fetch(_ROUTINES, list(used.functions), list(used.operators), sources, targets)
    for routine in routines:
        _check_routine(routine, tree)


def _check_routine(routine: asyncpg.Record, tree: Node) -> None:
    volatility = routine["provolatile"]
    if volatility in ("i", b"i"):
        return
    name = routine["proname"]
    place = next((node.at + 1 for node in tree.walk() if node.kind == "call" and _called(node) == name), None)
    stable = volatility in ("s", b"s")
    if stable and routine["built_in"]:
        if name in _SETTLED and (name, routine["pronargs"]) != ("age", 1):
            return
        if name in _BY_FORMAT:
            _check_formats(name, tree)
            return
        if name in _READ_BY_THE_CLOCK:
            raise WhereRefused(
                "text that becomes a date or time could be 'today', which is another one each day",
                None,
                "use to_date(text, format), to_timestamp(text, format) or make_date(year, month, day)",
            )
    shown = name if routine["nspname"] == "pg_catalog" else f"{routine['nspname']}.{name}"
    if stable:
        raise WhereRefused(
            f"{shown}() is STABLE: what it gives may depend on more than the row",
            place,
            "a where clause may call what is IMMUTABLE",
        )
    raise WhereRefused(
        f"{shown}() is VOLATILE: it may give something else each time",
        place,
        "a where clause may call what is IMMUTABLE; declare your own functions so if they are",
    )


def _called(node: Node) -> str:
    return node.value[-1] if isinstance(node.value, tuple) else ""


def _check_formats(name: str, tree: Node) -> None:
    for node in tree.walk():
        if node.kind != "call" or _called(node) != name or len(node.args) != 2:
            continue
        form = node.args[1]
        if form.kind != "text":
            raise WhereRefused(f"the format of {name}() must be a literal", form.at + 1)
        text = str(form.value)
        number = name == "to_number" or (name == "to_char" and _OF_A_NUMBER.search(text) is not None)
        if "TM" in text.upper() or (number and _LOCAL_SIGNS.search(text)):
            raise WhereRefused(
                f"this format of {name}() depends on the locale", form.at + 1, "leave out TM, L, D and G"
            )


# --- evaluate ---------------------------------------------------------------------------------------------------------


async def evaluate(
    pool: asyncpg.Pool,
    where: Where,
    table: TableInfo,
    rows: Sequence[Row],
    on_error: Callable[[int, str], None] | None = None,
) -> list[bool]:
    """For each of these rows, given in wire cells, whether the clause is true.

    ``on_error``: told of rows that are outside because the clause raised an error for them, or took too long: how many,
    and what one of the errors said. Raises what asyncpg raises where that is not the rows' fault.
    """
    inside: list[bool] = []
    evaluation = _Evaluation(pool, where, table, on_error)
    for batch in _batches(evaluation, rows):
        inside += await evaluation.inside(batch)
    return inside


class _Evaluation:
    """The queries of one clause, and the cells they take."""

    def __init__(
        self, pool: asyncpg.Pool, where: Where, table: TableInfo, on_error: Callable[[int, str], None] | None
    ) -> None:
        self._pool = pool
        self._on_error = on_error
        columns = [(i, c.name, c.type_name) for i, c in enumerate(table.relation.columns) if c.name in where.columns]
        self._indexes = [(i, type_name == "bytea") for i, _, type_name in columns]
        place = quote_identifier(_unused(table))
        typed = "".join(f", r.c{i}::{table.cast_type(name)} AS {quote_identifier(name)}" for i, name, _ in columns)
        arrays = "".join(f", ${n + 2}::text[]" for n in range(len(columns)))
        names = "".join(f", c{i}" for i, _, _ in columns)
        self._together = (
            f"SELECT this.{place} FROM (SELECT r.n AS {place}{typed} "  # noqa: S608 - identifiers and literals, quoted
            f"FROM unnest($1::int[]{arrays}) AS r (n{names})) AS this WHERE {where.sql('this')}"
        )
        single = "".join(
            f", $1[1][{n + 2}]::{table.cast_type(name)} AS {quote_identifier(name)}"
            for n, (_, name, _) in enumerate(columns)
        )
        self._alone = f"SELECT {where.sql('this')} FROM (SELECT $1[1][1] AS {place}{single}) AS this"  # noqa: S608 - as above

    def cells(self, row: Row) -> list[str | None]:
        """What Postgres reads as the values of the columns that the clause looks at."""
        return [_text(row[index], hexadecimal=is_bytea) for index, is_bytea in self._indexes]

    async def inside(self, rows: Sequence[list[str | None]]) -> list[bool]:
        try:
            return await self._all(rows)
        except TimeoutError:
            if len(rows) == 1:
                self._report(1, f"takes longer than {EVALUATION_S:g} s")
                return [False]
        half = len(rows) // 2
        return await self.inside(rows[:half]) + await self.inside(rows[half:])

    async def _all(self, rows: Sequence[list[str | None]]) -> list[bool]:
        arrays = [list(column) for column in zip(*rows, strict=True)]
        try:
            found = await self._pool.fetch(self._together, list(range(len(rows))), *arrays, timeout=EVALUATION_S)
        except asyncpg.PostgresError as error:
            if not _of_a_row(error):
                raise
        else:
            true = {record[0] for record in found}
            return [place in true for place in range(len(rows))]
        numbered = [[str(place), *cells] for place, cells in enumerate(rows)]
        record = await self._pool.fetchrow(
            "SELECT * FROM electric.evaluate($1, $2::text[])", self._alone, numbered, timeout=EVALUATION_S
        )
        assert record is not None
        if record["failed"]:
            self._report(record["failed"], record["error"])
        return list(record["inside"])

    def _report(self, count: int, error: str) -> None:
        log.debug("a where clause raised an error for %d rows: %s", count, error)
        if self._on_error is not None:
            self._on_error(count, error)


def _of_a_row(error: asyncpg.PostgresError) -> bool:
    """Whether another row may go well.

    Not so without resources, in a shutdown, over a broken connection; nor where what the clause names is not there any
    more, or not allowed. ``electric.evaluate`` judges alike.
    """
    state = str(error.sqlstate)
    return state[:2] not in ("08", "25", "40", "53", "57", "58") and state not in _OF_THE_CLAUSE


def _batches(evaluation: _Evaluation, rows: Sequence[Row]) -> Iterator[list[list[str | None]]]:
    batch: list[list[str | None]] = []
    size = 0
    for row in rows:
        cells = evaluation.cells(row)
        size += sum(len(cell) for cell in cells if cell is not None)
        batch.append(cells)
        if len(batch) >= BATCH_ROWS_MAX or size >= BATCH_BYTES_MAX:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _text(cell: Cell, *, hexadecimal: bool) -> str | None:
    if cell is None:
        return None
    return "\\x" + cell.hex() if hexadecimal else cell.decode()


def _unused(table: TableInfo) -> str:
    """A name that no column has."""
    name = "place"
    while name in table.types:
        name += "_"
    return name
