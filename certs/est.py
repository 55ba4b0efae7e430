"""What EST (RFC 7030) puts on the wire: certificates without a signature around them, and CSRs in base64.

1. An answer is a PKCS#7 of nothing but certificates ("certs-only", RFC 5652), as base64 in lines (RFC 8951, 3).
2. A CSR comes as base64 of DER, in lines or in one; some clients send PEM, which is taken as well.
"""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from certs.csr import MAX_SIZE, parse_encoding
from certs.errors import BadCsr


def authorities(pem: str) -> bytes:
    """The certificates of a PEM text, each once, as an answer to `cacerts`."""
    return _certs_only(list(dict.fromkeys(x509.load_pem_x509_certificates(pem.encode("ascii")))))


def enrolled(pem: str) -> bytes:
    """The first certificate of a chain as an answer to `simpleenroll`, which wants it alone (RFC 7030, 4.2.3)."""
    return _certs_only(x509.load_pem_x509_certificates(pem.encode("ascii"))[:1])


def parse_body(body: bytes) -> bytes:
    """The DER of a CSR as EST clients send it, not yet looked into; raises `BadCsr`."""
    if len(body) > MAX_SIZE:
        raise BadCsr("too-big", f"the CSR has more than {MAX_SIZE} characters")
    text = body.decode("ascii", "replace")
    return parse_encoding(text if "-" in text else "".join(text.split()))


def _certs_only(certificates: list[x509.Certificate]) -> bytes:
    der = pkcs7.serialize_certificates(certificates, Encoding.DER)
    text = base64.b64encode(der)
    return b"".join(text[at : at + 64] + b"\r\n" for at in range(0, len(text), 64))
