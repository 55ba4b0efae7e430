"""A question about the status of a certificate (RFC 6960): any bytes, and any text in the path of a GET.

1. Nothing is raised but `NoAnswer`, with one of its two codes and bytes that say the same to a client.
2. What is answered was asked: serial, issuer and nonce are those that another reader finds in the request, and the
   answer is about them, signed by the issuer.
"""

from __future__ import annotations

import os
from base64 import b64encode
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from pyasn1.codec.der.decoder import decode
from pyasn1.error import PyAsn1Error
from pyasn1_alt_modules import rfc6960
from starlette.datastructures import Headers

from broker.http.ocsp import _request
from broker.http.pki import Call
from certs.crl import Revocation, Revoked
from certs.hierarchy import create_issuer, create_root
from certs.keys import ED25519, P256, generate
from certs.ocsp import NoAnswer, Question, Status, parse_request, respond
from certs.profile import Purpose

_NOW = 1_800_000_000_000
_ROOT = create_root("fuzzed", generate(P256), _NOW, os.urandom)
_SIGNERS = {
    made.certificate: made
    for made in (
        create_issuer(_ROOT, "fuzzed", Purpose.DEVICES, generate(kind), _NOW, os.urandom) for kind in (P256, ED25519)
    )
}
_REFUSED = {
    "malformed": ocsp.OCSPResponseStatus.MALFORMED_REQUEST,
    "unauthorized": ocsp.OCSPResponseStatus.UNAUTHORIZED,
}


def _seed(issuer: x509.Certificate, digest: HashAlgorithm, serial: int, nonce: bytes = b"") -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        issuer_name_hash=_named(issuer, digest).issuer_name_hash,
        issuer_key_hash=_named(issuer, digest).issuer_key_hash,
        serial_number=serial,
        algorithm=digest,
    )
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def _named(issuer: x509.Certificate, digest: HashAlgorithm) -> ocsp.OCSPRequest:
    return ocsp.OCSPRequestBuilder().add_certificate(issuer, issuer, digest).build()


_DERS = [
    _seed(issuer, digest, 1 << 128 | 5, nonce)
    for issuer in _SIGNERS
    for digest, nonce in ((SHA1(), b""), (SHA256(), b"n"), (SHA1(), b"n" * 32))
]
SEEDS = [*_DERS, *map(b64encode, _DERS), _seed(_ROOT.certificate, SHA256(), 7)]
TOKENS = [
    b"\x30\x82", b"\x30\x80", b"\x02\x11", b"\x02\x01\x00", b"\xa0\x00", b"\xa2", b"\x05\x00",
    bytes.fromhex("06052b0e03021a"), bytes.fromhex("0609608648016503040201"),
    bytes.fromhex("06092b0601050507300102"), b"%2B", b"%2F", b"=", b"\xff",
]  # fmt: skip


def try_one(data: bytes) -> None:
    """Read it as the body of a POST, and as the path of a GET."""
    for method, path, body in (("POST", "", data), ("GET", f"/{data.decode('latin-1')}", b"")):
        sent = _request(Call(method, path, Headers(), body, "127.0.0.1", tls=False))
        match _outcome(sent):
            case Question() as question:
                _check(question, sent)
            case NoAnswer() as refusal:
                told = ocsp.load_der_ocsp_response(refusal.response)
                assert told.response_status is _REFUSED[refusal.code]


def _outcome(sent: bytes) -> Question | NoAnswer:
    try:
        return parse_request(sent, _SIGNERS)
    except NoAnswer as refusal:
        return refusal


def _check(question: Question, sent: bytes) -> None:
    serial, nonces = _read(sent)
    assert (question.serial, question.nonce) == (serial, nonces[0] if nonces else None)
    signer = _SIGNERS[question.issuer]
    for status in (*Status, Revoked(serial, _NOW, Revocation.SUPERSEDED)):
        answer = ocsp.load_der_ocsp_response(respond(question, status, signer, _NOW, _NOW + 1000))
        assert answer.serial_number == serial
        assert answer.issuer_key_hash == _named(question.issuer, answer.hash_algorithm).issuer_key_hash
        told = [one.value.nonce for one in answer.extensions if isinstance(one.value, x509.OCSPNonce)]
        assert told == nonces


def _read(sent: bytes) -> tuple[int, list[bytes]]:
    """Serial and nonces, as another decoder reads them."""
    try:
        found: Any = decode(sent, asn1Spec=rfc6960.OCSPRequest())[0]["tbsRequest"]
    except PyAsn1Error as error:
        raise AssertionError("what was answered is no request to others") from error
    (asked,) = found["requestList"]
    extensions = found["requestExtensions"] if found["requestExtensions"].isValue else ()
    nonces = [bytes(one["extnValue"]) for one in extensions if str(one["extnID"]) == "1.3.6.1.5.5.7.48.1.2"]
    return int(asked["reqCert"]["serialNumber"]), [bytes(decode(one)[0]) for one in nonces]
