"""Where the published npm client is touchy: delivery in one chunk, unsubscribing, tokens, two sockets of one client."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import jwt
import pytest
from tests.npm.chunking import chunking
from tests.npm.rig import NpmDevice, NpmError, devices, eventually
from tests.npm.service import serving

TABLES = """
CREATE TABLE items (id int PRIMARY KEY, title text);
CREATE TABLE notes (id int PRIMARY KEY, title text);
INSERT INTO items SELECT i, 'item ' || i FROM generate_series(1, 50) i;
INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, 50) i;
"""
BOTH = ("items", "notes")
KEY = "a key that is long enough for HS256"
SECURE = {"AUTH_MODE": "secure", "AUTH_JWT_ALG": "HS256", "AUTH_JWT_KEY": KEY}
DELIVERIES = 200
RESET = "resetting client state"


@pytest.mark.timeout(1200)  # two hundred deliveries, each with its rows, and their leaving
async def test_every_shape_arrives_when_answer_and_data_come_in_one_chunk(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=TABLES, electrified=BOTH) as (service, _),
        chunking(service.port) as network,
        devices(tmp_path, network.url, "ann") as [ann],
    ):
        for number in range(DELIVERIES):
            await ann.sync("items", key=f"shape {number}")
            assert await ann.count("items") == 50
            # Without it the client has the rows, and the next delivery would be empty.
            await ann.unsubscribe(f"shape {number}")
            await eventually(partial(_holds, ann, items=0, notes=0))
        assert (network.joined, network.with_rows) == (DELIVERIES, DELIVERIES)


async def test_an_unsubscribed_table_leaves_and_the_others_stay(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=TABLES, electrified=BOTH) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("items", key="items")
        await ann.sync("notes", key="notes")
        await ann.unsubscribe("items")
        await eventually(lambda: _holds(ann, items=0, notes=50))
        await postgres.execute(
            "INSERT INTO items VALUES (51, 'nobody syncs this'); INSERT INTO notes VALUES (51, 'new')"
        )
        await eventually(lambda: _holds(ann, items=0, notes=51))
        assert await ann.sync_status("items") is None
        await ann.sync("items", key="again")
        await eventually(lambda: _holds(ann, items=51, notes=51))


async def test_a_subscription_given_up_may_be_listed_and_given_up_again(database: str, tmp_path: Path) -> None:
    """The client mostly forgets to note that it is gone: it names it when it resumes, and unsubscribes once more."""
    path = tmp_path / "ann.db"
    async with serving(database, tmp_path, sql=TABLES, electrified=BOTH) as (service, postgres):
        async with await NpmDevice.open(path, service.url) as ann:
            await ann.connect("ann")
            await ann.sync("items", key="items")
            await ann.sync("notes", key="notes")
            await ann.unsubscribe("items")
            await eventually(lambda: _holds(ann, items=0, notes=50))
        for life in range(2):
            if life == 1:
                await service.stop()
                await service.start()
            async with await NpmDevice.open(path, service.url) as ann:
                await ann.connect("ann")
                await eventually(lambda: _has_no("items", ann))
                await postgres.execute(f"INSERT INTO notes VALUES ({51 + life}, 'new')")
                await eventually(partial(_holds, ann, items=0, notes=51 + life))
                assert ann.unhandled == []
        assert RESET not in ann.log.read_text()


async def test_a_key_takes_another_shape_and_lets_the_first_go(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=TABLES, electrified=BOTH) as (service, _),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("items", key="view")
        await ann.sync("notes", key="view")
        await eventually(lambda: _holds(ann, items=0, notes=50))


async def test_a_table_two_subscriptions_hold_stays_until_both_are_gone(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=TABLES, electrified=BOTH) as (service, postgres),
        devices(tmp_path, service.url, "ann") as [ann],
    ):
        await ann.sync("items", key="one")
        await ann.sync("items", key="two")
        await ann.unsubscribe("one")
        await eventually(lambda: _has_no("one", ann))
        await postgres.execute("INSERT INTO items VALUES (51, 'new')")
        await eventually(lambda: _holds(ann, items=51, notes=0))
        await ann.unsubscribe("two")
        await eventually(lambda: _holds(ann, items=0, notes=0))


async def test_when_its_token_expires_a_device_is_told_and_goes_on_with_a_new_one(
    database: str, tmp_path: Path
) -> None:
    async with (
        serving(database, tmp_path, sql=TABLES, electrified=BOTH, settings=SECURE) as (service, postgres),
        await NpmDevice.open(tmp_path / "ann.db", service.url) as ann,
    ):
        await ann.connect(token=_token(expires_in_s=2))
        await ann.sync("items")
        lost = await ann.event("connectivity", status="disconnected")
        assert "JWT expired" in lost["reason"]["message"]
        await postgres.execute("UPDATE items SET title = 'changed' WHERE id = 1")
        await ann.create("items", id=51, title="in the dark")
        seen = len(ann.events)
        await ann.connect(token=_token(expires_in_s=60))
        await eventually(lambda: postgres.fetchval("SELECT title FROM items WHERE id = 51"))
        await eventually(lambda: ann.query("SELECT 1 AS one FROM items WHERE id = 1 AND title = 'changed'"))
        reconnections = [event["status"] for event in ann.events[seen:] if event["event"] == "connectivity"]
        assert reconnections == ["connected"]


@pytest.mark.parametrize(
    "claims", [{"exp": 1}, {"iat": None}, {"sub": None, "user_id": "  "}], ids=["expired", "no iat", "no user"]
)
async def test_a_token_that_does_not_hold_is_refused_at_once(
    claims: dict[str, object], database: str, tmp_path: Path
) -> None:
    async with (
        serving(database, tmp_path, sql=TABLES, electrified=BOTH, settings=SECURE) as (service, _),
        await NpmDevice.open(tmp_path / "ann.db", service.url) as ann,
    ):
        with pytest.raises(NpmError):
            await ann.connect(token=_token(expires_in_s=60, **claims))


async def test_an_unsigned_token_is_refused_where_tokens_are_signed(database: str, tmp_path: Path) -> None:
    async with (
        serving(database, tmp_path, sql=TABLES, electrified=BOTH, settings=SECURE) as (service, _),
        await NpmDevice.open(tmp_path / "ann.db", service.url) as ann,
    ):
        with pytest.raises(NpmError):
            await ann.connect("ann")


async def test_a_device_that_returns_on_a_new_socket_is_not_kept_out_by_its_old_one(
    database: str, tmp_path: Path
) -> None:
    client_id = "00000000-0000-4000-8000-0000000000c1"
    async with serving(database, tmp_path, sql=TABLES, electrified=BOTH) as (service, _):
        old = await NpmDevice.open(tmp_path / "old.db", service.url, client_id=client_id)
        await old.connect("ann")
        await old.sync("items")
        old.freeze()
        try:
            async with await NpmDevice.open(tmp_path / "new.db", service.url, client_id=client_id) as new:
                await new.connect("ann")
                await new.sync("items")
                assert await new.count("items") == 50
        finally:
            await old.kill()


async def _holds(device: NpmDevice, *, items: int, notes: int) -> bool:
    return (await device.count("items"), await device.count("notes")) == (items, notes)


async def _has_no(key: str, device: NpmDevice) -> bool:
    return await device.sync_status(key) is None


def _token(*, expires_in_s: float, **claims: object) -> str:
    now = time.time()
    every = {"sub": "ann", "iat": now, "exp": now + expires_in_s, **claims}
    return jwt.encode({name: value for name, value in every.items() if value is not None}, KEY, "HS256")
