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

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from provisioner import transitions
from provisioner.errors import Unavailable
from provisioner.handover import Vault, VaultError
from provisioner.journal import line_of
from provisioner.keys import secret_context
from provisioner.lifecycle import LIVE, State
from provisioner.model import Credential, Line, Millis, Secret
from provisioner.ports import DeviceBroker, Install, Note, Revoke, Store, ToInstall, Unit

_PAGE = 500
_BATCH = 100

_SHUT = "missing at the device broker; its sealed password does not open with the keys at hand"
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
        self.brokers = brokers
        self._vault = vault

    async def compare(self) -> Drift:
        """Look at all device brokers; changes nothing."""
        differences: list[Difference] = []
        unreachable = []
        for name, broker in self.brokers.items():
            try:
                differences += await self._differences(name, broker)
            except Unavailable:
                unreachable.append(name)
        return Drift(tuple(differences), tuple(unreachable))

    async def _differences(self, name: str, broker: DeviceBroker) -> list[Difference]:
        there = set(await broker.list())
        if broker.asks_ledger:
            return await self._unknown(name, there)
        known: set[str] = set()
        suspects: list[Credential] = []
        async for credential in self._live(name):
            known.add(credential.username)
            if credential.username not in there and not credential.is_certificate:
                suspects.append(credential)
        differences = await self._unknown(name, there - known)
        if suspects:
            differences += await self._still_missing(suspects, set(await broker.list()))
        return differences

    async def _live(self, broker: str) -> AsyncIterator[Credential]:
        after = ""
        while page := await self._store.find_live(broker, after, _PAGE):
            for credential in page:
                yield credential
            after = page[-1].username

    async def _unknown(self, broker: str, suspects: set[str]) -> list[Difference]:
        found = []
        for username in sorted(suspects):
            credential = await self._store.find_username(broker, username)
            if credential is None or credential.state not in _MAY_BE_THERE:
                found.append(Difference(broker, username, Kind.UNKNOWN, credential))
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
        for name, broker in self.brokers.items():
            found = [one for one in drift.differences if one.device_broker == name]
            for start in range(0, len(found), _BATCH):
                try:
                    await self._mend(broker, found[start : start + _BATCH], now)
                except Unavailable:
                    break  # the next round finds the rest again
        return drift

    async def _mend(self, broker: DeviceBroker, found: Sequence[Difference], now: Millis) -> None:
        await self._take_out(broker, [one for one in found if one.kind is Kind.UNKNOWN], now)
        missing = []
        for difference in found:
            if difference.kind is Kind.UNKNOWN or difference.credential is None:
                continue
            current = await self._in_force(difference.credential)
            if current is not None and current.secret_sealed is None:
                await self._rotate(current, _note(difference, now))
            elif current is not None:
                missing.append((difference, current))
        await self._put_back(broker, missing, now)

    async def _take_out(self, broker: DeviceBroker, unknown: Sequence[Difference], now: Millis) -> None:
        unwanted = []
        for difference in unknown:
            # Somebody may have minted it between the two looks; only what is still not in force goes.
            current = await self._store.find_username(difference.device_broker, difference.username)
            if current is None or current.state not in _MAY_BE_THERE:
                unwanted.append(difference)
        if not unwanted:
            return
        outcomes = await broker.revoke([difference.username for difference in unwanted])
        for difference, outcome in zip(unwanted, outcomes, strict=True):
            if outcome is not Revoke.LATER:
                await self._tell(_note(difference, now), difference.credential)

    async def _put_back(
        self, broker: DeviceBroker, missing: Sequence[tuple[Difference, Credential]], now: Millis
    ) -> None:
        opened = []
        for difference, credential in missing:
            try:
                opened.append((difference, credential, self._opened(credential)))
            except VaultError:
                await self._tell(Note(now, "reconcile", cause=_SHUT), credential)
        if not opened:
            return
        outcomes = await broker.install([to_install for _, _, to_install in opened])
        for (difference, credential, _), outcome in zip(opened, outcomes, strict=True):
            if outcome is not Install.DONE:
                continue
            await self._tell(_note(difference, now), credential)
            if await self._in_force(credential) is None:
                # It was retired meanwhile, and its own job may have been through before us.
                await broker.revoke([credential.username])

    def _opened(self, credential: Credential) -> ToInstall:
        sealed = credential.secret_sealed or ""
        return ToInstall(credential, Secret(self._vault.open(sealed, secret_context(credential)).decode()))

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


def _note(difference: Difference, now: Millis) -> Note:
    return Note(now, "reconcile", cause=f"{difference.kind} at the device broker")
