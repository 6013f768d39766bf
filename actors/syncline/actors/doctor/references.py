"""Which tables refer to which, directly or through others. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from syncline.actors.doctor.facts import Table


def behind_clashes(tables: Mapping[int, Table], clashing: Collection[int]) -> dict[int, str]:
    """Of the tables those that refer to one of ``clashing``, and its name: ``electrify`` leaves them out with it.

    As ``electric.missing_parents`` has it: not where that one refers back, since in a circle somebody has to be first.
    """
    if not clashing:
        return {}
    parents = {
        relid: {constraint.refers_to for constraint in table.constraints if constraint.kind == "f"}
        for relid, table in tables.items()
    }
    above = {relid: _reached(relid, parents) for relid in tables}
    found: dict[int, str] = {}
    for relid, reached in above.items():
        for parent in sorted(reached & set(clashing) & tables.keys()):
            if relid not in clashing and relid not in above[parent]:
                found.setdefault(relid, tables[parent].name)
    return found


def _reached(start: int, parents: Mapping[int, Collection[int]]) -> set[int]:
    reached: set[int] = set()
    waiting = [start]
    while waiting:
        for parent in parents.get(waiting.pop(), ()):
            if parent not in reached:
                reached.add(parent)
                waiting.append(parent)
    return reached
