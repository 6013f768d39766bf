# ruff: noqa: S608 - SQL is made of constants; values are parameters.
"""A database file that is a copy takes an identity of its own. See ``proto.forks`` for how that is found out.

What both files had written before they parted stays under the client id that they had: either of them may send it, and
it counts once. What was written since is this file's alone, and gets the new id; the tags that it has left on rows do
so too. Rows, subscriptions and the position in the stream stay as they are: the server does not know the new id, and
has the device compare what it holds. Values of sequences that were reserved are the other file's.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Mapping, Sequence

from syncline.client import reserved
from syncline.client.schema import OPENINGS
from syncline.proto.forks import OPENINGS_MAX, Opening, parting


def note_opening(connection: sqlite3.Connection, opening_id: str) -> None:
    """The file is opened. Kept are the first, which the server may know, and the newest."""
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = '_syncline_oplog'").fetchone()
    first = 1 if last is None else last[0] + 1
    connection.execute(f"INSERT INTO {OPENINGS} (id, first_entry) VALUES (?, ?)", (opening_id, first))
    connection.execute(
        f"DELETE FROM {OPENINGS} WHERE place > (SELECT min(place) FROM {OPENINGS}) "
        f"AND place <= (SELECT max(place) FROM {OPENINGS}) - ?",
        (OPENINGS_MAX - 1,),
    )


def note_accepted(connection: sqlite3.Connection) -> None:
    """The server knows this file as it is."""
    connection.execute(f"DELETE FROM {OPENINGS} WHERE place < (SELECT max(place) FROM {OPENINGS})")


def openings_of(connection: sqlite3.Connection) -> tuple[Opening, ...]:
    """In their order."""
    rows = connection.execute(f"SELECT id, first_entry FROM {OPENINGS} ORDER BY place")
    return tuple(Opening(opening_id, first) for opening_id, first in rows)


def fork(connection: sqlite3.Connection, theirs: Sequence[Opening]) -> str:
    """The file is no longer that of the client id it has, under which the server knows one that has seen ``theirs``.
    Returns its new one."""
    (old_id,) = connection.execute("SELECT client_id FROM _syncline_state").fetchone()
    where = parting(theirs, openings_of(connection))
    first, name = where.first, where.name
    new_id = str(uuid.uuid4() if name is None else uuid.uuid5(uuid.NAMESPACE_OID, f"{old_id} {name}"))
    own = {
        commit_ms
        for (commit_ms,) in connection.execute(
            "SELECT DISTINCT commit_ms FROM _syncline_oplog WHERE id >= ? AND origin IS NULL", (first,)
        )
    }
    connection.execute("UPDATE _syncline_oplog SET origin = ? WHERE id < ? AND origin IS NULL", (old_id, first))
    renamed = {f"{old_id}@{commit_ms}": f"{new_id}@{commit_ms}" for commit_ms in own}
    for table, column in (("_syncline_oplog", "clear_tags"), ("_syncline_shadow", "tags")):
        _rename(connection, table, column, old_id, renamed)
    _stand_on_old(connection, old_id, first)
    reserved.drop(connection)
    connection.execute("UPDATE _syncline_state SET client_id = ?", (new_id,))
    return new_id


def _stand_on_old(connection: sqlite3.Connection, old_id: str, first: int) -> None:
    """What was written since to a row that had been written under the old id has observed that, and has to say so now:
    not only the first write, which may be rejected."""
    observed: dict[tuple[str, str], list[str]] = {}
    changed = []
    for entry_id, table, key, text in connection.execute(
        "SELECT id, table_name, key, clear_tags FROM _syncline_oplog WHERE id >= ? AND origin IS NULL ORDER BY id",
        (first,),
    ):
        tags = json.loads(text)
        old = [tag for tag in tags if tag.rpartition("@")[0] == old_id]
        if old:
            observed[table, key] = old
        elif (table, key) in observed:
            changed.append((json.dumps(tags + observed[table, key]), entry_id))
    connection.executemany("UPDATE _syncline_oplog SET clear_tags = ? WHERE id = ?", changed)


def _rename(connection: sqlite3.Connection, table: str, column: str, old_id: str, renamed: Mapping[str, str]) -> None:
    """Put the new tags in the place of the old ones, in the JSON arrays of a column."""
    key = "id" if table == "_syncline_oplog" else "table_name, key"
    having = f"SELECT {column}, {key} FROM {table} WHERE instr({column}, ?)"
    changed = []
    for text, *of_row in connection.execute(having, (f"{old_id}@",)):
        tags = json.loads(text)
        now = [renamed.get(tag, tag) for tag in tags]
        if now != tags:
            changed.append((json.dumps(now), *of_row))
    where = " AND ".join(f"{name} = ?" for name in key.split(", "))
    connection.executemany(f"UPDATE {table} SET {column} = ? WHERE {where}", changed)
