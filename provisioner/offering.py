"""What an offer tells a device: its credential, where it works, what it may do there, and what was put in for it.

1. An offer is whole before anything is committed: one that cannot be made, or would not fit, mints nothing.
2. Attachments go inside while the device has room for them, else it gets a link to each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from provisioner.errors import Reason, Rejected, Unavailable
from provisioner.handover import Conversation
from provisioner.minting import Login
from provisioner.model import Attached, Claim, Confirm, Credential, Millis, Offer, ProvisionRequest
from provisioner.ports import DeviceBroker, Measure
from provisioner.topics import grant_of


class Enclosed(Protocol):
    """Attachments of a request as the offer of a generation tells them, good until `expires_on`."""

    async def __call__(
        self, request: ProvisionRequest, generation: int, expires_on: Millis, *, inline: int = ...
    ) -> tuple[Attached, ...]:
        """`inline`: bytes of content in all, at most."""
        ...


class Offering:
    """Makes offers. `measure` tells how many bytes the reply would have."""

    def __init__(self, brokers: Mapping[str, DeviceBroker], measure: Measure) -> None:
        self._brokers = brokers
        self._measure = measure
        self.enclosed: Enclosed | None = None
        """Set by whoever keeps attachments: what an offer says of those of its request."""

    async def make(
        self,
        claim: Claim,
        request: ProvisionRequest,
        credential: Credential,
        login: Login,
        conversation: Conversation,
        now: Millis,
    ) -> Offer:
        """The answer to a claim. Raises `too-large`, `abandoned` where its sealing key is gone, and `Unavailable`."""
        offer = self._offer(request, credential, login, conversation, now)
        if request.attachments is not None and self.enclosed is not None:
            whole = replace(offer, attachments=await self.enclosed(request, offer.generation, offer.confirm_before))
            if self._missing(claim, whole) is None:
                return whole
            links = await self.enclosed(request, offer.generation, offer.confirm_before, inline=0)
            offer = replace(offer, attachments=links)
        if (needed := self._missing(claim, offer)) is not None:
            raise Rejected(Reason.TOO_LARGE, "the reply is larger than maxReply", step="mint", needed=needed)
        return offer

    def _offer(
        self,
        request: ProvisionRequest,
        credential: Credential,
        login: Login,
        conversation: Conversation,
        now: Millis,
    ) -> Offer:
        broker = self._brokers.get(request.device_broker)
        if broker is None or (address := broker.address(secure=request.secure_url)) is None:
            raise Unavailable("the device broker has no address to offer", retry_after=60)
        if conversation.nonce is not None and conversation.keys.seal is None:
            raise Rejected(Reason.ABANDONED, "the key of this request was wiped; it needs a new one", step="mint")
        return Offer(
            request_id=conversation.request_id,
            generation=credential.generation,
            server_time=now,
            confirm_before=credential.confirm_before,
            confirm=Confirm.ACK if request.confirm is Confirm.EITHER and not broker.sees_logins else request.confirm,
            coupling=credential.coupling,
            client_id=credential.client_id,
            username=credential.username,
            password=login.password,
            certificate=login.shown,
            account=credential.account_name,
            broker=address,
            grant=grant_of(credential, credential.client_id),
            configuration=request.configuration,
            conversation=conversation,
        )

    def _missing(self, claim: Claim, offer: Offer) -> int | None:
        """Bytes that the reply needs where the device has not as many."""
        if claim.max_reply is None:
            return None
        needed = self._measure(offer, claim.encoding)
        return needed if needed > claim.max_reply else None
