"""The test vectors of the wire contract, section 11, and what must not open."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.fleet.keys import Keys, NotForUs, OpeningKey, csr_hash, decode64, encode64

KEY = b"0123456789ABCDEFGHIJKLMNOPQRSTUV"
USER, CLIENT_ID = "factory", "00:1A:2B:3C:4D:5E"
REQUEST_ID, NONCE = "r-1", "AAECAwQFBgcICQoLDA0ODw"
KEYS = Keys.derive(KEY, USER, CLIENT_ID)

PLAINTEXT = b'{"requestId":"r-1","code":200,"reason":"offer"}'
GCM = "AAECAwQFBgcICQoLfmr8co_AX6H2-tuRpeCchJGAt9z8W9qDcMAodm4uBmR36lIGuFiZSADzNxNr8AMSxpVz3RdQJv3RrLC0azN1"
CTR = (
    "AAECAwQFBgcICQoLDA0OD354RZQQ1X0z-hr7fIrYpLryt2yT0Wb3w8Hiy5V--rbbGLUv1vldv6AYVG-6TF-tkib9z5Fwb585IxMo5LiNA1Gl2yng"
    "k9j2yMwzG4GWlxw"
)
HPKE = (
    "daSQaWXLmGEVDqa3WQRrYITVj5iDfo4BPeOI_ASc3CUQbqfZnoQGCBW3HVxjx86XXRTZAeDEnf_lKuyuJyhb9Ta1vknhI9T-JAEJfn0lQjwcQlNx"
    "i9vMpI6QrLBO8aM"
)
HPKE_MAC = "bKsSmvaXARZdXGBC9pk9XqUmVdnKOE6taEukUFwtJVc"
OPENING_KEY = OpeningKey(bytes(range(32)))


def test_derived_keys() -> None:
    assert KEYS.auth.hex() == "6544e901c659998fe388a9f15575c48b81cea9f7104626d2a765f91ce0d9ecb5"
    assert KEYS.seal.hex() == "3eab12dccd17465f70fd18f0cc1682026f469d0a60b1b0d531fcc53e77b16b47"
    assert KEYS._reply_key(REQUEST_ID, NONCE).hex() == (
        "7ee58aef05e804eb35a61b810607de0e752e13f8cf67b77f0940d579824a1c40"
    )
    assert KEYS._mac_key(REQUEST_ID, NONCE).hex() == "d6ab9c8425bf662e0574373941a465b428c9234fccee306bbb346dd3bb1655ea"


def test_keys_do_not_show_in_their_repr() -> None:
    assert KEYS.auth.hex()[:8] not in repr(KEYS)
    assert repr(KEYS) == "Keys(user='factory', client_id='00:1A:2B:3C:4D:5E')"


def test_proof_of_a_claim() -> None:
    assert KEYS.prove_claim(REQUEST_ID, NONCE) == "xlNjXy24s2M-Gr3jh4_3TJVe2En9KS91AlRNxemkgu8"


def test_proof_of_a_claim_with_every_part() -> None:
    proof = KEYS.prove_claim(
        REQUEST_ID, NONCE, seal_to=encode64(b"\7" * 32), csr_hash="ab" * 32, accept=("password", "x509")
    )
    assert proof == "xa-qLwcoLo7UNaiiUbUHs5ZHztX_YlKhGG0tqPujTHU"


def test_proof_of_an_ack() -> None:
    assert KEYS.prove_ack(REQUEST_ID, NONCE, 1, "stored") == "5gbqxvh9bN-BbMgjP-AIPo6ktRufHYZunPrltejGwCY"


def test_proof_of_a_reply() -> None:
    proof = "gbzcgRzp0-Y9wlT21T-1_zlCTuwx-To5ZbLQLB7g2Lg"
    KEYS.check_reply(proof, REQUEST_ID, NONCE, 200, "confirmed", generation=1)
    with pytest.raises(NotForUs):
        KEYS.check_reply(proof, REQUEST_ID, NONCE, 200, "confirmed", generation=1, forget=True)
    with pytest.raises(NotForUs):
        KEYS.check_reply(proof, REQUEST_ID, NONCE, 200, "confirmed", generation=1, retry_after=5)


def test_hash_of_a_csr_is_lower_case_hex() -> None:
    assert csr_hash(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_opening_gcm() -> None:
    assert KEYS.open_gcm(GCM, REQUEST_ID, NONCE) == PLAINTEXT
    assert json.loads(PLAINTEXT)["reason"] == "offer"


def test_opening_ctr() -> None:
    assert KEYS.open_ctr(CTR, REQUEST_ID, NONCE) == PLAINTEXT


def test_opening_hpke() -> None:
    assert KEYS.open_hpke(HPKE, HPKE_MAC, REQUEST_ID, NONCE, OPENING_KEY) == PLAINTEXT


def test_hpke_of_somebody_without_the_activation_key_is_not_opened() -> None:
    with pytest.raises(NotForUs):
        KEYS.open_hpke(HPKE, encode64(bytes(32)), REQUEST_ID, NONCE, OPENING_KEY)


@pytest.mark.parametrize(("request_id", "nonce"), [("r-2", NONCE), (REQUEST_ID, NONCE[:-1] + "A")])
def test_a_seal_for_another_message_does_not_open(request_id: str, nonce: str) -> None:
    attempts: tuple[Callable[[], bytes], ...] = (
        lambda: KEYS.open_gcm(GCM, request_id, nonce),
        lambda: KEYS.open_ctr(CTR, request_id, nonce),
        lambda: KEYS.open_hpke(HPKE, HPKE_MAC, request_id, nonce, OPENING_KEY),
    )
    for attempt in attempts:
        with pytest.raises(NotForUs):
            attempt()


def test_a_seal_for_another_device_does_not_open() -> None:
    other = Keys.derive(KEY, USER, "00:1A:2B:3C:4D:5F")
    with pytest.raises(NotForUs):
        other.open_gcm(GCM, REQUEST_ID, NONCE)


@given(st.text(max_size=200) | st.binary(max_size=150).map(encode64))
def test_noise_never_opens_and_raises_nothing_else(noise: str) -> None:
    attempts: tuple[Callable[[], object], ...] = (
        lambda: KEYS.open_gcm(noise, REQUEST_ID, NONCE),
        lambda: KEYS.open_ctr(noise, REQUEST_ID, NONCE),
        lambda: KEYS.open_hpke(noise, noise, REQUEST_ID, NONCE, OPENING_KEY),
        lambda: KEYS.open_hpke(HPKE, noise, REQUEST_ID, NONCE, OPENING_KEY),
        lambda: KEYS.check_reply(noise, REQUEST_ID, NONCE, 200, "confirmed"),
    )
    for attempt in attempts:
        with pytest.raises(NotForUs):
            attempt()


@given(st.binary(max_size=64))
def test_base64url_round_trip(octets: bytes) -> None:
    assert decode64(encode64(octets)) == octets


@pytest.mark.parametrize("text", ["AA==", "A+/A", "A", "A A", "Ä", "AA\n"])
def test_only_base64url_without_padding_is_read(text: str) -> None:
    with pytest.raises(NotForUs):
        decode64(text)
