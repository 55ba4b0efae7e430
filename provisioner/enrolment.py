"""The hand-over for protocols that know neither provision users nor requestIds nor acks: EST.

1. It is the same claim. Whose request a client id is about, its newest request says, unless the caller names the user.
2. The CSR itself stands for the requestId: a repeated call repeats the claim. Its key is the identity, as ever.
3. Using the new certificate confirms it: `seen` tells that a device showed one, where its request lets an ack confirm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

from provisioner.errors import Reason, Rejected
from provisioner.model import (
    Ack,
    CertificateSession,
    Claim,
    DeviceCertificate,
    Kind,
    Millis,
    Offer,
    Origin,
    Result,
    Secret,
)
from provisioner.ports import Listing, Store
from provisioner.service import Provisioner

CALL = -1
"""The connection number of what came in a call of its own: to the limiter of wrong keys all calls are one."""

_NOBODY = "nobody"
"""A user that a client id without a request is looked up under: it is refused as slowly as a wrong key."""

MakeClaim = Callable[[Claim, Millis], Awaitable[Offer]]


class Enrolment:
    """`claim` is how a claim is made: `Provisioner.claim`, or what shapes the crowd in front of it."""

    def __init__(self, provisioner: Provisioner, store: Store, claim: MakeClaim) -> None:
        self._provisioner = provisioner
        self._store = store
        self._claim = claim

    async def by_key(
        self, user: str | None, client_id: str, key: Secret, csr: bytes, origin: Origin, now: Millis
    ) -> DeviceCertificate:
        """The certificate for a CSR (DER), asked for with an activation key. Raises as `Provisioner.claim`."""
        return await self._certificate(
            Claim(user or await self._user_of(client_id), client_id, "", origin, key), csr, now
        )

    async def by_certificate(
        self, session: CertificateSession, csr: bytes, origin: Origin, now: Millis
    ) -> DeviceCertificate:
        """The same, asked for with the certificate that is to be replaced (`seen`)."""
        return await self._certificate(Claim(session.user, session.client_id, "", origin), csr, now)

    async def seen(self, certificate: bytes, source: str, now: Millis) -> CertificateSession | None:
        """Whose certificate (DER) this is, if it is in force; an offered one is confirmed by it."""
        session = await self._provisioner.login_by_certificate(certificate, None, now)
        if session is not None and session.is_offered:
            origin = Origin(source, CALL, secure=True, tls=True, certificate=session.serial)
            ack = Ack(session.user, session.client_id, "est", session.generation, Result.STORED, origin)
            try:
                await self._provisioner.ack(ack, now)
            except Rejected as refusal:
                if refusal.reason is not Reason.WAIT:  # only a login at the device broker confirms this request
                    raise
        return session

    async def _certificate(self, claim: Claim, csr: bytes, now: Millis) -> DeviceCertificate:
        request_id = f"est-{hashlib.sha256(csr).hexdigest()[:32]}"
        offer = await self._claim(replace(claim, request_id=request_id, csr=csr, accept=(Kind.X509,)), now)
        if offer.certificate is None:
            raise LookupError("an offer to who accepts a certificate alone has one")
        return offer.certificate

    async def _user_of(self, client_id: str) -> str:
        found, _ = await self._store.list_requests(Listing(client_ids=(client_id,), limit=1))
        return found[0].provision_username if found else _NOBODY
