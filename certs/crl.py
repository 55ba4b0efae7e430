"""Certificate revocation lists (RFC 5280, section 5), made and read.

1. One full list an issuer, numbered, with a date for the next: number and dates are the caller's, who keeps them going
   up. A verifier that wants lists takes one from each issuer; `Trust` refuses one that is late.
2. A certificate stays listed until it has ended, and should be on one list after that; the caller's ledger knows when.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from certs.errors import NotTrusted
from certs.hierarchy import Signer, key_id_of
from certs.keys import digest_for, is_deterministic
from certs.profile import Millis, millis, moment


class Revocation(StrEnum):
    """Why a certificate is revoked, in the words of RFC 5280, 5.3.1."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"


@dataclass(frozen=True, slots=True)
class Revoked:
    """A line of the list."""

    serial: int
    at: Millis
    reason: Revocation = Revocation.UNSPECIFIED


def create_crl(signer: Signer, revoked: Iterable[Revoked], number: int, now: Millis, next_update: Millis) -> bytes:
    """A list of everything `signer` revoked, DER; `number` goes up from one list to the next."""
    builder = x509.CertificateRevocationListBuilder(revoked_certificates=[_line(one) for one in revoked])
    return (
        builder.issuer_name(signer.certificate.subject)
        .last_update(moment(now))
        .next_update(moment(next_update))
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id_of(signer.certificate)),
            critical=False,
        )
        .add_extension(x509.CRLNumber(number), critical=False)
        .sign(signer.key, digest_for(signer.key), ecdsa_deterministic=is_deterministic(signer.key))
        .public_bytes(Encoding.DER)
    )


def pem_of(der: bytes) -> str:
    """A list in PEM, as files for brokers hold it."""
    return x509.load_der_x509_crl(der).public_bytes(Encoding.PEM).decode("ascii")


def _line(revoked: Revoked) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(revoked.serial).revocation_date(moment(revoked.at))
    if revoked.reason is not Revocation.UNSPECIFIED:  # which RFC 5280 wants left out
        builder = builder.add_extension(x509.CRLReason(x509.ReasonFlags(revoked.reason)), critical=False)
    return builder.build()


class Crl:
    """A list that `issuer` signed; raises `NotTrusted` (`crl`) for anything else. `der` may be PEM as well."""

    def __init__(self, der: bytes, issuer: x509.Certificate) -> None:
        try:
            load = x509.load_pem_x509_crl if der.lstrip().startswith(b"-----") else x509.load_der_x509_crl
            self._list = load(der)
            signed = self._list.issuer == issuer.subject and self._list.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # check_path admits no other kind of key
            unknown = [one for one in self._list.extensions if one.critical]
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension):
            raise NotTrusted("crl", "the revocation list cannot be read") from None
        if not signed or unknown:
            raise NotTrusted("crl", "the revocation list is not a full one of this issuer")

    @property
    def number(self) -> int:
        """The list's number, 0 when it has none."""
        try:
            return self._list.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except x509.ExtensionNotFound:
            return 0

    def is_fresh(self, now: Millis) -> bool:
        """Whether `now` is between this list and the next."""
        following = self._list.next_update_utc
        return self._list.last_update_utc <= moment(now) and following is not None and moment(now) <= following

    def is_revoked(self, serial: int) -> bool:
        """Whether the certificate of that number is listed."""
        return self._list.get_revoked_certificate_by_serial_number(serial) is not None

    @property
    def revoked(self) -> dict[int, Millis]:
        """All serials listed, with the time of their revocation."""
        return {one.serial_number: millis(one.revocation_date_utc) for one in self._list}
