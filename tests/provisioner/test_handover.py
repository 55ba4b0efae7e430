"""The keys, proofs and sealed replies of the wire contract, section 11, and sealing at rest."""

from __future__ import annotations

import hmac
import os

import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from provisioner import handover
from provisioner.handover import Conversation, Vault, VaultError, decode64, derive, encode64

USER, CLIENT, REQUEST, NONCE = "factory", "00:1A:2B:3C:4D:5E", "r-1", "AAECAwQFBgcICQoLDA0ODw"
KEYS = derive("0123456789ABCDEFGHIJKLMNOPQRSTUV", USER, CLIENT)
P = b'{"requestId":"r-1","code":200,"reason":"offer"}'
AD = b"prov/v1 reply|factory|00:1A:2B:3C:4D:5E"
K_REPLY = bytes.fromhex("7ee58aef05e804eb35a61b810607de0e752e13f8cf67b77f0940d579824a1c40")
K_MAC = bytes.fromhex("d6ab9c8425bf662e0574373941a465b428c9234fccee306bbb346dd3bb1655ea")


def test_keys_of_the_contract() -> None:
    assert KEYS.auth.hex() == "6544e901c659998fe388a9f15575c48b81cea9f7104626d2a765f91ce0d9ecb5"
    assert KEYS.seal is not None
    assert KEYS.seal.hex() == "3eab12dccd17465f70fd18f0cc1682026f469d0a60b1b0d531fcc53e77b16b47"


def test_proofs_of_the_contract() -> None:
    claim = handover.claim_proof(KEYS.auth, REQUEST, NONCE, "", "", (), "")
    assert encode64(claim) == "xlNjXy24s2M-Gr3jh4_3TJVe2En9KS91AlRNxemkgu8"
    full = handover.claim_proof(KEYS.auth, REQUEST, NONCE, encode64(b"\x07" * 32), "ab" * 32, ("password", "x509"), "")
    assert encode64(full) == "xa-qLwcoLo7UNaiiUbUHs5ZHztX_YlKhGG0tqPujTHU"
    ack = handover.ack_proof(KEYS.auth, REQUEST, NONCE, 1, "stored", "")
    assert encode64(ack) == "5gbqxvh9bN-BbMgjP-AIPo6ktRufHYZunPrltejGwCY"
    reply = Conversation(USER, CLIENT, REQUEST, NONCE, KEYS).prove(200, "confirmed", 1, None, forget=False)
    assert reply == "gbzcgRzp0-Y9wlT21T-1_zlCTuwx-To5ZbLQLB7g2Lg"


def test_sealed_replies_of_the_contract() -> None:
    gcm = Conversation(USER, CLIENT, REQUEST, NONCE, KEYS).seal(P, lambda n: bytes(range(n)))
    assert gcm["sealed"] == (
        "AAECAwQFBgcICQoLfmr8co_AX6H2-tuRpeCchJGAt9z8W9qDcMAodm4uBmR36lIGuFiZSADzNxNr8AMSxpVz3RdQJv3RrLC0azN1"
    )
    ctr = Conversation(USER, CLIENT, REQUEST, NONCE, KEYS, alg="A256CTR-HS256").seal(P, lambda n: bytes(range(n)))
    assert ctr["sealed"] == (
        "AAECAwQFBgcICQoLDA0OD354RZQQ1X0z-hr7fIrYpLryt2yT0Wb3w8Hiy5V--rbbGLUv1vldv6AYVG-6TF-tkib9z5Fwb585IxMo5LiN"
        "A1Gl2yngk9j2yMwzG4GWlxw"
    )


def test_hpke_seals_what_the_device_opens() -> None:
    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = encode64(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    sealed = Conversation(USER, CLIENT, REQUEST, NONCE, KEYS, seal_to=public).seal(P, os.urandom)
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    published = (
        "daSQaWXLmGEVDqa3WQRrYITVj5iDfo4BPeOI_ASc3CUQbqfZnoQGCBW3HVxjx86XXRTZAeDEnf_lKuyuJyhb9Ta1vknhI9T-JAEJfn0l"
        "QjwcQlNxi9vMpI6QrLBO8aM"
    )
    for text in (sealed["sealed"], published):
        assert suite.decrypt(decode64(text), private, AD) == P
    assert sealed["alg"] == handover.HPKE
    assert encode64(hmac.digest(K_MAC, published.encode(), "sha256")) == "bKsSmvaXARZdXGBC9pk9XqUmVdnKOE6taEukUFwtJVc"
    assert sealed["mac"] == encode64(hmac.digest(K_MAC, sealed["sealed"].encode(), "sha256"))


@given(st.integers(0, 4000), st.sampled_from([handover.A256GCM, handover.A256CTR_HS256]))
def test_the_size_of_a_sealed_reply_is_known_before_it_is_made(length: int, alg: str) -> None:
    sealed = Conversation(USER, CLIENT, REQUEST, NONCE, KEYS, alg=alg).seal(bytes(length), os.urandom)
    assert len(sealed["sealed"]) == handover.sealed_size(length, alg, hpke_mode=False)


@given(st.binary(max_size=100))
def test_base64url_has_one_spelling(data: bytes) -> None:
    assert decode64(encode64(data)) == data


@pytest.mark.parametrize("text", ["AA==", "A", "AB", "A A", "ä"])
def test_other_spellings_of_base64url_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        decode64(text)


def test_what_is_sealed_at_rest_opens_only_in_its_place() -> None:
    vault = Vault({1: b"k" * 32}, os.urandom)
    sealed = vault.seal(b"secret", "request|7")
    assert vault.open(sealed, "request|7") == b"secret"
    assert "secret" not in sealed
    for text, context in ((sealed, "request|8"), (sealed[:-2] + "AA", "request|7"), ("9" + sealed[1:], "request|7")):
        with pytest.raises(VaultError):
            vault.open(text, context)


def test_older_epochs_open_and_the_newest_seals() -> None:
    old = Vault({1: b"a" * 32}, os.urandom).seal(b"s", "c")
    both = Vault({1: b"a" * 32, 2: b"b" * 32}, os.urandom)
    assert both.open(old, "c") == b"s"
    assert both.seal(b"s", "c").startswith("2.")
    assert both.fingerprint("x", "c") == Vault({1: b"a" * 32}, os.urandom).fingerprint("x", "c")


def test_a_vault_without_a_key_is_none() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        Vault({}, os.urandom)


def test_a_password_is_no_option_of_a_command_line() -> None:
    for byte in range(256):
        password = handover.new_password(lambda count, byte=byte: bytes([byte]) * count)  # type: ignore[misc]  # bound early
        assert len(password) == 32
        assert password.isalnum()


def test_generated_text_has_its_alphabet_and_length() -> None:
    text = handover.new_text(os.urandom, 1000)
    assert len(text) == 1000
    assert set(text.encode()) <= set(handover._ALPHABET)
    assert len(set(text)) == 62
