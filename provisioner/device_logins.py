"""Who may log in where devices work, and with a certificate where they claim: decided from the ledger, at each login.

1. In force is what the ledger says is INSTALLED, OFFERED or CONFIRMED; a retired credential is refused from the commit
   that retires it, whatever a revocation list says by then.
2. STRICT: its client id alone. LOOSE: any client id of the grammar that no other live credential was made for, or the
   one that it was bound to (`learning`).
3. The first login with an OFFERED credential confirms its request (section 8), unless only an ack may.
4. A certificate is first read as one of ours (issuer, signature, time, profile); then its serial is looked up, and the
   names in it must be those of its credential.
"""

from __future__ import annotations

from collections.abc import Callable

from certs.profile import Device
from provisioner import policy
from provisioner.certification import Certification
from provisioner.confirmation import Confirmation
from provisioner.errors import Unavailable
from provisioner.handover import Vault, equal
from provisioner.lifecycle import LIVE, State
from provisioner.model import (
    CIK_IDENTITY,
    CertificateSession,
    Confirm,
    Coupling,
    Credential,
    DeviceRights,
    Millis,
)
from provisioner.ports import Note, Store
from provisioner.topics import grant_of

_TRIES = 16
_SOON = 2


class DeviceLogins:
    """`certification` None: this installation issues no certificates, so none is admitted."""

    def __init__(
        self, store: Store, vault: Vault, confirmation: Confirmation, certification: Certification | None
    ) -> None:
        self._store = store
        self._vault = vault
        self._confirmation = confirmation
        self._certification = certification
        self.on_login: Callable[[Credential, str, Millis], None] = lambda *_: None
        """Set by whoever watches which client ids use a credential."""

    async def by_password(
        self, device_broker: str, username: str, password: bytes, client_id: str, now: Millis, source: str = ""
    ) -> DeviceRights | None:
        """See `Provisioner.device_login`."""
        for _ in range(_TRIES):
            credential = await self._store.find_username(device_broker, username)
            if credential is None:
                credential = await self._find_activated(device_broker, username, password)
            if credential is None or not self._fits(credential, password):
                return None
            if not await self._couples(credential, client_id):
                return None
            if (rights := await self._admit(credential, client_id, now, source)) is not None:
                return rights
        raise Unavailable("this device is being changed too often", retry_after=_SOON)

    async def logged_in(self, device_broker: str, username: str, client_id: str) -> DeviceRights | None:
        """See `Provisioner.device_rights`."""
        credential = await self._store.find_username(device_broker, username)
        if credential is None:
            credential = await self._find_activated(device_broker, username, None)
        if credential is None or credential.state not in LIVE or not await self._couples(credential, client_id):
            return None
        return DeviceRights(credential.account_name, username, client_id, grant_of(credential, client_id))

    async def by_certificate(
        self, device_broker: str, certificate: bytes, client_id: str, now: Millis, source: str = ""
    ) -> DeviceRights | None:
        """See `Provisioner.certificate_login`."""
        for _ in range(_TRIES):
            credential, _ = await self._find(certificate, now)
            if credential is None or credential.device_broker != device_broker:
                return None
            if not await self._couples(credential, client_id):
                return None
            if (rights := await self._admit(credential, client_id, now, source)) is not None:
                return rights
        raise Unavailable("this device is being changed too often", retry_after=_SOON)

    async def to_claim(self, certificate: bytes, client_id: str | None, now: Millis) -> CertificateSession | None:
        """See `Provisioner.login_by_certificate`."""
        credential, serial = await self._find(certificate, now)
        if credential is None or client_id not in (None, credential.client_id):
            return None
        dossier = await self._store.find_request(credential.request_id)
        if dossier is None:
            return None
        user, offered = dossier.request.provision_username, credential.state is State.OFFERED
        return CertificateSession(user, credential.client_id, serial, credential.generation, offered)

    async def _find(self, certificate: bytes, now: Millis) -> tuple[Credential | None, str]:
        """The credential in force that a certificate is."""
        if self._certification is None or (read := self._certification.verify(certificate, now)) is None:
            return None, ""
        serial, names = read
        found = await self._store.certificates.find(serial)
        if found is None or found[1].state not in LIVE or names != _names_of(found[1]):
            return None, ""
        return found[1], serial

    async def _find_activated(
        self, device_broker: str, serial_number: str, password: bytes | None
    ) -> Credential | None:
        """The credential of a unit that got a CIK, and logs in with its serial number as the user name.

        `password` None: it has logged in already.
        """
        for request in await self._store.find_open(device_broker, serial_number):
            for credential in await self._store.find_credentials(request.id):
                if credential.identity == CIK_IDENTITY and (password is None or self._fits(credential, password)):
                    return credential
        return None

    def _fits(self, credential: Credential, password: bytes) -> bool:
        if credential.is_certificate:
            return False
        context = f"{credential.device_broker}|{credential.username}"
        given = self._vault.fingerprint(password.decode("utf-8", "replace"), context)
        return equal(given.encode(), credential.secret_hash.encode()) and credential.state in LIVE

    async def _couples(self, credential: Credential, client_id: str) -> bool:
        if credential.bound_to is not None:
            return client_id == credential.bound_to
        if client_id == credential.client_id:
            return True
        if credential.coupling is Coupling.STRICT or not policy.is_identifier(client_id):
            return False
        return not await self._store.holds_client_id(credential.device_broker, client_id, credential.request_id)

    async def _admit(self, credential: Credential, client_id: str, now: Millis, source: str) -> DeviceRights | None:
        """What it may do, once a first login has confirmed it; None: it changed meanwhile, look again."""
        if credential.state is State.OFFERED and not await self._confirm(credential, now, source):
            return None
        self.on_login(credential, client_id, now)
        return DeviceRights(credential.account_name, credential.username, client_id, grant_of(credential, client_id))

    async def _confirm(self, credential: Credential, now: Millis, source: str) -> bool:
        dossier = await self._store.find_request(credential.request_id)
        if dossier is None or dossier.credential is None or dossier.credential.generation != credential.generation:
            return False
        if dossier.request.confirm is Confirm.ACK or dossier.credential.state is not State.OFFERED:
            return True
        return await self._confirmation.confirm(
            dossier.request, dossier.credential, Note(now, "login", source=source, cause="first login")
        )


def _names_of(credential: Credential) -> Device:
    return Device(credential.account_name, credential.client_id if credential.coupling is Coupling.STRICT else None)
