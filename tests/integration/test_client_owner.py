"""A client id belongs to the user who first proved to have it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import jwt
import pytest
from tests.integration.tree_scene import Tree, running, until
from tests.rawdevice import RawDevice
from tests.tokens import insecure_token

from syncline.client import ServerRefused, open_db
from syncline.proto import events
from syncline.proto.subprotocols import OLD, OWN
from syncline.proto.values import Column, Insert, Relation, Transaction

SECRET = "a secret of thirty-two characters"
SECURE = {"AUTH_MODE": "secure", "AUTH_JWT_ALG": "HS256", "AUTH_JWT_KEY": SECRET}
DEVICE_ITEMS = Relation(0, "public", "items", (Column("id", "TEXT"), Column("n", "INTEGER"), Column("body", "TEXT")))


def signed(user: str) -> str:
    now = int(time.time())
    return jwt.encode({"sub": user, "iat": now, "exp": now + 600}, SECRET, algorithm="HS256")


async def write(device: RawDevice, lsn: int, ms: int, body: str, origin: str | None = None) -> None:
    row = (str(uuid.uuid4()).encode(), b"1", body.encode())
    transaction = Transaction(ms, lsn.to_bytes(8, "big"), (Insert(0, row),), origin)
    for frame in device.session.write(transaction, {0: DEVICE_ITEMS}):
        await device.socket.send(frame)


async def arrives(tree: Tree, body: str) -> None:
    async def there() -> bool:
        return bool(await tree.postgres.fetchval("SELECT count(*) FROM items WHERE body = $1", body))

    await until(there)


async def refused(tree: Tree, client_id: str, token: str) -> events.PeerFailed:
    """What ``token``'s user is told who wants to be ``client_id``."""
    async with RawDevice.connected(tree.url, client_id=client_id, token="") as device:
        await device.socket.send(device.session.authenticate(client_id, token))
        answer = await device.expect(events.PeerFailed)
        assert (await device.closed())[0] == 1007
        return answer


async def test_another_user_with_a_devices_client_id_is_refused_and_changes_nothing(
    database: str, tmp_path: Path
) -> None:
    async with (
        running(database, tmp_path, environment=SECURE) as tree,
        RawDevice.connected(tree.url, token=signed("ann")) as ann,
    ):
        await ann.start()
        ms = int(time.time() * 1000)
        await write(ann, 1, ms, "before")
        await arrives(tree, "before")
        answer = await refused(tree, ann.client_id, signed("mallory"))
        assert (answer.method, answer.code) == ("authenticate", "INVALID_REQUEST")
        assert "another user" in answer.message
        await write(ann, 2, ms + 1, "after")  # her connection has not been taken over either
        await arrives(tree, "after")
        assert await owners(tree) == {ann.client_id: "ann"}
    async with running(database, tmp_path, "SELECT", (), environment=SECURE) as tree:
        await refused(tree, ann.client_id, signed("mallory"))
        async with RawDevice.connected(tree.url, client_id=ann.client_id, token=signed("ann")):
            pass


async def test_only_the_same_user_writes_under_a_client_id_that_his_device_had_before(
    database: str, tmp_path: Path
) -> None:
    async with (
        running(database, tmp_path, environment=SECURE) as tree,
        RawDevice.connected(tree.url, token=signed("ann")) as ann,
    ):
        ms = int(time.time() * 1000)
        for user, protocol, origin in (("ann", OWN, ann.client_id), ("ann", OLD[0], str(uuid.uuid4()))):
            async with RawDevice.connected(tree.url, token=signed(user), protocol=protocol) as other:
                await other.start()
                await write(other, 5, ms, protocol, origin)
                await arrives(tree, protocol)
        assert await tree.postgres.fetchval("SELECT lsn FROM electric.clients WHERE client_id = $1", ann.client_id) == 5
        for origin in (ann.client_id, str(uuid.uuid4()), "postgres_1"):
            async with RawDevice.connected(tree.url, token=signed("mallory"), protocol=OWN) as mallory:
                await mallory.start()
                await write(mallory, 100, ms + 1_000, "forged", origin)
                assert (await mallory.closed())[0] == 1007
        assert await tree.postgres.fetchval("SELECT count(*) FROM items WHERE body = 'forged'") == 0


async def owners(tree: Tree) -> Mapping[str, str]:
    return dict(await tree.postgres.fetch("SELECT client_id, user_id FROM electric.clients"))


async def test_the_device_library_tells_the_app_and_does_not_try_again(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, environment=SECURE) as tree, open_db(tmp_path / "app.db", tree.url) as db:
        await db.connect(signed("ann"))
        await db.disconnect()
        with pytest.raises(ServerRefused, match="another user"):
            await db.connect(signed("bob"))
        assert not db.status.connected


async def test_an_operator_can_give_a_device_to_another_user(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, environment=SECURE) as tree:
        async with RawDevice.connected(tree.url, token=signed("ann")) as device:
            pass
        await tree.postgres.execute("UPDATE electric.clients SET user_id = NULL WHERE client_id = $1", device.client_id)
        async with RawDevice.connected(tree.url, client_id=device.client_id, token=signed("bob")):
            pass
        await refused(tree, device.client_id, signed("ann"))


@pytest.mark.parametrize("second", ["ann", "bob"])
async def test_where_nothing_is_proven_nobody_is_refused(database: str, tmp_path: Path, second: str) -> None:
    async with running(database, tmp_path) as tree:
        async with RawDevice.connected(tree.url, token=insecure_token("ann")) as device:
            pass
        async with RawDevice.connected(tree.url, client_id=device.client_id, token=insecure_token(second)):
            pass
        assert await owners(tree) == {device.client_id: second}


@pytest.mark.parametrize("client_id", ["postgres_1", "with\0zero"])
async def test_an_id_that_cannot_be_a_devices_is_refused_for_good(
    database: str, tmp_path: Path, client_id: str
) -> None:
    async with running(database, tmp_path) as tree:
        answer = await refused(tree, client_id, insecure_token("ann"))
        assert (answer.method, answer.code) == ("authenticate", "INVALID_REQUEST")
