"""Key epochs: under which key the ledger is sealed, and how it moves to the next (wire contract, section 9, rule 8).

1. Keys and pepper are kept outside the ledger, in a `Keyring`. The ledger keeps a digest of each, which opens nothing:
   a wrong or missing key is known at the start, not at some device's claim.
2. The newest key seals. The ledger refuses what is sealed anew under a former one (the claim then starts over), so
   one pass in small steps finds everything older, while claims go on.
3. Only once the pass is over the former keys are destroyed: whatever copy of the ledger is older (a backup, a page that
   was freed) opens with nothing from then on. A key that is to open backups is kept, until `retire`.
4. Each step is committed before the next one, so a process killed anywhere is taken up by the next `rotate` or start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from provisioner.errors import Conflict, Forbidden, NotFound, Unavailable
from provisioner.handover import Vault, epoch_of, key_id, new_key
from provisioner.model import Millis
from provisioner.policy import Actor, check_role
from provisioner.ports import Entropy, Note

_STEP = 100
"""Rows in one transaction: some milliseconds in which a claim waits."""

_STEPS = 50


class KeyState(StrEnum):
    """What the ledger needs a key for."""

    IN_USE = "IN_USE"  # something may be sealed under it
    KEPT = "KEPT"  # nothing of this ledger is; older backups are
    RETIRING = "RETIRING"  # about to be destroyed
    RETIRED = "RETIRED"  # destroyed


@dataclass(frozen=True, slots=True)
class KeyEpoch:
    """One key-encryption key as the ledger knows it."""

    epoch: int
    key_id: str
    made_on: Millis
    state: KeyState = KeyState.IN_USE


@dataclass(frozen=True, slots=True)
class Sealed:
    """A place for a sealed value, `table` and the row's key, and what is there; None: nothing."""

    table: str
    key: tuple[int | str, ...]
    text: str | None

    @property
    def context(self) -> str:
        """What it is sealed as: every context is the place."""
        return "|".join((self.table, *map(str, self.key)))


@dataclass(frozen=True, slots=True)
class Rotated:
    """How far a rotation got: rows passed in this call, rows there are, whether the pass is over."""

    epoch: int
    passed: int
    rows: int
    is_done: bool


class Keyring(Protocol):
    """Where keys are kept. `place` completes the sentence "it is not …"; `is_ours`: we may add and destroy keys."""

    place: str
    is_ours: bool
    pepper: bytes

    @property
    def keys(self) -> Mapping[int, bytes]:
        """Key-encryption keys at hand, by epoch."""

    def add(self, epoch: int, key: bytes) -> bytes:
        """Keep `key` durably; returns the key of that epoch, which is another one if there was one already."""

    def destroy(self, epoch: int) -> None:
        """Make a key unreadable, wherever it is; it may be gone already."""


class KeyLedger(Protocol):
    """The ledger's part in it. Each verb is one transaction; all raise `Unavailable`."""

    async def list_epochs(self) -> Sequence[KeyEpoch]:
        """Every epoch there ever was, oldest first."""

    async def find_pepper_id(self) -> str | None:
        """`key_id` of the pepper; None: not noted yet."""

    async def save_epochs(self, epochs: Sequence[KeyEpoch], note: Note, pepper_id: str | None = None) -> None:
        """Note these epochs, here and in the journal; the next pass begins at the beginning."""

    async def list_sealed(self, limit: int) -> Sequence[Sealed]:
        """The next rows of the pass; empty: it is over."""

    async def reseal(self, last: Sealed, changes: Sequence[tuple[Sealed, str]]) -> None:
        """Write other texts where what is there is still what was read, and note that the pass got to `last`."""

    async def count_sealed(self) -> int:
        """Rows of a whole pass."""


async def enrol(ledger: KeyLedger, keyring: Keyring, now: Millis) -> None:
    """At start: check the keys at hand, note new ones, finish what was to be destroyed. Raises `Unavailable`."""
    known = {one.epoch: one for one in await ledger.list_epochs()}
    pepper_id = await ledger.find_pepper_id()
    check_at_hand(known.values(), pepper_id, keyring)
    noted = [KeyEpoch(epoch, key_id(key), now) for epoch, key in keyring.keys.items() if epoch not in known]
    leaving = [one for one in known.values() if one.state is KeyState.RETIRING and _is_gone(keyring, one.epoch)]
    noted += [replace(one, state=KeyState.RETIRED) for one in leaving]
    if noted or pepper_id is None:
        note = Note(now, "enrol-keys", cause=_told(noted) or "the pepper")
        await ledger.save_epochs(noted, note, key_id(keyring.pepper))


def check_at_hand(epochs: Iterable[KeyEpoch], pepper_id: str | None, keyring: Keyring) -> None:
    """Whether a ledger that knows of these keys opens with those at hand. Raises `Unavailable`."""
    for one in epochs:
        key, name = keyring.keys.get(one.epoch), f"vault-{one.epoch}"
        if key is None and one.state is KeyState.IN_USE:
            raise Unavailable(
                f"the ledger needs key {name} (id {one.key_id}), which is not {keyring.place}: put it back"
            )
        if key is not None and key_id(key) != one.key_id and one.state is not KeyState.RETIRED:
            raise Unavailable(
                f"key {name} {keyring.place} has id {key_id(key)}, the ledger needs the one with id {one.key_id}: "
                "put back the key that belongs to this ledger"
            )
    if pepper_id not in (None, key_id(keyring.pepper)):
        raise Unavailable(
            f"the pepper {keyring.place} is not the one the ledger was made with (id {pepper_id}): put that one back"
        )


def _is_gone(keyring: Keyring, epoch: int) -> bool:
    """Destroy a key if that is ours to do; whether it is gone."""
    if keyring.is_ours:
        keyring.destroy(epoch)
        return True
    return epoch not in keyring.keys


class Epochs:
    """The operator's use cases around keys: they are the whole installation's, so no token of one account has them."""

    def __init__(self, ledger: KeyLedger, keyring: Keyring, vault: Vault, entropy: Entropy) -> None:
        self._ledger = ledger
        self._keyring = keyring
        self._vault = vault
        self._entropy = entropy
        self._rotating = asyncio.Lock()

    async def list_epochs(self, actor: Actor) -> Sequence[KeyEpoch]:
        """Every epoch there ever was, oldest first. Raises `Forbidden`."""
        _check_installation(actor)
        return await self._ledger.list_epochs()

    async def rotate(self, actor: Actor, now: Millis, *, keep_former: bool) -> Rotated:
        """A bounded piece of a rotation: begin one, or go on with one that was begun; repeat it until it is done.

        Raises `Forbidden`, and `Conflict` where the next key has to come from the operator.
        """
        _check_installation(actor)
        async with self._rotating:
            if not _former(await self._ledger.list_epochs()):
                await self._begin(Note(now, "rotate-keys", actor.token_id))
            passed = 0
            for _ in range(_STEPS):
                rows = await self._ledger.list_sealed(_STEP)
                if not rows:
                    await self._end(Note(now, "end-rotation", actor.token_id), keep_former=keep_former)
                    return Rotated(self._vault.epoch, passed, await self._ledger.count_sealed(), is_done=True)
                await self._ledger.reseal(rows[-1], [(row, text) for row in rows if (text := self._renewed(row))])
                passed += len(rows)
            return Rotated(self._vault.epoch, passed, await self._ledger.count_sealed(), is_done=False)

    async def retire(self, actor: Actor, epoch: int, now: Millis) -> KeyEpoch:
        """Destroy a key that was kept for older backups. Raises `NotFound`, `Conflict`, `Forbidden`."""
        _check_installation(actor)
        async with self._rotating:
            found = next((one for one in await self._ledger.list_epochs() if one.epoch == epoch), None)
            if found is None:
                raise NotFound("no-such-key", f"there is no key vault-{epoch}")
            if found.state is KeyState.IN_USE:
                raise Conflict("key-in-use", f"the ledger is sealed under vault-{epoch}; rotate first")
            return (await self._destroy([found], Note(now, "retire-key", actor.token_id)))[0]

    async def _begin(self, note: Note) -> None:
        epoch = max((one.epoch for one in await self._ledger.list_epochs()), default=0) + 1
        if not self._keyring.is_ours:
            raise Conflict(
                "keys-elsewhere", f"keep a new key vault-{epoch} beside the others, restart, and rotate again"
            )
        key = self._keyring.add(epoch, new_key(self._entropy))
        self._vault.add(epoch, key)
        made = [KeyEpoch(epoch, key_id(key), note.at)]
        await self._ledger.save_epochs(made, replace(note, cause=_told(made)))

    def _renewed(self, row: Sealed) -> str | None:
        """What is sealed under a former key, sealed under the newest; None: nothing to do."""
        if row.text is None or epoch_of(row.text) == self._vault.epoch:
            return None
        return self._vault.seal(self._vault.open(row.text, row.context), row.context)

    async def _end(self, note: Note, *, keep_former: bool) -> None:
        former = _former(await self._ledger.list_epochs())
        if keep_former:
            kept = [replace(one, state=KeyState.KEPT) for one in former]
            await self._ledger.save_epochs(kept, replace(note, cause=_told(kept)))
        else:
            await self._destroy(former, note)

    async def _destroy(self, epochs: Sequence[KeyEpoch], note: Note) -> Sequence[KeyEpoch]:
        """Noted first: a start that misses a key has to know that it may."""
        leaving = [replace(one, state=KeyState.RETIRING) for one in epochs]
        await self._ledger.save_epochs(leaving, replace(note, cause=_told(leaving)))
        gone = [replace(one, state=KeyState.RETIRED) for one in leaving if _is_gone(self._keyring, one.epoch)]
        if gone:
            await self._ledger.save_epochs(gone, replace(note, cause=_told(gone)))
        return gone or leaving


def _former(epochs: Sequence[KeyEpoch]) -> list[KeyEpoch]:
    """Epochs that a rotation still has to get rid of."""
    return [one for one in epochs[:-1] if one.state is KeyState.IN_USE]


def _told(epochs: Sequence[KeyEpoch]) -> str:
    """What the journal says of them: numbers and ids, which open nothing."""
    return ", ".join(f"vault-{one.epoch} ({one.key_id}) {one.state}" for one in epochs)


def _check_installation(actor: Actor) -> None:
    check_role(actor)
    if actor.account_id is not None:
        raise Forbidden("forbidden", "keys belong to the whole installation; use a token that is of no account")
