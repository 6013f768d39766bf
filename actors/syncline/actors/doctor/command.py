"""What ``syncline doctor`` does: reads, reports, says."""

from __future__ import annotations

import json
from collections.abc import Sequence

import asyncpg
from rich.console import Console

from syncline.actors.doctor.reading import read
from syncline.actors.doctor.report import report, to_json
from syncline.actors.doctor.shown import lines
from syncline.actors.postgres.bootstrap import PUBLICATION, STEPS
from syncline.actors.postgres.slot import slot_name


async def examine(
    connection: asyncpg.Connection, schemas: Sequence[str], out: Console, *, as_json: bool, verbose: bool
) -> bool:
    """Whether everything can sync; ``out`` has the report. Raises Fault, and what asyncpg raises."""
    facts = await read(connection, schemas)
    found = report(facts, slot_name(facts.server.database), PUBLICATION, len(STEPS))
    if as_json:
        out.file.write(json.dumps(to_json(found), indent=2, ensure_ascii=False) + "\n")
    else:
        for line in lines(found, verbose=verbose):
            out.print(line, soft_wrap=True)
    return found.ready
