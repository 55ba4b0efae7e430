"""Claims and acks as a device writes them, and how far it believes what comes back (wire contract, sections 5 to 8).

1. A device able to make proofs never sends its activation key, whatever it is told.
2. An offer is opened only if it is sealed the way this device asked for, and a certificate counts only on its own key.
"""

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from broker.fleet.actions import Identity, Mode, Options
from broker.fleet.device_key import DeviceKey
from broker.fleet.keys import A256CTR_HS256, A256GCM, HPKE, Keys, NotForUs, OpeningKey, csr_hash
from broker.fleet.replies import Credential, Reply, Unreadable, parse_offer, read_map, write_map


class Messages:
    """The messages of one unit. `root` of its topics ends before `request`, `reply` and `ack`."""

    def __init__(self, identity: Identity, options: Options, entropy: Callable[[int], bytes]) -> None:
        self.client_id = identity.client_id
        self.topics = f"{options.root}/{identity.user}/{identity.client_id}/"
        self._options = options
        self._keys = Keys.derive(identity.activation_key.encode(), identity.user, identity.client_id)
        # Only a device that must show its key keeps it.
        self._shown_key = identity.activation_key if options.mode is Mode.PLAIN else None
        self._opening_key = OpeningKey(entropy(32)) if options.mode is Mode.HPKE else None
        self._seal_to = self._opening_key.public if self._opening_key else ""
        self._alg = A256CTR_HS256 if options.mode is Mode.CTR else ""
        self.device_key: DeviceKey | None = None
        """The key that claims ask a certificate for."""

    def claim(self, request_id: str, nonce: str, max_reply: int | None) -> bytes:
        """Write a claim."""
        accept = self._options.accept
        csr = self.device_key.csr if self.device_key else b""
        optional = {
            "csr": b64encode(csr).decode(),
            "accept": list(accept),
            "maxReply": max_reply,
            "device": dict(self._options.facts),
            "sealTo": self._seal_to,
            "alg": self._alg,
        }
        hashed = csr_hash(csr) if csr else ""
        proof = self._keys.prove_claim(
            request_id, nonce, seal_to=self._seal_to, csr_hash=hashed, accept=accept, alg=self._alg
        )
        said = {key: value for key, value in optional.items() if value}
        return self._write({"requestId": request_id} | said, nonce, proof)

    def ack(self, request_id: str, nonce: str, generation: int, result: str, status: str) -> bytes:
        """Write an ack; `status` is empty but for `progress`."""
        message: dict[str, Any] = {"requestId": request_id, "generation": generation, "result": result}
        if status:
            message["status"] = status
        return self._write(message, nonce, self._keys.prove_ack(request_id, nonce, generation, result, status))

    def check(self, proof: str, reply: Reply) -> None:
        """Raise NotForUs unless `proof` is that of this unsealed reply."""
        self._keys.check_reply(
            proof,
            reply.request_id or "",
            reply.nonce or "",
            reply.code,
            reply.reason,
            generation=reply.generation,
            retry_after=reply.retry_after,
            forget=reply.forget,
        )

    def read_offer(self, reply: Reply) -> Credential:
        """Open a sealed offer, or read the plain one of plain mode; raise NotForUs or Unreadable."""
        if self._options.mode is Mode.PLAIN:
            credential = parse_offer(reply.body, self.client_id)
        else:
            credential = parse_offer(read_map(self.open(reply), self._options.encoding), self.client_id)
        if credential.certificate is None:
            return credential
        if self.device_key is None or not self.device_key.is_certified_by(credential.certificate):
            raise Unreadable
        return replace(credential, private_key=self.device_key.pem)

    def open(self, reply: Reply) -> bytes:
        """Open a sealed reply; raises NotForUs unless it is sealed as we asked."""
        mode, sealed = self._options.mode, reply.sealed or ""
        request_id, nonce = reply.request_id or "", reply.nonce or ""
        if mode is Mode.HPKE and reply.alg == HPKE and self._opening_key is not None:
            return self._keys.open_hpke(sealed, reply.mac or "", request_id, nonce, self._opening_key)
        if mode is Mode.CTR and reply.alg == A256CTR_HS256:
            return self._keys.open_ctr(sealed, request_id, nonce)
        if mode is Mode.PROOF and reply.alg == A256GCM:
            return self._keys.open_gcm(sealed, request_id, nonce)
        raise NotForUs

    def _write(self, message: dict[str, Any], nonce: str, proof: str) -> bytes:
        shown = {"nonce": nonce, "proof": proof} if self._shown_key is None else {"activationKey": self._shown_key}
        return write_map(message | shown, self._options.encoding)
