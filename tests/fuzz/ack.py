"""An ack, JSON or CBOR: any bytes. The promises are those of `claim`, with section 8 in place of 5."""

from __future__ import annotations

import json

import cbor2

from broker.mqtt import messages
from broker.mqtt.messages import Body
from provisioner.errors import Rejected
from provisioner.model import PROGRESS, Ack, Origin, Result
from tests.fuzz import claim
from tests.fuzz.claim import check_body, check_refusal
from tests.hostile.payloads import GOOD_ACKS

SEEDS = [*GOOD_ACKS, *(cbor2.dumps(json.loads(one)) for one in GOOD_ACKS)]
TOKENS = [
    *claim.TOKENS, b'"generation"', b'"result"', b'"status"', b'"detail"', b'"stored"', b'"failed"', b'"progress"',
    b'"APPS_INSTALLING"', b'"CONF_UPDATED"', b"9007199254740993",
]  # fmt: skip
_ORIGIN = Origin("192.0.2.1", 1, secure=True)
_KEYS = {"requestId", "activationKey", "nonce", "proof", "generation", "result", "status", "detail"}


def try_one(data: bytes) -> None:
    """Read an ack."""
    body = Body(data)
    try:
        body.read(data)
        ack = messages.parse_ack(body, "factory", "dev-1", _ORIGIN)
    except Rejected as refusal:
        check_refusal(refusal, body)
        return
    check_body(data, _KEYS)
    _check_ack(ack)


def _check_ack(ack: Ack) -> None:
    assert 1 <= ack.generation < 2**53
    assert (ack.status is not None) is (ack.result is Result.PROGRESS)
    assert ack.status is None or ack.status in PROGRESS
