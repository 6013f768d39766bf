"""TLS between hosts on different machines, from the token that they share.

Every host makes the same key from the token, and the same certificate, signed by that key; it takes none but that one,
whether it calls or answers. So who is let in knows the token, which never leaves a host. There is nothing to hand out,
to renew or to keep: another token is another key.
"""

from __future__ import annotations

import hashlib
import ssl
import tempfile
from datetime import UTC, datetime
from functools import cache
from typing import Final

NAME: Final = "syncline"  # in the certificate, whatever machine it is on


@cache
def calling(token: str) -> ssl.SSLContext:
    """For who dials."""
    return _context(token, ssl.PROTOCOL_TLS_CLIENT)


@cache
def answering(token: str) -> ssl.SSLContext:
    """For who listens."""
    return _context(token, ssl.PROTOCOL_TLS_SERVER)


def _context(token: str, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    key, certificate = _pair(token)
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=certificate.decode())
    with tempfile.NamedTemporaryFile() as file:  # there is no way to load a key but from a file of our own
        file.write(key + certificate)
        file.flush()
        context.load_cert_chain(file.name)
    return context


def _pair(token: str) -> tuple[bytes, bytes]:
    """The key and the certificate, in PEM form."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed = hashlib.scrypt(token.encode(), salt=b"syncline link", n=2**14, r=8, p=1, dklen=32)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)  # the same at every host, to the last byte
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=True, encipher_only=False, decipher_only=False, **usage
            ),
            critical=True,
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, None)
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret, certificate.public_bytes(pem)
