"""Claims, acks and replies to and from bytes: what is taken, what is refused, and how small a refusal stays."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.mqtt.messages import REFUSAL_SIZE, Body, encode, measure, parse_ack, parse_claim
from provisioner.errors import ProvisionerError, Reason, Rejected, Unavailable
from provisioner.handover import Conversation, Keys
from provisioner.model import (
    BrokerAddress,
    Claim,
    Confirm,
    Coupling,
    Offer,
    Origin,
    Result,
    Secret,
    Taken,
    topic_rights,
)

HERE = Origin("127.0.0.1", 1, secure=True)
NONCE = "AAECAwQFBgcICQoLDA0ODw"
PROOF = "A" * 43
KEY = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
PLAIN = {"requestId": "r-1", "activationKey": KEY}
PROVED = {"requestId": "r-1", "nonce": NONCE, "proof": PROOF}
ACK = PROVED | {"generation": 1, "result": "stored"}
SEAL_TO = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc"
CONVERSATION = Conversation("factory", "dev-1", "r-1", NONCE, Keys(b"a" * 32, b"s" * 32))


def claim_from(payload: bytes, reply_limit: int | None = None) -> Claim:
    body = Body(payload)
    body.read(payload)
    return parse_claim(body, "factory", "dev-1", HERE, reply_limit)


def refusal(payload: bytes, kind: str = "claim") -> Rejected:
    with pytest.raises(Rejected) as caught:
        read_and_parse(payload, kind)
    return caught.value


def read_and_parse(payload: bytes, kind: str) -> None:
    body = Body(payload)
    body.read(payload)
    (parse_claim if kind == "claim" else parse_ack)(body, "factory", "dev-1", HERE)


@pytest.mark.parametrize("write", [lambda value: json.dumps(value).encode(), cbor2.dumps], ids=["json", "cbor"])
def test_every_member_of_a_claim_arrives(write: Any) -> None:
    device = {"serialNumber": "S1", "ports": 4, "ok": True, "volts": 3.5}
    claim = claim_from(
        write(PROVED | {"sealTo": SEAL_TO, "accept": ["x509", "password"], "maxReply": 2048, "device": device}), 1000
    )
    assert (claim.request_id, claim.seal_to, claim.accept) == ("r-1", SEAL_TO, ("x509", "password"))
    assert (claim.max_reply, dict(claim.device)) == (1000, device)
    assert claim.proof is not None
    assert claim.proof.proof == bytes(32)
    assert claim_from(write(PLAIN)).key == Secret(KEY)


def test_indefinite_lengths_of_cbor_are_taken() -> None:
    text = b"\xbf\x69requestId\x7f\x61r\x62-1\xff\x6dactivationKey\x78\x20" + KEY.encode() + b"\xff"
    assert claim_from(text).request_id == "r-1"


def test_a_csr_comes_as_pem_or_base64() -> None:
    pem = "-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"
    for text in (pem, "MAA="):
        assert claim_from(json.dumps(PROVED | {"csr": text}).encode()).csr == b"0\x00"


OTHER_JSON: list[Mapping[str, object]] = [
    {},
    {"activationKey": KEY},
    PLAIN | {"extra": 1},
    PLAIN | PROVED,
    PLAIN | {"nonce": NONCE},
    PLAIN | {"alg": "A256GCM"},
    PLAIN | {"sealTo": SEAL_TO},
    PLAIN | {"requestId": ""},
    PLAIN | {"requestId": "-r"},
    PLAIN | {"requestId": "r" * 65},
    PLAIN | {"requestId": "r\n"},
    PLAIN | {"requestId": 1},
    PLAIN | {"requestId": None},
    PLAIN | {"activationKey": "short"},
    PLAIN | {"activationKey": "x" * 129},
    PLAIN | {"activationKey": "with a space in the middle of it"},
    PLAIN | {"activationKey": "ä" * 32},
    PLAIN | {"accept": []},
    PLAIN | {"accept": "password"},
    PLAIN | {"accept": ["password", "password"]},
    PLAIN | {"accept": ["token"]},
    PLAIN | {"maxReply": 0},
    PLAIN | {"maxReply": "900"},
    PLAIN | {"maxReply": True},
    PLAIN | {"maxReply": 900.0},
    PLAIN | {"csr": None},
    PLAIN | {"csr": ""},
    PLAIN | {"csr": "not base64!"},
    PLAIN | {"device": []},
    PLAIN | {"device": {"a": None}},
    PLAIN | {"device": {"a": {"b": 1}}},
    PLAIN | {"device": {"a": [1]}},
    PLAIN | {"device": {str(n): n for n in range(33)}},
    PROVED | {"nonce": NONCE[:-1]},
    PROVED | {"nonce": "A" * 44},
    PROVED | {"nonce": NONCE[:-1] + "="},
    PROVED | {"proof": PROOF[:-1]},
    PROVED | {"proof": PROOF[:-1] + "B"},
    PROVED | {"proof": PROOF + "="},
    {"requestId": "r-1", "nonce": NONCE},
    {"requestId": "r-1", "proof": PROOF},
    PROVED | {"sealTo": ""},
    PROVED | {"sealTo": SEAL_TO[:-1]},
    PROVED | {"alg": ""},
    PROVED | {"alg": "A128GCM"},
    PROVED | {"alg": "A256GCM", "sealTo": SEAL_TO},
]

OTHER_CBOR: list[dict[Any, Any]] = [
    PLAIN | {"device": {"a": float("nan")}},
    PLAIN | {"device": {"a": None}},
    PLAIN | {"device": {"a": b"bytes"}},
    PLAIN | {"device": {"a": cbor2.undefined}},
    PLAIN | {"device": {"a": 2**70}},
    PLAIN | {"requestId": cbor2.CBORTag(35, "r-1")},
    PLAIN | {1: "one"},
    {"requestId": b"r-1", "activationKey": KEY},
]

MALFORMED: list[bytes] = [
    b"",
    b"null",
    b"[]",
    b"{",
    b'{"requestId":"r-1"',
    b"\xff\xfe",
    b'\xef\xbb\xbf{"requestId":"r-1"}',
    b'{"requestId":"r-1","requestId":"r-2","activationKey":"' + KEY.encode() + b'"}',
    b'{"requestId":"r-1","activationKey":"' + KEY.encode() + b'","device":{"a":1,"a":2}}',
    b'{"requestId":"r-1","activationKey":"' + KEY.encode() + b'","maxReply":NaN}',
    b'{"requestId":"r-1","activationKey":"' + KEY.encode() + b'","device":{"a":1e999}}',
    b"[" * 8000,
    b'{"a":' * 1500,
    b"9" * 8000,
    b'{"requestId":"\\ud800","activationKey":"' + KEY.encode() + b'"}',
    *(json.dumps(members).encode() for members in OTHER_JSON),
    *map(cbor2.dumps, OTHER_CBOR),
    cbor2.dumps(PLAIN) + b"\x00",
    cbor2.dumps(PLAIN)[:-1],
    b"\xa2\x61a\x01\x61a\x02",
    b"\xbf" * 4000,
    b"\xa1\x61a\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xa1\x61a\x7b\xff\xff\xff\xff\xff\xff\xff\xff",
]


@pytest.mark.parametrize("payload", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_claim_is_a_bad_request(payload: bytes) -> None:
    assert refusal(payload).reason is Reason.BAD_REQUEST


@pytest.mark.parametrize(
    "change",
    [
        {"generation": 0},
        {"generation": True},
        {"generation": 1.0},
        {"generation": 2**53},
        {"result": "done"},
        {"result": "progress"},
        {"result": "progress", "status": "COMPLETED"},
        {"status": "APPS_INSTALLED"},
        {"detail": 1},
        {"accept": ["password"]},
    ],
)
def test_a_malformed_ack_is_a_bad_request(change: dict[str, object]) -> None:
    assert refusal(json.dumps(ACK | change).encode(), "ack").reason is Reason.BAD_REQUEST


def test_acks_arrive() -> None:
    payload = json.dumps(ACK | {"result": "progress", "status": "CONF_UPDATED", "detail": "half"}).encode()
    body = Body(payload)
    body.read(payload)
    ack = parse_ack(body, "factory", "dev-1", HERE)
    assert (ack.generation, ack.result, ack.status) == (1, Result.PROGRESS, "CONF_UPDATED")


def test_a_claim_over_8_kib_is_too_large_before_it_is_parsed() -> None:
    found = refusal(b"{" + b" " * 8192)
    assert (found.reason, found.needed) == (Reason.TOO_LARGE, 8192)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda data: b"\xa3" + data)))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    body = Body(data)
    for parse in (parse_claim, parse_ack):
        try:
            body.read(data)
            parse(body, "factory", "dev-1", HERE)
        except Rejected as found:
            payload = encode(found, body, "0" * 8, os.urandom)
            assert len(payload) < REFUSAL_SIZE


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*PROVED, "sealTo", "alg", "csr", "accept", "device"]), JSON_VALUES), st.booleans()
)
def test_no_members_raise_anything_but_a_refusal(members: dict[str, object], as_cbor: bool) -> None:
    payload = cbor2.dumps(PROVED | members) if as_cbor else json.dumps(PROVED | members).encode()
    body = Body(payload)
    try:
        body.read(payload)
        parse_claim(body, "factory", "dev-1", HERE)
    except Rejected:
        pass


def make_offer(conversation: Conversation) -> Offer:
    return Offer(
        request_id="r-1",
        generation=1,
        server_time=1,
        confirm_before=2,
        confirm=Confirm.EITHER,
        coupling=Coupling.STRICT,
        client_id="dev-1",
        username="p.acme.dev-1.g1",
        password=Secret("s" * 32),
        account="acme",
        broker=BrokerAddress("mqtt://127.0.0.1:1883"),
        grant=topic_rights("acme", "dev-1"),
        configuration='{"interval":5}',
        conversation=conversation,
    )


@pytest.mark.parametrize("as_cbor", [False, True])
@pytest.mark.parametrize(
    "conversation",
    [
        CONVERSATION,
        replace(CONVERSATION, nonce=None),
        replace(CONVERSATION, alg="A256CTR-HS256"),
        replace(CONVERSATION, seal_to="L_5qYqJqPvyC_pxWXWxS0M1vj0XGp2Kl8jDJfR0vJ0w"),
    ],
    ids=["gcm", "plain", "ctr", "hpke"],
)
def test_the_size_of_an_offer_is_known_before_it_is_minted(conversation: Conversation, as_cbor: bool) -> None:
    body = Body(cbor2.dumps(PROVED) if as_cbor else b"{}")
    offer = make_offer(conversation)
    assert len(encode(offer, body, "t", os.urandom)) == measure(offer, body.encoding)


def test_an_offer_to_a_prover_shows_nothing_in_clear() -> None:
    payload = encode(make_offer(CONVERSATION), Body(b"{}"), "t", os.urandom)
    assert b"password" not in payload
    assert set(json.loads(payload)) == {"requestId", "nonce", "code", "reason", "alg", "sealed"}


def reply_to(outcome: Taken | ProvisionerError, payload: bytes = b"{}") -> dict[str, Any]:
    body = Body(payload)
    body.request_id, body.nonce = "r-1", NONCE
    members: dict[str, Any] = json.loads(encode(outcome, body, "trace", os.urandom))
    return members


def test_detail_and_proof_come_only_once_the_key_was_proved() -> None:
    stranger = Rejected(Reason.WAIT, "secret of the operator", step="mint", retry_after=2)
    assert reply_to(stranger) == {
        "requestId": "r-1",
        "nonce": NONCE,
        "code": 202,
        "reason": "wait",
        "retryAfter": 2,
        "step": "mint",
        "trace": "trace",
    }
    proved = Rejected(Reason.WAIT, "not yet", step="mint", retry_after=2)
    proved.conversation = CONVERSATION
    members = reply_to(proved)
    assert members["proof"] == CONVERSATION.prove(202, "wait", None, 2, forget=False)


def test_confirmed_says_forget_under_its_proof() -> None:
    members = reply_to(Taken(Reason.CONFIRMED, 3, CONVERSATION, forget=True))
    assert (members["code"], members["reason"], members["generation"], members["forget"]) == (200, "confirmed", 3, True)
    assert members["proof"] == CONVERSATION.prove(200, "confirmed", 3, None, forget=True)


def test_our_own_faults_are_unavailable_with_a_time() -> None:
    members = reply_to(Unavailable("disk on fire", retry_after=7))
    assert (members["code"], members["reason"], members["retryAfter"]) == (503, "unavailable", 7)
    assert "disk" not in str(members)


def test_a_refusal_drops_its_detail_before_it_grows_over_200_bytes() -> None:
    long = Rejected(Reason.UNSUPPORTED, "d" * 500, step="mint", supported=("password",))
    body = Body(b"{}")
    body.request_id = "r" * 64
    long.conversation = replace(CONVERSATION, nonce=None)
    payload = encode(long, body, "12345678", os.urandom)
    assert len(payload) < REFUSAL_SIZE
    assert json.loads(payload)["step"] == "mint"
