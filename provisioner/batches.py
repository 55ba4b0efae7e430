"""Imports after they were made: which there were, what is of them, and taking one back.

1. Undoing takes rows back from the last to the first. A device that claimed since, or that somebody changed, stays and
   is named; so do companies, as events tell of them.
2. Whoever may see the account of a batch may see it; only an admin takes one back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from provisioner.administration import Administration
from provisioner.devices import Batch, BatchRow, Contact, Device, DeviceLedger, Group
from provisioner.errors import NotFound
from provisioner.model import Millis, ProvisionRequest, Role
from provisioner.policy import Actor, check_role
from provisioner.ports import Note

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Undone:
    """A piece of an undoing: rows taken back, rows that stay, and where to go on (None: that was all)."""

    undone: int
    kept: Sequence[BatchRow]
    before: int | None


class Batches:
    """See the module."""

    def __init__(self, ledger: DeviceLedger, administration: Administration) -> None:
        self._ledger = ledger
        self._administration = administration

    async def create(self, actor: Actor, name: str, account: int | str | None, now: Millis) -> Batch:
        """A batch for rows to come; `account`: whose companies they are about. Raises `NotFound`."""
        check_role(actor, Role.PREPARER)
        if account is None:
            account = actor.account_id
        account_id = None if account is None else (await self._administration.get_account(actor, account)).id
        batch = Batch(self._administration.next_id(now), name, account_id, now, actor.token_id)
        await self._ledger.add_batch(batch)
        return batch

    async def get(self, actor: Actor, batch_id: int) -> Batch:
        """One batch. Raises `NotFound`."""
        batch = await self._ledger.find_batch(batch_id)
        visible = await self._administration.visible(actor)
        if batch is None or (visible is not None and batch.account_id not in visible):
            raise NotFound("no-such-import", "there is no such import")
        return batch

    async def list(self, actor: Actor) -> Sequence[tuple[Batch, int]]:
        """The newest batches, and how many rows of each could be taken back."""
        visible = await self._administration.visible(actor)
        return await self._ledger.list_batches(None if visible is None else sorted(visible), PAGE)

    async def devices(
        self, actor: Actor, batch_id: int | None, after: str, limit: int
    ) -> Sequence[tuple[Device, ProvisionRequest, Group, Contact | None]]:
        """Devices the operator may see, of one batch or all, by id."""
        if batch_id is not None:
            await self.get(actor, batch_id)
        visible = await self._administration.visible(actor)
        return await self._ledger.list_devices(None if visible is None else sorted(visible), batch_id, after, limit)

    async def undo(self, actor: Actor, batch_id: int, before: int, now: Millis) -> Undone:
        """Take a piece of a batch back, its rows in front of number `before`."""
        check_role(actor)
        await self.get(actor, batch_id)
        rows = await self._ledger.list_batch_rows(batch_id, before, PAGE)
        undone = await self._ledger.undo(rows, Note(now, "undo-import", actor.token_id, cause=str(batch_id)))
        gone = {row.number for row in undone}
        kept = [row for row in rows if row.number not in gone]
        return Undone(len(undone), kept, rows[-1].number if len(rows) == PAGE else None)
