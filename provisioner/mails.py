"""Activation e-mails: what ProvisionEntities promised to send, sent.

1. What is to be sent was committed with its device; the activation key itself stays sealed in the request until then.
2. At least once: a mail is done when a server took it. What a server refuses for good is not tried again; trouble is,
   later and later, for a day.
3. A device that has its credential by then needs no code any more: nothing is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from provisioner.devices import Mail
from provisioner.handover import Vault
from provisioner.keys import reveal_key
from provisioner.model import Millis
from provisioner.ports import Note, Store

_AT_ONCE = 20
_LEASE = 120_000
_FIRST, _LONGEST = 30_000, 3_600_000
_MOST_ATTEMPTS = 30
_IDLE = 30_000


@dataclass(frozen=True, slots=True)
class Letter:
    """What a person is told: how the device is called there and here, and its activation key."""

    email: str
    device_name: str
    client_id: str
    username: str
    activation_key: str


class Undeliverable(Exception):
    """A mail server refuses this letter for good; the text is its code."""


class Postman(Protocol):
    """Hands letters to a mail server."""

    async def send(self, letter: Letter) -> None:
        """Raises `Undeliverable`; `OSError` or `TimeoutError` when the server cannot take anything now."""


class MailLedger(Protocol):
    """Where letters wait."""

    async def lease_mails(self, now: Millis, until: Millis, limit: int) -> Sequence[Mail]:
        """Take what is due; nobody else gets it before `until`."""

    async def next_mail(self) -> Millis | None:
        """When the next one is due; None: there is none."""

    async def settle_mail(self, mail: Mail, due_on: Millis | None, note: Note | None) -> None:
        """Again at `due_on`, or (None) no more; `note` goes to the journal of its request."""


class Mails:
    """Sends what is due: `step(now)` returns when to come back."""

    def __init__(self, ledger: MailLedger, store: Store, vault: Vault, postman: Postman) -> None:
        self._ledger = ledger
        self._store = store
        self._vault = vault
        self._postman = postman

    async def step(self, now: Millis) -> Millis:
        """Send what is due, at most some."""
        for mail in await self._ledger.lease_mails(now, now + _LEASE, _AT_ONCE):
            await self._deliver(mail, now)
        due = await self._ledger.next_mail()
        return now + _IDLE if due is None else min(due, now + _IDLE)

    async def _deliver(self, mail: Mail, now: Millis) -> None:
        dossier = await self._store.find_request(mail.request_id)
        key = None if dossier is None else reveal_key(self._vault, dossier.request)
        if dossier is None or key is None:
            await self._ledger.settle_mail(mail, None, None)
            return
        request = dossier.request
        letter = Letter(
            mail.email,
            request.device_name or request.client_id,
            request.client_id,
            request.provision_username,
            key.reveal(),
        )
        try:
            await self._postman.send(letter)
        except Undeliverable as refusal:
            await self._ledger.settle_mail(mail, None, Note(now, "mail", cause=f"refused: {refusal}"))
        except (OSError, TimeoutError):
            if mail.attempts >= _MOST_ATTEMPTS:
                await self._ledger.settle_mail(mail, None, Note(now, "mail", cause="given up"))
                return
            wait = min(_FIRST << min(mail.attempts - 1, 10), _LONGEST)
            await self._ledger.settle_mail(mail, now + wait, None)
        else:
            await self._ledger.settle_mail(mail, None, Note(now, "mail", cause="sent"))
