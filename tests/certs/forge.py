"""Certificates that no authority of ours would make, and requests that no honest device would send."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs import der
from certs.hierarchy import Signer
from certs.keys import P256, algorithm_identifier, generate, signature_of
from certs.profile import Millis, key_usage, moment, subject_of

NOW: Millis = int(time.time()) * 1000
"""The real time: certtool knows no other."""

DAY: Millis = 24 * 3600 * 1000

RSA = bytes.fromhex("300d06092a864886f70d01010b0500")
SHA1_ECDSA = bytes.fromhex("300906072a8648ce3d0401")
SHA1_RSA = bytes.fromhex("300d06092a864886f70d0101050500")

Extensions = tuple[tuple[x509.ExtensionType, bool], ...]


@dataclass(frozen=True)
class Recipe:
    """A certificate to be; `issuer` None: signed by itself."""

    name: str
    extensions: Extensions
    begin: Millis = NOW - DAY
    end: Millis = NOW + 30 * DAY
    key: Any = field(default_factory=lambda: generate(P256))
    version: bytes | None = b"\xa0\x03\x02\x01\x02"
    issuer_name: str | None = None
    algorithm: bytes | None = None
    outer_algorithm: bytes | None = None
    sign: Callable[[Any, bytes], bytes] = signature_of

    def made(self, by: Signer | None = None) -> Signer:
        signer = by.key if by is not None else self.key
        issuer = by.certificate.subject if by is not None else subject_of(self.name)
        if self.issuer_name is not None:
            issuer = subject_of(self.issuer_name)
        algorithm = self.algorithm or (
            RSA if isinstance(signer, rsa.RSAPrivateKey) else algorithm_identifier(signer.public_key())
        )
        extensions = [x509.Extension(value.oid, critical, value) for value, critical in self.extensions]
        tbs = der.to_be_signed(
            1 << 128 | int.from_bytes(os.urandom(16)),
            algorithm,
            issuer.public_bytes(),
            moment(self.begin),
            moment(self.end),
            subject_of(self.name).public_bytes(),
            self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            der.extensions(map(der.extension, extensions)),
        )
        if self.version is None:
            tbs = as_version_1(tbs)
        whole = der.certificate(tbs, self.outer_algorithm or algorithm, self.sign(signer, tbs))
        return Signer(x509.load_der_x509_certificate(whole), self.key)

    def with_(self, **changes: Any) -> Recipe:
        return replace(self, **changes)

    def without(self, *kinds: type[x509.ExtensionType]) -> Recipe:
        return replace(self, extensions=tuple(one for one in self.extensions if not isinstance(one[0], kinds)))

    def plus(self, *values: tuple[x509.ExtensionType, bool]) -> Recipe:
        """With these extensions, in place of their kind."""
        kinds = {type(value) for value, _ in values}
        kept = tuple(one for one in self.extensions if type(one[0]) not in kinds)
        return replace(self, extensions=(*kept, *values))


def as_version_1(tbs: bytes) -> bytes:
    """The same without version and extensions."""
    contents = memoryview(tbs)[header(tbs) :]
    parts, offset = [], 0
    while offset < len(contents):
        size = header(contents[offset:]) + length(contents[offset:])
        parts.append(bytes(contents[offset : offset + size]))
        offset += size
    return der.sequence(*(part for part in parts if part[0] not in {0xA0, 0xA3}))


def header(element: bytes | memoryview) -> int:
    return 2 if element[1] < 0x80 else 2 + (element[1] & 0x7F)


def length(element: bytes | memoryview) -> int:
    return element[1] if element[1] < 0x80 else int.from_bytes(element[2 : header(element)], "big")


def root(name: str = "forged root", path_length: int | None = None, **changes: Any) -> Recipe:
    recipe = Recipe(name, (), **changes)
    own = x509.SubjectKeyIdentifier.from_public_key(recipe.key.public_key())
    return recipe.plus(
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (key_usage(signs_certificates=True), True),
        (own, False),
    )


def issuer(above: Signer, usage: x509.ObjectIdentifier, name: str = "forged issuer", **changes: Any) -> Recipe:
    return (
        root(name, path_length=0, **changes)
        .plus((x509.ExtendedKeyUsage([usage]), False))
        .plus((x509.AuthorityKeyIdentifier.from_issuer_public_key(above.key.public_key()), False))
    )


def leaf(above: Signer, usage: x509.ObjectIdentifier, name: str, *names: x509.GeneralName, **changes: Any) -> Recipe:
    recipe = Recipe(name, (), **changes)
    return recipe.plus(
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key_usage(), True),
        (x509.ExtendedKeyUsage([usage]), False),
        (x509.SubjectKeyIdentifier.from_public_key(recipe.key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(above.key.public_key()), False),
        (x509.SubjectAlternativeName(names), False),
    )


def device(above: Signer, client_id: str = "dev-1", **changes: Any) -> Recipe:
    name = x509.UniformResourceIdentifier(f"urn:prov:acme:{client_id}")
    return leaf(above, ExtendedKeyUsageOID.CLIENT_AUTH, client_id, name, **changes)


def server(above: Signer, host: str = "broker.example", **changes: Any) -> Recipe:
    return leaf(above, ExtendedKeyUsageOID.SERVER_AUTH, host, x509.DNSName(host), **changes)


def sha1(key: Any, data: bytes) -> bytes:
    """A signature nobody should take any more."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, PKCS1v15(), hashes.SHA1())
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.sign(data, ec.ECDSA(hashes.SHA1()))


def flipped(key: Any, data: bytes) -> bytes:
    """A signature of something else."""
    return signature_of(key, data + b"\x00")


def request(
    key: Any = None,
    subject: x509.Name | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None = None,
) -> x509.CertificateSigningRequest:
    """An honest CSR unless told otherwise."""
    key = key or generate(P256)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject or subject_of("dev-1"))
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    if digest is None and not type(key).__name__.startswith("Ed"):
        digest = hashes.SHA256()
    return builder.sign(key, digest)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def text(csr: x509.CertificateSigningRequest | bytes) -> str:
    """A CSR as a device sends it in base64."""
    return base64.b64encode(csr if isinstance(csr, bytes) else csr.public_bytes(Encoding.DER)).decode()
