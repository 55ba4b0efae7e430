"""The first start on a backup that was put back: what happened since is unknown, so nothing may hang on it.

1. Generations go on above whatever a lost ledger can have minted: the floor is taken from the clock, one generation for
   every six seconds since 2020 (nine digits until 2210), so it needs nothing that may be lost as well. A client id that
   mints more often than that for as long as an installation lives does not exist.
2. Offers that were not confirmed are retired: the device may have confirmed, or got another one. It claims again, and
   the attempt does not count.
3. A confirmed device may have renewed since, and then holds what this ledger does not know: its next claim, proved with
   its key, may renew once more. One that has what the ledger knows never needs to.
4. Each step may be done twice, and the mark goes last: a start that is killed does it all again.

What the ledger cannot know stays with the operator: what was revoked since is in force again where the ledger decides,
what was created since is gone. The device broker's own list is compared as at every start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from provisioner import transitions
from provisioner.errors import Unavailable
from provisioner.journal import line_of
from provisioner.model import Credential, Line, Millis, ProvisionRequest, evolve
from provisioner.policy import iso
from provisioner.ports import Note, Saved, Unit

_YEAR_2020 = 1_577_836_800_000
_GENERATION = 6_000
_BATCH = 256


class CopiedLedger(Protocol):
    """The ledger's part in it. All raise `Unavailable`."""

    async def find_copied_on(self) -> Millis | None:
        """When this ledger was copied from another; None: it is not a copy, or no longer."""

    async def lift_floor(self, floor: int) -> None:
        """Mint no generation up to `floor`, if that is higher than before."""

    async def list_unproved(self, limit: int) -> Sequence[tuple[ProvisionRequest, Credential]]:
        """Credentials that are neither confirmed nor on their way out."""

    async def allow_renewals(self) -> None:
        """Let each confirmed device renew with its next claim."""

    async def end_restore(self) -> None:
        """It is a ledger like any other from now on."""

    async def commit(self, unit: Unit) -> bool:
        """See `Store`."""

    async def record(self, lines: Sequence[Line]) -> None:
        """See `Store`."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was done: when the copy was made, and how many offers were retired."""

    copied_on: Millis
    retired: int


def floor_at(now: Millis) -> int:
    """The floor of generations that a restore at this time sets."""
    return max(0, now - _YEAR_2020) // _GENERATION


async def complete(ledger: CopiedLedger, now: Millis) -> Restored | None:
    """At start: settle a ledger that was put back; None: it was not. Raises `Unavailable`."""
    copied_on = await ledger.find_copied_on()
    if copied_on is None:
        return None
    await ledger.lift_floor(floor_at(now))
    retired = 0
    while unproved := await ledger.list_unproved(_BATCH):
        units = [_retire(request, credential, now) for request, credential in unproved]
        if not all(await asyncio.gather(*map(ledger.commit, units))):
            raise Unavailable("a request changes while its ledger is being restored")
        retired += len(unproved)
    await ledger.allow_renewals()
    cause = f"{retired} offers retired, the backup was made {iso(copied_on)}"
    await ledger.record([line_of(Note(now, "restore", cause=cause))])
    await ledger.end_restore()
    return Restored(copied_on, retired)


def _retire(request: ProvisionRequest, credential: Credential, now: Millis) -> Unit:
    note = Note(now, "restore", cause="what became of it after the backup is not known")
    unit = transitions.retire(request, credential, note)
    saved = unit.saved[0]
    after = evolve(saved.after, retry_count=max(0, request.retry_count - 1))
    return replace(unit, saved=(Saved(saved.before, after),))
