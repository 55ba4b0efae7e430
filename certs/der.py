"""Putting a certificate together (RFC 5280, 4.1) from parts that the library encoded.

Why not the library's builder: it signs what it builds, and here a certificate is read before it is signed. Building a
second one for that, with a key to throw away, more than doubles the cost of a certificate. So names, keys and extension
values are the library's bytes, the dozen lines that wrap them are here, its strict parser reads each result before the
issuer's key touches it, and the tests hold every byte against what the builder would have made.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import cache, lru_cache

from cryptography import x509

_BOOLEAN_TRUE = b"\x01\x01\xff"
VERSION_3 = b"\xa0\x03\x02\x01\x02"


def tlv(tag: int, *parts: bytes) -> bytes:
    """One element: tag, length in the shortest form, contents."""
    contents = b"".join(parts)
    return header(tag, len(contents)) + contents


def header(tag: int, size: int) -> bytes:
    """What comes before so many octets of contents."""
    if size < 0x80:
        return bytes((tag, size))
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE."""
    return tlv(0x30, *parts)


@cache
def object_identifier(oid: x509.ObjectIdentifier) -> bytes:
    """OBJECT IDENTIFIER; only ever of our own few."""
    first, second, *rest = (int(arc) for arc in oid.dotted_string.split("."))
    contents = bytearray()
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        contents.extend(reversed(groups))
    return tlv(0x06, bytes(contents))


def integer(number: int) -> bytes:
    """INTEGER, not negative."""
    return tlv(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big"))


@lru_cache(maxsize=64)  # certificates of one second have it in common
def time(when: datetime) -> bytes:
    """UTCTime until 2049, GeneralizedTime from then on (RFC 5280, 4.1.2.5)."""
    text = f"{when:%Y%m%d%H%M%S}Z".encode("ascii")
    return tlv(0x17, text[2:]) if when.year < 2050 else tlv(0x18, text)


@lru_cache(maxsize=128)  # most of them are the same in every certificate
def extension(one: x509.Extension[x509.ExtensionType]) -> bytes:
    """Extension."""
    critical = _BOOLEAN_TRUE if one.critical else b""
    return sequence(object_identifier(one.oid), critical, tlv(0x04, one.value.public_bytes()))


def extensions(encoded: Iterable[bytes]) -> bytes:
    """The extensions of a TBSCertificate."""
    return tlv(0xA3, sequence(*encoded))


def to_be_signed(
    serial: int,
    algorithm: bytes,
    issuer: bytes,
    begin: datetime,
    end: datetime,
    subject: bytes,
    public_key: bytes,
    extensions: bytes,
) -> bytes:
    """TBSCertificate of version 3; `algorithm`, names, key and `extensions` are whole elements."""
    return sequence(
        VERSION_3,
        integer(serial),
        algorithm,
        issuer,
        sequence(time(begin), time(end)),
        subject,
        public_key,
        extensions,
    )


def certificate(tbs: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """Certificate."""
    return sequence(tbs, algorithm, tlv(0x03, b"\x00", signature))
