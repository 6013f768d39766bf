"""A tracker, and the parts of it that devices ask for: what each is in Postgres' own words."""

from __future__ import annotations

from typing import Any

import asyncpg

TABLES = ("users", "projects", "issues", "comments")
SQL = """
CREATE TABLE users (id text PRIMARY KEY, name text NOT NULL);
CREATE TABLE projects (id text PRIMARY KEY, owner text NOT NULL REFERENCES users (id), name text NOT NULL);
CREATE TABLE issues (id text PRIMARY KEY, project text NOT NULL REFERENCES projects (id), title text NOT NULL,
                     rank int4);
CREATE TABLE comments (id text PRIMARY KEY, issue text NOT NULL REFERENCES issues (id),
                       author text NOT NULL REFERENCES users (id), body text NOT NULL);
INSERT INTO users VALUES ('ann', 'Ann'), ('bob', 'Bob'), ('cid', 'Cid'), ('dan', 'Dan');
INSERT INTO projects VALUES ('p1', 'ann', 'first'), ('p2', 'ann', 'second'), ('p3', 'bob', 'third');
INSERT INTO issues SELECT 'i' || n, 'p' || 1 + n % 3, 'issue ' || n, n FROM generate_series(1, 12) n;
INSERT INTO comments
  SELECT 'c' || n, 'i' || 1 + n % 12, (ARRAY['ann', 'bob', 'cid'])[1 + n % 3], 'comment ' || n
  FROM generate_series(1, 24) n;
"""

# The projects of Ann with their issues, the comments on these, and everybody any of them names.
ANNS = "this.owner = 'ann'"
ANNS_PROJECTS = "SELECT id FROM projects WHERE owner = 'ann'"
ANNS_ISSUES = f"SELECT id FROM issues WHERE project IN ({ANNS_PROJECTS})"
TREE = {
    "projects": f"SELECT * FROM projects WHERE id IN ({ANNS_PROJECTS})",
    "issues": f"SELECT * FROM issues WHERE id IN ({ANNS_ISSUES})",
    "comments": f"SELECT * FROM comments WHERE issue IN ({ANNS_ISSUES})",
    "users": f"SELECT * FROM users WHERE id IN (SELECT owner FROM projects WHERE id IN ({ANNS_PROJECTS})) "
    f"OR id IN (SELECT author FROM comments WHERE issue IN ({ANNS_ISSUES}))",
}


def issues_where(condition: str) -> dict[str, str]:
    """Some issues, and what they refer to."""
    projects = f"SELECT project FROM issues WHERE {condition}"
    return {
        "issues": f"SELECT * FROM issues WHERE {condition}",
        "projects": f"SELECT * FROM projects WHERE id IN ({projects})",
        "users": f"SELECT * FROM users WHERE id IN (SELECT owner FROM projects WHERE id IN ({projects}))",
        "comments": "SELECT * FROM comments WHERE false",
    }


Rows = dict[str, dict[str, dict[str, Any]]]


async def expected(postgres: asyncpg.Connection, part: dict[str, str]) -> Rows:
    """The rows of ``part`` (a query a table), by table and id."""
    async with postgres.transaction(isolation="repeatable_read"):
        return {table: {row["id"]: dict(row) for row in await postgres.fetch(sql)} for table, sql in part.items()}


# Each takes what it finds and leaves something else behind, in the tree above and around it.
MOVES: dict[str, tuple[str, ...]] = {
    "a root moves in, and its subtree": ("UPDATE projects SET owner = 'ann' WHERE id = 'p3'",),
    "a root moves out": ("UPDATE projects SET owner = 'dan' WHERE id = 'p1'",),
    "a child moves in below another root": ("UPDATE issues SET project = 'p1' WHERE project = 'p3'",),
    "a child moves out": ("UPDATE issues SET project = 'p3' WHERE id IN ('i3', 'i4')",),
    "a grandchild changes its parent": ("UPDATE comments SET issue = 'i2' WHERE issue <> 'i2'",),
    "a parent nobody had referred to": ("UPDATE comments SET author = 'dan'",),
    "rows come and go in one transaction": (
        "INSERT INTO issues VALUES ('new', 'p1', 'new', 0)",
        "INSERT INTO comments VALUES ('new', 'new', 'dan', 'new')",
        "DELETE FROM comments WHERE issue = 'i3'",
        "UPDATE issues SET project = 'p3' WHERE id = 'new'",
        "UPDATE projects SET owner = 'bob' WHERE id = 'p2'",
        "UPDATE projects SET owner = 'ann' WHERE id = 'p2'",
    ),
    "a primary key changes": (
        "INSERT INTO projects VALUES ('p4', 'ann', 'fourth')",
        "UPDATE issues SET project = 'p4' WHERE project = 'p1'",
        "UPDATE projects SET id = 'p5' WHERE id = 'p1'",
    ),
    "all is deleted": ("DELETE FROM comments", "DELETE FROM issues", "DELETE FROM projects"),
}


COMPOSITE_TABLES = ("regions", "sites")
COMPOSITE = """
CREATE TABLE regions (country text, code int4, name text NOT NULL, PRIMARY KEY (country, code));
CREATE TABLE sites (id text PRIMARY KEY, country text, code int4, part_of text REFERENCES sites (id),
                    size int4 NOT NULL, FOREIGN KEY (country, code) REFERENCES regions (country, code));
INSERT INTO regions
  SELECT country, code, country || code FROM unnest(ARRAY['a', 'b']) country, generate_series(1, 3) code;
INSERT INTO sites VALUES
  ('s1', 'a', 1, NULL, 1), ('s2', 'a', 2, 's1', 2), ('s3', 'b', 2, 's2', 3), ('s4', NULL, 3, 's4', 4);
"""


async def move(postgres: asyncpg.Connection, name: str) -> None:
    async with postgres.transaction():
        for statement in MOVES[name]:
            await postgres.execute(statement)
