"""A provisioner of a few lines for the device tests: it answers as told, sealed and proved by the contract."""

import hmac
import json
import os
from collections.abc import Mapping
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from broker.fleet.keys import Keys, decode64, encode64

KEY = "0123456789ABCDEFGHIJKLMNOPQRSTUV"
USER = "factory"
CLIENT_ID = "00:1A:2B:3C:4D:5E"
KEYS = Keys.derive(KEY.encode(), USER, CLIENT_ID)
_AD = f"prov/v1 reply|{USER}|{CLIENT_ID}".encode()
_BODY: dict[str, Any] = {
    "code": 200,
    "reason": "offer",
    "serverTime": 1795377600000,
    "confirmBefore": 1795381200000,
    "topics": {"publish": [f"acme/{CLIENT_ID}/#"], "subscribe": [f"acme/{CLIENT_ID}/#"]},
    "configuration": {},
}

Message = Mapping[str, Any]


def read(payload: bytes) -> dict[str, Any]:
    """Read what a device sent, in either encoding."""
    found = cbor2.loads(payload) if payload[0] >= 0xA0 else json.loads(payload)
    assert isinstance(found, dict)
    return found


def write(message: Message, *, cbor: bool = False) -> bytes:
    return cbor2.dumps(message) if cbor else json.dumps(message).encode()


def offer_body(
    request_id: str,
    *,
    generation: int = 1,
    confirm: str = "either",
    url: str = "mqtt://127.0.0.1:1883",
    ca: str | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """The plain offer; `changes` replace members of `credentials`."""
    credentials = {
        "type": "password",
        "coupling": "STRICT",
        "clientId": CLIENT_ID,
        "username": f"p.acme.{CLIENT_ID}.g{generation}",
        "password": f"secret-{generation}",
    }
    body = {"requestId": request_id, "generation": generation, "confirm": confirm}
    broker = {"url": url, "account": "acme"} | ({"ca": ca} if ca else {})
    return {**_BODY, **body, "credentials": credentials | changes, "broker": broker}


def offer(claim: Message, *, cbor: bool = False, keys: Keys = KEYS, alg: str | None = None, **changes: Any) -> bytes:
    """Answer a claim with an offer, sealed as the claim asks; `alg` seals it otherwise."""
    body = offer_body(claim["requestId"], **changes)
    if "activationKey" in claim:
        return write(body, cbor=cbor)
    plaintext = write(body, cbor=cbor)
    alg = alg or ("HPKE-X25519-SHA256-A256GCM" if "sealTo" in claim else claim.get("alg", "A256GCM"))
    head = {"requestId": claim["requestId"], "nonce": claim["nonce"], "code": 200, "reason": "offer", "alg": alg}
    return write(head | _seal(plaintext, alg, claim, keys), cbor=cbor)


def _seal(plaintext: bytes, alg: str, claim: Message, keys: Keys) -> dict[str, str]:
    reply_key = keys._reply_key(claim["requestId"], claim["nonce"])
    mac_key = keys._mac_key(claim["requestId"], claim["nonce"])
    if alg == "A256GCM":
        iv = os.urandom(12)
        return {"sealed": encode64(iv + AESGCM(reply_key).encrypt(iv, plaintext, _AD))}
    if alg == "A256CTR-HS256":
        iv = os.urandom(16)
        body = iv + Cipher(AES(reply_key), CTR(iv)).encryptor().update(plaintext)
        return {"sealed": encode64(body + hmac.digest(mac_key, _AD + b"|" + body, "sha256"))}
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    sealed = encode64(suite.encrypt(plaintext, X25519PublicKey.from_public_bytes(decode64(claim["sealTo"])), _AD))
    return {"sealed": sealed, "mac": encode64(hmac.digest(mac_key, sealed.encode(), "sha256"))}


CODES = {
    "confirmed": 200,
    "noted": 200,
    "wait": 202,
    "bad-request": 400,
    "denied": 401,
    "disabled": 403,
    "not-active": 403,
    "already-provisioned": 409,
    "superseded": 409,
    "expired": 410,
    "abandoned": 410,
    "too-large": 413,
    "unsupported": 415,
    "bad-csr": 422,
    "slow-down": 429,
    "unavailable": 503,
}


def reply(message: Message, reason: str, *, proved: bool = True, cbor: bool = False, **parts: Any) -> bytes:
    """Answer a message with anything but an offer, proved unless told otherwise or in plain mode."""
    head = {key: message[key] for key in ("requestId", "nonce") if key in message}
    body = head | {"code": CODES[reason], "reason": reason} | parts
    if proved and "nonce" in message:
        said = (str(parts.get(key, "")) for key in ("generation", "retryAfter"))
        forget = "true" if parts.get("forget") else ""
        text = "|".join(("reply", head["requestId"], head["nonce"], str(CODES[reason]), reason, *said, forget))
        body["proof"] = encode64(hmac.digest(KEYS.auth, text.encode(), "sha256"))
    return write(body, cbor=cbor)
