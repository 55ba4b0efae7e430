"""The device broker against the ledger: who is there that the ledger does not know, and the reverse.

1. The ledger decides. A user name of ours that is not in force is taken out, a credential in force that is not there is
   put back: at start, when a device broker is reached again, and once a minute.
2. A confirmed credential cannot be put back, as its password was wiped: its request is set to rotate, so the device's
   next claim gets it a new one instead of `already-provisioned`.
3. Names without our prefix are somebody else's: device brokers do not list them, and nothing here touches them.
4. Devices come and go between two looks: what seems to be missing is looked for twice, and looked up in the ledger
   once more on both sides of its repair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from provisioner import transitions
from provisioner.errors import Unavailable
from provisioner.handover import Vault
from provisioner.journal import line_of
from provisioner.keys import secret_context
from provisioner.lifecycle import LIVE, State
from provisioner.model import Credential, Line, Millis, Secret
from provisioner.ports import DeviceBroker, Install, Note, Store, ToInstall, Unit

_PAGE = 500

_MAY_BE_THERE = LIVE | {State.MINTED}
"""A minted one is on its way in: taken out, it would be refused for good when its install is committed."""


class Kind(StrEnum):
    """What is wrong with one user name."""

    UNKNOWN = "unknown"  # there, and not in force in the ledger
    MISSING = "missing"  # in force, not there, and its password is still kept
    LOST = "lost"  # in force, not there, and nobody knows its password any more


@dataclass(frozen=True, slots=True)
class Difference:
    """One user name of which the device broker and the ledger disagree; `credential` where the ledger knows it."""

    device_broker: str
    username: str
    kind: Kind
    credential: Credential | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """What was found: differences, and device brokers that could not be asked."""

    differences: tuple[Difference, ...] = ()
    unreachable: tuple[str, ...] = ()


class Reconciler:
    """Compares and mends."""

    def __init__(self, store: Store, brokers: Mapping[str, DeviceBroker], vault: Vault) -> None:
        self._store = store
        self._brokers = brokers
        self._vault = vault

    async def compare(self) -> Drift:
        """Look at all device brokers; changes nothing."""
        differences: list[Difference] = []
        unreachable = []
        for name, broker in self._brokers.items():
            try:
                there = set(await broker.list())
            except Unavailable:
                unreachable.append(name)
                continue
            differences += await self._unknown(name, there)
            if not broker.asks_ledger and (suspects := await self._missing(name, there)):
                try:
                    there = set(await broker.list())
                except Unavailable:
                    unreachable.append(name)
                    continue
                differences += await self._still_missing(suspects, there)
        return Drift(tuple(differences), tuple(unreachable))

    async def _unknown(self, broker: str, there: set[str]) -> list[Difference]:
        found = []
        for username in sorted(there):
            credential = await self._store.find_username(broker, username)
            if credential is None or credential.state not in _MAY_BE_THERE:
                found.append(Difference(broker, username, Kind.UNKNOWN, credential))
        return found

    async def _missing(self, broker: str, there: set[str]) -> list[Credential]:
        found: list[Credential] = []
        after = ""
        while page := await self._store.find_live(broker, after, _PAGE):
            found += [credential for credential in page if credential.username not in there]
            after = page[-1].username
        return found

    async def _still_missing(self, suspects: list[Credential], there: set[str]) -> list[Difference]:
        found = []
        for suspect in suspects:
            if suspect.username not in there and (credential := await self._in_force(suspect)) is not None:
                kind = Kind.LOST if credential.secret_sealed is None else Kind.MISSING
                found.append(Difference(credential.device_broker, credential.username, kind, credential))
        return found

    async def _in_force(self, credential: Credential) -> Credential | None:
        """The credential as it is now; None: it is not in force any more."""
        current = await self._store.find_username(credential.device_broker, credential.username)
        return current if current is not None and current.state in LIVE else None

    async def mend(self, now: Millis) -> Drift:
        """Compare and put right what can be; what is returned was found. Each deed has its line in the journal."""
        drift = await self.compare()
        for difference in drift.differences:
            try:
                await self._mend(difference, now)
            except Unavailable:
                continue  # the next round finds it again
        return drift

    async def _mend(self, difference: Difference, now: Millis) -> None:
        broker = self._brokers[difference.device_broker]
        note = Note(now, "reconcile", cause=f"{difference.kind} at the device broker")
        credential = difference.credential
        if difference.kind is Kind.UNKNOWN:
            # Somebody may have minted it between the two looks; only what is still not in force goes.
            current = await self._store.find_username(difference.device_broker, difference.username)
            unwanted = current is None or current.state not in _MAY_BE_THERE
            if unwanted and (await broker.revoke([difference.username]))[0]:
                await self._tell(note, credential)
        elif credential is not None and (current := await self._in_force(credential)) is not None:
            if current.secret_sealed is None:
                await self._rotate(current, note)
            else:
                await self._put_back(broker, current, current.secret_sealed, note)

    async def _put_back(self, broker: DeviceBroker, credential: Credential, sealed: str, note: Note) -> None:
        password = Secret(self._vault.open(sealed, secret_context(credential)).decode())
        if (await broker.install([ToInstall(credential, password)]))[0] is not Install.DONE:
            return
        await self._tell(note, credential)
        if await self._in_force(credential) is None:
            # It was retired meanwhile, and its own job may have been through before us.
            await broker.revoke([credential.username])

    async def _rotate(self, credential: Credential, note: Note) -> None:
        dossier = await self._store.find_request(credential.request_id)
        if dossier is None or dossier.request.rotate_wanted or not dossier.request.reuse_key:
            return
        if dossier.request.proved_generation != credential.generation:
            return  # replaced meanwhile
        saved = transitions.changed(dossier.request, rotate_wanted=True, retry_count=0)
        await self._store.commit(Unit(note, saved=(saved,)))

    async def _tell(self, note: Note, credential: Credential | None) -> None:
        line = line_of(note)
        if credential is not None:
            line = Line(
                *line[:4], credential.request_id, credential.client_id, credential.generation, None, None, note.cause
            )
        await self._store.record([line])
