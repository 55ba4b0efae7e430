"""Whether a certificate that a peer shows is one of ours, and whom it names.

There is no path to build: the issuers are known, each was checked with all above it (`hierarchy.check_path`), and a
certificate says by key identifier which of them signed it. What a peer sends beside its own certificate is not looked
at. pyca/cryptography's verifier would build paths, but knows no Ed25519 and no usage other than the web's.

1. Issuer by key identifier; its signature; time, of the certificate and of all above it; then the profile, exactly
   (`profile.read`), the issuer's name constraints, the purpose; then revocation.
2. With lists given, the issuer must have one that is fresh: no list, no trust. Without lists the caller asks its
   ledger, which knows more than a list does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from certs.authority import Issuer
from certs.crl import Crl
from certs.errors import NotIssued, NotTrusted
from certs.hierarchy import check_names
from certs.profile import Device, Millis, Names, Purpose, Responder, Server, moment, read


class Trust:
    """The issuers whose certificates count."""

    def __init__(self, issuers: Sequence[Issuer]) -> None:
        self._issuers = {issuer.id: issuer for issuer in issuers}

    def verify(
        self, certificate: bytes, purpose: Purpose, now: Millis, crls: Mapping[str, Crl] | None = None
    ) -> tuple[int, Device | Server]:
        """Serial and names of a certificate (DER); raises `NotTrusted`. `crls` are by the issuer's key identifier."""
        try:
            shown = x509.load_der_x509_certificate(certificate)
            issuer = self._issuer_of(shown)
        except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            raise NotTrusted("encoding", "the certificate cannot be read") from None
        _check_signature(shown, issuer)
        _check_time(shown, issuer, now)
        names = _read(shown, issuer)
        if isinstance(names, Responder) or issuer.purpose is not purpose:
            raise NotTrusted("purpose", f"the certificate is not for {purpose}")
        if isinstance(names, Device) != (purpose is Purpose.DEVICES):
            raise NotTrusted("purpose", f"the certificate is not for {purpose}")
        if crls is not None:
            _check_revocation(shown.serial_number, crls.get(issuer.id), now)
        return shown.serial_number, names

    def _issuer_of(self, shown: x509.Certificate) -> Issuer:
        try:
            above = shown.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
            return self._issuers[(above.key_identifier or b"").hex()]
        except (KeyError, x509.ExtensionNotFound):
            raise NotTrusted("issuer", "the certificate is of no issuer that is trusted") from None


def _check_signature(shown: x509.Certificate, issuer: Issuer) -> None:
    try:
        shown.verify_directly_issued_by(issuer.certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise NotTrusted("signature", "the certificate is not signed by the issuer it names") from None


def _check_time(shown: x509.Certificate, issuer: Issuer, now: Millis) -> None:
    if moment(now) < shown.not_valid_before_utc or now < issuer.not_before:
        raise NotTrusted("not-yet-valid", "the certificate, or one above it, is not valid yet")
    if moment(now) > shown.not_valid_after_utc or not issuer.is_valid(now):
        raise NotTrusted("expired", "the certificate, or one above it, has expired")


def _read(shown: x509.Certificate, issuer: Issuer) -> Names:
    try:
        names = read(shown, issuer.above)
        check_names(names, issuer.constraints)
    except NotIssued as error:
        raise NotTrusted("profile", f"the certificate is not one that we issue: {error.detail}") from None
    return names


def _check_revocation(serial: int, crl: Crl | None, now: Millis) -> None:
    if crl is None or not crl.is_fresh(now):
        raise NotTrusted("crl", "there is no fresh revocation list of the certificate's issuer")
    if crl.is_revoked(serial):
        raise NotTrusted("revoked", "the certificate is revoked")
