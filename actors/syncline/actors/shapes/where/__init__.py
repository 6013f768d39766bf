"""Where clauses: parsed, brought into one form, compiled where that is certain to mean what Postgres means.

Pure; the evaluation by Postgres is ``syncline.actors.postgres.where_sql``.
"""

from __future__ import annotations

from syncline.actors.shapes.where.operands import Undecided
from syncline.actors.shapes.where.refusal import WhereRefused
from syncline.actors.shapes.where.where import Where, parse

__all__ = ["Undecided", "Where", "WhereRefused", "parse"]
