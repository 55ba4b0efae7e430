"""The client of these tests agrees with section 11 of the contract before it judges anybody else."""

import hashlib
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.e2e import independent as wire
from tests.e2e import packets as mqtt

KEY = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
USER, CLIENT, REQUEST, NONCE = "factory", "00:1A:2B:3C:4D:5E", "r-1", "AAECAwQFBgcICQoLDA0ODw"
PLAINTEXT = b'{"requestId":"r-1","code":200,"reason":"offer"}'
KEYS = wire.Keys.derive(KEY, USER, CLIENT)
PRIVATE = X25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_the_four_keys_are_those_of_the_contract() -> None:
    derived = [KEYS.auth, KEYS.seal, KEYS.reply(REQUEST, NONCE), KEYS.mac(REQUEST, NONCE)]
    assert [key.hex() for key in derived] == [
        "6544e901c659998fe388a9f15575c48b81cea9f7104626d2a765f91ce0d9ecb5",
        "3eab12dccd17465f70fd18f0cc1682026f469d0a60b1b0d531fcc53e77b16b47",
        "7ee58aef05e804eb35a61b810607de0e752e13f8cf67b77f0940d579824a1c40",
        "d6ab9c8425bf662e0574373941a465b428c9234fccee306bbb346dd3bb1655ea",
    ]


def test_the_proofs_are_those_of_the_contract() -> None:
    seal_to = wire.b64(b"\x07" * 32)
    assert seal_to == "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc"
    assert KEYS.claim_proof(REQUEST, NONCE) == "xlNjXy24s2M-Gr3jh4_3TJVe2En9KS91AlRNxemkgu8"
    full = KEYS.claim_proof(REQUEST, NONCE, seal_to=seal_to, csr_hash="ab" * 32, accept=["password", "x509"])
    assert full == "xa-qLwcoLo7UNaiiUbUHs5ZHztX_YlKhGG0tqPujTHU"
    assert KEYS.ack_proof(REQUEST, NONCE, 1, "stored") == "5gbqxvh9bN-BbMgjP-AIPo6ktRufHYZunPrltejGwCY"
    confirmed = {"requestId": REQUEST, "code": 200, "reason": "confirmed", "generation": 1}
    assert KEYS.reply_proof(NONCE, confirmed) == "gbzcgRzp0-Y9wlT21T-1_zlCTuwx-To5ZbLQLB7g2Lg"


def test_forget_and_retry_after_are_proved_too() -> None:
    plain = {"requestId": REQUEST, "code": 200, "reason": "confirmed"}
    proofs = {
        KEYS.reply_proof(NONCE, plain | more) for more in ({}, {"forget": True}, {"retryAfter": 1}, {"generation": 1})
    }
    assert len(proofs) == 4
    assert KEYS.reply_proof(NONCE, plain | {"forget": False}) == KEYS.reply_proof(NONCE, plain)


def test_sealed_replies_of_the_contract_open() -> None:
    gcm = "AAECAwQFBgcICQoLfmr8co_AX6H2-tuRpeCchJGAt9z8W9qDcMAodm4uBmR36lIGuFiZSADzNxNr8AMSxpVz3RdQJv3RrLC0azN1"
    ctr = (
        "AAECAwQFBgcICQoLDA0OD354RZQQ1X0z-hr7fIrYpLryt2yT0Wb3w8Hiy5V--rbbGLUv1vldv6AYVG-6TF-tkib9z5Fwb585"
        "IxMo5LiNA1Gl2yngk9j2yMwzG4GWlxw"
    )
    sealed = (
        "daSQaWXLmGEVDqa3WQRrYITVj5iDfo4BPeOI_ASc3CUQbqfZnoQGCBW3HVxjx86XXRTZAeDEnf_lKuyuJyhb9Ta1vknhI9T-"
        "JAEJfn0lQjwcQlNxi9vMpI6QrLBO8aM"
    )
    tag = "bKsSmvaXARZdXGBC9pk9XqUmVdnKOE6taEukUFwtJVc"
    assert wire.open_gcm(KEYS, REQUEST, NONCE, gcm) == PLAINTEXT
    assert wire.open_ctr(KEYS, REQUEST, NONCE, ctr) == PLAINTEXT
    assert wire.open_hpke(KEYS, REQUEST, NONCE, sealed, tag, private=PRIVATE) == PLAINTEXT


def test_a_sealed_reply_with_another_mac_does_not_open() -> None:
    with pytest.raises(mqtt.ContractError):
        wire.open_hpke(KEYS, REQUEST, NONCE, "AAAA", wire.b64(bytes(32)), private=PRIVATE)
    with pytest.raises(mqtt.ContractError):
        wire.open_ctr(KEYS, REQUEST, NONCE, wire.b64(bytes(80)))


def test_hpke_by_hand_opens_what_another_implementation_sealed() -> None:
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    sealed = suite.encrypt(PLAINTEXT, PRIVATE.public_key(), KEYS.about)
    assert wire.hpke_open(PRIVATE, sealed[:32], sealed[32:], KEYS.about) == PLAINTEXT


def test_base64url_with_padding_or_of_the_other_alphabet_is_refused() -> None:
    assert wire.unb64("-_8") == b"\xfb\xff"
    for wrong in ("-_8=", "+/8", "-_8\n"):
        with pytest.raises(mqtt.ContractError):
            wire.unb64(wrong)


def _device(mode: wire.Mode, wire_format: wire.Wire = "json") -> wire.IndependentDevice:
    return wire.IndependentDevice(lambda: ("127.0.0.1", 1), USER, "unused", CLIENT, KEY, mode=mode, wire=wire_format)


def _message(body: dict[str, Any]) -> mqtt.Message:
    return mqtt.Message(
        f"prov/v1/{USER}/{CLIENT}/reply",
        wire.encode(body, "json"),
        1,
        retain=False,
        duplicate=False,
        packet_id=1,
        size=99,
    )


SENT = {"requestId": REQUEST, "nonce": NONCE}
GOOD = {"requestId": REQUEST, "nonce": NONCE, "code": 409, "reason": "already-provisioned"}


def test_a_proved_refusal_is_taken() -> None:
    body = GOOD | {"proof": KEYS.reply_proof(NONCE, GOOD)}
    assert _device("proof").read(_message(body), SENT).proved


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(GOOD, id="without the proof"),
        pytest.param(GOOD | {"proof": wire.b64(bytes(32))}, id="with another proof"),
        pytest.param(GOOD | {"nonce": "B" * 22, "proof": KEYS.reply_proof(NONCE, GOOD)}, id="to another nonce"),
        pytest.param(GOOD | {"requestId": "r-2", "proof": KEYS.reply_proof(NONCE, GOOD)}, id="to another claim"),
        pytest.param(GOOD | {"code": 410, "proof": KEYS.reply_proof(NONCE, GOOD)}, id="with another code"),
        pytest.param(
            {"requestId": REQUEST, "nonce": NONCE, "code": 429, "reason": "slow-down"}, id="without a time to wait"
        ),
        pytest.param(
            {"requestId": REQUEST, "nonce": NONCE, "code": 401, "reason": "denied", "detail": "x"},
            id="with too much detail",
        ),
    ],
)
def test_a_reply_that_breaks_the_contract_is_noticed(body: dict[str, Any]) -> None:
    with pytest.raises(mqtt.ContractError):
        _device("proof").read(_message(body), SENT)


@pytest.mark.parametrize("mode", ["plain", "proof", "ctr", "hpke"])
def test_a_claim_says_what_its_mode_needs_and_no_more(mode: wire.Mode) -> None:
    wanted = {
        "plain": {"requestId", "activationKey"},
        "proof": {"requestId", "nonce", "proof"},
        "ctr": {"requestId", "nonce", "proof", "alg"},
        "hpke": {"requestId", "nonce", "proof", "sealTo"},
    }
    assert set(_device(mode).claim_body()) == wanted[mode]


def test_a_cbor_claim_is_one_map_of_text() -> None:
    payload = wire.encode(_device("proof").claim_body(), "cbor")
    assert 0xA0 <= payload[0] <= 0xBF
    assert all(isinstance(value, str) for value in cbor2.loads(payload).values())


def test_the_hash_of_a_csr_is_part_of_the_proof() -> None:
    device = _device("proof")
    digest = hashlib.sha256(b"der").hexdigest()
    body = device.claim_body(csr="x", csr_hash=digest, accept=["x509"])
    assert body["proof"] == KEYS.claim_proof(REQUEST, body["nonce"], csr_hash=digest, accept=["x509"])
