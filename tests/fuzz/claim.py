"""A claim, JSON or CBOR: any bytes.

1. Nothing is raised but `Rejected`, with a reason of the parser's; and to everything there is a reply that can be read.
2. What is taken has nothing in it that the contract's section 5 forbids: looked at by another decoder's eyes.
"""

from __future__ import annotations

import json
from typing import Any

import cbor2

from broker.mqtt import messages
from broker.mqtt.messages import Body
from provisioner.errors import Reason, Rejected
from provisioner.model import Claim, Origin
from tests.hostile import grammar
from tests.hostile.payloads import GOOD_CLAIMS

SEEDS = [*GOOD_CLAIMS, *(cbor2.dumps(json.loads(one)) for one in GOOD_CLAIMS)]
TOKENS = [
    b'"requestId"', b'"activationKey"', b'"nonce"', b'"proof"', b'"sealTo"', b'"alg"', b'"csr"', b'"accept"',
    b'"maxReply"', b'"device"', b'"password"', b'"x509"', b'"A256GCM"', b"NaN", b"1e999", b"null", b"true", b"\\ud800",
    b"\\u0000", b"\xef\xbb\xbf", b"{}", b"[]", b",", b":", b"\xbf", b"\xff", b"\xa1", b"\x7f", b"\x9f", b"\xc0",
    b"\xd8\x1c", b"\xf6", b"\xf7", b"\xf9\x7e\x00", b"\xfb", b"\x1b", b"\x69requestId", b"-----BEGIN",
]  # fmt: skip
_ORIGIN = Origin("192.0.2.1", 1, secure=True)
_PARSERS_REASONS = {Reason.BAD_REQUEST, Reason.TOO_LARGE}
_KEYS = {"requestId", "activationKey", "nonce", "proof", "sealTo", "alg", "csr", "accept", "maxReply", "device"}


def try_one(data: bytes) -> None:
    """Read a claim."""
    body = Body(data)
    try:
        body.read(data)
        claim = messages.parse_claim(body, "factory", "dev-1", _ORIGIN)
    except Rejected as refusal:
        check_refusal(refusal, body)
        return
    check_body(data, _KEYS)
    _check_claim(claim)


def check_refusal(refusal: Rejected, body: Body) -> None:
    """A refusal is one of the parser's, and can be written and read."""
    assert refusal.reason in _PARSERS_REASONS, refusal.reason
    payload = messages.encode(refusal, body, "0" * 8, bytes)
    assert len(payload) < messages.REFUSAL_SIZE, payload
    said = cbor2.loads(payload) if body.encoding == "cbor" else json.loads(payload)
    assert said["reason"] == refusal.reason


def check_body(data: bytes, allowed: set[str]) -> None:
    """What was taken keeps to the form of section 5."""
    assert len(data) <= 8192
    members: Any = cbor2.loads(data) if 0xA0 <= data[0] <= 0xBF else json.loads(data.decode("utf-8"))
    assert isinstance(members, dict)
    assert set(members) <= allowed, set(members) - allowed
    assert None not in members.values()
    assert grammar.is_identifier(members["requestId"], 64)
    if "activationKey" in members:
        assert grammar.is_key(members["activationKey"])
        assert not {"nonce", "proof"} & set(members)
    elif {"nonce", "proof"} & set(members):
        assert grammar.is_nonce(members["nonce"])
        assert grammar.is_base64url(members["proof"], 32)


def _check_claim(claim: Claim) -> None:
    assert set(claim.accept) <= {"password", "x509"}
    assert len(set(claim.accept)) == len(claim.accept)
    assert claim.alg in ("", "A256GCM", "A256CTR-HS256")
    assert not claim.seal_to or (grammar.is_base64url(claim.seal_to, 32) and claim.proof is not None)
    assert claim.csr is None or 0 < len(claim.csr) <= 4096
    assert claim.max_reply is None or 1 <= claim.max_reply < 2**53
    assert len(claim.device) <= 32
    for name, value in claim.device.items():
        assert isinstance(value, str | bool | int | float)
        assert value == value, "NaN"  # noqa: PLR0124  that is how one knows it
        assert value not in (float("inf"), float("-inf"))
        (name + str(value)).encode()
