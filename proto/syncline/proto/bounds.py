"""What the values in a device's messages may be: numbers that Postgres and JavaScript hold exactly, ids and tags that
are text a human can read.

Protobuf lets through much more: positions of any length, times beyond any calendar, U+0000 in an id. Everything behind
the session may rely on these bounds: the writer serves all devices together and must not stumble over one.

Pure. Every check raises ProtocolError (INVALID_REQUEST).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from syncline.proto.errors import invalid
from syncline.proto.values import POSTGRES_ORIGIN

# Our tables keep client ids in varchar(64), as devices expect.
CLIENT_ID_CHARS_MAX: Final = 64
# Of subscriptions and of the requests in them. Devices use UUIDs.
ID_CHARS_MAX: Final = 64
LSN_BYTES_MAX: Final = 8
LSN_MAX: Final = 2**63 - 1
# Devices count in doubles of JavaScript, exact up to here.
COMMIT_MS_MAX: Final = 2**53 - 1
TAG: Final = re.compile(r"[^\x00-\x1f\x7f]{1,64}@[0-9]{1,18}")


def check_client_id(client_id: str) -> None:
    if not client_id or len(client_id) > CLIENT_ID_CHARS_MAX or not client_id.isprintable():
        raise invalid(f"a client id is 1 to {CLIENT_ID_CHARS_MAX} printable characters")
    if client_id == POSTGRES_ORIGIN or client_id.startswith(f"{POSTGRES_ORIGIN}@"):  # which tags of Postgres begin with
        raise invalid(f"{client_id} is not the id of a device")


def check_ids(what: str, ids: Iterable[str]) -> None:
    """``what``: whose ids, for the message."""
    for id in ids:
        if len(id) > ID_CHARS_MAX or not id.isprintable():
            raise invalid(f"the id of a {what} is at most {ID_CHARS_MAX} printable characters")


def check_begin(lsn: bytes, commit_ms: int) -> None:
    """Of a device's transaction."""
    if len(lsn) > LSN_BYTES_MAX or int.from_bytes(lsn, "big") > LSN_MAX:
        raise invalid("a position of a device is a number below 2^63")
    if not 0 < commit_ms <= COMMIT_MS_MAX:
        raise invalid(f"no time in milliseconds: {commit_ms}", lsn=lsn)


def check_tags(tags: Iterable[str], lsn: bytes | None) -> None:
    """``lsn``: of the transaction that carries them."""
    for tag in tags:
        if not TAG.fullmatch(tag):
            raise invalid(f"not a tag: {tag[:100]!r}", lsn=lsn)
