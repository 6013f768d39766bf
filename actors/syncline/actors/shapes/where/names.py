"""Names of Postgres that a where clause is judged by before Postgres itself sees it.

Pure. The lists need not be complete: what they do not have, Postgres judges.
"""

from __future__ import annotations

from typing import Final

OF_THE_MOMENT: Final = frozenset(
    {
        *("now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "timeofday", "pg_sleep"),
        *("random", "random_normal", "gen_random_uuid", "uuidv4", "uuidv7", "txid_current"),
        *("pg_current_xact_id", "nextval", "currval", "lastval", "setval"),
    }
)
"""Functions whose value changes while no row does, or that change something themselves."""

OF_THE_SESSION: Final = frozenset(
    {
        *("CURRENT_ROLE", "CURRENT_USER", "USER", "SESSION_USER", "CURRENT_CATALOG", "CURRENT_SCHEMA"),
    }
)

AGGREGATES: Final = frozenset(
    {
        *("count", "sum", "avg", "min", "max", "bool_and", "bool_or", "every", "array_agg", "string_agg"),
        *("json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg"),
    }
)

WINDOW_FUNCTIONS: Final = frozenset(
    {
        *("row_number", "rank", "dense_rank", "lag", "lead", "first_value", "last_value", "ntile"),
    }
)

BUILT_IN_TYPES: Final = frozenset(
    {
        *("bool", "bytea", "int2", "int4", "int8", "float4", "float8", "numeric", "text", "varchar"),
        *("bpchar", "uuid", "date", "time", "timetz", "timestamp", "timestamptz", "interval", "json"),
        *("jsonb", "jsonpath", "bit", "varbit", "inet", "cidr", "macaddr"),
    }
)

BUILT_IN_FUNCTIONS: Final = frozenset(
    {
        *("length", "char_length", "character_length", "octet_length", "lower", "upper", "starts_with"),
    }
)
"""Found in pg_catalog whatever the search path says: nobody else's function of that name may come before them."""
