"""Proofs, sealing and key derivation: pure functions of the wire contract, section 6 and 7, and sealing at rest.

1. A device's activation key A is only ever the root: everything on the wire hangs on `Keys` derived from it.
2. Proofs are over text whose grammar was checked before; comparisons take constant time.
3. Every sealing draws a fresh IV, repeats included: the same credential is sealed anew for each nonce.
4. At rest everything secret is AES-256-GCM under a key outside the database, bound to its place (`context`), so a row
   copied elsewhere does not open. The number of the key (its epoch) leads the text, so keys can be rotated (`epochs`).
"""

from __future__ import annotations

import hashlib
import hmac
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

A256GCM = "A256GCM"
A256CTR_HS256 = "A256CTR-HS256"
HPKE = "HPKE-X25519-SHA256-A256GCM"

_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


# What `base64.urlsafe_b64encode` does; each message of a device takes half a dozen of these.
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")


def encode64(data: bytes) -> str:
    """base64url without padding."""
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode("ascii")


def decode64(text: str) -> bytes:
    """Inverse of `encode64`; raises ValueError for anything that `encode64` would not have written."""
    data = a2b_base64(text.encode("ascii").translate(_FROM_URL) + b"=" * (-len(text) % 4))
    if encode64(data) != text:
        raise ValueError("not canonical base64url")
    return data


def _digest(key: bytes, text: bytes) -> bytes:
    # Not `hmac.digest`: that one lets go of the interpreter for a microsecond's work, and then has to wait for it.
    return hmac.new(key, text, "sha256").digest()


def _mac(key: bytes, *parts: str) -> bytes:
    return _digest(key, "|".join(parts).encode())


@dataclass(frozen=True, slots=True)
class Keys:
    """What is derived from an activation key for one (user, clientId): 32 bytes each; `seal` None once wiped."""

    auth: bytes = field(repr=False)
    seal: bytes | None = field(repr=False)


def derive(activation_key: str, user: str, client_id: str) -> Keys:
    """`K_auth` and `K_seal` of an activation key."""
    root = activation_key.encode()
    return Keys(_mac(root, "prov/v1 auth", user, client_id), _mac(root, "prov/v1 seal", user, client_id))


def claim_proof(
    auth: bytes, request_id: str, nonce: str, seal_to: str, csr_hash: str, accept: tuple[str, ...], alg: str
) -> bytes:
    """Proof of a claim, 32 bytes."""
    return _mac(auth, "request", request_id, nonce, seal_to, csr_hash, ",".join(accept), alg)


def ack_proof(auth: bytes, request_id: str, nonce: str, generation: int, result: str, status: str) -> bytes:
    """Proof of an ack, 32 bytes."""
    return _mac(auth, "ack", request_id, nonce, str(generation), result, status)


def csr_hash(csr: bytes | None) -> str:
    """Lower-case hex SHA-256 of the CSR's DER; empty when there is none."""
    return "" if csr is None else hashlib.sha256(csr).hexdigest()


def equal(one: bytes, other: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one, other)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A message whose key was proved: what is needed to prove and seal its reply. `nonce` None: plain mode."""

    user: str
    client_id: str
    request_id: str
    nonce: str | None
    keys: Keys
    alg: str = ""
    seal_to: str = ""

    def prove(self, code: int, reason: str, generation: int | None, retry_after: int | None, *, forget: bool) -> str:
        """`proof` of an unsealed reply."""
        return encode64(
            _mac(
                self.keys.auth,
                "reply",
                self.request_id,
                self.nonce or "",
                str(code),
                reason,
                "" if generation is None else str(generation),
                "" if retry_after is None else str(retry_after),
                "true" if forget else "",
            )
        )

    def seal(self, plaintext: bytes, entropy: Callable[[int], bytes]) -> dict[str, str]:
        """Members `alg`, `sealed` and `mac` of a sealed reply around `plaintext`."""
        if self.nonce is None or self.keys.seal is None:
            raise ValueError("only a proved claim with its sealing key can be answered sealed")
        context = f"prov/v1 reply|{self.user}|{self.client_id}".encode()
        if self.seal_to:
            public = X25519PublicKey.from_public_bytes(decode64(self.seal_to))
            sealed = encode64(_SUITE.encrypt(plaintext, public, context))
            mac = _digest(self._derived("mac", self.keys.seal), sealed.encode())
            return {"alg": HPKE, "sealed": sealed, "mac": encode64(mac)}
        reply_key = self._derived("reply", self.keys.seal)
        if self.alg == A256CTR_HS256:
            mac_key = self._derived("mac", self.keys.seal)
            return {"alg": self.alg, "sealed": encode64(seal_ctr(reply_key, mac_key, entropy(16), plaintext, context))}
        return {"alg": A256GCM, "sealed": encode64(seal_gcm(reply_key, entropy(12), plaintext, context))}

    def _derived(self, purpose: str, seal: bytes) -> bytes:
        """`K_reply` or `K_mac` of this message."""
        return _mac(seal, purpose, self.request_id, self.nonce or "")


def seal_gcm(key: bytes, iv: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Iv | ciphertext | tag (16)."""
    return iv + AESGCM(key).encrypt(iv, plaintext, context)


def seal_ctr(key: bytes, mac_key: bytes, iv: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Iv (16) | ciphertext | tag (32), AES-256-CTR then HMAC-SHA256 over `context | iv | ciphertext`."""
    encryptor = Cipher(AES(key), CTR(iv)).encryptor()
    body = iv + encryptor.update(plaintext) + encryptor.finalize()
    return body + _digest(mac_key, context + b"|" + body)


def sealed_size(plaintext: int, alg: str, *, hpke_mode: bool) -> int:
    """Characters of `sealed` around that many bytes of plaintext."""
    overhead = 32 + 16 if hpke_mode else 16 + 32 if alg == A256CTR_HS256 else 12 + 16
    return ((plaintext + overhead) * 4 + 2) // 3


def is_sealing_key(public: bytes) -> bool:
    """Whether a reply can be sealed to this X25519 key: a point of low order would share the same secret with all."""
    try:
        _PROBE.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


_PROBE = X25519PrivateKey.from_private_bytes(bytes(range(32)))
"""Any private key finds out; this one keeps no secret."""


class VaultError(Exception):
    """What was sealed at rest does not open: another key file, or a damaged or moved row."""


class Vault:
    """Sealing at rest. `keys` are key-encryption keys of 32 bytes by epoch; the newest seals, each opens its own.

    `pepper` keys the fingerprints; without it they are keyed as they were before it was a key of its own. A process
    keeps former keys until it ends: what was read a moment before a rotation still opens.
    """

    def __init__(self, keys: Mapping[int, bytes], entropy: Callable[[int], bytes], pepper: bytes | None = None) -> None:
        if not keys:
            raise ValueError("a vault needs at least one key")
        self._ciphers = {epoch: AESGCM(key) for epoch, key in keys.items()}
        self.epoch = max(keys)
        self._entropy = entropy
        self._fingerprint_key = first_pepper(keys) if pepper is None else pepper

    def add(self, epoch: int, key: bytes) -> None:
        """One more key; if it is the newest, it seals from now on."""
        self._ciphers[epoch] = AESGCM(key)
        self.epoch = max(self._ciphers)

    def __repr__(self) -> str:
        return f"Vault(epoch={self.epoch})"

    def seal(self, secret: bytes, context: str) -> str:
        """Text that only `open` with the same `context` turns back."""
        iv = self._entropy(12)
        sealed = iv + self._ciphers[self.epoch].encrypt(iv, secret, context.encode())
        return f"{self.epoch}.{encode64(sealed)}"

    def open(self, sealed: str, context: str) -> bytes:
        """The secret; raises `VaultError`."""
        epoch, _, text = sealed.partition(".")
        try:
            data = decode64(text)
            return self._ciphers[int(epoch)].decrypt(data[:12], data[12:], context.encode())
        except (KeyError, ValueError, InvalidTag):
            raise VaultError(f"what was sealed as {context} does not open with the keys at hand") from None

    def fingerprint(self, secret: str, context: str) -> str:
        """Keyed hash of a generated secret (112 bits and more), for look-up and comparison; base64url."""
        return encode64(_digest(self._fingerprint_key, f"{context}|{secret}".encode()))


def epoch_of(sealed: str) -> int:
    """Epoch of the key that a text of `Vault.seal` opens with."""
    return int(sealed.partition(".")[0])


def new_key(entropy: Callable[[int], bytes]) -> bytes:
    """A key-encryption key, or a pepper, for `Vault`."""
    return entropy(32)


def first_pepper(keys: Mapping[int, bytes]) -> bytes:
    """The pepper of an installation made before it was a key of its own: it hung on the first epoch."""
    return _digest(keys[min(keys)], b"prov/v1 fingerprint")


def key_id(key: bytes) -> str:
    """16 hex digits that tell one key from another and say nothing about it."""
    return _digest(key, b"prov/v1 key id")[:8].hex()


def new_password(entropy: Callable[[int], bytes]) -> str:
    """A device's password: 32 letters and digits from 24 bytes, at least 160 bits.

    No `-` or `_`: a password that begins with a dash is an option to half of the command lines it is pasted into.
    """
    return encode64(entropy(24)).translate(_PLAIN)


_PLAIN = str.maketrans("-_", "xy")

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_LETTERS = bytes(_ALPHABET[byte % 62] for byte in range(256))
_SURPLUS = bytes(range(248, 256))
"""Bytes that would make some letters likelier."""


def new_text(entropy: Callable[[int], bytes], length: int = 32) -> str:
    """Random text of `[A-Za-z0-9]`, 5.95 bits a character (32: 190 bits), without modulo bias."""
    text = ""
    while len(text) < length:
        text += entropy(length).translate(_LETTERS, _SURPLUS).decode()
    return text[:length]
