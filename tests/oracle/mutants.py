"""Rules of shapes broken on purpose: membership, rewind, snapshots, bundles. Somebody has to notice each of them.

A mutant replaces one rule of the product for the length of a run. Those of pure modules are shown to the property test
of membership first, which plays thousands of times faster than a service does.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

from tests.mutation import Mutants, everywhere, in_place_of
from tests.property import test_shapes_membership as played
from tests.sim.mutants import MUTANTS as of_the_simulator

from syncline.actors.devices.bundle import Bundle
from syncline.actors.devices.holders import any_holds
from syncline.actors.devices.overlaps import fewer_columns
from syncline.actors.devices.planning import _select
from syncline.actors.postgres import subtree
from syncline.actors.postgres.catalog import Catalog
from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.shapes.asleep import Kept
from syncline.actors.shapes.clauses import Clauses
from syncline.actors.shapes.consumer import Consumer
from syncline.actors.shapes.filtering import filtered
from syncline.actors.shapes.heldfile import HeldFile
from syncline.actors.shapes.image import Overlay
from syncline.actors.shapes.interest import Interest
from syncline.actors.shapes.membership import _Walk
from syncline.actors.shapes.netting import Netting
from syncline.actors.shapes.projection import Projection, columns_of, lost, united, wire_relations
from syncline.actors.shapes.rewind import Answers, Later
from syncline.actors.shapes.together import put_together
from syncline.actors.shapes.treeconsumer import TreeConsumer
from syncline.actors.shapes.treevalues import Step
from syncline.client.replica import Replica
from syncline.client.row_sql import put_sql
from syncline.proto.digest import Digests, TableDifference
from syncline.proto.values import Gone, Update

MUTANTS = Mutants()
mutant = MUTANTS.add


def play(seed: int) -> None:
    """One example of each property of membership. Raises whatever a broken rule leads to."""
    for test in (
        played.test_a_shape_holds_what_it_is_by_definition_after_every_transaction,
        played.test_answers_of_later_snapshots_are_rewound_to_where_the_shape_is,
        played.test_a_transaction_of_which_no_change_concerns_a_shape_does_nothing_to_it,
    ):
        test.hypothesis.inner_test(seed, 2 + seed % 12)  # type: ignore[attr-defined]


# --- membership -------------------------------------------------------------------------------------------------------


@mutant("rows that refer to each other in a circle keep each other")
def _(stack: ExitStack) -> None:
    def unsupported(original: Any, self: _Walk, id: Any) -> Generator[None, None, Iterable[Any]]:
        yield
        row = self._row(id)
        assert row is not None
        return () if any(True for _ in self._referring(id, row)) else (id,)

    in_place_of(stack, _Walk, "_unsupported", unsupported)


@mutant("what a row referred to is not looked at when it refers to something else")
def _(stack: ExitStack) -> None:
    def let_go(original: Any, self: _Walk, id: Any, old: Any, new: Any) -> Iterator[Any]:
        yield from original(self, id, old, new) if new is None else ()

    in_place_of(stack, _Walk, "_let_go", let_go)


@mutant("what a row refers to does not come along")
def _(stack: ExitStack) -> None:
    in_place_of(stack, _Walk, "_new_references", lambda original, self, id: iter(()))


@mutant("only what a row that comes refers to comes along, not what it refers to")
def _(stack: ExitStack) -> None:
    def new_references(original: Any, self: _Walk, id: Any) -> Iterator[Any]:
        if id in self._net or any(id[1] in at for at in self._at):
            yield from original(self, id)

    in_place_of(stack, _Walk, "_new_references", new_references)


@mutant("what hangs on a row that moves in does not come")
def _(stack: ExitStack) -> None:
    in_place_of(stack, _Walk, "_all_with", lambda original, self, *args: iter(self._changed(*args)))


@mutant("what hangs on a row that moves out stays")
def _(stack: ExitStack) -> None:
    def hanging(original: Any, self: _Walk, n: int) -> Iterator[Any]:
        for key in original(self, n):
            if not self._was_at(n, key):
                yield key

    in_place_of(stack, _Walk, "_hanging", hanging)


@mutant("included rows need not satisfy their clause")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Clauses, "judge", lambda original, self, node, row: True if node else original(self, node, row))


@mutant("a row is where it was, whomever it refers to now")
def _(stack: ExitStack) -> None:
    def belongs(original: Any, self: _Walk, n: int, key: Any) -> bool:
        is_there: bool = original(self, n, key)
        return is_there or bool(n and self._was_at(n, key) and self._row((self._tree.nodes[n].relation_id, key)))

    in_place_of(stack, _Walk, "_belongs", belongs)


@mutant("rows above that did not change do not count")
def _(stack: ExitStack) -> None:
    def somebody_at(original: Any, self: _Walk, n: int, places: Any, value: Any) -> bool:
        original(self, n, places, value)
        return value in self._at_index[n, places]

    in_place_of(stack, _Walk, "_somebody_at", somebody_at)


@mutant("what refers to rows that are held does not concern a tree")
def _(stack: ExitStack) -> None:
    def init(original: Any, self: Interest, *args: Any) -> None:
        original(self, *args)
        self._refers = {relation_id: [] for relation_id in self._refers}

    in_place_of(stack, Interest, "__init__", init)


@mutant("a row that is held does not concern a tree when it changes")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Interest, "_holds", lambda original, self, *args: False)


@mutant("devices are not told that a row leaves and lives on")
def _(stack: ExitStack) -> None:
    def step(original: Any, self: _Walk) -> Step:
        made: Step = original(self)
        return replace(made, changes=tuple(change for change in made.changes if not isinstance(change, Gone)))

    in_place_of(stack, _Walk, "step", step)


@mutant("a row that is held for a reference alone is not told of when it changes")
def _(stack: ExitStack) -> None:
    def step(original: Any, self: _Walk) -> Step:
        made: Step = original(self)
        alone = {id for id, row in made.held.items() if not row.nodes}
        relations = self._tree.relations
        kept = (
            change
            for change in made.changes
            if not isinstance(change, Update)
            or (change.relation_id, relations[change.relation_id].key_of(change.row)) not in alone
        )
        return replace(made, changes=tuple(kept))

    in_place_of(stack, _Walk, "step", step)


# --- netting ----------------------------------------------------------------------------------------------------------


@mutant("a transaction that changes a row twice found what it left itself")
def _(stack: ExitStack) -> None:
    def set_(original: Any, self: Netting, relation: Any, row: Any, found: Any, left: Any, tags: Any) -> None:
        self._rows.pop((relation.id, relation.key_of(row)), None)
        original(self, relation, row, found, left, tags)

    in_place_of(stack, Netting, "_set", set_)


@mutant("TRUNCATE leaves what is held")
def _(stack: ExitStack) -> None:
    def empty(original: Any, self: Netting, relation_id: int) -> None:
        with mock.patch.object(self, "_rows_of", return_value=()):
            original(self, relation_id)

    in_place_of(stack, Netting, "_empty", empty)


# --- rewind -----------------------------------------------------------------------------------------------------------


@mutant("what a later change found is not brought back")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Later, "with_value", lambda original, self, query: iter(()))


@mutant("a row that will change is taken as the snapshot shows it")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Later, "__contains__", lambda original, self, id: False)


@mutant("answers do not hear of what passes")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Answers, "passed", lambda original, self, *args: None)


@mutant("answers do not hear of TRUNCATE")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Answers, "passed", lambda original, self, net, emptied=(): original(self, net))


@mutant("what a TRUNCATE has removed was never there")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Later, "truncated_upto", lambda original, self, relation_id: 0)


@mutant("what the shape has come by stays to be undone")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Later, "passed", lambda original, self, lsn, ids: None)


# --- snapshots --------------------------------------------------------------------------------------------------------


@mutant("a snapshot may lack what was streamed before it was asked for")
def _(stack: ExitStack) -> None:
    async def seen(visibility: Visibility) -> bool:
        return True

    original = subtree.open_subtree

    async def opened(pool: Any, tables: Any, _: Any) -> Any:
        return await original(pool, tables, seen)

    from syncline.actors import tree

    stack.enter_context(mock.patch.object(tree, "open_subtree", opened))


@mutant("what a snapshot does not show is not put on top of it")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Visibility, "visible", lambda original, self, xid: True)


@mutant("the log since the snapshot is left out of an image")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Overlay, "chunks", lambda original, self: iter(()))


@mutant("what a tree holds is found by the values that it had before it moved")
def _(stack: ExitStack) -> None:
    def made(original: Any, self: HeldFile, *args: Any) -> None:
        original(self, *args)
        self.put = self.put.partition(", v0 = ")[0]

    in_place_of(stack, HeldFile, "__init__", made)


# --- clauses alone ----------------------------------------------------------------------------------------------------


@mutant("a row that does not satisfy the clause any more stays")
def _(stack: ExitStack) -> None:
    async def kept(original: Any, *args: Any) -> Any:
        changes, _ = await original(*args)
        return [change for change in changes if not isinstance(change, Gone)], []

    everywhere(stack, filtered, kept)


# --- bundles ----------------------------------------------------------------------------------------------------------


for shared in (
    "a bundle releases before all its shapes have passed",
    "a transaction loses the part of one of its shapes",
):
    MUTANTS[shared] = of_the_simulator[shared]


@mutant("a bundle does not wait for a shape that rests")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Bundle, "held", lambda original, self, shape, lsn: None)


@mutant("a row that leaves one shape goes, whoever else holds it")
def _(stack: ExitStack) -> None:
    async def nobody(original: Any, holders: Any, shapes: Any, lsn: int, rows: Sequence[Any], but: str) -> list[bool]:
        return [False] * len(rows)

    everywhere(stack, any_holds, nobody)


@mutant("a row that leaves one shape stays, whether or not another holds it")
def _(stack: ExitStack) -> None:
    async def somebody(original: Any, holders: Any, shapes: Any, lsn: int, rows: Sequence[Any], but: str) -> list[bool]:
        return [True] * len(rows)

    everywhere(stack, any_holds, somebody)


@mutant("of what overlapping shapes tell, only the first one's part is sent")
def _(stack: ExitStack) -> None:
    everywhere(stack, put_together, lambda original, every, relations: original(list(every)[:1], relations))


# --- columns ----------------------------------------------------------------------------------------------------------


@mutant("columns that leave with a shape stay where another keeps the row")
def _(stack: ExitStack) -> None:
    everywhere(stack, lost, lambda original, relation, held: None if held else original(relation, held))


@mutant("a row that another shape keeps loses all columns of the shape that lets it go")
def _(stack: ExitStack) -> None:
    everywhere(stack, columns_of, lambda original, relations: ())


@mutant("a row leaves a shape with its first columns, whichever were named")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Projection, "narrowed", lambda original, self, row: tuple(row[: len(self.names)]))


@mutant("columns come that no shape names")
def _(stack: ExitStack) -> None:
    everywhere(stack, wire_relations, lambda original, shape, relations: tuple(relations))


@mutant("foreign keys come only if they are named")
def _(stack: ExitStack) -> None:
    def linking(catalog: Catalog) -> dict[int, frozenset[str]]:
        return {oid: frozenset(table.key_names) for oid, table in catalog.tables.items()}

    stack.enter_context(mock.patch.object(Catalog, "linking", property(linking)))


@mutant("a table at several places of a shape has the columns of one of them")
def _(stack: ExitStack) -> None:
    def select(original: Any, request: Any, table: Any, catalog: Any, selections: dict[int, Any]) -> None:
        selections.pop(table.oid, None)
        original(request, table, catalog, selections)

    everywhere(stack, _select, select)


@mutant("columns stay that only a shape had which the device has given up")
def _(stack: ExitStack) -> None:
    everywhere(stack, fewer_columns, lambda original, *args: [])


@mutant("a row that comes with some of its columns loses the others")
def _(stack: ExitStack) -> None:
    everywhere(stack, put_sql, lambda original, table, present: original(table, (True,) * len(present)))


# --- asleep -----------------------------------------------------------------------------------------------------------


@mutant("nothing concerns a shape that is asleep")
def _(stack: ExitStack) -> None:
    def kept(original: Any, self: Any) -> Kept:
        return replace(original(self), concerning=lambda pieces, at_rest: ())

    for consumer in (Consumer, TreeConsumer):
        in_place_of(stack, consumer, "kept", kept)


# --- repairs ----------------------------------------------------------------------------------------------------------


@mutant("a repair finds no differences")
def _(stack: ExitStack) -> None:
    def difference(original: Any, self: Digests, relation_id: int, held: bytes) -> TableDifference:
        found = original(self, relation_id, held)
        return replace(found, differing=bytes(len(found.differing)))

    in_place_of(stack, Digests, "difference", difference)


@mutant("what a device has in a bucket that differs stays")
def _(stack: ExitStack) -> None:
    async def nothing(original: Any, self: Replica, differences: Any, relations: Any) -> None:
        return None

    in_place_of(stack, Replica, "stage_held", nothing)


@mutant("a row of which several shapes have columns is repaired with those of one")
def _(stack: ExitStack) -> None:
    everywhere(stack, united, lambda original, relations: relations[0])


@mutant("a row that a repair brings keeps columns that no shape has")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Replica, "begin_delivery", lambda original, self, *, repair=False: original(self))


def applied(names: Collection[str]) -> ExitStack:
    """With these rules broken until it is closed."""
    stack = ExitStack()
    for name in names:
        MUTANTS[name](stack)
    return stack
