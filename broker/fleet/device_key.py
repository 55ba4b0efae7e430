"""The key that a device makes for itself, and the CSR that asks for a certificate on it (wire contract, section 5).

The private key never leaves the device: what is sent is the CSR, what comes back is a certificate on the public key.
"""

from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, derive_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

SEED_SIZE: Final = 40
"""Random bytes that a key is made from: 8 more than it has, so that no key is likelier than another."""

_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Order of P-256 (SEC 2, 2.4.2)."""


class DeviceKey:
    """A P-256 key. `pem` is its PKCS#8 form, `csr` a request for it in DER."""

    def __init__(self, private: EllipticCurvePrivateKey) -> None:
        self._private = private
        self.pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        # The subject is empty: the provisioner names the device, whatever is asked for.
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        self.csr = request.sign(private, SHA256(), ecdsa_deterministic=True).public_bytes(Encoding.DER)

    @classmethod
    def made_from(cls, seed: bytes) -> Self:
        """Make a key from `SEED_SIZE` random bytes."""
        return cls(derive_private_key(int.from_bytes(seed) % (_ORDER - 1) + 1, SECP256R1()))

    @classmethod
    def load(cls, pem: bytes) -> Self | None:
        """Read a key back; None where there is none, or a damaged one."""
        try:
            private = load_pem_private_key(pem, None)
        except ValueError:
            return None
        return cls(private) if isinstance(private, EllipticCurvePrivateKey) else None

    def is_certified_by(self, chain: str) -> bool:
        """Whether the first certificate of a PEM chain is on this key."""
        try:
            leaf = x509.load_pem_x509_certificates(chain.encode())[0]
            public = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except ValueError:
            return False
        return public == self._private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
