"""What a certificate of ours looks like, and the reading of one with nothing taken on trust.

1. A certificate names one of three: a `Device`, a `Server` (our own listeners) or a `Responder` (OCSP).
2. STRICT coupling: CN is the client id, and the URI `urn:prov:{account}:{clientId}` the alternative name. LOOSE: the
   account's name and `urn:prov:{account}`. A colon is legal in both parts, so the account's is written `%3A` and the
   first plain one divides them; everything else of the grammar stands in a URN as it is (RFC 8141).
3. `read` accepts exactly the profile: each extension, its criticality and its value, or a `NotIssued` with the name of
   the rule. The authority reads every certificate so before it signs, and a peer's is read the same way.
4. Serials are 128 random bits behind one that is set, so all have 17 octets: no zero, no sign, no length to guess.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import TypeAlias

from cryptography import x509
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    ExtendedKeyUsageOID,
    ExtensionOID,
    NameOID,
    ObjectIdentifier,
    SignatureAlgorithmOID,
)

from certs.errors import NotIssued
from certs.keys import ED25519, P256, P384, RSA3072, algorithm_of, key_identifier, spki_of

Millis: TypeAlias = int
"""Milliseconds since 1970-01-01T00:00:00Z."""

BACKDATE: Millis = 5 * 60 * 1000
"""How far before its making a certificate begins, for devices whose clocks are late."""

VALIDITY: Millis = 90 * 24 * 3600 * 1000

MAX_COMMON_NAME = 64
"""Characters of a CN (RFC 5280, appendix A, ub-common-name)."""


SERIAL_BITS = 129
"""Of a serial of rule 4."""


class Purpose(StrEnum):
    """What an issuer signs for."""

    DEVICES = "devices"
    SERVERS = "servers"


_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_URN = re.compile(
    r"urn:prov:(?P<account>[A-Za-z0-9](?:[A-Za-z0-9._-]|%3A)*)(?::(?P<client_id>[A-Za-z0-9][A-Za-z0-9._:-]*))?"
)
_HOST = re.compile(
    r"(?=.{1,64}$)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)


@dataclass(frozen=True, slots=True)
class Device:
    """A device of an account; `client_id` None: LOOSE, any client id of the account.

    Raises `NotIssued` (`name`) for what is outside the grammar or does not fit a CN.
    """

    account: str
    client_id: str | None

    def __post_init__(self) -> None:
        for text in (self.account, self.client_id):
            if text is not None and _ID.fullmatch(text) is None:
                raise NotIssued("name", f"{text!r} is outside the grammar of names")
        if len(self.common_name) > MAX_COMMON_NAME:
            raise NotIssued(
                "name", f"a certificate's name has at most {MAX_COMMON_NAME} characters: choose a shorter one"
            )

    @property
    def common_name(self) -> str:
        """The subject's only attribute."""
        return self.account if self.client_id is None else self.client_id

    @property
    def uri(self) -> str:
        """The alternative name."""
        account = f"urn:prov:{self.account.replace(':', '%3A')}"
        return account if self.client_id is None else f"{account}:{self.client_id}"

    @property
    def alternative_names(self) -> tuple[x509.GeneralName, ...]:
        """The whole subject alternative name."""
        return (x509.UniformResourceIdentifier(self.uri),)


@dataclass(frozen=True, slots=True)
class Server:
    """Our own listener under its DNS names and IP addresses; the first is the CN. Raises `NotIssued` (`name`)."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise NotIssued("name", "a server's certificate needs names, and each once")
        for name in self.names:
            if _address(name) is None and _HOST.fullmatch(name) is None:
                raise NotIssued("name", f"{name!r} is no DNS name of at most 64 characters and no IP address")

    @property
    def common_name(self) -> str:
        """The subject's only attribute."""
        return self.names[0]

    @property
    def alternative_names(self) -> tuple[x509.GeneralName, ...]:
        """The whole subject alternative name."""
        return tuple(
            x509.DNSName(name) if (address := _address(name)) is None else x509.IPAddress(address)
            for name in self.names
        )


@dataclass(frozen=True, slots=True)
class Responder:
    """A delegated OCSP responder (RFC 6960, 4.2.2.2). Raises `NotIssued` (`name`)."""

    common_name: str

    def __post_init__(self) -> None:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}", self.common_name) is None:
            raise NotIssued("name", f"{self.common_name!r} is no name for a responder")

    @property
    def alternative_names(self) -> tuple[x509.GeneralName, ...]:
        """None: nobody connects to it under a name."""
        return ()


Names: TypeAlias = Device | Server | Responder


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


@lru_cache(maxsize=64)
def moment(when: Millis) -> datetime:
    """An aware UTC time of whole seconds, as certificates have them."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=when // 1000)


def millis(when: datetime) -> Millis:
    """The inverse of `moment`."""
    return (when - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def new_serial(entropy: Callable[[int], bytes]) -> int:
    """A serial of rule 4."""
    return 1 << SERIAL_BITS - 1 | int.from_bytes(entropy(16), "big")


def subject_of(common_name: str) -> x509.Name:
    """A name of nothing but a CN."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def key_usage(*, digital_signature: bool = True, signs_certificates: bool = False) -> x509.KeyUsage:
    """The only usages there are here."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


_NO_AUTHORITY = x509.BasicConstraints(ca=False, path_length=None)
_SIGNS = key_usage()
_USAGES: Mapping[type[Names], x509.ExtendedKeyUsage] = {
    Device: x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]),
    Server: x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
    Responder: x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]),
}
_KINDS = {usage: kind for kind, usage in _USAGES.items()}


def extensions_for(
    names: Names, key: x509.SubjectKeyIdentifier, issuer: x509.AuthorityKeyIdentifier, *, crl_url: str, ocsp_url: str
) -> list[x509.Extension[x509.ExtensionType]]:
    """The extensions of a certificate, all of them."""
    values: list[tuple[x509.ExtensionType, bool]] = [
        (_NO_AUTHORITY, True),
        (_SIGNS, True),
        (_USAGES[type(names)], False),
        (key, False),
        (issuer, False),
    ]
    if names.alternative_names:
        values.append((x509.SubjectAlternativeName(names.alternative_names), False))
    if isinstance(names, Responder):
        values.append((x509.OCSPNoCheck(), False))
    if crl_url:
        values.append((_crl_at(crl_url), False))
    if ocsp_url:
        values.append((_ocsp_at(ocsp_url), False))
    return [x509.Extension(value.oid, critical, value) for value, critical in values]


@lru_cache(maxsize=64)
def _crl_at(url: str) -> x509.CRLDistributionPoints:
    return x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, reasons=None, crl_issuer=None)]
    )


@lru_cache(maxsize=64)
def _ocsp_at(url: str) -> x509.AuthorityInformationAccess:
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url))]
    )


_CRITICAL = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE}
_ALWAYS = {
    *_CRITICAL,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
}
_POINTERS = {ExtensionOID.CRL_DISTRIBUTION_POINTS, ExtensionOID.AUTHORITY_INFORMATION_ACCESS}
_OF_KIND = {
    Device: {ExtensionOID.SUBJECT_ALTERNATIVE_NAME},
    Server: {ExtensionOID.SUBJECT_ALTERNATIVE_NAME},
    Responder: {ExtensionOID.OCSP_NO_CHECK},
}


_SIGNATURES: Mapping[str, ObjectIdentifier] = {
    P256: SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    P384: SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    ED25519: SignatureAlgorithmOID.ED25519,
    RSA3072: SignatureAlgorithmOID.RSA_WITH_SHA256,
}


@dataclass(frozen=True, slots=True)
class Above:
    """What a certificate must agree with in its issuer's, read once."""

    subject: x509.Name
    key: x509.AuthorityKeyIdentifier
    signature: ObjectIdentifier | None
    begin: datetime
    end: datetime

    @classmethod
    def of(cls, issuer: x509.Certificate) -> Above:
        """Read an issuer's certificate, which must have a subject key identifier."""
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return cls(
            issuer.subject,
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own),
            _SIGNATURES.get(algorithm_of(issuer.public_key()) or ""),
            issuer.not_valid_before_utc,
            issuer.not_valid_after_utc,
        )


def read(certificate: x509.Certificate, issuer: Above) -> Names:
    """Whom a certificate names; raises `NotIssued` with the rule it breaks. Signature and time are not looked at."""
    return read_with_key(certificate, issuer)[0]


def read_with_key(certificate: x509.Certificate, issuer: Above) -> tuple[Names, bytes]:
    """The same, and its key: the canonical SubjectPublicKeyInfo."""
    try:
        values = {extension.oid: extension for extension in certificate.extensions}
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise NotIssued("extensions", "the extensions cannot be read") from None
    _check_fields(certificate, issuer)
    if not values.keys() >= _ALWAYS or any(one.critical != (one.oid in _CRITICAL) for one in values.values()):
        raise NotIssued("extensions", "an extension of the profile is missing or has the wrong criticality")
    kind = _KINDS.get(values[ExtensionOID.EXTENDED_KEY_USAGE].value)
    if kind is None:
        raise NotIssued("usage", "the extended key usage is not exactly one that we give")
    if values.keys() - _ALWAYS - _POINTERS != _OF_KIND[kind]:
        raise NotIssued("extensions", "there is an extension beside those of the profile, or one is missing")
    if values[ExtensionOID.BASIC_CONSTRAINTS].value != _NO_AUTHORITY or values[ExtensionOID.KEY_USAGE].value != _SIGNS:
        raise NotIssued("usage", "the key may do more than sign its own handshakes")
    public_key = _check_key_ids(certificate, issuer, values)
    _check_pointers(values)
    return _names(kind, certificate, values), public_key


def _check_fields(certificate: x509.Certificate, issuer: Above) -> None:
    if certificate.version is not x509.Version.v3:
        raise NotIssued("version", "the certificate is not of version 3")
    if certificate.serial_number.bit_length() != SERIAL_BITS:
        raise NotIssued("serial", "the serial is not 128 random bits behind a set one")
    if certificate.issuer != issuer.subject:
        raise NotIssued("issuer", "the issuer's name is not that of the issuer")
    if certificate.signature_algorithm_oid != issuer.signature:
        raise NotIssued("signature-algorithm", "the issuer's key does not sign this way")
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not issuer.begin <= begin < end <= issuer.end:
        raise NotIssued("validity", "the validity is not within the issuer's")


def _check_key_ids(
    certificate: x509.Certificate,
    issuer: Above,
    values: Mapping[ObjectIdentifier, x509.Extension[x509.ExtensionType]],
) -> bytes:
    key = certificate.public_key()
    if algorithm_of(key) is None:
        raise NotIssued("key", "the key is of no kind that we certify")
    public_key = spki_of(key)  # type: ignore[arg-type]  # algorithm_of names no other kind of key
    if (
        values[ExtensionOID.SUBJECT_KEY_IDENTIFIER].value != key_identifier(public_key)
        or values[ExtensionOID.AUTHORITY_KEY_IDENTIFIER].value != issuer.key
    ):
        raise NotIssued("key-identifier", "a key identifier does not belong to its key")
    return public_key


def _check_pointers(values: Mapping[ObjectIdentifier, x509.Extension[x509.ExtensionType]]) -> None:
    match values.get(ExtensionOID.CRL_DISTRIBUTION_POINTS):
        case x509.Extension(value=x509.CRLDistributionPoints() as points):
            full = points[0].full_name
            if full is None or points != _crl_at(str(full[0].value)):
                raise NotIssued("pointers", "the CRL distribution point is not one URL")
    match values.get(ExtensionOID.AUTHORITY_INFORMATION_ACCESS):
        case x509.Extension(value=x509.AuthorityInformationAccess() as access):
            if access != _ocsp_at(str(access[0].access_location.value)):
                raise NotIssued("pointers", "the authority information is not one OCSP URL")


def _names(
    kind: type[Names],
    certificate: x509.Certificate,
    values: Mapping[ObjectIdentifier, x509.Extension[x509.ExtensionType]],
) -> Names:
    common = _common_name(certificate)
    if kind is Responder:
        return Responder(common)
    asked = values[ExtensionOID.SUBJECT_ALTERNATIVE_NAME].value
    if not isinstance(asked, x509.SubjectAlternativeName):
        raise NotIssued("name", "the alternative name cannot be read")
    names: Device | Server = parse_urn(asked) if kind is Device else _parse_hosts(asked)
    if common != names.common_name:
        raise NotIssued("name", "the subject is not what the alternative name says")
    return names


def _common_name(certificate: x509.Certificate) -> str:
    match list(certificate.subject):
        case [x509.NameAttribute(oid=NameOID.COMMON_NAME, value=str(text))]:
            return text
    raise NotIssued("name", "the subject is not one CN")


def _parse_hosts(names: x509.SubjectAlternativeName) -> Server:
    server = Server(tuple(str(name.value) for name in names))
    if server.alternative_names != tuple(names):
        raise NotIssued("name", "the alternative names are not DNS names and addresses")
    return server


def parse_urn(names: x509.SubjectAlternativeName) -> Device:
    """The device an alternative name of rule 2 stands for; raises `NotIssued` (`name`)."""
    match list(names):
        case [x509.UniformResourceIdentifier(value=uri)] if (found := _URN.fullmatch(uri)) is not None:
            return Device(found["account"].replace("%3A", ":"), found["client_id"])
    raise NotIssued("name", "the alternative name is not one urn:prov: URI")
