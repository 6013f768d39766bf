"""Values of every type that a column can have in a fresh database, and in the extensions at hand.

Of each type extreme values by its input text; what Postgres prints of them is what everybody has to hold. A type that
is not here fails the tests: see ``types_of``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import asyncpg

EXTENSIONS: Final = ("citext", "hstore", "ltree", "pg_trgm", "intarray", "cube", "seg", "isn", "vector", "postgis")
"""Made where this Postgres has them."""

# What an application may make itself.
OWN_TYPES: Final = """
CREATE TYPE mood AS ENUM ('sad', 'so so', 'it''s "fine", 😀 {}', '');
CREATE TYPE bool AS ENUM ('neither', 'nor');
CREATE TYPE place AS (name text, at point, since date);
CREATE DOMAIN email AS text CHECK (VALUE ~ '@');
CREATE DOMAIN small AS int2;
CREATE DOMAIN smaller AS small CHECK (VALUE < 100);
CREATE DOMAIN blob AS bytea;
CREATE DOMAIN moment AS timestamptz;
CREATE DOMAIN tempers AS mood[];
CREATE TYPE floats AS RANGE (subtype = float8);
"""

# Nothing can be put into a column of these: they have no input, or are Postgres' own alone.
WITHOUT_VALUES: Final = frozenset(
    """
    gtsvector pg_node_tree pg_ndistinct pg_dependencies pg_mcv_list pg_brin_bloom_summary
    pg_brin_minmax_multi_summary gtrgm query_int ghstore ltree_gist intbig_gkey
    """.split()  # noqa: SIM905 - as a list it takes a line a word
)

NUMERIC: Final = "1234567890123456789012345678901234567890.000100"
VALUES: Final[Mapping[str, Sequence[str]]] = {
    "aclitem": ["postgres=r*w/postgres"],
    "bit": ["0", "1"],
    "bit(9)": ["000000000", "101010101"],
    "bool": ["t", "f"],
    "box": ["(1e+300,2),(-0.1,-2)", "(0,0),(0,0)"],
    "bpchar": ["", "ab", "a  b"],
    "char(5)": ["", "ab", "😀é", "abcde"],
    '"char"': ["", "a", "\\303"],
    "bytea": ["\\x", "\\x00ff5c27"],
    "cid": ["0", "4294967295"],
    "cidr": ["0.0.0.0/0", "10.1.0.0/16", "2001:db8::/32"],
    "circle": ["<(1.5,-2),3>"],
    "date": ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"],
    "datemultirange": ["{}", "{[2024-01-01,2024-02-01),[2025-01-01,)}"],
    "daterange": ["empty", "(,)", "[2024-01-01,infinity]"],
    "float4": ["NaN", "Infinity", "-0", "1.1754944e-38", "3.4028235e+38"],
    "float8": ["NaN", "-Infinity", "-0", "5e-324", "0.1", "1e+22"],
    "inet": ["10.1.2.3", "10.1.2.3/8", "::1", "fe80::1/64"],
    "int2": ["-32768", "32767"],
    "int2vector": ["", "1 2 -3"],
    "int4": ["-2147483648", "2147483647"],
    "int4multirange": ["{}", "{[1,3),[5,)}"],
    "int4range": ["empty", "[1,10)", "(,5)"],
    "int8": ["-9223372036854775808", "9223372036854775807", "9007199254740993"],
    "int8multirange": ["{[1,3)}"],
    "int8range": ["[-9223372036854775808,9223372036854775807)"],
    "interval": ["00:00:00", "-1 years -2 mons +3 days -04:05:06.789", "178000000 years", "1 mon", "30 days"],
    "json": ["null", '{"a":  1.50, "a": 2}', "[]", '"\\u00e9"'],
    "jsonb": ["null", '{"a": 1.50}', "1e400", '"😀"'],
    "jsonpath": ['$."a"[*]?(@ > 1.5)', "$"],
    "line": ["{1,-1,0}"],
    "lseg": ["[(1,2),(3,4)]"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "money": ["$0.00", "-$92,233,720,368,547,758.08", "$1,234.50"],
    "name": ["", "x" * 63],
    "numeric": ["NaN", "Infinity", "-Infinity", NUMERIC, "-" + NUMERIC, "0", "0.00", "1e-1000", "9" * 400],
    "numeric(12,3)": ["0", "-123456789.125", "NaN"],
    "nummultirange": ["{[1.5,2.50),(3,]}"],
    "numrange": [f"[0,{NUMERIC}]", "empty"],
    "oid": ["0", "4294967295"],
    "oidvector": ["", "1 4294967295"],
    "path": ["[(0,0),(1,1),(2,0)]", "((0,0),(1,1),(2,0))"],
    "pg_lsn": ["0/0", "FFFFFFFF/FFFFFFFF"],
    "pg_snapshot": ["10:20:10,14,15", "10:10:"],
    "point": ["(0.1,-1e+300)", "(NaN,Infinity)"],
    "polygon": ["((0,0),(1,1),(2,0))"],
    "refcursor": ["", 'a "cursor"'],
    "regclass": ["pg_class", "-", "every"],
    "regcollation": ['"C"', "-"],
    "regconfig": ["english", "-"],
    "regdictionary": ["simple", "-"],
    "regnamespace": ["pg_catalog", "-"],
    "regoper": ["pg_catalog.||/", "0"],
    "regoperator": ["*(integer,integer)", "0"],
    "regproc": ["now", "-"],
    "regprocedure": ["abs(numeric)", "-"],
    "regrole": ["postgres", "-"],
    "regtype": ["integer[]", "mood", "-"],
    "text": ["", "NULL", "{}", "naïve 😀 'quoted' \\ \n\t", "\u200b"],
    "tid": ["(0,0)", "(4294967295,65535)"],
    "time": ["00:00:00", "23:59:59.999999", "24:00:00"],
    "time(2)": ["12:34:56.78"],
    "timestamp": ["infinity", "-infinity", "4713-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999"],
    "timestamp(0)": ["2024-02-29 12:34:56"],
    "timestamptz": ["infinity", "-infinity", "4713-11-24 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"],
    "timestamptz(3)": ["2024-02-29 12:34:56.789+02"],
    "timetz": ["00:00:00+00", "23:59:59.999999-15:59", "24:00:00+05:30"],
    "tsmultirange": ["{[2024-01-01,2024-02-01 12:00)}"],
    "tsquery": ["'fat' & ( 'rat' | !'cat':*AB )", ""],
    "tsrange": ["[2024-01-01,infinity)"],
    "tstzmultirange": ["{[2024-01-01 00:00+02,)}"],
    "tstzrange": ["[2024-01-01 00:00+02,2024-02-01 00:00+02)", "empty"],
    "tsvector": ["'a':1A 'cat':3,5B 'it''s':2", ""],
    "txid_snapshot": ["10:20:10,14,15"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "varbit": ["", "1010101010101"],
    "varchar": ["", "x" * 1000],
    "varchar(3)": ["", "é😀x"],
    "xid": ["3", "4294967295"],
    "xid8": ["3", "18446744073709551615"],
    "xml": ["<a b='1'>x &amp; y</a>", "text"],
    # of extensions
    "citext": ["", "MiXed 😀"],
    "hstore": ["", '"a"=>NULL, "b c"=>"d\\"e"'],
    "lquery": ["*.a.*"],
    "ltree": ["", "Top.Science_1.x"],
    "ltxtquery": ["Europe & Russia*@"],
    "cube": ["(1, 2),(3, 4)", "(0)"],
    "seg": ["1.50", "1 .. 2", "<5"],
    "ean13": ["978-0-393-04002-9"],
    "isbn13": ["978-0-393-04002-9"],
    "ismn13": ["979-0-060-11561-5"],
    "issn13": ["977-1144-875-00-7"],
    "isbn": ["0-393-04002-X"],
    "ismn": ["979-0-060-11561-5"],
    "issn": ["1436-4522"],
    "upc": ["220356483481"],
    "vector": ["[1,2.5,-3e-05]"],
    "halfvec": ["[1,2.5]"],
    "sparsevec": ["{1:1.5,3:2}/5"],
    "geometry": ["POINT(1 2)"],
    "geography": ["POINT(1 2)"],
    "box2d": ["BOX(1 2,3 4)"],
    "box3d": ["BOX3D(1 2 3,3 4 5)"],
    "spheroid": ['SPHEROID["WGS84",6378137,298.257223563]'],
    # of the application
    "mood": ["sad", "so so", 'it\'s "fine", 😀 {}', ""],
    "public.bool": ["neither", "nor"],
    "place": ["(,,)", '("a ""b"", c","(1,2)",infinity)'],
    "email": ["a@b"],
    "small": ["-32768"],
    "smaller": ["99"],
    "blob": ["\\x00ff"],
    "moment": ["2024-02-29 12:34:56.789+02", "infinity"],
    "tempers": ['{sad,NULL,"it\'s \\"fine\\", 😀 {}"}'],
    "floats": ["[0.1,Infinity]"],
    "floats_multirange": ["{[0.1,1)}"],
}
"""Input texts by the names of types, those with a length or a precision among them."""

_TYPES: Final = """
SELECT CASE WHEN n.nspname = 'pg_catalog' OR NOT EXISTS (
        SELECT FROM pg_type own WHERE own.typnamespace = 'pg_catalog'::regnamespace AND own.typname = t.typname)
    THEN CASE t.typname WHEN 'char' THEN '"char"' ELSE t.typname END ELSE n.nspname || '.' || t.typname END AS name
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
WHERE t.typtype IN ('b', 'd', 'e', 'm', 'r', 'c') AND t.typcategory NOT IN ('A', 'X') AND t.typname <> ALL ($1::text[])
    AND n.nspname IN ('pg_catalog', 'public') AND (c.relkind IS NULL OR c.relkind = 'c')
    AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""


async def types_of(connection: asyncpg.Connection) -> list[str]:
    """The types of the database that a column can have, arrays left out, and those with a length or a precision."""
    known = {row["name"] for row in await connection.fetch(_TYPES, list(WITHOUT_VALUES))}
    limited = {name for name in VALUES if "(" in name}
    try:
        await connection.execute("SELECT ''::xml")
    except asyncpg.FeatureNotSupportedError:
        known -= {"xml"}  # this Postgres was built without
    return sorted(known | limited)
