"""What the device said, judged by the contract, and what a provisioner answers: well, or as no provisioner ever would.

1. Messages are read, proofs checked and offers sealed by the code of the real service.
2. Bad answers are bad in one way each; everything else about them is right, so that nothing but that way is tested.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import cbor2

from broker.mqtt import messages
from broker.mqtt.messages import Body
from provisioner import handover
from provisioner.errors import Reason, Rejected
from provisioner.handover import Conversation, Keys
from provisioner.model import (
    Ack,
    BrokerAddress,
    Claim,
    Confirm,
    Coupling,
    Grant,
    Offer,
    Origin,
    Proof,
    Result,
    Secret,
    Taken,
)

_ORIGIN = Origin("bench", 1, secure=True, tls=True)
_HOUR = 3_600_000


class NotByTheContract(Exception):
    """A message that the service would refuse; the text says why."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A good claim. `nonce` is None in plain mode, `identity` what makes it the same claim when it is repeated."""

    request_id: str
    nonce: str | None
    identity: str
    body: Body
    conversation: Conversation
    max_reply: int | None


@dataclass(frozen=True, slots=True)
class Acked:
    """A good ack."""

    request_id: str
    nonce: str | None
    generation: int
    result: Result
    body: Body
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class Credential:
    """What the trial offers."""

    generation: int
    username: str
    password: str = field(repr=False)


class Desk:
    """Reads and writes messages for one device. `broker` is where it shall work."""

    def __init__(self, user: str, client_id: str, activation_key: str, root: str, broker: BrokerAddress) -> None:
        topics = f"{root}/{user}/{client_id}"
        self.request_topic, self.reply_topic, self.ack_topic = (
            f"{topics}/{end}" for end in ("request", "reply", "ack")
        )
        self.client_id = client_id
        self.broker = broker
        self._user = user
        self._key = activation_key
        self._keys = handover.derive(activation_key, user, client_id)

    def credential(self, generation: int) -> Credential:
        """A fresh one."""
        return Credential(
            generation, f"p.bench.{self.client_id}.g{generation}", handover.new_password(secrets.token_bytes)
        )

    # What it said ----------------------------------------------------------------------------------------------------

    def read_claim(self, payload: bytes) -> Claimed:
        """A claim; raises NotByTheContract."""
        body, claim = self._read(payload, messages.parse_claim)
        self._check_key(
            claim,
            lambda nonce: handover.claim_proof(
                self._keys.auth,
                claim.request_id,
                nonce,
                claim.seal_to,
                handover.csr_hash(claim.csr),
                claim.accept,
                claim.alg,
            ),
        )
        nonce = claim.proof.nonce if claim.proof else None
        conversation = self._conversation(claim.request_id, nonce, claim.alg, claim.seal_to)
        identity = handover.csr_hash(claim.csr) or "password"
        return Claimed(claim.request_id, nonce, identity, body, conversation, claim.max_reply)

    def read_ack(self, payload: bytes) -> Acked:
        """An ack; raises NotByTheContract."""
        body, ack = self._read(payload, messages.parse_ack)
        self._check_key(
            ack,
            lambda nonce: handover.ack_proof(
                self._keys.auth, ack.request_id, nonce, ack.generation, str(ack.result), str(ack.status or "")
            ),
        )
        nonce = ack.proof.nonce if ack.proof else None
        conversation = self._conversation(ack.request_id, nonce)
        return Acked(ack.request_id, nonce, ack.generation, ack.result, body, conversation)

    def _read(self, payload: bytes, parse: Any) -> tuple[Body, Any]:
        try:
            body = Body(payload)
            body.read(payload)
            return body, parse(body, self._user, self.client_id, _ORIGIN)
        except Rejected as error:
            raise NotByTheContract(f"a provisioner answers {error.reason.code} {error.reason}") from None

    def _check_key(self, message: Claim | Ack, proof: Any) -> None:
        said: Proof | None = message.proof
        if message.key is not None and message.key.reveal() != self._key:
            raise NotByTheContract("its activation key is not the one it was given")
        if message.key is None and said is None:
            raise NotByTheContract("it shows neither an activation key nor a proof")
        if said is not None and not handover.equal(proof(said.nonce), said.proof):
            raise NotByTheContract("its proof is wrong for its activation key (section 6 of the contract)")

    def _conversation(self, request_id: str, nonce: str | None, alg: str = "", seal_to: str = "") -> Conversation:
        return Conversation(self._user, self.client_id, request_id, nonce, self._keys, alg, seal_to)

    # What it is told -------------------------------------------------------------------------------------------------

    def offer(self, claimed: Claimed, credential: Credential) -> bytes:
        """The credential, sealed as the claim asks."""
        return self._encode(self._offer(claimed, credential), claimed.body)

    def wait(self, claimed: Claimed, seconds: int) -> bytes:
        """`wait`, proved."""
        return self.refusal(claimed, Reason.WAIT, retry_after=seconds)

    def refusal(self, claimed: Claimed, reason: Reason, **more: Any) -> bytes:
        """Any refusal, proved."""
        rejected = Rejected(reason, step="install", **more)
        rejected.conversation = claimed.conversation
        return self._encode(rejected, claimed.body)

    def taken(self, acked: Acked, *, forget: bool = False) -> bytes:
        """`confirmed` for `stored`, `noted` for anything else."""
        reason = Reason.CONFIRMED if acked.result is Result.STORED else Reason.NOTED
        forget = forget and reason is Reason.CONFIRMED
        return self._encode(Taken(reason, acked.generation, acked.conversation, forget), acked.body)

    # What no provisioner says ----------------------------------------------------------------------------------------

    def unproved(self, claimed: Claimed, reason: Reason, **more: Any) -> bytes:
        """A reply that anybody may have written: right in everything, without proof."""
        members = {"requestId": claimed.request_id, "code": reason.code, "reason": str(reason), **more}
        if claimed.nonce is not None:
            members["nonce"] = claimed.nonce
        return _write(members, claimed.body.encoding)

    def sealed_wrong(self, claimed: Claimed, credential: Credential) -> bytes:
        """An offer sealed with a key that is not the device's."""
        strange = Keys(secrets.token_bytes(32), secrets.token_bytes(32))
        conversation = replace(claimed.conversation, keys=strange)
        return self._encode(replace(self._offer(claimed, credential), conversation=conversation), claimed.body)

    def other_request(self, claimed: Claimed, reason: Reason) -> bytes:
        """A proved reply to another requestId of this device."""
        other = replace(claimed.conversation, request_id="r-before")
        members = {"requestId": "r-before", "code": reason.code, "reason": str(reason)}
        if claimed.nonce is not None:
            proof = other.prove(reason.code, reason, None, None, forget=False)
            members |= {"nonce": claimed.nonce, "proof": proof}
        return _write(members, claimed.body.encoding)

    def oversized(self, claimed: Claimed, size: int) -> bytes:
        """An unproved `unavailable` with so many bytes of detail."""
        return self.unproved(claimed, Reason.UNAVAILABLE, retryAfter=1, detail="x" * size)

    def _offer(self, claimed: Claimed, credential: Credential) -> Offer:
        now = time.time_ns() // 1_000_000
        topics = (f"bench/{self.client_id}/#",)
        return Offer(
            claimed.request_id,
            credential.generation,
            now,
            now + _HOUR,
            Confirm.EITHER,
            Coupling.STRICT,
            self.client_id,
            credential.username,
            Secret(credential.password),
            "bench",
            self.broker,
            Grant(topics, topics),
            "{}",
            claimed.conversation,
        )

    @staticmethod
    def _encode(outcome: Offer | Taken | Rejected, body: Body) -> bytes:
        return messages.encode(outcome, body, "bench", secrets.token_bytes)


def _write(members: Mapping[str, Any], encoding: str) -> bytes:
    if encoding == "cbor":
        return cbor2.dumps(members)
    return json.dumps(members).encode()
