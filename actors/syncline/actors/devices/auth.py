"""Who is this device: a token in, an identity or a reason out. Pure: the key and the time are given.

*Secure* mode believes only a signed JSON Web Token: its header must name the one configured algorithm (so a token
cannot choose a weaker one, or use the public key as an HMAC secret), its signature must verify, ``iat`` and ``exp``
must be there. *Insecure* mode, for development, reads the payload and ignores the signature. Both check the time claims
that are present with ``CLOCK_SKEW_S`` of tolerance, and both take the user from ``sub``, else from ``user_id`` (older
tokens), at the top level or inside the object that the namespace names.

Secret lengths are those of RFC 7518 section 3.2 (no shorter than the hash), RSA keys have 2048 bits or more (3.3), and
an elliptic curve must be the algorithm's own (3.4).

A token is a stranger's text: whatever it is, ``authenticate`` returns an Identity or raises AuthError, nothing else.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

CLOCK_SKEW_S = 2
TOKEN_CHARS_MAX = 16 * 1024  # generous for claims, small enough that hostile JSON stays cheap
RSA_BITS_MIN = 2048

SECRET_BYTES_MIN: Mapping[str, int] = {"HS256": 32, "HS384": 48, "HS512": 64}
CURVES: Mapping[str, str] = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
RSA_ALGORITHMS = ("RS256", "RS384", "RS512")
ALGORITHMS = (*SECRET_BYTES_MIN, *RSA_ALGORITHMS, *CURVES)

_TIME_CLAIMS = ("iat", "nbf", "exp")
# Every claim is checked below, against the time we are given.
_SIGNATURE_ONLY: Mapping[str, bool] = {
    "verify_signature": True,
    **{f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")},
}

_JwtKey = bytes | RSAPublicKey | EllipticCurvePublicKey


class AuthError(Exception):
    """The token is refused. ``reason`` is for our log; the peer only learns that it was refused."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class KeyRefused(ValueError):
    """The configured algorithm or key cannot be used; the message says why and what would do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user as the token names it.

    ``expires_at``: seconds since the epoch from which the token no longer counts (``exp`` plus the tolerated skew),
    None for a token without ``exp`` (insecure mode only). ``claims``: the whole payload. ``proven``: somebody who holds
    the key says so; else the device itself.
    """

    user_id: str
    claims: Mapping[str, Any]
    expires_at: float | None
    proven: bool


class Authenticator(Protocol):
    def authenticate(self, token: str, now_s: float) -> Identity:
        """``now_s``: seconds since the epoch. Raises AuthError, and nothing else, for a token it does not believe."""
        ...


class SecureAuth:
    """Verifies tokens signed with ``algorithm``.

    ``key``: the HMAC secret, or the PEM text of a public key. ``key_is_base64``: it is base64 (either alphabet, padding
    optional) of that. ``issuer`` and ``audience``, when given, must be met. Raises KeyRefused for an unusable key.
    """

    def __init__(
        self,
        algorithm: str,
        key: str | bytes,
        *,
        key_is_base64: bool = False,
        issuer: str | None = None,
        audience: str | None = None,
        namespace: str | None = None,
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise KeyRefused(f"{algorithm!r} is not one of {', '.join(ALGORITHMS)}")
        raw = key.encode() if isinstance(key, str) else key
        if key_is_base64:
            try:
                raw = _base64(raw.decode("ascii").strip())
            except ValueError:
                raise KeyRefused("the key is not valid base64") from None
        self._algorithm = algorithm
        self._key = _secret(algorithm, raw) if algorithm in SECRET_BYTES_MIN else _public_key(algorithm, raw)
        self._issuer = issuer
        self._audience = audience
        self._namespace = namespace

    def authenticate(self, token: str, now_s: float) -> Identity:
        _check_length(token)
        try:
            decoded = jwt.decode(token, key=self._key, algorithms=[self._algorithm], options=dict(_SIGNATURE_ONLY))  # type: ignore[arg-type]
        except jwt.InvalidAlgorithmError:
            raise AuthError(f"the token's alg is not {self._algorithm}") from None
        except jwt.InvalidSignatureError:
            raise AuthError("the signature does not verify") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise AuthError(f"not a usable token: {error}") from None
        claims: Mapping[str, Any] = decoded
        expires_at = _check_times(claims, now_s, required=("iat", "exp"))
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise AuthError("iss is not the configured issuer")
        if self._audience is not None and not _names_audience(claims.get("aud"), self._audience):
            raise AuthError("aud does not include the configured audience")
        return Identity(_user_id(claims, self._namespace), claims, expires_at, proven=True)


class InsecureAuth:
    """Believes any ``header.payload``, with or without a trailing dot and signature. For development only."""

    def __init__(self, namespace: str | None = None) -> None:
        self._namespace = namespace

    def authenticate(self, token: str, now_s: float) -> Identity:
        _check_length(token)
        parts = token.split(".")
        if len(parts) not in (2, 3):
            raise AuthError("not a token of the form header.payload")
        _json_object(parts[0], "header")
        claims = _json_object(parts[1], "payload")
        expires_at = _check_times(claims, now_s, required=())
        return Identity(_user_id(claims, self._namespace), claims, expires_at, proven=False)


def _secret(algorithm: str, raw: bytes) -> bytes:
    wanted = SECRET_BYTES_MIN[algorithm]
    if len(raw) < wanted:
        raise KeyRefused(f"{algorithm} needs a secret of at least {wanted} bytes, this one has {len(raw)}")
    try:
        jwt.get_algorithm_by_name(algorithm).prepare_key(raw)
    except jwt.InvalidKeyError:
        raise KeyRefused(f"this looks like a public key; {algorithm} needs a shared secret") from None
    return raw


def _public_key(algorithm: str, raw: bytes) -> RSAPublicKey | EllipticCurvePublicKey:
    # A PEM squeezed into one line of an env file carries its line ends as backslash-n.
    try:
        key = load_pem_public_key(raw.replace(b"\\n", b"\n").strip())
    except (ValueError, UnsupportedAlgorithm):
        raise KeyRefused(f"{algorithm} needs a public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
    if algorithm in RSA_ALGORITHMS:
        if not isinstance(key, RSAPublicKey):
            raise KeyRefused(f"{algorithm} needs an RSA public key")
        if key.key_size < RSA_BITS_MIN:
            raise KeyRefused(
                f"{algorithm} needs an RSA key of at least {RSA_BITS_MIN} bits, this one has {key.key_size}"
            )
        return key
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != CURVES[algorithm]:
        raise KeyRefused(f"{algorithm} needs a public key on the curve {CURVES[algorithm]}")
    return key


def _check_length(token: str) -> None:
    if len(token) > TOKEN_CHARS_MAX:
        raise AuthError(f"the token is longer than {TOKEN_CHARS_MAX} characters")


def _check_times(claims: Mapping[str, Any], now_s: float, required: tuple[str, ...]) -> float | None:
    """Checks iat, nbf and exp; returns the moment the token stops counting."""
    times: dict[str, float] = {}
    for claim in _TIME_CLAIMS:
        if claims.get(claim) is not None:
            times[claim] = _seconds(claim, claims[claim])
        elif claim in required:
            raise AuthError(f"{claim} is missing")
    for claim in ("iat", "nbf"):
        if claim in times and times[claim] > now_s + CLOCK_SKEW_S:
            raise AuthError(f"{claim} lies in the future")
    if "exp" not in times:
        return None
    expires_at = times["exp"] + CLOCK_SKEW_S
    if expires_at <= now_s:
        raise AuthError("the token has expired")
    return expires_at


def _seconds(claim: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if math.isfinite(seconds):
            return seconds
    raise AuthError(f"{claim} is not a number of seconds")


def _names_audience(value: object, audience: str) -> bool:
    return value == audience or (isinstance(value, list) and audience in value)


def _user_id(claims: Mapping[str, Any], namespace: str | None) -> str:
    place: object = claims if namespace is None else claims.get(namespace)
    if not isinstance(place, Mapping):
        raise AuthError(f"the claim {namespace!r} is not an object")
    user_id = place.get("sub")
    if user_id is None:
        user_id = place.get("user_id")
    if user_id is None:
        raise AuthError("neither sub nor user_id names the user")
    if not isinstance(user_id, str) or not user_id.strip():
        raise AuthError("the user is not named by a non-blank string")
    if "\0" in user_id or not _is_text(user_id):
        raise AuthError("the user's name is no text that Postgres can hold")
    return user_id


def _is_text(value: str) -> bool:
    """False for lone surrogates, which JSON can write and UTF-8 cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_object(part: str, name: str) -> Mapping[str, Any]:
    try:
        value = json.loads(_base64(part))
    except (ValueError, RecursionError):
        raise AuthError(f"the {name} is not base64 of JSON") from None
    if not isinstance(value, dict):
        raise AuthError(f"the {name} is not a JSON object")
    return value


def _base64(text: str) -> bytes:
    """Both alphabets, even mixed, padding optional. Raises ValueError.

    The published client turns only the first ``/`` of a part into ``_``, so a token may carry both.
    """
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
