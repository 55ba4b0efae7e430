"""What a device asks a certificate with: PKCS#10 (RFC 2986), of which only the key is ever used.

1. Bounded before parsed: 4 KiB of text, one CSR and nothing beside it, in PEM or standard padded base64 of DER.
2. The signature proves that the sender holds the private key; a key whose proof could be forged is refused (`keys`).
3. The subject is not read: the certificate's is rebuilt from the record. A CSR that asks for what a device never gets
   (to be an authority, to sign for others, another's name) is refused and not quietly given something else.
4. Nobody but the device makes a device key, so there is no way here to get one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.errors import BadCsr, UnsupportedKey
from certs.keys import (
    ED25519,
    P256,
    P384,
    RSA3072,
    algorithm_of,
    is_compressed,
    is_strong_signature,
    key_id,
    spki_of,
    weakness_of,
)

MAX_SIZE = 4096
"""Characters of a CSR as sent."""

_MAX_ATTRIBUTES = 8
_MAX_EXTENSIONS = 16
_MAX_NAMES = 16

# What pyca/cryptography raises on input that does not parse; each is an Exception of its own.
_UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

_ECDSA = {
    x509.SignatureAlgorithmOID.ECDSA_WITH_SHA256: ECDSA(hashes.SHA256()),
    x509.SignatureAlgorithmOID.ECDSA_WITH_SHA384: ECDSA(hashes.SHA384()),
    x509.SignatureAlgorithmOID.ECDSA_WITH_SHA512: ECDSA(hashes.SHA512()),
}

_PEM = re.compile(
    r"\s*-----BEGIN (?P<label>(?:NEW )?CERTIFICATE REQUEST)-----[ \t]*\r?\n"
    r"(?P<body>[A-Za-z0-9+/=\r\n]+)"
    r"-----END (?P=label)-----\s*"
)


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """Which keys are taken: `rsa` admits RSA of 3072 to 4096 bits, `blocked` holds further `key_id`s to refuse."""

    rsa: bool = False
    blocked: frozenset[str] = frozenset()

    @property
    def supported(self) -> tuple[str, ...]:
        """The algorithms on offer, as told to a device whose key is none of them."""
        return (P256, P384, ED25519, RSA3072) if self.rsa else (P256, P384, ED25519)


DEFAULT_POLICY = KeyPolicy()


@dataclass(frozen=True, slots=True)
class Csr:
    """A CSR that proved possession of a key we take.

    `public_key` is the canonical SubjectPublicKeyInfo (DER), `key_id` its SHA-256 in hex: what the ledger recognises a
    device's key by, repeated or borrowed. `der` is the CSR as sent, `der_hash` its SHA-256 in hex (the contract's
    `csrHash`). `names` are the alternative names it asks for, as text.
    """

    public_key: bytes = field(repr=False)
    key_id: str
    algorithm: str
    der: bytes = field(repr=False)
    names: tuple[str, ...] = ()

    @property
    def der_hash(self) -> str:
        """Lower-case hex SHA-256 of the DER."""
        return hashlib.sha256(self.der).hexdigest()


def parse_csr(text: str, policy: KeyPolicy = DEFAULT_POLICY) -> Csr:
    """Check a device's CSR in PEM or base64; raises `BadCsr` or `UnsupportedKey`."""
    return parse_der(parse_encoding(text), policy)


def parse_der(der: bytes, policy: KeyPolicy = DEFAULT_POLICY) -> Csr:
    """Check a CSR that `parse_encoding` took out of its wrapping; raises `BadCsr` or `UnsupportedKey`."""
    try:
        request = x509.load_der_x509_csr(der)
    except _UNREADABLE:
        raise BadCsr("structure", "the CSR is not a PKCS#10 request in DER") from None
    try:
        key = request.public_key()
        algorithm = algorithm_of(key)
    except _UNREADABLE:
        algorithm = None
    if algorithm is None or algorithm not in policy.supported:
        raise UnsupportedKey("use a key of another algorithm", policy.supported)
    _check_possession(request, key, der)
    spki = spki_of(key)  # type: ignore[arg-type]  # algorithm_of names no other kind of key
    if spki not in der and not is_compressed(key, der):
        raise BadCsr("structure", "the key must be an uncompressed or compressed point (RFC 5480, 2.2)")
    if (weakness := weakness_of(key, spki)) is not None:  # type: ignore[arg-type]  # as above
        raise BadCsr("weak-key", f"the key is {weakness}: generate a new one from a good random source")
    if (known := key_id(spki)) in policy.blocked:
        raise BadCsr("known-key", "the key is blocked: generate a new one")
    return Csr(spki, known, algorithm, der, _asked_names(request))


def parse_encoding(text: str) -> bytes:
    """The DER within PEM or base64, not yet looked into; raises `BadCsr`."""
    if len(text) > MAX_SIZE:
        raise BadCsr("too-big", f"the CSR has more than {MAX_SIZE} characters")
    if "-" in text:
        match = _PEM.fullmatch(text)
        if match is None:
            raise BadCsr("encoding", "send one CERTIFICATE REQUEST in PEM and nothing beside it")
        text = match["body"].replace("\r", "").replace("\n", "")
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadCsr("encoding", "the CSR is neither PEM nor standard base64 with padding") from None


def _check_possession(request: x509.CertificateSigningRequest, key: object, der: bytes) -> None:
    try:
        proved = is_strong_signature(request) and _is_signed(request, key)
        # A signature has no unused bits; the library passes over their number, which the signature does not cover.
        proved = proved and der.endswith(b"\x00" + request.signature)
    except _UNREADABLE:
        proved = False
    if not proved:
        raise BadCsr("signature", "the CSR must be signed by its own key with SHA-256 or better")


def _is_signed(request: x509.CertificateSigningRequest, key: object) -> bool:
    algorithm = _ECDSA.get(request.signature_algorithm_oid)
    if algorithm is None or not isinstance(key, EllipticCurvePublicKey):
        return request.is_signature_valid
    try:
        # The same check with the key at hand: the library would read it anew, which is a fourth of the time.
        key.verify(request.signature, request.tbs_certrequest_bytes, algorithm)
    except InvalidSignature:
        return False
    return True


def _asked_names(request: x509.CertificateSigningRequest) -> tuple[str, ...]:
    """Look through what is asked for beside the key; returns the alternative names, raises for powers we never give."""
    try:
        attributes, extensions = list(request.attributes), list(request.extensions)
    except _UNREADABLE:
        raise BadCsr("structure", "the CSR's attributes or requested extensions cannot be read") from None
    if len(attributes) > _MAX_ATTRIBUTES or len(extensions) > _MAX_EXTENSIONS:
        raise BadCsr("structure", f"a CSR has at most {_MAX_ATTRIBUTES} attributes and {_MAX_EXTENSIONS} extensions")
    names: tuple[str, ...] = ()
    for extension in extensions:
        _check_powers(extension)
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = tuple(_text_of(name) for name in extension.value)
    if len(names) > _MAX_NAMES:
        raise BadCsr("structure", f"a CSR asks for at most {_MAX_NAMES} names")
    return names


def _check_powers(asked: x509.Extension[x509.ExtensionType]) -> None:
    match asked.value:
        case x509.BasicConstraints(ca=True) | x509.NameConstraints():
            raise BadCsr("request", "the CSR asks to be an authority: leave that out")
        case x509.KeyUsage(key_cert_sign=certificates, crl_sign=lists) if certificates or lists:
            raise BadCsr("request", "the CSR asks to sign certificates or CRLs: leave that out")
        case x509.ExtendedKeyUsage() as usages if set(usages) - {ExtendedKeyUsageOID.CLIENT_AUTH}:
            raise BadCsr("request", "the CSR asks for another usage than clientAuth: leave that out")
        case x509.UnrecognizedExtension() if asked.critical:
            raise BadCsr("request", "the CSR asks for a critical extension that is not known here")


def _text_of(name: x509.GeneralName) -> str:
    match name:
        case x509.DNSName(value=text) | x509.UniformResourceIdentifier(value=text):
            return text
    return repr(type(name).__name__)  # quoted, so it equals no name a device could have
