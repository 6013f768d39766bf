"""A server session and a client session brought to some point of their conversation, for tests to go on from."""

from __future__ import annotations

from syncline.proto import codec
from syncline.proto.session import ClientSession, ServerSession
from syncline.proto.values import Column, Relation, ShapeRequest

ITEMS = Relation(16400, "public", "items", (Column("id", "int4", True, False), Column("title", "text")))
# The same table in a device's own numbering, which knows no keys.
DEVICE_ITEMS = Relation(0, "public", "items", (Column("id", "INTEGER"), Column("title", "TEXT")))
SHAPES = [ShapeRequest("r1", "items"), ShapeRequest("r2", "items", "this.id = 1")]


class Conversation:
    """Both ends; request ids of the client count from 1: authenticate, startReplication, and so on."""

    def __init__(self) -> None:
        self.server = ServerSession()
        self.client = ClientSession()

    def authenticate(self) -> Conversation:
        self.server.receive(self.client.authenticate("c1", "token"))
        self.client.receive(self.server.authenticated(1, "server"))
        return self

    def start(self) -> Conversation:
        self.server.receive(self.client.start(b""))
        self.client.receive(self.server.start_accepted(2, 30))
        return self

    def start_writes(self) -> Conversation:
        _, (answer,) = self.client.receive(self.server.start_write())
        self.server.receive(answer)
        return self

    def relation(self, relation: Relation = ITEMS) -> Conversation:
        self.client.receive(codec.relation_message(relation))
        return self

    def subscribe(self, subscription_id: str = "s1") -> Conversation:
        """As call 3."""
        self.server.receive(self.client.subscribe(subscription_id, SHAPES))
        self.client.receive(self.server.subscribed(3, subscription_id))
        return self


def streaming() -> Conversation:
    return Conversation().authenticate().start().relation()


def writing() -> Conversation:
    return streaming().start_writes()
