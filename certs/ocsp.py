"""The OCSP responder (RFC 6960, with the lightweight profile of RFC 5019) as functions: bytes in, bytes out.

1. `parse_request` says which certificate is asked about; the caller looks up its status; `respond` signs the answer.
   In between anything may happen, a look-up in a database for one, and nothing here waits for it.
2. One certificate a request; a nonce comes back (RFC 9654: 1 to 128 octets). An answer without one may be kept and
   given to everybody until `next_update`, so `respond` can also make answers before they are asked for.
3. The issuer signs, or a responder it delegated this to (`profile.Responder`), whose certificate then goes along.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from certs.crl import Revocation, Revoked
from certs.errors import CertsError
from certs.hierarchy import Signer
from certs.keys import digest_for
from certs.profile import Millis, moment

MAX_REQUEST = 2048
"""Bytes of a request."""

# SHA-1 because every client names issuers by it; nothing is signed with it.
_DIGESTS = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384()}  # noqa: S303  # as above


class NoAnswer(CertsError):
    """A request that gets no status. Codes: `malformed`, `unauthorized`; `response` is what to send."""

    def __init__(self, code: str, detail: str, status: ocsp.OCSPResponseStatus) -> None:
        super().__init__(code, detail)
        self.response = ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class Question:
    """Which certificate of which issuer; `digest` is the hash that the request named the issuer by."""

    issuer: x509.Certificate
    serial: int
    digest: str = "sha1"
    nonce: bytes | None = None


class Status(StrEnum):
    """What there is to say of a certificate that is not `Revoked`."""

    GOOD = "good"
    UNKNOWN = "unknown"


def parse_request(request: bytes, issuers: Iterable[x509.Certificate]) -> Question:
    """What is asked about; raises `NoAnswer` with the bytes to send when that is no question to one of `issuers`."""
    if len(request) > MAX_REQUEST:
        raise _malformed()
    try:
        asked = ocsp.load_der_ocsp_request(request)
        digest = asked.hash_algorithm.name
        named = (asked.issuer_name_hash, asked.issuer_key_hash)
        nonce = _nonce(asked)
    except NotImplementedError:
        raise _not_ours("it asks about more than one certificate") from None
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension):
        raise _malformed() from None
    for issuer in issuers:
        if digest in _DIGESTS and _names_of(issuer, digest) == named:
            return Question(issuer, asked.serial_number, digest, nonce)
    raise _not_ours("it asks about a certificate of another issuer")


def _nonce(asked: ocsp.OCSPRequest) -> bytes | None:
    try:
        nonce = asked.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        return None
    if not 1 <= len(nonce) <= 128:
        raise ValueError("a nonce has 1 to 128 octets")
    return nonce


@lru_cache(maxsize=64)
def _names_of(issuer: x509.Certificate, digest: str) -> tuple[bytes, bytes]:
    """The hashes of name and key that requests name this issuer by."""
    name = hashes.Hash(_DIGESTS[digest])
    name.update(issuer.subject.public_bytes())
    # The library hashes a key's bits in no other place than a request, here one about the issuer itself.
    request = ocsp.OCSPRequestBuilder().add_certificate(issuer, issuer, _DIGESTS[digest]).build()
    return name.finalize(), request.issuer_key_hash


def _malformed() -> NoAnswer:
    return NoAnswer("malformed", "the request cannot be read", ocsp.OCSPResponseStatus.MALFORMED_REQUEST)


def _not_ours(detail: str) -> NoAnswer:
    return NoAnswer("unauthorized", detail, ocsp.OCSPResponseStatus.UNAUTHORIZED)


def respond(question: Question, status: Status | Revoked, signer: Signer, now: Millis, next_update: Millis) -> bytes:
    """The answer, DER. `signer` is the question's issuer or a responder with a certificate of it."""
    name, key = _names_of(question.issuer, question.digest)
    revoked = status if isinstance(status, Revoked) else None
    listed = revoked is not None and revoked.reason is not Revocation.UNSPECIFIED
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            name,
            key,
            question.serial,
            _DIGESTS[question.digest],
            _STATUS[status] if isinstance(status, Status) else ocsp.OCSPCertStatus.REVOKED,
            moment(now),
            moment(next_update),
            moment(revoked.at) if revoked is not None else None,
            x509.ReasonFlags(revoked.reason) if revoked is not None and listed else None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
    )
    if signer.certificate != question.issuer:
        builder = builder.certificates([signer.certificate])
    if question.nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(question.nonce), critical=False)
    return builder.sign(signer.key, digest_for(signer.key)).public_bytes(Encoding.DER)


_STATUS = {Status.GOOD: ocsp.OCSPCertStatus.GOOD, Status.UNKNOWN: ocsp.OCSPCertStatus.UNKNOWN}
