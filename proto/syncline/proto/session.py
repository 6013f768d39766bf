"""Both ends of a connection, sans I/O. See ``states`` for the arrows, and each end for what it may say."""

from __future__ import annotations

from syncline.proto.client_session import ClientSession as ClientSession
from syncline.proto.server_session import ServerSession as ServerSession
from syncline.proto.states import State as State
