"""The `DeviceLedger` and the `MailLedger` on SQLite; `devicewrites` has what is done inside a transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from provisioner.devices import Batch, BatchRow, Contact, Device, Group, Mail, Plan, There
from provisioner.errors import Conflict
from provisioner.journal import line_about
from provisioner.model import Millis, ProvisionRequest
from provisioner.ports import Note
from provisioner.store.devicewrites import Chunk, select, undo
from provisioner.store.statements import SQL, read_request
from provisioner.store.units import append

Run = Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]

_GROUP, _CONTACT, _DEVICE = len(Group._fields), len(Contact._fields), len(Device._fields)


class SqliteDevices:
    """`reading` and `transact` run a function on the connection that reads, and in a transaction of the other one.

    `tell` is called when events were committed.
    """

    def __init__(self, reading: Run, transact: Run, tell: Callable[[], None]) -> None:
        self._reading = reading
        self._transact = transact
        self._tell = tell

    # -- reading -------------------------------------------------------------------------------------------------------

    async def find(
        self,
        accounts: Sequence[int],
        emails: Sequence[str],
        device_ids: Sequence[str],
        client_ids: Sequence[str],
        units: Sequence[str],
    ) -> There:
        """See `DeviceLedger`."""

        def work(connection: sqlite3.Connection) -> There:
            def rows(name: str, **values: Sequence[object]) -> list[Any]:
                return select(connection, name, {key: json.dumps(list(value)) for key, value in values.items()})

            return There(
                groups=[Group(*row) for row in rows("find_groups", accounts=accounts)],
                contacts=[Contact(*row) for row in rows("find_contacts", accounts=accounts, emails=emails)],
                devices=[_device(row) for row in rows("find_devices", device_ids=device_ids)] if device_ids else [],
                open_client_ids=_names(rows("find_open_client_ids", client_ids=client_ids)) if client_ids else _NONE,
                open_units=_names(rows("find_open_units", units=units)) if units else _NONE,
            )

        found: There = await self._reading(work)
        return found

    async def list_devices(
        self, accounts: Sequence[int] | None, batch_id: int | None, after: str, limit: int
    ) -> Sequence[tuple[Device, ProvisionRequest, Group, Contact | None]]:
        """See `DeviceLedger`."""
        values = {
            "accounts": None if accounts is None else json.dumps(list(accounts)),
            "batch_id": batch_id,
            "after": after,
            "limit": limit,
        }
        rows = await self._reading(lambda connection: select(connection, "list_devices", values))
        return [_whole_device(row) for row in rows]

    async def find_batch(self, batch_id: int) -> Batch | None:
        """See `DeviceLedger`."""
        rows = await self._reading(lambda connection: select(connection, "find_batch", {"id": batch_id}))
        return Batch(*rows[0]) if rows else None

    async def list_batches(self, accounts: Sequence[int] | None, limit: int) -> Sequence[tuple[Batch, int]]:
        """See `DeviceLedger`."""
        values = {"accounts": None if accounts is None else json.dumps(list(accounts)), "limit": limit}
        rows = await self._reading(lambda connection: select(connection, "list_batches", values))
        return [(Batch(*row[:-1]), row[-1]) for row in rows]

    async def list_batch_rows(self, batch_id: int, before: int, limit: int) -> Sequence[BatchRow]:
        """See `DeviceLedger`."""
        values = {"batch_id": batch_id, "before": before, "limit": limit}
        rows = await self._reading(lambda connection: select(connection, "list_batch_rows", values))
        return [BatchRow(*row) for row in rows]

    # -- writing -------------------------------------------------------------------------------------------------------

    async def add_batch(self, batch: Batch) -> None:
        """See `DeviceLedger`."""
        await self._transact(lambda connection: connection.execute(SQL["add_batch"], batch))

    async def provision(self, plans: Sequence[Plan], batch_id: int, note: Note, *, halt: bool) -> int:
        """See `DeviceLedger`."""
        try:
            looked: int = await self._transact(lambda connection: Chunk(connection, note, batch_id).run(plans, halt))
        except Conflict:
            if len(plans) == 1:
                plans[0].problem = "something of that name or id was made meanwhile"
                return 1
            looked = 0
            for plan in plans:
                looked += await self.provision([plan], batch_id, note, halt=halt)
                if halt and plan.problem:
                    break
        self._tell()
        return looked

    async def undo(self, rows: Sequence[BatchRow], note: Note) -> Sequence[BatchRow]:
        """See `DeviceLedger`."""

        def work(connection: sqlite3.Connection) -> list[BatchRow]:
            return [row for row in rows if undo(connection, row, note)]

        undone: list[BatchRow] = await self._transact(work)
        self._tell()
        return undone

    # -- mails ---------------------------------------------------------------------------------------------------------

    async def lease_mails(self, now: Millis, until: Millis, limit: int) -> Sequence[Mail]:
        """See `MailLedger`."""
        values = {"now": now, "until": until, "limit": limit}
        rows = await self._transact(lambda connection: select(connection, "lease_mails", values))
        return [Mail(*row) for row in rows]

    async def next_mail(self) -> Millis | None:
        """See `MailLedger`."""
        rows = await self._reading(lambda connection: select(connection, "next_mail", {}))
        due: Millis | None = rows[0][0]
        return due

    async def settle_mail(self, mail: Mail, due_on: Millis | None, note: Note | None) -> None:
        """See `MailLedger`."""

        def work(connection: sqlite3.Connection) -> None:
            if due_on is None:
                connection.execute(SQL["delete_mail"], {"request_id": mail.request_id})
            else:
                connection.execute(SQL["postpone_mail"], {"request_id": mail.request_id, "due_on": due_on})
            rows = select(connection, "find_request", {"id": mail.request_id})
            if note is not None and rows:
                append((line_about(note, read_request(rows[0][1:])),), connection)

        await self._transact(work)


_NONE: frozenset[str] = frozenset()


def _names(rows: Sequence[Any]) -> frozenset[str]:
    return frozenset(row[0] for row in rows)


def _device(row: Sequence[Any]) -> tuple[Device, ProvisionRequest]:
    return Device(*row[:_DEVICE]), read_request(row[_DEVICE:])


def _whole_device(row: Sequence[Any]) -> tuple[Device, ProvisionRequest, Group, Contact | None]:
    at = _DEVICE
    device, group = Device(*row[:at]), Group(*row[at : at + _GROUP])
    at += _GROUP
    contact = Contact(*row[at : at + _CONTACT]) if row[at] is not None else None
    return device, read_request(row[at + _CONTACT :]), group, contact
