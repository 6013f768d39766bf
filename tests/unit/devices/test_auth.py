"""Tokens: who is believed, who is not, and why."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from syncline.actors.devices.auth import (
    CLOCK_SKEW_S,
    TOKEN_CHARS_MAX,
    AuthError,
    Identity,
    InsecureAuth,
    KeyRefused,
    SecureAuth,
)

NOW = 1_700_000_000.0
SECRET = "0123456789abcdef" * 4
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEYS = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES384": ec.generate_private_key(ec.SECP384R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
}


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def signed(claims: dict[str, Any] | None = None, *, key: Any = SECRET, alg: str = "HS256", **more: Any) -> str:
    payload = {"sub": "ann", "iat": NOW, "exp": NOW + 60, **(claims or {}), **more}
    return jwt.encode({name: value for name, value in payload.items() if value is not None}, key, algorithm=alg)


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(**claims: Any) -> str:
    return f"{part({'alg': 'none'})}.{part(claims)}."


def reason(auth: SecureAuth | InsecureAuth, token: str, now_s: float = NOW) -> str:
    with pytest.raises(AuthError) as caught:
        auth.authenticate(token, now_s)
    return caught.value.reason


# --- secure -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_a_token_signed_with_the_shared_secret_names_its_user(alg: str) -> None:
    identity = SecureAuth(alg, SECRET).authenticate(signed(role="editor", alg=alg), NOW)
    assert identity.user_id == "ann"
    assert identity.claims["role"] == "editor"
    assert identity.expires_at == NOW + 60 + CLOCK_SKEW_S


@pytest.mark.parametrize("alg", ["RS256", "RS384", "RS512"])
def test_a_token_signed_with_the_rsa_key_is_believed(alg: str) -> None:
    assert SecureAuth(alg, pem(RSA_KEY)).authenticate(signed(key=RSA_KEY, alg=alg), NOW).user_id == "ann"


@pytest.mark.parametrize("alg", list(EC_KEYS))
def test_a_token_signed_with_the_curves_key_is_believed(alg: str) -> None:
    assert SecureAuth(alg, pem(EC_KEYS[alg])).authenticate(signed(key=EC_KEYS[alg], alg=alg), NOW).user_id == "ann"


def test_the_algorithm_must_be_the_configured_one() -> None:
    assert "HS384" in reason(SecureAuth("HS384", SECRET), signed(alg="HS256"))
    assert "HS256" in reason(SecureAuth("HS256", SECRET), unsigned(sub="ann", iat=NOW, exp=NOW + 60))


def test_a_public_key_does_not_pass_as_a_shared_secret() -> None:
    forged_head, claims = part({"alg": "HS256"}), part({"sub": "eve", "iat": NOW, "exp": NOW + 60})
    assert "RS256" in reason(SecureAuth("RS256", pem(RSA_KEY)), f"{forged_head}.{claims}.AAAA")
    with pytest.raises(KeyRefused, match="shared secret"):
        SecureAuth("HS256", pem(RSA_KEY))


def test_another_key_or_a_changed_payload_is_refused() -> None:
    token = signed()
    head, _, signature = token.split(".")
    assert "signature" in reason(SecureAuth("HS256", SECRET[::-1]), token)
    forged = f"{head}.{part({'sub': 'eve', 'iat': NOW, 'exp': NOW + 60})}.{signature}"
    assert "signature" in reason(SecureAuth("HS256", SECRET), forged)


@pytest.mark.parametrize("claim", ["iat", "exp"])
def test_iat_and_exp_are_required(claim: str) -> None:
    assert reason(SecureAuth("HS256", SECRET), signed({claim: None})) == f"{claim} is missing"


def test_time_claims_are_checked_with_two_seconds_of_skew() -> None:
    auth = SecureAuth("HS256", SECRET)
    assert auth.authenticate(signed(exp=NOW - 1.9), NOW)
    assert "expired" in reason(auth, signed(exp=NOW - 2))
    assert auth.authenticate(signed(iat=NOW + 2, nbf=NOW + 2), NOW)
    assert reason(auth, signed(iat=NOW + 2.1)) == "iat lies in the future"
    assert reason(auth, signed(nbf=NOW + 2.1)) == "nbf lies in the future"


@pytest.mark.parametrize("value", ["soon", True, [], float("inf"), float("nan"), 10**400])
def test_a_time_that_is_no_number_of_seconds_is_refused(value: Any) -> None:
    assert reason(InsecureAuth(), unsigned(sub="ann", exp=value)) == "exp is not a number of seconds"


def test_issuer_and_audience_must_match_when_configured() -> None:
    auth = SecureAuth("HS256", SECRET, issuer="us", audience="app")
    assert auth.authenticate(signed(iss="us", aud="app"), NOW)
    assert auth.authenticate(signed(iss="us", aud=["other", "app"]), NOW)
    assert "iss" in reason(auth, signed(aud="app"))
    assert "iss" in reason(auth, signed(iss="them", aud="app"))
    assert "aud" in reason(auth, signed(iss="us"))
    assert "aud" in reason(auth, signed(iss="us", aud=["other"]))
    assert "aud" in reason(auth, signed(iss="us", aud={"app": 1}))


def test_issuer_and_audience_are_ignored_when_not_configured() -> None:
    assert SecureAuth("HS256", SECRET).authenticate(signed(iss="anyone", aud="anything"), NOW).user_id == "ann"


# --- the user ---------------------------------------------------------------------------------------------------------


def test_sub_wins_over_the_older_user_id_which_serves_alone() -> None:
    assert InsecureAuth().authenticate(unsigned(sub="new", user_id="old"), NOW).user_id == "new"
    assert InsecureAuth().authenticate(unsigned(user_id="old"), NOW).user_id == "old"


def test_a_namespace_says_where_to_look() -> None:
    auth = InsecureAuth(namespace="https://syncline")
    assert auth.authenticate(unsigned(sub="outer", **{"https://syncline": {"sub": "inner"}}), NOW).user_id == "inner"
    assert "neither" in reason(auth, unsigned(sub="outer", **{"https://syncline": {}}))
    assert "not an object" in reason(auth, unsigned(sub="outer"))
    secure = SecureAuth("HS256", SECRET, namespace="ns")
    assert secure.authenticate(signed(sub="outer", ns={"user_id": "inner"}), NOW).user_id == "inner"


@pytest.mark.parametrize("user", ["", "  ", 7, ["ann"], {"id": 1}, True])
def test_a_user_is_named_by_a_non_blank_string(user: Any) -> None:
    assert "non-blank" in reason(InsecureAuth(), unsigned(sub=user))


@pytest.mark.parametrize("user", ["a\0b", "\ud800"])
def test_a_name_that_postgres_cannot_hold_is_refused(user: str) -> None:
    assert "Postgres" in reason(InsecureAuth(), unsigned(sub=user))


# --- insecure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", ".", ".ignored", ".!"])
def test_an_unsigned_token_ends_with_or_without_a_dot_or_in_anything(ending: str) -> None:
    token = f"{part({'alg': 'none'})}.{part({'sub': 'user-1'})}{ending}"
    assert InsecureAuth().authenticate(token, NOW) == Identity("user-1", {"sub": "user-1"}, None, proven=False)


def test_the_published_clients_own_token_is_understood() -> None:
    token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1c2VyLTEifQ."
    assert InsecureAuth().authenticate(token, NOW).user_id == "user-1"


def test_both_base64_alphabets_may_be_mixed() -> None:
    user = "ÿÿþÿ>>??ÿÿ"
    payload = base64.b64encode(json.dumps({"sub": user}, ensure_ascii=False).encode()).decode()
    assert payload.count("/") >= 2
    mixed = payload.replace("/", "_", 1).rstrip("=")
    assert InsecureAuth().authenticate(f"{part({'alg': 'none'})}.{mixed}.", NOW).user_id == user


def test_time_claims_count_when_present() -> None:
    auth = InsecureAuth()
    assert auth.authenticate(unsigned(sub="ann", exp=NOW + 5), NOW).expires_at == NOW + 5 + CLOCK_SKEW_S
    assert "expired" in reason(auth, unsigned(sub="ann", exp=NOW - 5))
    assert "nbf" in reason(auth, unsigned(sub="ann", nbf=NOW + 5))
    assert "iat" in reason(auth, unsigned(sub="ann", iat=NOW + 5))


def test_a_signed_token_is_read_without_checking_it() -> None:
    assert InsecureAuth().authenticate(signed(), NOW).user_id == "ann"


# --- any text ---------------------------------------------------------------------------------------------------------

HOSTILE = [
    "",
    ".",
    "..",
    "...",
    "a.b.c",
    "é.é.",
    "\ud800.\ud800",
    part([]) + "." + part({}),
    part({}) + "." + part("x"),
]
deep = base64.urlsafe_b64encode(b"[" * 6000).decode()
huge_number = base64.urlsafe_b64encode(b'{"exp":' + b"9" * 5000 + b"}").decode()


@pytest.mark.parametrize(
    "token",
    [*HOSTILE, f"{deep}.{deep}.", f"{part({})}.{deep}.", f"{part({})}.{huge_number}.", "x" * (TOKEN_CHARS_MAX + 1)],
)
def test_hostile_tokens_are_refused_in_both_modes(token: str) -> None:
    assert reason(InsecureAuth(), token)
    assert reason(SecureAuth("HS256", SECRET), token)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
claim_names = st.sampled_from(["sub", "user_id", "iat", "nbf", "exp", "iss", "aud", "ns"])
claim_sets = st.dictionaries(claim_names, json_values, max_size=6)
tokens = (
    st.text(max_size=60)
    | st.lists(json_values.map(part), max_size=4).map(".".join)
    | claim_sets.map(lambda claims: f"{part({'alg': 'none'})}.{part(claims)}.")
    | claim_sets.map(lambda claims: jwt.PyJWS().encode(json.dumps(claims).encode(), SECRET, algorithm="HS256"))
)
modes = st.sampled_from(
    [
        InsecureAuth(),
        InsecureAuth(namespace="ns"),
        SecureAuth("HS256", SECRET),
        SecureAuth("HS256", SECRET, issuer="us", audience="app", namespace="ns"),
        SecureAuth("RS256", pem(RSA_KEY)),
    ]
)


@given(modes, tokens)
def test_any_text_gives_an_identity_or_an_auth_error(auth: SecureAuth | InsecureAuth, token: str) -> None:
    try:
        identity = auth.authenticate(token, NOW)
    except AuthError:
        return
    assert identity.user_id.strip()


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alg", "size"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_is_at_least_as_long_as_the_hash(alg: str, size: int) -> None:
    SecureAuth(alg, "x" * size)
    with pytest.raises(KeyRefused, match=f"at least {size} bytes"):
        SecureAuth(alg, "x" * (size - 1))


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_a_key_may_be_base64_with_or_without_padding(encode: Any, padded: bool) -> None:
    raw = bytes(range(200, 240))
    text = encode(raw).decode()
    auth = SecureAuth("HS256", text if padded else text.rstrip("="), key_is_base64=True)
    assert auth.authenticate(signed(key=raw), NOW).user_id == "ann"


def test_what_is_not_base64_is_said_to_be_so() -> None:
    with pytest.raises(KeyRefused, match="base64"):
        SecureAuth("HS256", "!" * 64, key_is_base64=True)


def test_a_public_key_may_be_squeezed_into_one_line_or_be_base64() -> None:
    one_line = pem(RSA_KEY).replace("\n", "\\n")
    encoded = base64.b64encode(pem(RSA_KEY).encode()).decode()
    for auth in (SecureAuth("RS256", one_line), SecureAuth("RS256", encoded, key_is_base64=True)):
        assert auth.authenticate(signed(key=RSA_KEY, alg="RS256"), NOW).user_id == "ann"


def test_unusable_keys_and_algorithms_are_refused_with_the_reason() -> None:
    private = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    small = pem(rsa.generate_private_key(65537, 1024))
    for alg, key, why in (
        ("none", SECRET, "not one of"),
        ("RS256", "not a key", "PEM"),
        ("RS256", private, "PEM"),
        ("RS256", pem(EC_KEYS["ES256"]), "RSA public key"),
        ("RS256", small, "2048 bits"),
        ("ES256", pem(EC_KEYS["ES384"]), "secp256r1"),
        ("ES256", pem(RSA_KEY), "secp256r1"),
    ):
        with pytest.raises(KeyRefused, match=why):
            SecureAuth(alg, key)
