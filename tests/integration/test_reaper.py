"""Shapes that nobody needs go, those that somebody needs stay, and who comes back finds what he had."""

from __future__ import annotations

import asyncio
import json
import random
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from tests.e2e.shape_scene import SQL, TABLES, issues_where
from tests.e2e.test_shapes import agree, device
from tests.integration.hosts_scene import spread
from tests.integration.tree_scene import Tree, running
from tests.npm.rig import eventually
from tests.patience import until
from tests.shapes_on_disk import shapes_in

from syncline.actors.devices import reaper
from syncline.actors.names import REAPER, ROUTER, SHARD, WRITER
from syncline.actors.postgres.pruning import prune_living
from syncline.actors.shapes import reaping
from syncline.actors.shapes.messages import LiveShapes
from syncline.actors.shapes.router import DropRoutes, Router
from syncline.client import Database, Shape
from syncline.cluster import Refusal

RAISE = "UPDATE issues SET rank = (rank + 1) % 13 WHERE id = $1"
AT_ONCE = {"SYNCLINE_SHAPE_IDLE": "1"}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "EVERY_S", 0.05)
    monkeypatch.setattr(reaper, "EXPIRE_EVERY_S", 0.0)


async def clauses(tree: Tree) -> set[str]:
    """Of the shapes that live."""
    return {shape.where for shape in await tree.actor(SHARD).call(LiveShapes()) if shape.kind == "table"}


async def live(tree: Tree, count: int) -> bool:
    return len(await clauses(tree)) == count


def on_disk(tmp_path: Path) -> int:
    """Shapes on the disk."""
    (shapes,) = [path for path in (tmp_path / "data" / "shapes").iterdir() if path.is_dir()]
    return len(shapes_in(shapes)) - 2  # of the schema in two dialects


async def end(shape: Shape) -> None:
    """Unsubscribed, and its rows have left."""
    await shape.unsubscribe()

    async def left() -> bool:
        return shape.status.state == "unsubscribed"

    await until(left)


async def rounds(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """So many rounds more have been made."""
    made = 0
    work = reaper.Reaper._work

    async def counted(self: reaper.Reaper) -> None:
        nonlocal made
        await work(self)
        made += 1

    monkeypatch.setattr(reaper.Reaper, "_work", counted)

    async def enough() -> bool:
        return made >= count

    await until(enough)


async def test_a_shape_goes_once_no_subscription_names_it_and_comes_back_when_asked_for(
    database: str, tmp_path: Path
) -> None:
    async with running(database, tmp_path, SQL, TABLES, AT_ONCE) as tree:
        async with device(tmp_path / "ann.db", tree.url) as db:
            kept = await db.sync("issues", "this.rank > 0")
            ended = await db.sync("issues", "this.rank > 3")
            await kept.synced()
            await ended.synced()
            assert await live(tree, 2)
            await end(ended)
        async with device(tmp_path / "ann.db", tree.url):  # it does not list the one that has ended
            await until(partial(live, tree, 1))
        assert on_disk(tmp_path) == 1
        matcher = tree.actor(ROUTER)._cell.actor._matcher
        assert all(len(table.every) == 1 for table in matcher._tables.values())
        await tree.postgres.execute("UPDATE issues SET rank = rank + 1")
        async with device(tmp_path / "bob.db", tree.url) as db:
            await (await db.sync("issues", "this.rank > 3")).synced()
            await tree.postgres.execute("UPDATE issues SET rank = rank + 1")
            await eventually(partial(agree, tree.postgres, db, issues_where("rank > 3")))


async def test_a_router_that_was_away_is_told_later_which_shapes_are_no_more(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = 0
    take = Router.handle_call

    async def refusing_once(self: Router, message: object) -> object:
        nonlocal refusals
        if isinstance(message, DropRoutes) and not refusals:
            refusals += 1
            raise Refusal("not now")
        return await take(self, message)

    monkeypatch.setattr(Router, "handle_call", refusing_once)
    async with running(database, tmp_path, SQL, TABLES, AT_ONCE) as tree:
        async with device(tmp_path / "ann.db", tree.url) as db:
            shape = await db.sync("issues", "this.rank > 3")
            await shape.synced()
            await end(shape)
        async with device(tmp_path / "ann.db", tree.url):
            matcher = tree.actor(ROUTER)._cell.actor._matcher

            async def without_routes() -> bool:
                return not any(table.every for table in matcher._tables.values())

            await until(without_routes)
        assert refusals == 1


async def test_what_a_device_that_is_away_needs_stays_and_what_changed_is_sent(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(database, tmp_path, SQL, TABLES, {**AT_ONCE, "SYNCLINE_SHAPES_DISK_MAX": "1"}) as tree:
        async with device(tmp_path / "ann.db", tree.url) as db:
            await (await db.sync("issues", "this.rank > 3")).synced()
        await tree.postgres.execute("UPDATE issues SET rank = rank + 1")
        await rounds(monkeypatch, 30)
        assert await live(tree, 1)
        async with device(tmp_path / "ann.db", tree.url) as db:
            shape = await db.sync("issues", "this.rank > 3")
            assert shape.status.state == "delivered"
            await eventually(partial(agree, tree.postgres, db, issues_where("rank > 3")))


async def test_a_device_that_stays_away_for_too_long_begins_anew(database: str, tmp_path: Path) -> None:
    async with (
        running(database, tmp_path, SQL, TABLES, AT_ONCE) as tree,
        device(tmp_path / "ann.db", tree.url) as db,
    ):
        await (await db.sync("issues", "this.rank > 3")).synced()
        await db.disconnect()
        await db.execute("UPDATE issues SET title = 'mine' WHERE id = 'i5'")
        await tree.postgres.execute("UPDATE electric.clients SET last_seen = now() - interval '91 days'")
        await until(partial(live, tree, 0))
        assert await tree.postgres.fetchval("SELECT count(*) FROM electric.subscriptions") == 0
        await tree.postgres.execute("DELETE FROM comments; DELETE FROM issues WHERE rank = 7")
        await db.connect()

        async def taken() -> bool:
            return bool(await tree.postgres.fetchval("SELECT title = 'mine' FROM issues WHERE id = 'i5'"))

        await until(taken)
        await eventually(partial(agree, tree.postgres, db, issues_where("rank > 3")))


async def test_a_device_that_was_forgotten_with_what_it_had_written_has_deleted_its_own_row_meanwhile(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it wrote the row is not known any more. What it had written is not carried out again."""
    async with (
        running(database, tmp_path, SQL, TABLES, AT_ONCE) as tree,
        device(tmp_path / "ann.db", tree.url) as db,
    ):
        await (await db.sync("issues", "this.rank > 3")).synced()
        for id in ("mine", "theirs"):
            await db.execute("INSERT INTO issues (id, project, title, rank) VALUES (?, 'p1', '', 9)", (id,))

        async def there(count: int) -> bool:
            found = await tree.postgres.fetchval("SELECT count(*) FROM issues WHERE id IN ('mine', 'theirs')")
            return bool(found == count)

        await until(partial(there, 2))
        await until(partial(sent, db))
        await db.disconnect()
        await db.execute("DELETE FROM issues WHERE id IN ('mine', 'theirs')")
        await tree.postgres.execute(
            "UPDATE electric.clients SET last_seen = now() - interval '91 days';"
            "UPDATE electric.shadow SET written_at = now() - interval '91 days'"
        )
        tree.actor(WRITER)._cell.actor._loop._context["kept_ms"] = 0  # what it had written is as old as that
        await until(partial(live, tree, 0))
        async with asyncpg.create_pool(database, min_size=0) as pool:
            assert await prune_living(pool) == 3  # the issues, and the project that they kept
        await tree.postgres.execute("UPDATE issues SET title = 'by SQL' WHERE id = 'theirs'")
        decided = await tree.postgres.fetchval("SELECT lsn FROM electric.clients")
        assert decided > 0
        await db.connect()
        await until(partial(there, 1))
        await eventually(partial(agree, tree.postgres, db, issues_where("rank > 3")))
        assert await tree.postgres.fetchval("SELECT count(*) FROM issues WHERE id = 'theirs'") == 1
        assert await tree.postgres.fetchval("SELECT lsn FROM electric.clients") > decided
        told = json.loads(await tree.postgres.fetchval("SELECT value FROM electric.meta WHERE key = 'removed'"))
        assert told["devices"] == 1


async def sent(db: Database) -> bool:
    """Everything written has been taken, and what became of it is here."""
    async for status in db.status_changes():
        return status.pending_writes == 0
    raise AssertionError("a status is always told")


async def test_a_device_that_is_connected_is_not_away(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        running(database, tmp_path, SQL, TABLES, AT_ONCE) as tree,
        device(tmp_path / "ann.db", tree.url) as db,
    ):
        await (await db.sync("issues", "this.rank > 3")).synced()
        await tree.postgres.execute("UPDATE electric.clients SET last_seen = now() - interval '91 days'")
        await rounds(monkeypatch, 10)
        assert await tree.postgres.fetchval("SELECT count(*) FROM electric.subscriptions") == 1


async def test_where_the_disk_is_small_shapes_go_before_their_time(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"SYNCLINE_SHAPES_DISK_MAX": "1"}  # MiB, of which the whole table takes two
    async with running(database, tmp_path, SQL, TABLES, small) as tree:
        async with device(tmp_path / "ann.db", tree.url) as db:
            first, second = await db.sync("issues", "this.rank > 3"), await db.sync("issues", "this.rank > 20")
            await first.synced()
            await second.synced()
            await end(second)
        async with device(tmp_path / "ann.db", tree.url):
            await rounds(monkeypatch, 10)
            assert await live(tree, 2)
            await tree.postgres.execute("UPDATE issues SET title = repeat(rank::text, 300000) WHERE rank > 4")
            await until(partial(live, tree, 1))
            assert "3" in next(iter(await clauses(tree)))


@pytest.mark.parametrize("seed", range(2))
async def test_shapes_come_and_go_while_devices_ask_for_them(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Nothing stays for a moment that is not needed, and a device never has what is not so."""
    monkeypatch.setattr(reaper, "EVERY_S", 0.005)
    removed = 0
    remove = reaper.Reaper._remove

    async def counted(self: reaper.Reaper, one: reaping.IdleShape) -> bool:
        nonlocal removed
        done = await remove(self, one)
        removed += done
        return done

    monkeypatch.setattr(reaper.Reaper, "_remove", counted)
    chance = random.Random(seed)

    async def come_and_go(tree: Tree, name: str) -> None:
        postgres = await asyncpg.connect(database)
        for _ in range(8):
            rank = chance.randrange(3)
            async with device(tmp_path / f"{name}.db", tree.url) as db:
                shape = await db.sync("issues", f"this.rank > {rank}", key="issues")
                await postgres.execute(RAISE, f"i{chance.randint(1, 12)}")
                await shape.synced()
                await postgres.execute(RAISE, f"i{chance.randint(1, 12)}")
                await eventually(partial(agree, postgres, db, issues_where(f"rank > {rank}")))
                if chance.random() < 0.3:
                    await end(shape)
        await postgres.close()

    async with running(database, tmp_path, SQL, TABLES, {"SYNCLINE_SHAPE_IDLE": "1"}) as tree:
        object.__setattr__(tree.actor(REAPER)._cell.actor._policy, "idle_s", 0.0)
        await asyncio.gather(*(come_and_go(tree, name) for name in ("ann", "bob")))
    assert removed > 0


async def test_shapes_on_hosts_of_their_own_give_up_their_homes(database: str, tmp_path: Path) -> None:
    alone = {**AT_ONCE, "SYNCLINE_RUNTIME": "ray", "SYNCLINE_SHAPES_PLACEMENT": "dedicated"}
    async with spread(database, tmp_path, SQL, TABLES, shards=4, environment=alone) as hosts:

        async def homes() -> int:
            return int(await hosts.postgres.fetchval("SELECT count(*) FROM electric.shape_homes")) - 2

        async def one_home() -> bool:
            return await homes() == 1

        async with device(tmp_path / "ann.db", hosts.url) as db:
            kept, ended = await db.sync("issues", "this.rank > 0"), await db.sync("issues", "this.rank > 3")
            await kept.synced()
            await ended.synced()
            assert await homes() == 2
            await end(ended)
        async with device(tmp_path / "ann.db", hosts.url) as db:
            await until(one_home)
            await (await db.sync("issues", "this.rank > 3", key="again")).synced()
            await hosts.postgres.execute("UPDATE issues SET rank = rank + 1")
            await eventually(partial(agree, hosts.postgres, db, issues_where("rank > 0")))
