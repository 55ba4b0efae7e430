"""Which keys we sign with and for, and which of them are no secret.

1. P-256, P-384 and Ed25519; RSA from 3072 to 4096 bits with the exponent 65537 only where a policy says so.
2. A key counts by its canonical SubjectPublicKeyInfo, whatever form it came in (a compressed point is the same key).
3. Refused as weak: published test keys, private keys small enough to count to, Ed25519 points of small order (any
   message verifies under some of them), RSA moduli with small, close (Fermat) or ROCA primes (CVE-2017-15361).
4. SHA-256 and its longer kin are the only digests; SHA-1 names keys (RFC 5280, 4.2.1.2) but never signs.
"""

from __future__ import annotations

import hashlib
import math
from functools import cache, lru_cache
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

PrivateKey: TypeAlias = EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey
PublicKey: TypeAlias = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey

P256 = "P-256"
P384 = "P-384"
ED25519 = "Ed25519"
RSA3072 = "RSA-3072"
"""RSA from 3072 to 4096 bits."""

SIGNATURE_DIGESTS = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

_CURVES = {"secp256r1": P256, "secp384r1": P384}


def algorithm_of(key: object) -> str | None:
    """The name of a public key's algorithm as this module spells it; None for anything we have no name for."""
    match key:
        case EllipticCurvePublicKey():
            return _CURVES.get(key.curve.name)
        case Ed25519PublicKey():
            return ED25519
        case RSAPublicKey() if 3072 <= key.key_size <= 4096 and key.public_numbers().e == 65537:
            return RSA3072
    return None


def generate(algorithm: str) -> PrivateKey:
    """A new private key; raises ValueError for an unknown algorithm."""
    match algorithm:
        case "P-256":
            return generate_private_key(SECP256R1())
        case "P-384":
            return generate_private_key(SECP384R1())
        case "Ed25519":
            return Ed25519PrivateKey.generate()
        case "RSA-3072":
            return generate_rsa(65537, 3072)
    raise ValueError(f"{algorithm!r} is no key algorithm: choose {P256}, {P384} or {ED25519}")


def digest_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """The digest this key signs certificates with: as long as the curve; None where the algorithm has its own."""
    if isinstance(key, Ed25519PrivateKey):
        return None
    if isinstance(key, EllipticCurvePrivateKey) and key.curve.name == "secp384r1":
        return hashes.SHA384()
    return hashes.SHA256()


def is_deterministic(key: PrivateKey) -> bool | None:
    """What the builders want as `ecdsa_deterministic`: True for ECDSA (RFC 6979), None where it makes no sense."""
    return True if isinstance(key, EllipticCurvePrivateKey) else None


_ALGORITHM_IDENTIFIERS = {
    P256: bytes.fromhex("300a06082a8648ce3d040302"),  # ecdsa-with-SHA256
    P384: bytes.fromhex("300a06082a8648ce3d040303"),  # ecdsa-with-SHA384
    ED25519: bytes.fromhex("300506032b6570"),
    RSA3072: bytes.fromhex("300d06092a864886f70d01010b0500"),  # sha256WithRSAEncryption
}


def algorithm_identifier(issuer: object) -> bytes:
    """The AlgorithmIdentifier (DER) of what a public key's owner signs; raises KeyError for keys with no name here."""
    return _ALGORITHM_IDENTIFIERS[algorithm_of(issuer) or ""]


# Nothing of them is a key's own, and making one takes a tenth of what signing does.
_ECDSA = {
    "secp256r1": ECDSA(hashes.SHA256(), deterministic_signing=True),
    "secp384r1": ECDSA(hashes.SHA384(), deterministic_signing=True),
}
_PKCS1 = PKCS1v15()


def signature_of(key: PrivateKey, data: bytes) -> bytes:
    """The signature that the X.509 builders would make over these bytes."""
    match key:
        case Ed25519PrivateKey():
            return key.sign(data)
        case EllipticCurvePrivateKey():
            return key.sign(data, _ECDSA[key.curve.name])
        case RSAPrivateKey():
            return key.sign(data, _PKCS1, hashes.SHA256())


_POINT_PREFIXES = {
    "secp256r1": bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
    "secp384r1": bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"),
}
"""What comes before the coordinates of an uncompressed point (RFC 5480, 2): writing that ourselves is a third of the
library's time, and each certificate takes it three times."""

_SPKI_PREFIXES = {
    len(prefix) + size: prefix
    for prefix, size in (
        (_POINT_PREFIXES["secp256r1"], 64),
        (_POINT_PREFIXES["secp384r1"], 96),
        (bytes.fromhex("302a300506032b6570032100"), 32),
    )
}
"""What a canonical SubjectPublicKeyInfo of P-256, P-384 and Ed25519 (RFC 8410) begins with, by its size."""


def spki_prefix(spki: bytes) -> bytes | None:
    """All of a canonical SubjectPublicKeyInfo that is the same for every key of its algorithm; None for RSA."""
    prefix = _SPKI_PREFIXES.get(len(spki))
    return prefix if prefix is not None and spki.startswith(prefix) else None


def spki_of(key: PublicKey) -> bytes:
    """The canonical SubjectPublicKeyInfo, DER."""
    if isinstance(key, EllipticCurvePublicKey) and (prefix := _POINT_PREFIXES.get(key.curve.name)) is not None:
        numbers, size = key.public_numbers(), key.key_size // 8
        return prefix + numbers.x.to_bytes(size) + numbers.y.to_bytes(size)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def is_compressed(key: object, encoded: bytes) -> bool:
    """Whether `encoded` holds this key as a compressed point."""
    return isinstance(key, EllipticCurvePublicKey) and (
        key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint) in encoded
    )


@lru_cache(maxsize=64)
def key_identifier(spki: bytes) -> x509.SubjectKeyIdentifier:
    """The SHA-1 of the key's bits (RFC 5280, 4.2.1.2, method 1); a name, no protection. `spki` is canonical."""
    return x509.SubjectKeyIdentifier(identifier_of(spki))


def identifier_of(spki: bytes) -> bytes:
    """The 20 octets of `key_identifier`."""
    contents = spki[2 + (spki[1] & 0x7F if spki[1] & 0x80 else 0) :]
    bits = contents[2 + contents[1] :]  # behind the algorithm, which is short
    bits = bits[3 + (bits[1] & 0x7F if bits[1] & 0x80 else 0) :]  # no bit of the last octet is unused
    return hashlib.sha1(bits, usedforsecurity=False).digest()


def is_strong_signature(signed: x509.Certificate | x509.CertificateSigningRequest) -> bool:
    """Whether it is signed with a digest of rule 4 or by Ed25519; raises UnsupportedAlgorithm for unheard-of ones."""
    digest = signed.signature_hash_algorithm
    return signed.signature_algorithm_oid == x509.SignatureAlgorithmOID.ED25519 or isinstance(digest, SIGNATURE_DIGESTS)


def weakness_of(key: PublicKey, spki: bytes) -> str | None:
    """What makes this key no secret, in a few words; None for a good key. `spki` is its canonical form."""
    match key:
        case Ed25519PublicKey():
            raw = key.public_bytes_raw()
            if is_small_order(raw):
                return "a point of small order"
            return "a published test key" if raw.hex() in _PUBLISHED else None
        case EllipticCurvePublicKey():
            prefix = _POINT_PREFIXES[key.curve.name]
            x = spki[len(prefix) : (len(prefix) + len(spki)) // 2]
            if x in _countable(_CURVES[key.curve.name]):
                return "a private key one can count to"
            return "a published test key" if x.hex() in _PUBLISHED else None
        case RSAPublicKey():
            return _rsa_weakness(key.public_numbers().n)


# The x coordinate, or for Ed25519 the encoded point, in hexadecimal without leading zeros.
_PUBLISHED = frozenset(
    {
        "422548f88fb782ffb5eca3744452c72a1e558fbd6f73be5e48e93232cc45c5b1",  # RFC 9500, testECCP256
        "5b0901b88523296eb919d50ffa1a9cb374bc4d409586282bfeca11b1d95adbb54734af570bf82b7228cf226bcf4c25dd",  # …, P384
        "30a0424cd21c2944838a2d75c92b37e76ea20d9f00893a3b4eee8a3c0aafec3e",  # RFC 7517, appendix A
        "7fcdce2770f6c45d4183cbee6fdb4b7b580733357be9ef13bacf6e3c7bd15445",  # RFC 7515, appendix A.3
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",  # RFC 8032, 7.1, tests 1 to 3; RFC 8037
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
    }
)


@cache
def _countable(algorithm: str) -> frozenset[bytes]:
    """The x coordinates of the first 64 multiples of the generator, which are also those of the last 64."""
    curve, size = (SECP256R1(), 32) if algorithm == P256 else (SECP384R1(), 48)
    multiples = (derive_private_key(n, curve).public_key().public_numbers() for n in range(1, 65))
    return frozenset(point.x.to_bytes(size) for point in multiples)


_FIELD = 2**255 - 19
# The y coordinates of the eight points whose order divides 8; two points share each but the first two.
_ORDER_8 = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
_SMALL_ORDER = frozenset({0, 1, _FIELD - 1, _ORDER_8, _FIELD - _ORDER_8})


def is_small_order(point: bytes) -> bool:
    """Whether an encoded Ed25519 point (32 bytes) has an order dividing 8, or is not encoded canonically."""
    y = int.from_bytes(point, "little") & (2**255 - 1)
    return y >= _FIELD or y in _SMALL_ORDER


def _rsa_weakness(modulus: int) -> str | None:
    if math.gcd(modulus, _PRIMORIAL) != 1:
        return "a modulus with a small factor"
    if _has_close_primes(modulus):
        return "a modulus of two primes close to each other"
    if all(modulus % prime in residues for prime, residues in _roca_marks()):
        return "a modulus of the ROCA generator"
    return None


def _primes(below: int) -> list[int]:
    return [n for n in range(3, below, 2) if all(n % d for d in range(3, math.isqrt(n) + 1, 2))]


_PRIMORIAL = math.prod([2, *_primes(752)])


def _has_close_primes(modulus: int, rounds: int = 100) -> bool:
    """Fermat's factorisation, which succeeds at once where both primes were drawn near each other."""
    middle = math.isqrt(modulus - 1) + 1
    for a in range(middle, middle + rounds):
        square = a * a - modulus
        if math.isqrt(square) ** 2 == square:
            return True
    return False


@cache
def _roca_marks() -> tuple[tuple[int, frozenset[int]], ...]:
    """For each prime up to 167 what a modulus of that generator leaves: powers of 65537 (Nemec et al., 2017)."""
    return tuple((p, frozenset(pow(65537, k, p) for k in range(p - 1))) for p in _primes(168))


def key_id(spki: bytes) -> str:
    """The name the ledger remembers a key by: lower-case hex SHA-256 of its SubjectPublicKeyInfo."""
    return hashlib.sha256(spki).hexdigest()


def private_pem(key: PrivateKey) -> str:
    """PKCS#8 in PEM, not encrypted: for whoever keeps the file to himself."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def public_of_pem(pem: str) -> bytes:
    """The public half (SPKI, DER) of the first private key in a PEM text; raises ValueError, TypeError."""
    return spki_of(load_pem_private_key(pem.encode("ascii"), None).public_key())  # type: ignore[arg-type]  # any kind has one
