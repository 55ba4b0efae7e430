"""A CSR, PEM, base64 or the DER itself: any bytes.

1. Nothing is raised but `BadCsr` and `UnsupportedKey`, each with a code of its own list.
2. What is taken proved possession of a key that we take: looked at by another decoder's eyes, the library's alone.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certs.csr import MAX_SIZE, Csr, KeyPolicy, parse_csr, parse_der
from certs.errors import BadCsr, UnsupportedKey
from certs.keys import ED25519, P256, P384, digest_for, generate

T = TypeVar("T", str, bytes)

_CODES = {"too-big", "encoding", "structure", "signature", "weak-key", "known-key", "request"}
_POLICIES = (KeyPolicy(), KeyPolicy(rsa=True))


def _seed(algorithm: str, *names: str) -> bytes:
    key = generate(algorithm)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        asked = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names])
        builder = builder.add_extension(asked, critical=False)
    return builder.sign(key, digest_for(key)).public_bytes(Encoding.DER)


_DERS = [_seed(P256), _seed(P384), _seed(ED25519), _seed(P256, "urn:prov:acme:dev-1")]
SEEDS = [
    *_DERS,
    *(base64.b64encode(der) for der in _DERS),
    *(x509.load_der_x509_csr(der).public_bytes(Encoding.PEM) for der in _DERS),
]
TOKENS = [
    b"-----BEGIN CERTIFICATE REQUEST-----\n", b"-----END CERTIFICATE REQUEST-----\n", b"NEW ", b"\r\n", b"MII",
    b"\x30\x82", b"\x30\x80", b"\x00\x00", b"\x02\x01\x00", b"\xa0\x00", b"\x03\x42\x00", b"\x06\x08",
    bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2b81040022"), bytes.fromhex("2b6570"),
    bytes.fromhex("2a864886f70d01090e"), bytes.fromhex("551d11"), bytes.fromhex("551d13"), bytes.fromhex("551d25"),
]  # fmt: skip


def try_one(data: bytes) -> None:
    """Read a CSR as a device sends it, and as what is inside of that."""
    policy = _POLICIES[len(data) % 2]
    for outcome in (_outcome(parse_csr, data.decode("latin-1"), policy), _outcome(parse_der, data[:MAX_SIZE], policy)):
        match outcome:
            case Csr():
                _check(outcome, policy)
            case BadCsr():
                assert outcome.code in _CODES, outcome.code
            case UnsupportedKey():
                assert outcome.supported == policy.supported


def _outcome(read: Callable[[T, KeyPolicy], Csr], data: T, policy: KeyPolicy) -> Csr | BadCsr | UnsupportedKey:
    try:
        return read(data, policy)
    except (BadCsr, UnsupportedKey) as refusal:
        return refusal


def _check(csr: Csr, policy: KeyPolicy) -> None:
    assert csr.algorithm in policy.supported
    request = x509.load_der_x509_csr(csr.der)
    assert request.is_signature_valid
    key = request.public_key()
    assert csr.public_key == key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert len(csr.key_id) == 64
    assert len(csr.names) <= 16
