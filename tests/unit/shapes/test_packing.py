"""A log that is rewritten with only final operations: how small it gets, for whom, and what a crash leaves of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.shapes.shape_scene import ITEMS, SHAPE, insert, piece, row
from tests.unit.shapes.test_consumer import ids_of, image_chunk
from tests.unit.shapes.test_fold import Folding, Machine, record, until

from syncline.actors.devices.bundle import Bundle
from syncline.actors.shapes import readers
from syncline.actors.shapes.finalpages import FinalPages
from syncline.actors.shapes.log import END_OF_TRANSACTION, Page, Record
from syncline.actors.shapes.logmerge import MIGRATION_ID_FIRST, LogMerge
from syncline.actors.shapes.messages import ReadPage, ReadReleased, ReadRows
from syncline.actors.shapes.projection import forgotten, lost, projection
from syncline.actors.shapes.rows import Rows
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster import Refusal
from syncline.proto import codec
from syncline.proto.ops import Begin, Commit
from syncline.proto.values import FINAL_MS, Change, Column, Delete, Gone, Insert, Relation, Update

READY = 100
RELATIONS = {ITEMS.id: ITEMS}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folding:
    monkeypatch.setattr("syncline.actors.shapes.store.FOLD_BYTES_MIN", 2_000)
    return Folding(tmp_path / "shape")


def update(id: int, body: str, before: str | None = None) -> Update:
    return Update(ITEMS.id, row(id, body), None if before is None else row(id, before), ("postgres_1@2",))


def told(records: tuple[Record, ...]) -> list[Change]:
    return [change for record in records for change in codec.decode_changes(record.ops)]


async def packed(store: ShapeStore) -> None:
    await Rows(store, RELATIONS).fold()
    packing = store.begin_packing()
    assert packing is not None
    await FinalPages(store, RELATIONS).pack(packing)


def new_store(directory: Path) -> ShapeStore:
    store = ShapeStore(directory, SHAPE)
    store.write_image_chunk(image_chunk(1, 2, 3))
    store.finish_image(READY)
    return store


async def read(store: ShapeStore, after: int = READY) -> list[Change]:
    return told(store.read((after, END_OF_TRANSACTION), 1 << 60, 1 << 30).records)


# --- what is left -----------------------------------------------------------------------------------------------------


async def test_a_row_that_is_written_again_and_again_ends_with_a_small_log(scene: Folding) -> None:
    await scene.start()
    before = ""
    for lsn in range(200, 400):
        body = f"{lsn}" * 20
        await scene.append(piece(lsn, update(1, body, before)))
        before = body
    # The last fold may be under way still: all 200 records take 30,000 bytes.
    await until(lambda: scene.store.final_lsn > 380 and scene.store.log_bytes < 3_000)
    page = await scene.logged()
    assert [change.row for change in told(page.records) if isinstance(change, Update)][-1] == row(1, before)


async def test_of_every_row_the_newest_operation_is_left_under_its_own_transaction(tmp_path: Path) -> None:
    store = new_store(tmp_path / "shape")
    store.append([record(110, insert(4), update(1, "a", ""), Delete(ITEMS.id, row(2)))])
    store.append([Record(120, 120, "device", 0, False, 1, codec.encode_ops([update(4, "b", "")]))])
    store.append([Record(120, 120, "device", 1, True, 1, codec.encode_ops([update(3, "c", "")]))])
    store.append([record(130, update(4, "d", "b"))])
    await packed(store)
    store.append([record(140, insert(5))])
    page = store.read((READY, END_OF_TRANSACTION), 1 << 60, 1 << 30)
    assert [(r.position, r.origin, r.commit_ms, r.last) for r in page.records] == [
        ((110, 0), "postgres_1", 110, True),
        ((120, 0), "device", 120, True),
        ((130, 0), "postgres_1", 130, True),
        ((140, 0), "postgres_1", 140, True),
    ]
    # Of a row that was told of twice nobody knows what it was where a device stands.
    expected = [update(1, "a", ""), Delete(ITEMS.id, row(2)), update(3, "c", ""), update(4, "d"), insert(5)]
    assert told(page.records) == expected
    assert (page.final_lsn, page.final_ms) == (130, 130)
    store.close()


async def test_rows_that_have_left_stay_with_what_says_so(tmp_path: Path) -> None:
    store = new_store(tmp_path / "shape")

    def leaving(lsn: int, *ids: int) -> Record:
        gone = [Gone(ITEMS.id, ITEMS.key_row((b"%d" % id,))) for id in ids]
        rows = codec.encode_ops([insert(id, f"away {lsn}") for id in ids])
        return Record(lsn, lsn, "postgres_1", 0, True, len(ids), codec.encode_ops(gone), gone=rows)

    store.append([leaving(110, 1, 2), record(120, insert(1)), leaving(130, 1), record(140, insert(2))])
    await packed(store)
    records = store.read((READY, END_OF_TRANSACTION), 1 << 60, 1 << 30).records
    assert [(r.lsn, list(codec.decode_changes(r.gone))) for r in records] == [(130, [insert(1, "away 130")]), (140, [])]
    store.close()


async def test_a_shape_that_has_lost_everything_keeps_that_and_goes_on(tmp_path: Path) -> None:
    store = new_store(tmp_path / "shape")
    store.append([record(110, insert(4)), record(120, Delete(ITEMS.id, row(4)))])
    store.append([Record(130, 130, "postgres_1", 0, True, 0, b"")])
    await packed(store)
    store.close()
    loaded = ShapeStore.load(store.directory)
    assert loaded is not None
    assert loaded.appended_lsn == 130, "what the slot sends again is not appended again"
    loaded.append([record(130, insert(5)), record(140, insert(6))])
    assert await read(loaded) == [Delete(ITEMS.id, row(4)), insert(6)]
    loaded.close()


async def test_what_went_away_long_ago_is_forgotten_and_devices_from_before_lack_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1_000_000.0
    monkeypatch.setattr("syncline.actors.shapes.finalpages.time.time", lambda: now_s)
    store = new_store(tmp_path / "shape")
    store.buried_kept_s = 10 * 86_400.0
    store.append([record(110, Delete(ITEMS.id, row(1))), record(120, update(2, "kept"))])
    await packed(store)
    now_s += 9 * 86_400
    store.append([record(130, Delete(ITEMS.id, row(3)))])
    await packed(store)
    assert store.ready_lsn == READY
    now_s += 2 * 86_400
    store.append([record(140, insert(9))])
    await packed(store)
    assert await read(store) == [update(2, "kept"), Delete(ITEMS.id, row(3)), insert(9)]
    assert store.ready_lsn == 120
    store.close()
    loaded = ShapeStore.load(store.directory)
    assert loaded is not None
    assert loaded.ready_lsn == 120
    loaded.close()


# --- for whom ---------------------------------------------------------------------------------------------------------


async def test_a_log_is_packed_only_up_to_where_every_edge_is(scene: Folding) -> None:
    await scene.start()
    await scene.join()
    reached = 150
    scene.edge._answer = lambda message: reached if isinstance(message, ReadReleased) else None
    await scene.grow(200, 3, 4, 5)
    await until(lambda: not scene.store.fold_due)
    assert scene.store.final_lsn == 0
    reached = 300
    await scene.grow(300, *range(6, 20))
    await until(lambda: scene.store.final_lsn == 300)


def test_an_edge_says_how_far_the_slowest_of_its_sets_is() -> None:
    bundle = Bundle(("a", "b"), 100)
    assert bundle.safe_upto("a") is None, "it will begin where the shape says"
    bundle.joined("a", 120)
    assert bundle.safe_upto("a") == 120
    bundle.joined("b", 110)
    bundle.watermark(130)
    bundle.held("b", 125)
    bundle.watermark(150)
    assert bundle.safe_upto("a") == 130


async def test_who_is_in_the_middle_of_a_log_reads_the_files_he_began_with(
    scene: Folding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "UNREAD_S", 0.0)
    await scene.start()
    await scene.append(piece(110, insert(3)))
    await scene.append(piece(120, update(3, "later")))
    first: Page = await scene.shape.call(ReadPage((READY, END_OF_TRANSACTION), 120, 1))
    assert told(first.records) == [insert(3)]
    await scene.grow(200, 4, 5, 6)
    await until(lambda: scene.store.final_lsn == 200)
    rest: Page = await scene.shape.call(ReadPage(first.records[-1].position, 120, 1 << 20, first.generation))
    assert told(rest.records) == [update(3, "later")]
    await until(lambda: not (scene.store.directory / "log-000000").exists())
    with pytest.raises(Refusal):
        await scene.shape.call(ReadPage((READY, END_OF_TRANSACTION), 120, 1, first.generation))


async def test_rows_from_before_what_is_final_are_refused(scene: Folding) -> None:
    await scene.start()
    await scene.append(piece(110, insert(3)))
    await scene.grow(200, 4, 5, 6)
    await until(lambda: scene.store.final_lsn == 200)
    with pytest.raises(Refusal):
        await scene.shape.call(ReadRows(110, 0))
    assert await scene.rows(200) == {1, 2, 3, 4, 5, 6}


# --- as a stream ------------------------------------------------------------------------------------------------------


def test_migrations_of_a_final_stretch_come_first_and_leave_the_device_where_it_is() -> None:
    merge = LogMerge(("items", "schema"), 50, 130, migrating=("schema",))
    merge.make_final(120)
    migrations = tuple(
        Record(lsn, lsn, "postgres_1", 0, True, 0, b"", (b"relation %d" % lsn,)) for lsn in (60, 120, 125)
    )
    merge.feed(
        "items", Page((record(55, insert(1)), record(120, insert(2)), record(130, insert(3))), False, final_ms=120)
    )
    merge.feed("schema", Page(migrations, more=False))
    frames = list(merge.frames())
    assert merge.done
    assert [(frame.lsn, frame.transaction_id, frame.prelude) for frame in frames] == [
        (50, MIGRATION_ID_FIRST, (b"relation 60",)),
        (50, MIGRATION_ID_FIRST + 1, (b"relation 120",)),
        (120, None, ()),
        (125, None, (b"relation 125",)),
        (130, None, ()),
    ]
    final = codec.decode_ops(frames[2].body or b"")
    assert isinstance(final[0], Begin)
    assert isinstance(final[-1], Commit)
    assert final[1:-1] == [insert(1), insert(2)]
    # A device's own writes are later than that, and what it writes from now on later than all of it.
    assert (final[0].commit_ms, final[-1].commit_ms) == (FINAL_MS, 120)


def test_a_row_that_leaves_one_shape_and_comes_to_another_in_a_final_stretch_loses_the_columns_of_the_first() -> None:
    wide = Relation(
        71, "public", "wide", (Column("id", "int4", primary_key=True), Column("x", "text"), Column("y", "text"))
    )
    ours, theirs = projection(wide, frozenset("x")), projection(wide, frozenset("y"))
    merge = LogMerge(("ours", "theirs"), 50, 130, relations=(ours, theirs))
    merge.make_final(120)
    gone, comes = Gone(ours.id, (b"1", None)), Insert(theirs.id, (b"1", b"new"))
    merge.feed("ours", Page((record(60, gone),), False, final_ms=120))
    merge.feed("theirs", Page((record(70, comes),), False, final_ms=120))
    (frame,) = merge.frames()
    _, *told, _ = codec.decode_ops(frame.body or b"")
    less = lost(ours, theirs.names)
    assert less is not None
    assert told == [forgotten(less, (b"1",)), comes]
    assert frame.prelude == (codec.relation_message(less),)


def test_a_row_that_comes_anew_after_a_truncate_stays_though_it_is_not_of_every_shape_that_had_it() -> None:
    for first, second in (("a", "b"), ("b", "a")):
        merge = LogMerge((first, second), 50, 130, relations=(ITEMS,))
        went = Delete(ITEMS.id, row(1))
        # The TRUNCATE is the first change of the transaction, the INSERT the second one.
        again = replace(record(60, insert(1, "anew")), index=1, since=1, until=2)
        ends = replace(record(60), index=1, since=1, until=2)
        emptied = replace(record(60, went), last=False, until=1)
        both = replace(emptied, ops=codec.encode_ops([went, Delete(ITEMS.id, row(2))]))
        merge.feed(first, Page((emptied, again), more=False))
        merge.feed(second, Page((both, ends), more=False))
        (frame,) = merge.frames()
        _, *told, _ = codec.decode_ops(frame.body or b"")
        assert insert(1, "anew") in told
        assert [change for change in told if isinstance(change, Delete)] == [Delete(ITEMS.id, row(2))]


def test_in_a_final_stretch_too_it_stays() -> None:
    for first, second in (("a", "b"), ("b", "a")):
        merge = LogMerge((first, second), 50, 130, relations=(ITEMS,))
        merge.make_final(120)
        emptied = replace(record(60, Delete(ITEMS.id, row(1)), Delete(ITEMS.id, row(2))), index=1, until=1)
        merge.feed(first, Page((replace(record(60, update(1, "anew")), until=2),), False, final_ms=120))
        merge.feed(second, Page((emptied, record(70, insert(3))), False, final_ms=120))
        (frame,) = merge.frames()
        _, *told, _ = codec.decode_ops(frame.body or b"")
        assert told == [update(1, "anew"), insert(3), Delete(ITEMS.id, row(2))]


def test_and_if_both_tell_of_the_whole_transaction() -> None:
    for first, second in (("a", "b"), ("b", "a")):
        merge = LogMerge((first, second), 50, 130, relations=(ITEMS,))
        merge.make_final(120)
        merge.feed(first, Page((replace(record(60, update(1, "anew")), until=2),), False, final_ms=120))
        merge.feed(second, Page((replace(record(60, Delete(ITEMS.id, row(1))), until=2),), False, final_ms=120))
        (frame,) = merge.frames()
        _, *told, _ = codec.decode_ops(frame.body or b"")
        assert told == [update(1, "anew")]


def test_a_final_stretch_without_anything_is_no_transaction() -> None:
    merge = LogMerge(("items",), 50, 130)
    merge.make_final(120)
    merge.feed("items", Page((), more=False))
    assert list(merge.frames()) == []
    assert merge.done


# --- crashes ----------------------------------------------------------------------------------------------------------

FINAL = [Delete(ITEMS.id, row(2)), update(4, "b"), insert(5)]


@pytest.mark.parametrize("power_lost", [False, True])
@pytest.mark.parametrize("earlier", [0, 1])
async def test_a_crash_between_any_two_steps_of_packing_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: int, power_lost: bool
) -> None:
    async def prepared(directory: Path) -> ShapeStore:
        store = new_store(directory)
        store.append([record(110, insert(4), Delete(ITEMS.id, row(2)))])
        for _ in range(earlier):
            await packed(store)
        store.append([record(120, update(4, "b", "")), record(130, insert(5))])
        store.flush()
        return store

    dies_at = 0
    machine = Machine(monkeypatch)
    async for dies_at, loaded in machine.deaths(tmp_path, prepared, packed, power_lost=power_lost):
        if loaded.final_lsn < 130:
            loaded.append([record(135, Delete(ITEMS.id, row(9)))])
            await packed(loaded)
            assert loaded.final_lsn == 135
            expected = [*FINAL, Delete(ITEMS.id, row(9))]
        else:
            expected = FINAL
        assert await read(loaded) == expected, f"dead before step {dies_at}"
        rows = {id async for chunk in Rows(loaded, RELATIONS).all(loaded.appended_lsn) for id in ids_of(chunk)}
        assert rows == {1, 3, 4, 5}
        loaded.append([record(140, insert(6))])
        loaded.close()
        again = ShapeStore.load(loaded.directory)
        assert again is not None
        assert await read(again) == [*expected, insert(6)]
        beginnings = {path.name for path in loaded.directory.glob("packed-*")}
        assert beginnings == {f"packed-{again._log.packed.number}-000000"}
        assert len(list(loaded.directory.glob("log-*"))) == 1
        again.close()
    assert dies_at >= 12, "there are steps to die between"


def test_a_stretch_that_nobody_can_tell_of_is_given_as_one_transaction_also_after_a_restart(tmp_path: Path) -> None:
    store = new_store(tmp_path / "shape")
    for lsn in (110, 120, 130):
        store.append([record(lsn, insert(lsn))])
    store.tear(110, 120)()
    store.close()
    again = ShapeStore.load(tmp_path / "shape")
    assert again is not None
    upto = {
        (after, upto): again.read((after, END_OF_TRANSACTION), upto, 1 << 30).whole_upto
        for after, upto in ((READY, 109), (READY, 130), (110, 130), (120, 130))
    }
    assert upto == {(READY, 109): 0, (READY, 130): 120, (110, 130): 120, (120, 130): 0}
    again.tear(140, 150)
    assert again.torn == (110, 150), "who stands before the first has to come by both"
    again.close()
