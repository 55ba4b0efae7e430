"""Certificates of authorities: made here, or brought by an operator and checked.

1. A root signs issuers and nothing else (pathlen 1 where we make it). An issuer has pathlen 0 and one purpose, as its
   extended key usage says; OpenSSL, GnuTLS, Go and the like refuse a certificate that goes beyond its issuer's usage.
2. An issuer for devices excludes every IP address, in a critical name constraint. Why nothing else:
   - A device's name is `urn:prov:…`, which has no host. RFC 5280 (4.2.1.10) applies URI constraints to hosts, and has
     *any* of them refuse a URI without one; OpenSSL and GnuTLS do. Nothing can hold device names to an account.
   - Directory names are constrained by OpenSSL, passed over by GnuTLS 3.7 and unknown to other libraries.
   - OpenSSL takes a CN with a dot for a DNS name when there is no DNS name beside it. Excluding all DNS names, or
     permitting some, would shut out each device called like `pump.7`. Names of our own servers may be excluded
     (`excluded_hosts`): then no device can be called like one, which is as it should be.
   What remains holds: with `clientAuth` alone the issuer's certificates are for no server, a verifier that reads name
   constraints finds every address excluded, and one that reads neither has to refuse a critical extension it does not
   know (mbedTLS does).
3. An issuer for servers may be held to names (`permitted`); by default it is not, since mbedTLS refuses such chains.
4. What an operator brings is checked as strictly as what a peer shows: version, CA:TRUE, keyCertSign and cRLSign, path
   length, validity, strength of key and signature, usages, no critical extension that is not understood, and no name
   constraint that this module cannot apply.
5. Names carry the beginning of their key's identifier, so two issuers never share one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from certs.errors import NotIssued, UnusableAuthority
from certs.keys import PrivateKey, algorithm_of, digest_for, is_deterministic, is_strong_signature, spki_of, weakness_of
from certs.profile import BACKDATE, Millis, Names, Purpose, Server, key_usage, moment, new_serial, subject_of

YEAR: Millis = 365 * 24 * 3600 * 1000

_USAGE = {Purpose.DEVICES: ExtendedKeyUsageOID.CLIENT_AUTH, Purpose.SERVERS: ExtendedKeyUsageOID.SERVER_AUTH}
_UNDERSTOOD = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.NAME_CONSTRAINTS,
}
_EVERY_ADDRESS = tuple(x509.IPAddress(ipaddress.ip_network(every)) for every in ("0.0.0.0/0", "::/0"))
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,39}")


@dataclass(frozen=True, slots=True)
class Signer:
    """An authority's certificate with its key."""

    certificate: x509.Certificate
    key: PrivateKey


def create_root(
    label: str, key: PrivateKey, now: Millis, entropy: Callable[[int], bytes], validity: Millis = 20 * YEAR
) -> Signer:
    """A self-signed root called after `label` (letters, digits, blank, `._-`, 40 at most)."""
    builder = (
        _authority(label, "root", key)
        .serial_number(new_serial(entropy))
        .not_valid_before(moment(now - BACKDATE))
        .not_valid_after(moment(now + validity))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(key_usage(digital_signature=False, signs_certificates=True), critical=True)
    )
    return Signer(_sign(builder.issuer_name(_name(label, "root", key)), key), key)


def create_issuer(
    root: Signer,
    label: str,
    purpose: Purpose,
    key: PrivateKey,
    now: Millis,
    entropy: Callable[[int], bytes],
    *,
    validity: Millis = YEAR,
    excluded_hosts: Sequence[str] = (),
    permitted: Sequence[str] = (),
) -> Signer:
    """An issuer under `root`, never outliving it.

    `excluded_hosts` are DNS names that no device may be called like; `permitted` the DNS names and IP networks that a
    server issuer is held to (rule 3). Raises `UnusableAuthority` when the root has expired, ValueError for bad names.
    """
    above = root.certificate
    end = min(moment(now + validity), above.not_valid_after_utc)
    if end <= moment(now):
        raise UnusableAuthority("validity", "the root has expired: make a new authority")
    builder = (
        _authority(label, purpose, key)
        .issuer_name(above.subject)
        .serial_number(new_serial(entropy))
        .not_valid_before(max(moment(now - BACKDATE), above.not_valid_before_utc))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # It signs OCSP answers itself, which takes digitalSignature beside the right to sign certificates and CRLs.
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGE[purpose]]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id_of(above)), critical=False)
    )
    if purpose is Purpose.DEVICES:
        excluded = [*(x509.DNSName(host) for host in excluded_hosts), *_EVERY_ADDRESS]
        builder = builder.add_extension(x509.NameConstraints(None, excluded), critical=True)
    elif permitted:
        builder = builder.add_extension(_held_to(permitted), critical=True)
    return Signer(_sign(builder, root.key), key)


def _held_to(permitted: Sequence[str]) -> x509.NameConstraints:
    """Permit these; addresses of a version that none of them is of are excluded altogether."""
    networks = [network for text in permitted if (network := _network(text)) is not None]
    hosts = [text for text in permitted if _network(text) is None]
    if not hosts:
        raise ValueError("permit a host as well: without one, OpenSSL and GnuTLS take the CN for a host and refuse it")
    allowed = [*(x509.DNSName(host) for host in hosts), *(x509.IPAddress(network) for network in networks)]
    excluded = [
        every
        for every, version in zip(_EVERY_ADDRESS, (4, 6), strict=True)
        if all(network.version != version for network in networks)
    ]
    return x509.NameConstraints(allowed, excluded or None)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _name(label: str, role: str, key: PrivateKey) -> x509.Name:
    if _LABEL.fullmatch(label) is None:
        raise ValueError("an authority's label has 1 to 40 letters, digits, blanks, dots, underscores or dashes")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()
    return subject_of(f"{label} {role} {identifier[:8]}")


def _authority(label: str, role: str, key: PrivateKey) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(_name(label, role, key))
        .public_key(public)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    return builder.sign(key, digest_for(key), ecdsa_deterministic=is_deterministic(key))


def key_id_of(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    """The subject key identifier; raises `UnusableAuthority` where there is none."""
    value = _value(certificate, x509.SubjectKeyIdentifier)
    if value is None:
        raise UnusableAuthority("ca", f"{_called(certificate)} has no subject key identifier: take one that has")
    return value


def check_path(path: Sequence[x509.Certificate], purpose: Purpose | None) -> None:
    """Check authorities from the root down, whatever the time; raises `UnusableAuthority`.

    `purpose` is that of the last one, an issuer; None where `path` is a root alone.
    """
    for certificate in path:
        _check_authority(certificate, purpose)
    for below, certificate in enumerate(reversed(path)):
        limit = _basic(certificate).path_length
        if limit is not None and limit < below + (purpose is None):
            raise UnusableAuthority("chain", f"{_called(certificate)} allows no authorities that far below itself")
    for above, certificate in pairwise((path[0], *path)):
        _check_signed(certificate, above)


def check_validity(path: Sequence[x509.Certificate], now: Millis) -> None:
    """Check that each of them is valid at `now`; raises `UnusableAuthority`."""
    for certificate in path:
        if not certificate.not_valid_before_utc <= moment(now) <= certificate.not_valid_after_utc:
            raise UnusableAuthority("validity", f"{_called(certificate)} is not valid at this time: take one that is")


def constraints_of(path: Sequence[x509.Certificate]) -> tuple[x509.NameConstraints, ...]:
    """The name constraints of all authorities of a path, which all apply."""
    return tuple(found for one in path if (found := _value(one, x509.NameConstraints)) is not None)


def check_names(names: Names, constraints: Sequence[x509.NameConstraints]) -> None:
    """Check a certificate's names against the constraints above it; raises `NotIssued` (`name-constraints`)."""
    asked = names.alternative_names if isinstance(names, Server) else ()
    if "." in names.common_name and not any(isinstance(name, x509.DNSName) for name in asked):
        asked = (*asked, x509.DNSName(names.common_name))  # as OpenSSL reads it (rule 2)
    if not all(_is_within(name, one) for name in asked for one in constraints):
        raise NotIssued("name-constraints", f"the issuer's constraints do not allow the name {names.common_name!r}")


def _is_within(name: x509.GeneralName, constraints: x509.NameConstraints) -> bool:
    permitted = [one for one in constraints.permitted_subtrees or () if isinstance(one, type(name))]
    excluded = [one for one in constraints.excluded_subtrees or () if isinstance(one, type(name))]
    return (not permitted or any(_covers(one, name) for one in permitted)) and not any(
        _covers(one, name) for one in excluded
    )


def _covers(subtree: x509.GeneralName, name: x509.GeneralName) -> bool:
    match subtree, name:
        case x509.DNSName(value=base), x509.DNSName(value=host):
            base, host = base.lower(), host.lower()
            return base in {"", host} or host.endswith(base if base.startswith(".") else f".{base}")
        case x509.IPAddress(value=network), x509.IPAddress(value=address):
            return address in network  # type: ignore[operator]  # a subtree's address is a network, a name's is not
    return False


def _check_authority(certificate: x509.Certificate, purpose: Purpose | None) -> None:
    called = _called(certificate)
    if certificate.version is not x509.Version.v3:
        raise UnusableAuthority("ca", f"{called} is not of X.509 version 3: take one that is")
    if not _basic(certificate).ca:
        raise UnusableAuthority("ca", f"{called} is no authority (CA:TRUE is missing): take one that is")
    usage = _value(certificate, x509.KeyUsage)
    if usage is None or not (usage.key_cert_sign and usage.crl_sign):
        raise UnusableAuthority("usage", f"{called} may not sign certificates and CRLs: take one that may")
    extended = _value(certificate, x509.ExtendedKeyUsage)
    if purpose is not None and extended is not None and _USAGE[purpose] not in extended:
        raise UnusableAuthority("usage", f"{called} is not for {purpose}: its extended key usage says otherwise")
    unknown = [one for one in _extensions(certificate) if one.critical and one.oid not in _UNDERSTOOD]
    if unknown:
        raise UnusableAuthority("ca", f"{called} has a critical extension that is not understood here")
    key_id_of(certificate)
    _check_strength(certificate)
    _check_constraints(certificate)


def _check_strength(certificate: x509.Certificate) -> None:
    try:
        key = certificate.public_key()
        strong = algorithm_of(key) is not None and is_strong_signature(certificate)
        strong = strong and weakness_of(key, spki_of(key)) is None  # type: ignore[arg-type]  # algorithm_of names no other kind of key
    except (ValueError, UnsupportedAlgorithm):
        strong = False
    if not strong:
        raise UnusableAuthority(
            "strength",
            f"{_called(certificate)} needs a P-256, P-384, Ed25519 or RSA (3072 to 4096) key that is no known one, "
            "and a signature with SHA-256 or better",
        )


def _check_constraints(certificate: x509.Certificate) -> None:
    constraints = _value(certificate, x509.NameConstraints)
    if constraints is None:
        return
    for subtree in (*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ())):
        if not isinstance(subtree, x509.DNSName | x509.IPAddress | x509.RFC822Name):
            raise UnusableAuthority(
                "constraints",
                f"{_called(certificate)} constrains names other than hosts, addresses and mailboxes; "
                "verifiers do not agree what that means for devices: take an issuer without",
            )


def _check_signed(certificate: x509.Certificate, above: x509.Certificate) -> None:
    try:
        certificate.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise UnusableAuthority(
            "chain", f"{_called(certificate)} is not signed by {_called(above)}: give the chain in order"
        ) from None


def _basic(certificate: x509.Certificate) -> x509.BasicConstraints:
    return _value(certificate, x509.BasicConstraints) or x509.BasicConstraints(ca=False, path_length=None)


_Value = TypeVar("_Value", bound=x509.ExtensionType)


def _value(certificate: x509.Certificate, kind: type[_Value]) -> _Value | None:
    try:
        return _extensions(certificate).get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _extensions(certificate: x509.Certificate) -> x509.Extensions:
    try:
        return certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise UnusableAuthority("ca", f"the extensions of {_called(certificate)} cannot be read") from None


def _called(certificate: x509.Certificate) -> str:
    try:
        return repr(certificate.subject.rfc4514_string())
    except ValueError:
        return "a certificate whose subject cannot be read"
