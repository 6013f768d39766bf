"""The one spelling of a row's primary key, as text, in Python and in SQL.

Shadow and tombstone tables name a row by (relid, key text), and the same row is named from three places: the SQL that
applies device writes, the stream, and the snapshot query. All must agree to the byte, so the spelling is defined here:

    a JSON array of strings, one per key column in column order, no white space: ``["a","1"]``

Each string is the value as the column type's *output function* prints it under the session settings every connection
of ours uses (TimeZone UTC, DateStyle ISO, bytea_output hex, extra_float_digits 1). That is what pgoutput and COPY send.
It is not always the cast to text: ``true::text`` is "true" where the output function prints "t", hence ``format('%s')``
in the SQL. Postgres' ``array_to_json`` and Python's ``json`` escape alike: the quote, the backslash, the short forms
``\\b \\f \\n \\r \\t``, other characters below U+0020 as ``\\u00xx``, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring


def key_text(values: Iterable[str]) -> str:
    """Key text of Postgres output texts, in key-column order: ``key_text(["a", "1"]) == '["a","1"]'``."""
    return f"[{','.join(map(encode_basestring, values))}]"  # a tenth of the time of an encoder for anything


def key_text_of_cells(cells: Iterable[bytes | None]) -> str:
    """Key text of key cells as the stream carries them (UTF-8 output text, before any conversion to wire form).

    Raises ValueError for a NULL cell: no part of a primary key is NULL.
    """
    values = []
    for cell in cells:
        if cell is None:
            raise ValueError("a primary key cell is NULL")
        values.append(cell.decode())
    return key_text(values)


def quote_identifier(name: str) -> str:
    """``name`` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def key_sql(columns: Sequence[str], alias: str = "") -> str:
    """The SQL expression (text, never NULL) that spells the key of a row with these key columns.

    ``alias`` is a table alias put before each column: ``key_sql(["id"], "t")`` is
    ``array_to_json(ARRAY[format('%s', t."id")])::text``.
    """
    prefix = f"{alias}." if alias else ""
    parts = ", ".join(f"format('%s', {prefix}{quote_identifier(column)})" for column in columns)
    return f"array_to_json(ARRAY[{parts}])::text"


def cell_sql(column: str) -> str:
    """The SQL expression (text) of a cell of row ``t`` as the stream sends it.

    ``format('%s')`` prints as the type's output function does; it prints NULL as an empty text.
    A composite value with a NULL in it is not NOT NULL, hence IS DISTINCT FROM.
    """
    name = f"t.{quote_identifier(column)}"
    return f"CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END"
