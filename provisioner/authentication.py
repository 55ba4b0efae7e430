"""Who sent this message: the key or proof of a claim or ack against its request (wire contract, sections 5, 6 and 8).

1. Verify first, then limit: nothing but `denied` or `slow-down` leaves before the key was proved (section 9, rule 7).
2. A request that nobody has is checked against a decoy, so that it takes what checking a real one takes.
3. A keyless claim is believed where the request has no key, and its acks only on the connection that got the offer.
4. A session that logged in with a certificate in force needs neither key nor proof: `certified`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from provisioner.admission import Admission
from provisioner.errors import Reason, Rejected
from provisioner.handover import Conversation, Keys, Vault, ack_proof, claim_proof, csr_hash, derive, equal
from provisioner.keys import Decoy, open_keys
from provisioner.model import SHARED, Ack, Claim, Dossier, Line, Millis, Origin
from provisioner.ports import Entropy


class Authentication:
    """`tell` is called with the journal's line of each message that proved nothing."""

    def __init__(
        self,
        vault: Vault,
        admission: Admission,
        entropy: Entropy,
        tell: Callable[[Line], None],
        *,
        allow_plain_without_tls: bool,
        allow_keyless: bool,
    ) -> None:
        self._vault = vault
        self._admission = admission
        self._tell = tell
        self._allow_plain_without_tls = allow_plain_without_tls
        self._allow_keyless = allow_keyless
        self._decoy = Decoy(vault, entropy)
        self._keyless: dict[int, int] = {}

    def check_mode(self, message: Claim | Ack, origin: Origin) -> None:
        """Whether this way of proving a key is on offer on this connection."""
        overheard = not (origin.secure or self._allow_plain_without_tls)
        # Through another's broker nothing is known of TLS, and whoever next connects with an id may get its reply.
        if message.key is not None and (overheard or origin.connection == SHARED):
            raise Rejected(Reason.UNSUPPORTED, step="authenticate", supported=("proof",))
        if message.key is None and message.proof is None and origin.certificate is None:
            if not self._allow_keyless:
                raise Rejected(Reason.BAD_REQUEST, step="parse")
            if not origin.tls:
                raise Rejected(Reason.UNSUPPORTED, step="authenticate", supported=("proof",))

    def authenticate_claim(
        self, claim: Claim, dossier: Dossier | None, now: Millis, *, certified: bool
    ) -> Conversation:
        """What is needed to answer. Raises `denied`, `slow-down`."""
        keys = self._keys(dossier)
        nonce = None
        if claim.proof is not None:
            nonce = claim.proof.nonce
            expected = claim_proof(
                keys.auth, claim.request_id, nonce, claim.seal_to, csr_hash(claim.csr), claim.accept, claim.alg
            )
            proved = equal(expected, claim.proof.proof)
        else:
            proved = self._is_key(claim, keys, dossier, certified=certified)
        if not proved or dossier is None:
            self.refuse(claim, "claim", dossier, now)
        return Conversation(claim.user, claim.client_id, claim.request_id, nonce, keys, claim.alg, claim.seal_to)

    def prove_ack(self, ack: Ack, dossier: Dossier | None, *, certified: bool) -> Conversation | None:
        """What is needed to answer; None: it proves nothing, so `refuse` it."""
        keys = self._keys(dossier)
        nonce = None
        if ack.proof is not None:
            nonce = ack.proof.nonce
            status = "" if ack.status is None else ack.status.value
            expected = ack_proof(keys.auth, ack.request_id, nonce, ack.generation, ack.result.value, status)
            proved = equal(expected, ack.proof.proof)
        else:
            proved = self._is_key(ack, keys, dossier, certified=certified)
            if proved and ack.key is None and not certified and dossier is not None:
                proved = self._keyless.get(dossier.request.id) == ack.origin.connection
        if not proved or dossier is None:
            return None
        return Conversation(ack.user, ack.client_id, ack.request_id, nonce, keys)

    def note_offered(self, claim: Claim, request_id: int) -> None:
        """A keyless claim got its offer: its ack has to come on the same connection."""
        if claim.key is None and claim.proof is None:
            self._keyless[request_id] = claim.origin.connection

    def forget(self, request_id: int) -> None:
        """The hand-over is confirmed."""
        self._keyless.pop(request_id, None)

    def _keys(self, dossier: Dossier | None) -> Keys:
        opened = None if dossier is None else open_keys(self._vault, dossier.request)
        return opened or self._decoy.open()

    def _is_key(self, message: Claim | Ack, keys: Keys, dossier: Dossier | None, *, certified: bool) -> bool:
        if message.key is None:
            is_keyless = self._allow_keyless and dossier is not None and dossier.request.keys_sealed is None
            return certified or is_keyless
        return equal(derive(message.key.reveal(), message.user, message.client_id).auth, keys.auth)

    def refuse(self, message: Claim | Ack, action: str, dossier: Dossier | None, now: Millis) -> NoReturn:
        """It proved nothing. Raises `denied`, `slow-down`."""
        origin = message.origin
        request_id = None if dossier is None else dossier.request.id
        self._tell(
            Line(now, action, None, origin.source, request_id, message.client_id, None, None, None, Reason.DENIED)
        )
        self._admission.check_failure(message.user, message.client_id, origin.source, origin.connection, now)
        raise Rejected(Reason.DENIED, step="authenticate")
