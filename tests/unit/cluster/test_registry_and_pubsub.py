"""Names and topics."""

from __future__ import annotations

import asyncio

import pytest

from syncline.cluster import ActorDown, Context, NameTaken, PubSub
from syncline.cluster.testing import probe


async def test_a_name_lives_as_long_as_its_actor() -> None:
    context = Context()
    actor = await probe(context, name="writer")
    assert context.registry.lookup("writer") is actor.ref
    actor.ref.stop()
    await actor.ref.join()
    assert context.registry.lookup("writer") is None


async def test_a_name_belongs_to_one_living_actor() -> None:
    context = Context()
    await probe(context, name="writer")
    with pytest.raises(NameTaken):
        await probe(context, name="writer")


async def test_a_named_ref_survives_restarts_and_is_dead_in_between() -> None:
    context = Context()
    ref = context.registry.ref("writer")
    with pytest.raises(ActorDown):
        await ref.call("hello")
    assert not ref.alive
    for _ in range(2):
        actor = await probe(context, name="writer")
        assert await ref.call("hello") == "hello"
        actor.ref.stop()
        await ref.join()
        assert not ref.cast("anyone?")


async def test_a_payload_goes_to_every_subscriber_as_the_same_object() -> None:
    pubsub, payload = PubSub(), [1, 2, 3]
    a, b = await probe(), await probe()
    for actor in (a, a, b):
        pubsub.subscribe("topic", actor.ref)
    assert pubsub.publish("topic", payload) == []
    assert await a.next() is payload
    assert await b.next() is payload
    assert a.received == []


async def test_publishing_reports_who_did_not_take_it() -> None:
    pubsub = PubSub()
    slow, quick = await probe(mailbox_capacity=1), await probe()
    for actor in (slow, quick):
        pubsub.subscribe("topic", actor.ref)
    assert pubsub.publish("topic", 1) == []
    assert pubsub.publish("topic", 2) == [slow.ref]


async def test_whoever_ends_or_unsubscribes_is_forgotten() -> None:
    pubsub = PubSub()
    a, b = await probe(), await probe()
    for actor in (a, b):
        pubsub.subscribe("topic", actor.ref)
    pubsub.unsubscribe("topic", b.ref)
    a.ref.stop()
    await a.ref.join()
    await asyncio.sleep(0)
    pubsub.subscribe("topic", a.ref)
    assert pubsub.subscribers("topic") == ()
