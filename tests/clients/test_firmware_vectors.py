"""docs/firmware.md, computed: each of its test vectors, by the service's own code and by two that share none with it.

The page is read line by line and every line is used, so a vector that nobody checks cannot be added.
"""

import re

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from broker.fleet.keys import Keys, NotForUs, OpeningKey, decode64, encode64
from provisioner import handover
from tests.e2e import independent as wire
from tests.e2e.program import ROOT

PAGE = (ROOT / "docs" / "firmware.md").read_text(encoding="utf-8")
BLOCK = re.findall(r"(?ms)^```vectors\n(.*?)^```$", PAGE)[0]
LINES: dict[str, str] = {}
for line in filter(None, BLOCK.splitlines()):
    name, _, value = line.rpartition("  ")
    LINES[name.strip()] = value

KEY, USER, CLIENT, REQUEST, NONCE = (LINES[name] for name in ("A", "user", "clientId", "requestId", "nonce"))
OFFER = LINES["offer"].encode()
SEALED = ("A256GCM", "A256CTR-HS256", "HPKE")
PROOFS = [name for name in LINES if name.partition(" ")[0] in {"claim", "ack", "reply"}]

independent = wire.Keys.derive(KEY, USER, CLIENT)
fleet = Keys.derive(KEY.encode(), USER, CLIENT)
PRIVATE = bytes.fromhex(LINES["sealTo private"])


def parts_of(name: str) -> tuple[str, dict[str, str]]:
    """`ack generation=1;result=stored` as a kind and its parts."""
    kind, _, rest = name.partition(" ")
    pairs = (part.partition("=") for part in rest.split(";") if part)
    return kind, {key: value for key, _, value in pairs}


def test_every_line_is_checked_here() -> None:
    inputs = {"A", "user", "clientId", "requestId", "nonce", "offer", "sealTo private", "HPKE mac"}
    assert set(LINES) == inputs | {"K_auth", "K_seal", "K_reply", "K_mac"} | set(PROOFS) | set(SEALED)
    assert len(PROOFS) == 11


def test_the_keys() -> None:
    derived = (independent.auth, independent.seal, independent.reply(REQUEST, NONCE), independent.mac(REQUEST, NONCE))
    assert [key.hex() for key in derived] == [LINES[f"K_{name}"] for name in ("auth", "seal", "reply", "mac")]
    assert [fleet.auth.hex(), fleet.seal.hex()] == [LINES["K_auth"], LINES["K_seal"]]


@pytest.mark.parametrize("name", PROOFS)
def test_the_proofs(name: str) -> None:
    kind, parts = parts_of(name)
    if kind == "claim":
        accept = parts.get("accept", "").split(",") if "accept" in parts else []
        more: dict[str, str] = {
            "seal_to": parts.get("sealTo", ""),
            "csr_hash": parts.get("csrHash", ""),
            "alg": parts.get("alg", ""),
        }
        assert independent.claim_proof(REQUEST, NONCE, accept=accept, **more) == LINES[name]
        assert fleet.prove_claim(REQUEST, NONCE, accept=accept, **more) == LINES[name]
    elif kind == "ack":
        said = (int(parts["generation"]), parts["result"], parts.get("status", ""))
        assert independent.ack_proof(REQUEST, NONCE, *said) == LINES[name]
        assert fleet.prove_ack(REQUEST, NONCE, *said) == LINES[name]
    else:
        numbers: dict[str, int] = {key: int(parts[key]) for key in ("generation", "retryAfter") if key in parts}
        body: dict[str, object] = {
            "requestId": REQUEST,
            "code": int(parts["code"]),
            "reason": parts["reason"],
            **numbers,
        }
        forget = parts.get("forget") == "true"
        assert independent.reply_proof(NONCE, body | ({"forget": True} if forget else {})) == LINES[name]
        fleet.check_reply(
            LINES[name],
            REQUEST,
            NONCE,
            int(parts["code"]),
            parts["reason"],
            generation=numbers.get("generation"),
            retry_after=numbers.get("retryAfter"),
            forget=forget,
        )


def test_the_sealed_replies() -> None:
    sealed = {name: LINES[name] for name in SEALED}
    assert wire.open_gcm(independent, REQUEST, NONCE, sealed["A256GCM"]) == OFFER
    assert wire.open_ctr(independent, REQUEST, NONCE, sealed["A256CTR-HS256"]) == OFFER
    private = X25519PrivateKey.from_private_bytes(PRIVATE)
    by_hand = wire.open_hpke(independent, REQUEST, NONCE, sealed["HPKE"], LINES["HPKE mac"], private=private)
    assert by_hand == OFFER
    assert fleet.open_gcm(sealed["A256GCM"], REQUEST, NONCE) == OFFER
    assert fleet.open_ctr(sealed["A256CTR-HS256"], REQUEST, NONCE) == OFFER
    assert fleet.open_hpke(sealed["HPKE"], LINES["HPKE mac"], REQUEST, NONCE, OpeningKey(PRIVATE)) == OFFER


def test_the_service_writes_what_the_page_says() -> None:
    keys = handover.derive(KEY, USER, CLIENT)
    assert (keys.auth, keys.seal) == (independent.auth, independent.seal)
    for name in ("A256GCM", "A256CTR-HS256"):
        conversation = handover.Conversation(USER, CLIENT, REQUEST, NONCE, keys, alg=name)
        assert conversation.seal(OFFER, lambda size: bytes(range(size))) == {"alg": name, "sealed": LINES[name]}
    proof = conversation.prove(202, "wait", None, 7, forget=False)
    assert proof == LINES["reply code=202;reason=wait;retryAfter=7"]


@pytest.mark.parametrize("name", ["A256GCM", "A256CTR-HS256"])
def test_a_sealed_reply_with_one_bit_changed_does_not_open(name: str) -> None:
    octets = bytearray(decode64(LINES[name]))
    octets[20] ^= 1
    with pytest.raises(NotForUs):
        (fleet.open_gcm if name == "A256GCM" else fleet.open_ctr)(encode64(bytes(octets)), REQUEST, NONCE)


def test_the_private_key_of_the_page_belongs_to_its_claim() -> None:
    public = OpeningKey(PRIVATE).public
    assert f"claim sealTo={public}" in PROOFS


def test_the_page_lists_every_reason() -> None:
    table = PAGE.partition("| code | reason | do |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z-]+)`", table)) >= set(wire.REASONS)
