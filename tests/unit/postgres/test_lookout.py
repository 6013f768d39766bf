"""When a session that is silent is taken for dead."""

from __future__ import annotations

import math
import socket

import pytest

from syncline.actors.postgres.lookout import GONE, LOOK_EVERY_S, Seen, is_dead, keep_alive, quiet_s

WAITS = Seen(gone=False, waits=True, since="12:00")
WAITS_AGAIN = Seen(gone=False, waits=True, since="12:01")
WORKS = Seen(gone=False, waits=False, since="12:00")
SENDS = Seen(gone=False, waits=True, since="12:00", sends=True)


@pytest.mark.parametrize(
    ("before", "seen", "quiet", "dead"),
    [
        (None, GONE, 0.0, True),
        (WAITS, WAITS, math.inf, True),
        (WAITS, WAITS, LOOK_EVERY_S, True),
        (WAITS, WAITS, LOOK_EVERY_S / 2, False),  # a part of the answer has come
        (SENDS, SENDS, LOOK_EVERY_S, True),
        (SENDS, SENDS, math.inf, False),  # nobody knows whether a part of it has come: not of what is not TCP
        (None, WAITS, math.inf, False),  # the statement may be on its way, or the answer
        (WAITS, WAITS_AGAIN, math.inf, False),  # it has come, and been answered
        (WORKS, WAITS, math.inf, False),
        (WAITS, WORKS, math.inf, False),
        (WORKS, WORKS, math.inf, False),
        (WAITS, None, math.inf, False),  # Postgres does not say
        (None, None, math.inf, False),
    ],
)
def test_dead_is_who_is_gone_or_waits_for_us_as_we_do_for_it(
    before: Seen | None, seen: Seen | None, quiet: float, dead: bool
) -> None:
    assert is_dead(before, seen, quiet) is dead


def test_tcp_looks_after_a_connection_and_a_socket_of_another_kind_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as link:
        keep_alive(link)
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert quiet_s(link) >= 0
    here, there = socket.socketpair()
    with here, there:
        keep_alive(here)
        assert not here.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert quiet_s(here) == math.inf
    keep_alive(None)
    assert quiet_s(None) == math.inf
    assert quiet_s(link) == math.inf
