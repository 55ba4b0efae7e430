"""What the activation key is good for on the device: proving messages and opening what was sealed for it.

Sections 6 and 7 of the wire contract, from the device's side.

1. The activation key itself is used twice, to derive `K_auth` and `K_seal`; everything else follows from those.
2. Comparisons take constant time.
3. Whatever arrives, the only exception is `NotForUs`; it never says which check failed.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

A256GCM: Final = "A256GCM"
A256CTR_HS256: Final = "A256CTR-HS256"
HPKE: Final = "HPKE-X25519-SHA256-A256GCM"

_HPKE_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class NotForUs(Exception):
    """A proof or a seal was not made with our activation key for this message."""


class OpeningKey:
    """A key of the device's own that offers are sealed to: X25519, from 32 random bytes. `public` is `sealTo`."""

    def __init__(self, octets: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(octets)
        self.public = encode64(self._private.public_key().public_bytes_raw())

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Open what was sealed to `public` (RFC 9180, base mode, single shot)."""
        try:
            return _HPKE_SUITE.decrypt(sealed, self._private, info)
        except (InvalidTag, ValueError):
            raise NotForUs from None


@dataclass(frozen=True, slots=True)
class Keys:
    """Everything derived from one activation key for one (user, client id)."""

    user: str
    client_id: str
    auth: bytes = field(repr=False)
    seal: bytes = field(repr=False)

    @classmethod
    def derive(cls, activation_key: bytes, user: str, client_id: str) -> Self:
        """Derive both keys; the activation key itself is not kept."""
        return cls(
            user,
            client_id,
            auth=_mac(activation_key, "prov/v1 auth", user, client_id),
            seal=_mac(activation_key, "prov/v1 seal", user, client_id),
        )

    def prove_claim(
        self,
        request_id: str,
        nonce: str,
        *,
        seal_to: str = "",
        csr_hash: str = "",
        accept: Sequence[str] = (),
        alg: str = "",
    ) -> str:
        """Return the `proof` of a claim; parts that are absent in it are empty here."""
        return encode64(_mac(self.auth, "request", request_id, nonce, seal_to, csr_hash, ",".join(accept), alg))

    def prove_ack(self, request_id: str, nonce: str, generation: int, result: str, status: str = "") -> str:
        """Return the `proof` of an ack."""
        return encode64(_mac(self.auth, "ack", request_id, nonce, str(generation), result, status))

    def check_reply(
        self,
        proof: str,
        request_id: str,
        nonce: str,
        code: int,
        reason: str,
        *,
        generation: int | None = None,
        retry_after: int | None = None,
        forget: bool = False,
    ) -> None:
        """Raise NotForUs unless `proof` is that of an unsealed reply with these parts."""
        parts = (str(code), reason, _decimal(generation), _decimal(retry_after), "true" if forget else "")
        expected = _mac(self.auth, "reply", request_id, nonce, *parts)
        if not hmac.compare_digest(expected, decode64(proof)):
            raise NotForUs

    def open_gcm(self, sealed: str, request_id: str, nonce: str) -> bytes:
        """Open a reply sealed with `A256GCM`."""
        octets = decode64(sealed)
        try:
            return AESGCM(self._reply_key(request_id, nonce)).decrypt(octets[:12], octets[12:], self._associated_data)
        except (InvalidTag, ValueError):
            raise NotForUs from None

    def open_ctr(self, sealed: str, request_id: str, nonce: str) -> bytes:
        """Open a reply sealed with `A256CTR-HS256`; the tag is checked before anything is decrypted."""
        octets = decode64(sealed)
        if len(octets) < 16 + 32:
            raise NotForUs
        body, tag = octets[:-32], octets[-32:]
        expected = hmac.digest(self._mac_key(request_id, nonce), self._associated_data + b"|" + body, "sha256")
        if not hmac.compare_digest(expected, tag):
            raise NotForUs
        decryptor = Cipher(AES(self._reply_key(request_id, nonce)), CTR(body[:16])).decryptor()
        return decryptor.update(body[16:]) + decryptor.finalize()

    def open_hpke(self, sealed: str, mac: str, request_id: str, nonce: str, opening_key: OpeningKey) -> bytes:
        """Open a reply sealed to our own key; `mac` shows that it came from who knows the activation key."""
        expected = hmac.digest(self._mac_key(request_id, nonce), sealed.encode("ascii", "replace"), "sha256")
        if not hmac.compare_digest(expected, decode64(mac)):
            raise NotForUs
        return opening_key.open(decode64(sealed), self._associated_data)

    @property
    def _associated_data(self) -> bytes:
        return f"prov/v1 reply|{self.user}|{self.client_id}".encode()

    def _reply_key(self, request_id: str, nonce: str) -> bytes:
        return _mac(self.seal, "reply", request_id, nonce)

    def _mac_key(self, request_id: str, nonce: str) -> bytes:
        return _mac(self.seal, "mac", request_id, nonce)


def csr_hash(csr: bytes) -> str:
    """Return what a proof says about a CSR: the hash of its DER."""
    return hashlib.sha256(csr).hexdigest()


def encode64(octets: bytes) -> str:
    """Write base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def decode64(text: str) -> bytes:
    """Read base64url without padding; NotForUs for anything else."""
    try:
        if "=" in text or "+" in text or "/" in text:
            raise NotForUs
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise NotForUs from None


def _mac(key: bytes, *parts: str) -> bytes:
    return hmac.digest(key, "|".join(parts).encode(), "sha256")


def _decimal(value: int | None) -> str:
    return "" if value is None else str(value)
