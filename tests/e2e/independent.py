"""
A device written from the wire contract alone.

Nothing here comes from the program under test: the keys and the sealed replies are made from sections 5 to 8 of the
contract, HPKE from RFC 9180, the packets (`packets.py`) from the MQTT specifications. What both sides understand in the
same way is therefore in the contract, and not merely in a shared function.

1. An `IndependentDevice` is honest. It checks every reply against the contract and raises `ContractError` where a real
   device would have to be lucky.
2. Nobody here retries behind a test's back; only `provision` does, as section 10 says.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import math
import secrets
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from types import TracebackType
from typing import Any, Literal, Self

import cbor2
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.e2e.packets import Address, ContractError, Message, Session

Mode = Literal["plain", "proof", "ctr", "hpke"]
Wire = Literal["json", "cbor"]
Version = Literal[4, 5]


# --- keys, proofs and sealed replies (sections 6 and 7) ---------------------------------------------------------------


def b64(value: bytes) -> str:
    """Encode base64url without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def unb64(value: str) -> bytes:
    """Decode base64url without padding; padding and any other alphabet are refused."""
    if not value.isascii() or any(not (sign.isalnum() or sign in "-_") for sign in value):
        raise ContractError("that is no unpadded base64url")
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))


def mac(key: bytes, *parts: str | bytes) -> bytes:
    """HMAC-SHA256 over `parts` joined by a vertical bar."""
    joined = b"|".join(part.encode() if isinstance(part, str) else part for part in parts)
    return hmac.new(key, joined, hashlib.sha256).digest()


def fresh_nonce() -> str:
    """22 characters nobody used before."""
    return b64(secrets.token_bytes(16))


@dataclass(frozen=True)
class Keys:
    """What a device derives from its activation key."""

    user: str
    client_id: str
    auth: bytes
    seal: bytes

    @classmethod
    def derive(cls, activation_key: str, user: str, client_id: str) -> Self:
        """Derive both long-lived keys."""
        root = activation_key.encode()
        return cls(
            user, client_id, mac(root, "prov/v1 auth", user, client_id), mac(root, "prov/v1 seal", user, client_id)
        )

    @property
    def about(self) -> bytes:
        """The associated data of everything sealed for this device."""
        return f"prov/v1 reply|{self.user}|{self.client_id}".encode()

    def reply(self, request_id: str, nonce: str) -> bytes:
        """K_reply of one exchange."""
        return mac(self.seal, "reply", request_id, nonce)

    def mac(self, request_id: str, nonce: str) -> bytes:
        """K_mac of one exchange."""
        return mac(self.seal, "mac", request_id, nonce)

    def claim_proof(
        self,
        request_id: str,
        nonce: str,
        *,
        seal_to: str = "",
        csr_hash: str = "",
        accept: Sequence[str] = (),
        alg: str = "",
    ) -> str:
        """The proof of a claim."""
        return b64(mac(self.auth, "request", request_id, nonce, seal_to, csr_hash, ",".join(accept), alg))

    def ack_proof(self, request_id: str, nonce: str, generation: int, result: str, status: str = "") -> str:
        """The proof of an ack."""
        return b64(mac(self.auth, "ack", request_id, nonce, str(generation), result, status))

    def reply_proof(self, nonce: str, body: Mapping[str, Any]) -> str:
        """The proof a reply with this body must carry."""
        said = [str(body[key]) if key in body else "" for key in ("code", "reason", "generation", "retryAfter")]
        return b64(
            mac(
                self.auth,
                "reply",
                str(body.get("requestId", "")),
                nonce,
                *said,
                "true" if body.get("forget") is True else "",
            )
        )


def open_gcm(keys: Keys, request_id: str, nonce: str, sealed: str) -> bytes:
    """Open `A256GCM`."""
    raw = unb64(sealed)
    return AESGCM(keys.reply(request_id, nonce)).decrypt(raw[:12], raw[12:], keys.about)


def open_ctr(keys: Keys, request_id: str, nonce: str, sealed: str) -> bytes:
    """Open `A256CTR-HS256`: the tag first, the text after."""
    raw = unb64(sealed)
    tag = hmac.new(keys.mac(request_id, nonce), keys.about + b"|" + raw[:-32], hashlib.sha256).digest()
    if not hmac.compare_digest(tag, raw[-32:]):
        raise ContractError("the tag of a sealed reply is wrong")
    stream = Cipher(algorithms.AES(keys.reply(request_id, nonce)), modes.CTR(raw[:16])).decryptor()
    return stream.update(raw[16:-32]) + stream.finalize()


_KEM = b"KEM" + bytes.fromhex("0020")
_HPKE = b"HPKE" + bytes.fromhex("0020 0001 0002")


def _extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
    return hmac.new(salt or bytes(32), b"HPKE-v1" + suite + label + secret, hashlib.sha256).digest()


def _expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    # Nothing longer than one block of SHA-256 is ever asked for here.
    return hmac.new(
        key, struct.pack(">H", size) + b"HPKE-v1" + suite + label + info + b"\x01", hashlib.sha256
    ).digest()[:size]


def open_hpke(keys: Keys, request_id: str, nonce: str, sealed: str, tag: str, *, private: X25519PrivateKey) -> bytes:
    """Open `HPKE-X25519-SHA256-A256GCM` after its `mac` was found right."""
    if not hmac.compare_digest(mac(keys.mac(request_id, nonce), sealed), unb64(tag)):
        raise ContractError("the mac of a sealed reply is wrong")
    raw = unb64(sealed)
    return hpke_open(private, raw[:32], raw[32:], keys.about)


def hpke_open(private: X25519PrivateKey, enc: bytes, ciphertext: bytes, info: bytes) -> bytes:
    """RFC 9180, base mode, single shot, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, empty associated data."""
    shared = private.exchange(X25519PublicKey.from_public_bytes(enc))
    secret = _expand(_KEM, _extract(_KEM, b"", b"eae_prk", shared), b"shared_secret", enc + public_bytes(private), 32)
    context = b"\x00" + _extract(_HPKE, b"", b"psk_id_hash", b"") + _extract(_HPKE, b"", b"info_hash", info)
    schedule = _extract(_HPKE, secret, b"secret", b"")
    key = _expand(_HPKE, schedule, b"key", context, 32)
    return AESGCM(key).decrypt(_expand(_HPKE, schedule, b"base_nonce", context, 12), ciphertext, b"")


def public_bytes(private: X25519PrivateKey) -> bytes:
    """The 32 bytes of the public key."""
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


# --- messages (sections 5, 7 and 8) -----------------------------------------------------------------------------------


def encode(body: Mapping[str, Any], wire: Wire) -> bytes:
    """Write a claim or an ack."""
    return cbor2.dumps(dict(body)) if wire == "cbor" else json.dumps(body, separators=(",", ":")).encode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ContractError("a reply has a key twice")
    return dict(pairs)


def decode(payload: bytes, wire: Wire) -> dict[str, Any]:
    """Read a reply; in CBOR it has the types JSON has."""
    if wire == "json":
        found = json.loads(payload.decode(), object_pairs_hook=_once)
    else:
        stream = BytesIO(payload)
        found = cbor2.load(stream)
        if stream.read():
            raise ContractError("bytes after the CBOR map")
        _check_plain_types(found)
    if not isinstance(found, dict):
        raise ContractError("a reply is a map")
    return found


def _check_plain_types(value: object) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ContractError("a CBOR key is no text")
            _check_plain_types(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_plain_types(inner)
    elif not isinstance(value, str | bool | int) and not (isinstance(value, float) and math.isfinite(value)):
        raise ContractError(f"{type(value).__name__} is no type of the contract")


REASONS = {
    "offer": 200, "confirmed": 200, "noted": 200, "wait": 202, "bad-request": 400, "denied": 401, "disabled": 403,
    "not-active": 403, "already-provisioned": 409, "superseded": 409, "expired": 410, "abandoned": 410,
    "too-large": 413, "unsupported": 415, "bad-csr": 422, "slow-down": 429, "unavailable": 503,
}  # fmt: skip
"""Section 7: every reason and its code."""

NEEDS_KEY = {
    "confirmed",
    "noted",
    "wait",
    "disabled",
    "not-active",
    "already-provisioned",
    "superseded",
    "expired",
    "abandoned",
}
"""Reasons that tell something about a request, so that nobody hears them before the key was proved."""

NEEDS_RETRY = {"wait", "not-active", "slow-down", "unavailable"}

_REPLY_TYPES: dict[str, type] = {
    "requestId": str, "nonce": str, "code": int, "reason": str, "retryAfter": int, "generation": int, "forget": bool,
    "detail": str, "step": str, "trace": str, "proof": str, "alg": str, "sealed": str, "mac": str, "needed": int,
    "supported": list,
}  # fmt: skip


@dataclass(frozen=True)
class Reply:
    """A reply that kept to the contract."""

    message: Message
    body: dict[str, Any]
    proved: bool
    """Whether a valid `proof` came with it, or it was sealed."""
    offer: dict[str, Any] | None = None
    """The offer inside, opened if it was sealed."""

    @property
    def code(self) -> int:
        """The number."""
        return int(self.body["code"])

    @property
    def reason(self) -> str:
        """The word."""
        return str(self.body["reason"])

    @property
    def retry_after(self) -> int:
        """Seconds until another try makes sense."""
        return int(self.body["retryAfter"])

    @property
    def credentials(self) -> dict[str, Any]:
        """The credential that was offered."""
        if self.offer is None:
            raise ContractError(f"no offer but {self.reason}: {self.body.get('detail')}")
        return dict(self.offer["credentials"])

    @property
    def generation(self) -> int:
        """The generation that was offered."""
        if self.offer is None:
            raise ContractError(f"no offer but {self.reason}: {self.body.get('detail')}")
        return int(self.offer["generation"])


def check_reply_body(body: Mapping[str, Any], size: int) -> None:
    """Check what section 7 says of every reply."""
    for key, value in body.items():
        kind = _REPLY_TYPES.get(key)
        if kind and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise ContractError(f"{key} is of the wrong type in {body}")
    reason = body.get("reason")
    if reason not in REASONS or body.get("code") != REASONS[reason]:
        raise ContractError(f"code {body.get('code')} does not go with reason {reason}")
    if reason in NEEDS_RETRY and "retryAfter" not in body:
        raise ContractError(f"{reason} always tells retryAfter")
    if not 1 <= body.get("retryAfter", 1) <= 86400:
        raise ContractError(f"retryAfter {body['retryAfter']}")
    if REASONS[reason] >= 400 and size >= 200:
        raise ContractError(f"a refusal of {size} bytes: {body}")
    if body.get("step", "parse") not in {"parse", "match", "authenticate", "window", "mint", "install", "confirm"}:
        raise ContractError(f"unknown step {body['step']}")


def check_credentials(credentials: dict[str, Any], client_id: str) -> None:
    """Check what section 7 says of a password, or of a certificate: PEM, its times, and nothing that is secret."""
    if credentials["clientId"] != client_id or credentials["coupling"] not in {"STRICT", "LOOSE"}:
        raise ContractError(f"the credential {credentials} is not one for {client_id}")
    if credentials["type"] == "password":
        if not credentials["password"] or not 0 < len(credentials["username"].encode()) <= 255:
            raise ContractError("the credential is not as section 7 shows it")
        return
    if credentials["type"] != "x509":
        raise ContractError("the credential is neither a password nor a certificate")
    if set(credentials) != {"type", "coupling", "clientId", "certificate", "notBefore", "notAfter"}:
        raise ContractError(f"a certificate comes with {sorted(credentials)}")
    if not credentials["certificate"].startswith("-----BEGIN CERTIFICATE-----\n"):
        raise ContractError("the certificate is not PEM")
    if not 0 < credentials["notBefore"] < credentials["notAfter"]:
        raise ContractError("the certificate's times are not epoch milliseconds")


def check_offer(offer: dict[str, Any], request_id: str, client_id: str) -> None:
    """Check what section 7 says of the body of an offer."""
    credentials = offer["credentials"]
    if (offer["requestId"], offer["code"], offer["reason"]) != (request_id, 200, "offer"):
        raise ContractError(f"the offer {offer} is not the answer to {request_id}")
    check_credentials(credentials, client_id)
    for key in ("generation", "serverTime", "confirmBefore"):
        if not isinstance(offer[key], int) or isinstance(offer[key], bool) or offer[key] < 1:
            raise ContractError(f"{key} of the offer is {offer[key]}")
    if not offer["serverTime"] < offer["confirmBefore"]:
        raise ContractError("the offer is over before it starts")
    if offer["confirm"] not in {"login", "ack", "either"} or not isinstance(offer["configuration"], dict):
        raise ContractError("the offer is not as section 7 shows it")
    if not offer["broker"]["url"].startswith(("mqtt://", "mqtts://")) or not isinstance(
        offer["broker"]["account"], str
    ):
        raise ContractError(f"broker is {offer['broker']}")
    if not all(isinstance(name, str) for way in ("publish", "subscribe") for name in offer["topics"][way]):
        raise ContractError(f"topics are {offer['topics']}")


# --- the device -------------------------------------------------------------------------------------------------------


class IndependentDevice:
    """A factory-fresh unit that knows its provisioning login and its activation key, and nothing else."""

    def __init__(
        self,
        endpoint: Callable[[], Address],
        user: str,
        password: str,
        client_id: str,
        activation_key: str,
        *,
        mode: Mode = "proof",
        version: Version = 4,
        wire: Wire = "json",
        source: str | None = None,
    ) -> None:
        self.user, self.password, self.client_id, self.activation_key = user, password, client_id, activation_key
        self.mode, self.version, self.wire, self.source = mode, version, wire, source
        self.keys = Keys.derive(activation_key, user, client_id)
        self.private = X25519PrivateKey.generate()
        self.request_id = "r-1"
        self.passwords: set[str] = set()
        """Every password it was ever offered."""
        self.session: Session | None = None
        self._endpoint = endpoint

    def topic(self, last: str) -> str:
        """One of this device's three topics."""
        return f"prov/v1/{self.user}/{self.client_id}/{last}"

    async def open(self, *, subscribe: int | None = 1, source: str | None = None, **more: Any) -> Session:
        """Open another session with the provisioning login; the caller closes it."""
        session = await Session.login(
            self._endpoint(),
            self.client_id,
            self.user,
            self.password,
            version=self.version,
            source=source or self.source,
            **more,
        )
        if subscribe is not None:
            try:
                granted = await session.subscribe((self.topic("reply"), subscribe))
            except BaseException:
                await session.close()
                raise
            if granted != [subscribe]:
                await session.close()
                raise ContractError(f"SUBACK {granted} for the device's own reply topic")
        return session

    async def connect(self) -> Session:
        """Open the session that `claim` and `ack` use, unless it is open."""
        if self.session is None:
            self.session = await self.open()
        return self.session

    async def close(self) -> None:
        """Drop the connection, as a power cut would."""
        if self.session is not None:
            session, self.session = self.session, None
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def claim_body(self, request_id: str | None = None, **more: Any) -> dict[str, Any]:
        """
        Build a claim.

        Keywords are further keys of the claim and are proved where the contract has them proved; `csr_hash` is the hash
        of a `csr`.
        """
        csr_hash = more.pop("csr_hash", "")
        body: dict[str, Any] = {"requestId": self.request_id if request_id is None else request_id}
        if self.mode == "plain":
            return body | {"activationKey": self.activation_key} | more
        body["nonce"] = fresh_nonce()
        if self.mode == "ctr":
            body["alg"] = "A256CTR-HS256"
        if self.mode == "hpke":
            body["sealTo"] = b64(public_bytes(self.private))
        body |= more
        said = body.get("accept", ())
        proof = self.keys.claim_proof(
            body["requestId"],
            body["nonce"],
            seal_to=body.get("sealTo", ""),
            csr_hash=csr_hash,
            accept=[str(kind) for kind in said] if isinstance(said, list | tuple) else (),
            alg=body.get("alg", ""),
        )
        return {"proof": proof} | body

    def ack_body(
        self, result: str, generation: int, status: str | None = None, request_id: str | None = None, **more: Any
    ) -> dict[str, Any]:
        """Build an ack."""
        body: dict[str, Any] = {
            "requestId": self.request_id if request_id is None else request_id,
            "generation": generation,
            "result": result,
        }
        if status is not None:
            body["status"] = status
        if self.mode == "plain":
            return body | {"activationKey": self.activation_key} | more
        nonce = fresh_nonce()
        return (
            body
            | {"nonce": nonce, "proof": self.keys.ack_proof(body["requestId"], nonce, generation, result, status or "")}
            | more
        )

    async def claim(self, request_id: str | None = None, *, qos: int = 1, **more: Any) -> Reply:
        """Claim and return the checked reply."""
        return await self.exchange("request", self.claim_body(request_id, **more), qos=qos)

    async def ack(
        self, result: str, generation: int, status: str | None = None, request_id: str | None = None, *, qos: int = 1
    ) -> Reply:
        """Acknowledge and return the checked reply."""
        return await self.exchange("ack", self.ack_body(result, generation, status, request_id), qos=qos)

    async def exchange(
        self, last: str, body: Mapping[str, Any], *, qos: int = 1, session: Session | None = None
    ) -> Reply:
        """Send one message and return the checked reply to it."""
        session = session or await self.connect()
        await session.publish(self.topic(last), encode(body, self.wire), qos)
        return self.read(await session.message(), body)

    def read(self, got: Message, sent: Mapping[str, Any]) -> Reply:
        """Check one reply against the contract and open it."""
        if got.topic != self.topic("reply") or got.retain or got.qos > 1:
            raise ContractError(f"a reply came as {got}")
        body = decode(got.payload, self.wire)
        check_reply_body(body, len(got.payload))
        nonce = str(sent.get("nonce", ""))
        if body["reason"] != "bad-request" or "requestId" in body:
            if body.get("requestId") != sent["requestId"]:
                raise ContractError(f"the reply is to {body.get('requestId')}, not to {sent['requestId']}")
            if nonce and body.get("nonce") != nonce and not (body["reason"] == "bad-request" and "nonce" not in body):
                raise ContractError(f"the reply repeats nonce {body.get('nonce')}, not {nonce}")
        proved = self._proved(body, nonce)
        offer = self._offer(got.payload, body, sent, nonce) if body["reason"] == "offer" else None
        if offer is None and ("sealed" in body or "credentials" in body):
            raise ContractError("a credential in a reply that is no offer")
        return Reply(got, body, proved or "sealed" in body, offer)

    def _proved(self, body: Mapping[str, Any], nonce: str) -> bool:
        if self.mode == "plain":
            if "proof" in body:
                raise ContractError("a proof in plain mode")
            return False
        if "proof" in body:
            if not hmac.compare_digest(self.keys.reply_proof(nonce, body), body["proof"]):
                raise ContractError(f"the proof of {dict(body)} is wrong")
            return True
        if body["reason"] in NEEDS_KEY:
            raise ContractError(f"{body['reason']} without a proof")
        if "detail" in body:
            raise ContractError("a detail before the key was proved")
        return False

    def _offer(self, payload: bytes, body: Mapping[str, Any], sent: Mapping[str, Any], nonce: str) -> dict[str, Any]:
        request_id = str(sent["requestId"])
        if self.mode == "plain":
            if "sealed" in body:
                raise ContractError("a sealed reply in plain mode")
            offer = dict(body)
        else:
            clear = self.unseal(body, sent)
            if clear in payload:
                raise ContractError("the sealed offer is there in the clear too")
            offer = decode(clear, self.wire)
        check_offer(offer, request_id, self.client_id)
        if "password" in offer["credentials"]:
            self.passwords.add(offer["credentials"]["password"])
        return offer

    def unseal(self, body: Mapping[str, Any], sent: Mapping[str, Any]) -> bytes:
        """Open a sealed reply; only the way the claim asked for is accepted."""
        request_id, nonce = str(sent["requestId"]), str(sent["nonce"])
        alg = "HPKE-X25519-SHA256-A256GCM" if "sealTo" in sent else sent.get("alg", "A256GCM")
        if body.get("alg") != alg or not set(body) <= {
            "requestId",
            "nonce",
            "code",
            "reason",
            "alg",
            "sealed",
            "mac",
            "step",
            "trace",
        }:
            raise ContractError(f"a sealed reply with the keys {sorted(body)} and alg {body.get('alg')}, not {alg}")
        if alg == "A256GCM":
            return open_gcm(self.keys, request_id, nonce, body["sealed"])
        if alg == "A256CTR-HS256":
            return open_ctr(self.keys, request_id, nonce, body["sealed"])
        return open_hpke(self.keys, request_id, nonce, body["sealed"], body["mac"], private=self.private)

    async def provision(self, request_id: str | None = None, patience: float = 30.0) -> Reply:
        """
        Claim until there is an offer and return it.

        `wait` is obeyed only in so far as the claim is repeated later; a superseded requestId is replaced, as section 7
        has it. Any other refusal is returned.
        """
        self.request_id = request_id or self.request_id
        async with asyncio.timeout(patience):
            while True:
                reply = await self.claim()
                if reply.reason == "wait":
                    await asyncio.sleep(0.1)
                elif reply.reason == "superseded":
                    self.request_id = f"r-{secrets.token_hex(4)}"
                else:
                    return reply

    async def login(self, device_broker: Address, credentials: Mapping[str, Any]) -> Session:
        """Log in at the device broker with a credential (MQTT 3.1.1). The caller closes the session."""
        return await Session.login(
            device_broker,
            credentials["clientId"],
            credentials["username"],
            credentials["password"],
            source=self.source,
        )
