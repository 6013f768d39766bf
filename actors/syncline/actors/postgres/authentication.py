"""How we prove to Postgres who we are, and in SCRAM the server to us: requests to authenticate in, answers out.

SCRAM-SHA-256, MD5, and a plain password only inside TLS. What is refused, and what to do then, is a WalsenderError.
"""

from __future__ import annotations

import hashlib
from struct import Struct
from typing import Final, Protocol, cast

from scramp import ScramClient, ScramException  # type: ignore[import-untyped]

from syncline.actors.postgres.server_messages import WalsenderError

_UINT32 = Struct(">I")
_DONE: Final = 0
_CLEARTEXT: Final = 3
_MD5: Final = 5
_SASL, _SASL_CONTINUE, _SASL_FINAL = 10, 11, 12


class _Scram(Protocol):
    def get_client_first(self) -> str: ...
    def set_server_first(self, message: str) -> None: ...
    def get_client_final(self) -> str: ...
    def set_server_final(self, message: str) -> None: ...


class Authentication:
    """One connection's, as ``user``. ``password`` None: there is none to give."""

    def __init__(self, user: str, password: str | None) -> None:
        self._user = user
        self._password = password
        self._scram: _Scram | None = None
        self._scram_verified = False

    def answer(self, body: bytes, *, encrypted: bool) -> bytes | None:
        """What to answer to a request, the body of a PasswordMessage; None for nothing. ``encrypted``: inside TLS.

        Raises WalsenderError; ValueError, LookupError or struct.error when the request is malformed.
        """
        (code,) = _UINT32.unpack(body[:4])
        data = body[4:]
        if code == _DONE:
            if self._scram is not None and not self._scram_verified:
                raise WalsenderError("the server let us in without proving that it knows the password")
            return None
        if code == _CLEARTEXT:
            if not encrypted:
                raise WalsenderError(
                    "the server asks for the password in the clear on an unencrypted connection: "
                    "use sslmode=require, or set password_encryption = 'scram-sha-256' on the server"
                )
            return self._need_password().encode() + b"\0"
        if code == _MD5:
            return _md5(self._user, self._need_password(), data[:4])
        if code in (_SASL, _SASL_CONTINUE, _SASL_FINAL):
            try:
                return self._sasl(code, data)
            except ScramException as cause:
                raise WalsenderError(f"SCRAM authentication failed: {cause}") from cause
        raise WalsenderError(
            f"the server wants authentication method {code}, which is not supported: "
            "allow scram-sha-256 for this user in pg_hba.conf"
        )

    def _sasl(self, code: int, data: bytes) -> bytes | None:
        if code == _SASL:
            offered = [name.decode() for name in data.split(b"\0") if name]
            if "SCRAM-SHA-256" not in offered:
                raise WalsenderError(f"the server offers only {', '.join(offered)}: SCRAM-SHA-256 is needed")
            self._scram = cast(_Scram, ScramClient(["SCRAM-SHA-256"], self._user, self._need_password()))
            first = self._scram.get_client_first().encode()
            return b"SCRAM-SHA-256\0" + _UINT32.pack(len(first)) + first
        if self._scram is None:
            raise WalsenderError("a SCRAM message out of turn")
        if code == _SASL_CONTINUE:
            self._scram.set_server_first(data.decode())
            return self._scram.get_client_final().encode()
        self._scram.set_server_final(data.decode())
        self._scram_verified = True
        return None

    def _need_password(self) -> str:
        if self._password is None:
            raise WalsenderError(f"the server wants a password for {self._user!r}: put it in the URL")
        return self._password


def _md5(user: str, password: str, salt: bytes) -> bytes:
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode() + b"\0"
