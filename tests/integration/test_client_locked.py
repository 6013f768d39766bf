"""A device's row in ``electric.clients`` is locked while its transactions are applied. That holds up no connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from tests.integration.test_client_owner import SECURE, owners, signed
from tests.integration.tree_scene import Tree, running
from tests.integration.write_scene import scene
from tests.rawdevice import RawDevice

from syncline.actors.postgres.database import POOL_CONNECTIONS_MAX, Database, connect
from syncline.proto import events
from syncline.proto.values import ShapeRequest

MORE_THAN_THE_POOL = POOL_CONNECTIONS_MAX + 1


@contextlib.asynccontextmanager
async def writing_for(dsn: str, client_id: str) -> AsyncIterator[None]:
    """Somebody applies a transaction of this device, which is not committed before the end, and then undone."""
    session = await asyncpg.connect(dsn)
    try:
        await session.execute("BEGIN")
        assert await session.fetchval("SELECT electric.advance($1, 7, 7)", client_id)
        yield
    finally:
        await session.close()


@contextlib.asynccontextmanager
async def reading(dsn: str) -> AsyncIterator[Database]:
    database = await connect(dsn, "test")
    try:
        yield database
    finally:
        database.terminate()


async def long_ago(tree: Tree, client_id: str) -> None:
    await tree.postgres.execute(
        "UPDATE electric.clients SET last_seen = now() - interval '1 day' WHERE client_id = $1", client_id
    )


async def seen_just_now(postgres: asyncpg.Connection, client_id: str) -> bool:
    query = "SELECT last_seen > now() - interval '1 hour' FROM electric.clients WHERE client_id = $1"
    return bool(await postgres.fetchval(query, client_id))


async def test_a_device_comes_back_while_its_large_write_is_applied_and_so_does_everybody_else(
    database: str, tmp_path: Path
) -> None:
    async with running(database, tmp_path, environment=SECURE) as tree, contextlib.AsyncExitStack() as devices:
        async with RawDevice.connected(tree.url, token=signed("ann")) as ann:
            pass
        await long_ago(tree, ann.client_id)
        async with writing_for(database, ann.client_id):
            strangers = [
                await devices.enter_async_context(RawDevice.connected(tree.url, client_id=ann.client_id, token=""))
                for _ in range(MORE_THAN_THE_POOL)
            ]
            for stranger in strangers:
                await stranger.socket.send(stranger.session.authenticate(ann.client_id, signed("mallory")))
            back = await devices.enter_async_context(
                RawDevice.connected(tree.url, client_id=ann.client_id, token=signed("ann"))
            )
            await back.start()
            for _ in range(MORE_THAN_THE_POOL):
                await devices.enter_async_context(RawDevice.connected(tree.url, token=signed("bob")))
            for stranger in strangers:
                assert (await stranger.expect(events.PeerFailed)).code == "INVALID_REQUEST"
        assert (await owners(tree))[ann.client_id] == "ann"


@pytest.mark.parametrize("proven", [True, False])
async def test_when_a_device_was_seen_is_noted_unless_its_row_is_locked(database: str, proven: bool) -> None:
    async with scene(database) as s, reading(database) as devices:
        assert await devices.device_seen("phone", "ann", proven=proven)
        await s.connection.execute("UPDATE electric.clients SET last_seen = now() - interval '1 day'")
        async with writing_for(database, "phone"):
            assert await devices.device_seen("phone", "ann", proven=proven)
            assert await devices.device_seen("phone", "bob", proven=proven) is not proven
            assert not await seen_just_now(s.connection, "phone")
        assert await devices.device_seen("phone", "ann", proven=proven)
        assert await seen_just_now(s.connection, "phone")


async def test_those_who_come_at_once_are_each_told_what_is_theirs(database: str) -> None:
    """What is asked about many devices is asked in one query."""
    phones = [f"phone {number}" for number in range(30)]
    wish = ShapeRequest("wish", "items")
    async with scene(database) as s, reading(database) as devices:
        for phone in phones:
            assert await devices.device_seen(phone, f"user of {phone}", proven=True)
            await devices.add_subscription(phone, f"all of {phone}", [wish])
        await s.connection.execute("UPDATE electric.clients SET last_seen = now() - interval '1 day'")
        async with writing_for(database, phones[3]):
            own, others, subscriptions, new = await asyncio.gather(
                asyncio.gather(*(devices.device_seen(phone, f"user of {phone}", proven=True) for phone in phones)),
                asyncio.gather(*(devices.device_seen(phone, "mallory", proven=True) for phone in phones)),
                asyncio.gather(*(devices.subscriptions(phone) for phone in phones)),
                devices.device_seen("new", "somebody", proven=True),
            )
        assert (own, others, new) == ([True] * len(phones), [False] * len(phones), True)
        assert [list(held) for held in subscriptions] == [[f"all of {phone}"] for phone in phones]
        assert all(held[f"all of {phone}"].shapes == (wish,) for phone, held in zip(phones, subscriptions, strict=True))
        assert await devices.subscriptions("new") == {}
        assert [await seen_just_now(s.connection, phone) for phone in phones] == [
            phone != phones[3] for phone in phones
        ]
        assert {await devices.device_seen(phone, "anybody", proven=False) for phone in phones} == {True}
        query = "SELECT DISTINCT user_id FROM electric.clients WHERE client_id <> 'new'"
        assert [row["user_id"] for row in await s.connection.fetch(query)] == ["anybody"]


async def test_a_subscription_is_kept_as_it_was_asked_for(database: str) -> None:
    below = ShapeRequest("", "other_items", "this.content <> ''", columns=("content",))
    wishes = (
        ShapeRequest("all", "items"),
        ShapeRequest("some", "items", "this.id <> '1'", ((("item_id",), below),), ("content", "id")),
    )
    async with scene(database), reading(database) as devices:
        assert await devices.device_seen("phone", "ann", proven=True)
        await devices.add_subscription("phone", "of the phone", wishes)
        held = await devices.subscriptions("phone")
        assert held["of the phone"].shapes == wishes


async def test_an_id_that_is_nobodys_goes_to_one_of_those_who_come_at_once(database: str) -> None:
    users = [f"user {number}" for number in range(20)]
    async with scene(database) as s, reading(database) as devices:
        for id in ("new", "given back"):
            if id == "given back":
                await s.connection.execute("INSERT INTO electric.clients (client_id) VALUES ($1)", id)
            answers = await asyncio.gather(
                *(devices.device_seen(id, user, proven=True) for user in users), return_exceptions=True
            )
            (owner,) = [user for user, answer in zip(users, answers, strict=True) if answer is True]
            others = [answer for answer in answers if answer is not True]
            assert all(answer is False or isinstance(answer, asyncpg.LockNotAvailableError) for answer in others)
            query = "SELECT user_id FROM electric.clients WHERE client_id = $1"
            assert await s.connection.fetchval(query, id) == owner


@pytest.mark.parametrize("row", ["none", "nobody's"])
async def test_while_nobody_can_say_whose_an_id_is_its_user_has_to_come_later(database: str, row: str) -> None:
    async with scene(database) as s, reading(database) as devices:
        if row == "nobody's":
            await s.connection.execute("INSERT INTO electric.clients (client_id) VALUES ('phone')")
        async with writing_for(database, "phone"):
            with pytest.raises(asyncpg.LockNotAvailableError):
                await devices.device_seen("phone", "ann", proven=True)
            assert await devices.device_seen("phone", "ann", proven=False)  # nothing is decided by it
        assert await devices.device_seen("phone", "ann", proven=True)
        assert not await devices.device_seen("phone", "bob", proven=True)
