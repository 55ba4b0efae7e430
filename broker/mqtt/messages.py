"""Claims, acks and replies to and from bytes (wire contract, sections 5, 7 and 8): JSON and CBOR, the same members.

1. Size first, then the form, then the grammar of each member; only then any HMAC. Whatever fails is `bad-request`, and
   a claim over 8 KiB is `too-large`.
2. Nothing is guessed: unknown or duplicate members, null, wrong types, other spellings of base64 are refused.
3. A reply comes in the encoding of the claim, and one function turns outcome or exception into it.
4. `requestId` and `nonce` come back wherever they could be read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import cbor2
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from broker.mqtt.cbor_form import check_cbor_form
from certs.csr import parse_encoding
from certs.errors import BadCsr
from provisioner import policy
from provisioner.errors import ProvisionerError, Reason, Rejected, Unavailable
from provisioner.handover import HPKE, Conversation, decode64, encode64, is_sealing_key, sealed_size
from provisioner.model import PROGRESS, Ack, Attached, Claim, JobStatus, Offer, Origin, Proof, Result, Secret, Taken

MAX_CLAIM = 8192
"""Bytes of a claim or ack."""

REFUSAL_SIZE = 200
"""Refusals stay under this many bytes where their required members let them."""

CONTENT_TYPE = {"json": "application/json", "cbor": "application/cbor"}

_MAX_INTEGER = 2**53 - 1

Scalar = str | bool | int | Annotated[float, Field(allow_inf_nan=False)]


M = TypeVar("M", bound="_Strict")


class Body:
    """A message as far as it could be read: what a reply to it needs even if it is refused."""

    __slots__ = ("encoding", "members", "nonce", "request_id")

    def __init__(self, payload: bytes) -> None:
        """Raises `Rejected`; the attributes hold then what was readable."""
        self.encoding = "cbor" if payload and 0xA0 <= payload[0] <= 0xBF else "json"
        self.request_id: str | None = None
        self.nonce: str | None = None
        self.members: Mapping[str, Any] = {}

    def read(self, payload: bytes) -> None:
        """Decode the payload into `members`."""
        if len(payload) > MAX_CLAIM:
            raise Rejected(Reason.TOO_LARGE, step="parse", needed=MAX_CLAIM)
        try:
            members = _from_cbor(payload) if self.encoding == "cbor" else _from_json(payload)
        except (ValueError, RecursionError, cbor2.CBORError):
            raise _bad() from None
        if not isinstance(members, dict) or any(value is None for value in members.values()):
            raise _bad()
        self.members = members
        request_id, nonce = members.get("requestId"), members.get("nonce")
        if isinstance(request_id, str) and policy.is_request_id(request_id):
            self.request_id = request_id
        if isinstance(nonce, str) and policy.is_nonce(nonce):
            self.nonce = nonce


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    requestId: str  # noqa: N815 - the wire's name
    activationKey: str | None = Field(default=None, repr=False)  # noqa: N815 - the wire's name
    nonce: str | None = None
    proof: str | None = None


class _ClaimBody(_Strict):
    sealTo: str = ""  # noqa: N815 - the wire's name
    alg: Literal["", "A256GCM", "A256CTR-HS256"] = ""
    csr: Annotated[str, Field(max_length=MAX_CLAIM)] | None = None
    accept: Annotated[list[Literal["password", "x509"]], Field(min_length=1, max_length=2)] | None = None
    maxReply: Annotated[int, Field(ge=1, le=_MAX_INTEGER)] | None = None  # noqa: N815 - the wire's name
    device: Annotated[dict[str, Scalar], Field(max_length=32)] | None = None


class _AckBody(_Strict):
    generation: Annotated[int, Field(ge=1, le=_MAX_INTEGER)]
    result: Literal["stored", "failed", "progress"]
    status: str | None = None
    detail: str | None = None


def parse_claim(body: Body, user: str, client_id: str, origin: Origin, reply_limit: int | None = None) -> Claim:
    """The claim in a body that was read. `reply_limit`: payload bytes the connection can carry. Raises `Rejected`."""
    members = _validate(_ClaimBody, body)
    key, proof = _key_or_proof(members, body)
    accept = () if members.accept is None else tuple(members.accept)
    if (accept and len(set(accept)) != len(accept)) or ("alg" in body.members and not members.alg):
        raise _bad()
    if proof is None and (members.sealTo or members.alg or "sealTo" in body.members):
        raise _bad()
    if members.sealTo and members.alg:
        raise _bad()
    if "sealTo" in body.members and not is_sealing_key(_check_bytes(members.sealTo, 32)):
        raise _bad()
    return Claim(
        user=user,
        client_id=client_id,
        request_id=members.requestId,
        origin=origin,
        key=key,
        proof=proof,
        seal_to=members.sealTo,
        alg=members.alg,
        csr=None if members.csr is None else _csr_der(members.csr),
        accept=accept,
        max_reply=_lower(members.maxReply, reply_limit),
        device=members.device or {},
        encoding=body.encoding,
    )


def parse_ack(body: Body, user: str, client_id: str, origin: Origin) -> Ack:
    """The ack in a body that was read. Raises `Rejected`."""
    members = _validate(_AckBody, body)
    key, proof = _key_or_proof(members, body)
    result = Result(members.result)
    if (members.status is not None) != (result is Result.PROGRESS):
        raise _bad()
    if members.status is not None and members.status not in PROGRESS:
        raise _bad()
    return Ack(
        user=user,
        client_id=client_id,
        request_id=members.requestId,
        generation=members.generation,
        result=result,
        origin=origin,
        status=None if members.status is None else JobStatus(members.status),
        key=key,
        proof=proof,
        encoding=body.encoding,
    )


def _lower(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _bad() -> Rejected:
    return Rejected(Reason.BAD_REQUEST, step="parse")


def _validate(kind: type[M], body: Body) -> M:
    try:
        return kind.model_validate(body.members)
    except ValidationError:
        raise _bad() from None


def _key_or_proof(members: _Strict, body: Body) -> tuple[Secret | None, Proof | None]:
    # What of the body was read is within its grammar.
    if body.request_id is None:
        raise _bad()
    if members.activationKey is not None:
        if (
            members.nonce is not None
            or members.proof is not None
            or not policy.is_activation_key(members.activationKey)
        ):
            raise _bad()
        return Secret(members.activationKey), None
    if members.nonce is None and members.proof is None:
        return None, None
    if body.nonce is None or members.proof is None:
        raise _bad()
    return None, Proof(body.nonce, _check_bytes(members.proof, 32))


def _check_bytes(text: str, length: int) -> bytes:
    try:
        data = decode64(text)
    except ValueError:
        raise _bad() from None
    if len(data) != length:
        raise _bad()
    return data


def _csr_der(text: str) -> bytes:
    """DER of a CSR in PEM or standard padded base64; what is inside is looked at once the key was proved."""
    try:
        data = parse_encoding(text)
    except BadCsr:
        raise _bad() from None
    if not data:
        raise _bad()
    return data


def _from_json(payload: bytes) -> Any:
    members = _JSON.decode(payload.decode("utf-8"))
    if b"\\u" in payload:
        json.dumps(members, ensure_ascii=False).encode()  # half a surrogate pair can be spelt, and is no text
    return members


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member twice")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _from_cbor(payload: bytes) -> Any:
    pairs = check_cbor_form(payload)
    members = cbor2.loads(payload)
    inner = sum(len(value) for value in members.values() if isinstance(value, dict))
    if len(members) + inner != pairs:
        raise ValueError("a member twice")
    return members


# -- replies ---------------------------------------------------------------------------------------------------------


def encode(outcome: Offer | Taken | ProvisionerError, body: Body, trace: str, entropy: Callable[[int], bytes]) -> bytes:
    """The reply to the message in `body`; `trace` is what the device quotes to the operator."""
    if isinstance(outcome, Offer):
        return _write(_offer_reply(outcome, body.encoding, entropy), body.encoding)
    return _small_reply(_settled(outcome), outcome, body, trace)


def measure(offer: Offer, encoding: str) -> int:
    """Bytes of the reply that would carry this offer."""
    conversation = offer.conversation
    plain = len(_write(_offer_body(offer), encoding))
    if conversation.nonce is None:
        return plain
    hpke_mode = bool(conversation.seal_to)
    sealed = {
        "alg": HPKE if hpke_mode else conversation.alg or "A256GCM",
        "sealed": "A" * sealed_size(plain, conversation.alg, hpke_mode=hpke_mode),
    }
    if hpke_mode:
        sealed["mac"] = "A" * 43
    return len(_write(_envelope(offer, sealed), encoding))


def _write(members: Mapping[str, Any], encoding: str) -> bytes:
    if encoding == "cbor":
        return cbor2.dumps(members)
    return to_json(members)


def _offer_reply(offer: Offer, encoding: str, entropy: Callable[[int], bytes]) -> dict[str, Any]:
    if offer.conversation.nonce is None:
        return _offer_body(offer)
    plaintext = _write(_offer_body(offer), encoding)
    return _envelope(offer, offer.conversation.seal(plaintext, entropy))


def _envelope(offer: Offer, sealed: Mapping[str, str]) -> dict[str, Any]:
    conversation = offer.conversation
    head = {"requestId": conversation.request_id, "nonce": conversation.nonce, "code": 200, "reason": "offer"}
    return head | dict(sealed)


def _offer_body(offer: Offer) -> dict[str, Any]:
    broker = {"url": offer.broker.url, "account": offer.account}
    if offer.broker.ca is not None:
        broker["ca"] = offer.broker.ca
    return {
        "requestId": offer.request_id,
        "code": Reason.OFFER.code,
        "reason": Reason.OFFER.value,
        "generation": offer.generation,
        "serverTime": offer.server_time,
        "confirmBefore": offer.confirm_before,
        "confirm": offer.confirm.value,
        "credentials": _credentials(offer),
        "broker": broker,
        "topics": {"publish": list(offer.grant.publish), "subscribe": list(offer.grant.subscribe)},
        "configuration": from_json(offer.configuration),
    } | ({"attachments": [_attachment(one) for one in offer.attachments]} if offer.attachments else {})


def _credentials(offer: Offer) -> dict[str, Any]:
    common = {"coupling": str(offer.coupling), "clientId": offer.client_id}
    certificate = offer.certificate
    if certificate is None:
        return {"type": "password"} | common | {"username": offer.username, "password": offer.password.reveal()}
    return (
        {"type": "x509"}
        | common
        | {
            "certificate": certificate.pem,
            "notBefore": certificate.not_before,
            "notAfter": certificate.not_after,
        }
    )


def _attachment(attached: Attached) -> dict[str, Any]:
    told = {"type": attached.type, "name": attached.name, "size": attached.size, "sha256": attached.sha256}
    if attached.content is not None:
        return told | {"content": encode64(attached.content)}
    return told | {"url": attached.url, "expiresOn": attached.expires_on}


class _Settled:
    """Reason and members of a reply that is no offer."""

    __slots__ = ("conversation", "detail", "forget", "generation", "more", "reason", "retry_after", "step")

    def __init__(self, reason: Reason, conversation: Conversation | None) -> None:
        self.reason = reason
        self.conversation = conversation
        self.generation: int | None = None
        self.retry_after: int | None = None
        self.forget = False
        self.detail = ""
        self.step = ""
        self.more: dict[str, Any] = {}


def _settled(outcome: Taken | ProvisionerError) -> _Settled:
    if isinstance(outcome, Taken):
        settled = _Settled(outcome.reason, outcome.conversation)
        settled.generation = outcome.generation
        settled.forget = outcome.forget
    elif isinstance(outcome, Rejected):
        settled = _Settled(outcome.reason, outcome.conversation)
        settled.generation = outcome.generation
        settled.retry_after = outcome.retry_after
        settled.detail, settled.step = outcome.detail, outcome.step
        if outcome.reason is Reason.DENIED:
            settled.detail = ""  # never more than the word (section 7)
        if outcome.needed is not None:
            settled.more["needed"] = outcome.needed
        if outcome.supported:
            settled.more["supported"] = list(outcome.supported)
    else:
        settled = _Settled(Reason.UNAVAILABLE, outcome.conversation)
        settled.retry_after = outcome.retry_after if isinstance(outcome, Unavailable) else 5
    return settled


def _small_reply(settled: _Settled, outcome: Taken | ProvisionerError, body: Body, trace: str) -> bytes:
    members: dict[str, Any] = {}
    if body.request_id is not None:
        members["requestId"] = body.request_id
    if body.nonce is not None:
        members["nonce"] = body.nonce
    members["code"] = settled.reason.code
    members["reason"] = settled.reason.value
    if settled.generation is not None:
        members["generation"] = settled.generation
    if settled.retry_after is not None:
        members["retryAfter"] = settled.retry_after
    if settled.forget:
        members["forget"] = True
    members |= settled.more
    conversation = settled.conversation
    if conversation is not None and conversation.nonce is not None:
        members["proof"] = conversation.prove(
            settled.reason.code, settled.reason, settled.generation, settled.retry_after, forget=settled.forget
        )
    if isinstance(outcome, Taken):
        return _write(members, body.encoding)
    optional = {"step": settled.step, "trace": trace, "detail": settled.detail if conversation is not None else ""}
    return _fitting(members, {name: text for name, text in optional.items() if text}, body.encoding)


def _fitting(members: dict[str, Any], optional: dict[str, str], encoding: str) -> bytes:
    """`detail` goes first, then `trace`, then `step`, until the refusal is small enough."""
    while True:
        payload = _write(members | optional, encoding)
        if len(payload) < REFUSAL_SIZE or not optional:
            return payload
        optional.popitem()
