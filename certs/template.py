"""Device certificates of one shape: put together and read once, then filled in.

1. Two devices' certificates of one issuer, whose names are as long and whose keys are of one algorithm, differ in seven
   values: serial, begin, end, CN, key, key identifier and URI. No tag and no length is among them.
2. So who read one of them with the eyes of a stranger has read the others, but for the values. What those may be is
   checked elsewhere: names by `Device`, keys by who had them proved, numbers and times by the issuer each time.
3. A template is good once it gave back, byte for byte, the certificate that was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from certs import der
from certs.keys import identifier_of, spki_prefix
from certs.order import Order
from certs.profile import SERIAL_BITS, Device, moment, subject_of


class Values(NamedTuple):
    """What is a certificate's own, in the order in which it stands there. `point` is the key behind its algorithm."""

    serial: bytes
    begin: bytes
    end: bytes
    common_name: bytes
    point: bytes
    key_identifier: bytes
    uri: bytes


class Shape(NamedTuple):
    """What the certificates of one template share: sizes of the values, the key's algorithm, and the URLs."""

    sizes: tuple[int, ...]
    algorithm: bytes
    crl_url: str
    ocsp_url: str


def values_of(order: Order) -> tuple[Shape, Values] | None:
    """Shape and values of what is ordered; None: there is no template for it (no device, an RSA key)."""
    prefix = spki_prefix(order.public_key)
    if prefix is None or not isinstance(order.names, Device) or order.serial.bit_length() != SERIAL_BITS:
        return None
    values = Values(
        order.serial.to_bytes(SERIAL_BITS // 8 + 1),
        der.time(moment(order.not_before))[2:],
        der.time(moment(order.not_after))[2:],
        order.names.common_name.encode("ascii"),
        order.public_key[len(prefix) :],
        identifier_of(order.public_key),
        order.names.uri.encode("ascii"),
    )
    return Shape(tuple(map(len, values)), prefix, order.crl_url, order.ocsp_url), values


class Template:
    """The octets between the values. `algorithm` and `issuer` are whole elements, `extensions` those of `order`."""

    def __init__(
        self, order: Order, values: Values, algorithm: bytes, issuer: bytes, extensions: Sequence[bytes]
    ) -> None:
        constraints, usage, extended, own, above, names, *pointers = extensions
        begin, end = der.time(moment(order.not_before)), der.time(moment(order.not_after))
        block = der.extensions(extensions)
        # Cut so that each value is the end of a piece.
        pieces = (
            der.VERSION_3 + der.integer(order.serial),
            algorithm + issuer + der.header(0x30, len(begin) + len(end)) + begin,
            end,
            subject_of(order.names.common_name).public_bytes(),
            order.public_key,
            block[: len(block) - sum(map(len, extensions))] + constraints + usage + extended + own,
            above + names,
        )
        rest = b"".join(pointers)
        size = sum(map(len, pieces)) + len(rest)
        between = [piece[: len(piece) - len(value)] for piece, value in zip(pieces, values, strict=True)]
        self._between = (der.header(0x30, size) + between[0], *between[1:])
        self._rest = rest

    def fill(self, values: Values) -> bytes:
        """The TBSCertificate with these values, which are of its shape."""
        return b"".join((*chain.from_iterable(zip(self._between, values, strict=True)), self._rest))
