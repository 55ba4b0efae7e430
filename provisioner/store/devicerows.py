"""The `DeviceLedger` on SQLite.

1. Rows of a chunk are judged in order inside the write transaction and written together: one statement a table.
2. What two calls make at once (a group, a person) is made once: the later row takes what is there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from provisioner.bulk import Batch, BatchRow, Contact, Device, Group, Mail, Plan, There, saved_of
from provisioner.elements import EntityState
from provisioner.errors import Conflict
from provisioner.journal import line_about, line_of
from provisioner.lifecycle import Phase
from provisioner.model import Millis, ProvisionRequest, evolve
from provisioner.ports import Note, Saved, Unit
from provisioner.store.inserting import insert
from provisioner.store.statements import SQL, read_request, row_values
from provisioner.store.units import append, write_units

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
                return _rows(connection, name, {key: json.dumps(list(value)) for key, value in values.items()})

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
        rows = await self._reading(lambda connection: _rows(connection, "list_devices", values))
        return [_whole_device(row) for row in rows]

    async def find_batch(self, batch_id: int) -> Batch | None:
        """See `DeviceLedger`."""
        rows = await self._reading(lambda connection: _rows(connection, "find_batch", {"id": batch_id}))
        return Batch(*rows[0]) if rows else None

    async def list_batches(self, accounts: Sequence[int] | None, limit: int) -> Sequence[tuple[Batch, int]]:
        """See `DeviceLedger`."""
        values = {"accounts": None if accounts is None else json.dumps(list(accounts)), "limit": limit}
        rows = await self._reading(lambda connection: _rows(connection, "list_batches", values))
        return [(Batch(*row[:-1]), row[-1]) for row in rows]

    async def list_batch_rows(self, batch_id: int, before: int, limit: int) -> Sequence[BatchRow]:
        """See `DeviceLedger`."""
        values = {"batch_id": batch_id, "before": before, "limit": limit}
        rows = await self._reading(lambda connection: _rows(connection, "list_batch_rows", values))
        return [BatchRow(*row) for row in rows]

    # -- writing -------------------------------------------------------------------------------------------------------

    async def add_batch(self, batch: Batch) -> None:
        """See `DeviceLedger`."""
        await self._transact(lambda connection: connection.execute(SQL["add_batch"], batch))

    async def provision(self, plans: Sequence[Plan], batch_id: int, note: Note, *, halt: bool) -> int:
        """See `DeviceLedger`."""
        try:
            looked: int = await self._transact(lambda connection: _Chunk(connection, note, batch_id).run(plans, halt))
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
            return [row for row in rows if _undo(connection, row, note)]

        undone: list[BatchRow] = await self._transact(work)
        self._tell()
        return undone

    # -- mails ---------------------------------------------------------------------------------------------------------

    async def lease_mails(self, now: Millis, until: Millis, limit: int) -> Sequence[Mail]:
        """See `MailLedger`."""
        values = {"now": now, "until": until, "limit": limit}
        rows = await self._transact(lambda connection: _rows(connection, "lease_mails", values))
        return [Mail(*row) for row in rows]

    async def next_mail(self) -> Millis | None:
        """See `MailLedger`."""
        rows = await self._reading(lambda connection: _rows(connection, "next_mail", {}))
        due: Millis | None = rows[0][0]
        return due

    async def settle_mail(self, mail: Mail, due_on: Millis | None, note: Note | None) -> None:
        """See `MailLedger`."""

        def work(connection: sqlite3.Connection) -> None:
            if due_on is None:
                connection.execute(SQL["delete_mail"], {"request_id": mail.request_id})
            else:
                connection.execute(SQL["postpone_mail"], {"request_id": mail.request_id, "due_on": due_on})
            rows = _rows(connection, "find_request", {"id": mail.request_id})
            if note is not None and rows:
                append((line_about(note, read_request(rows[0][1:])),), connection)

        await self._transact(work)


class _Chunk:
    """Rows being provisioned in one transaction."""

    def __init__(self, connection: sqlite3.Connection, note: Note, batch_id: int) -> None:
        self._connection = connection
        self._note = note
        self._batch_id = batch_id

    def run(self, plans: Sequence[Plan], halt: bool) -> int:  # noqa: FBT001  # passed through
        """Judge and write; how many rows were looked at."""
        accepted, looked = self._judge(plans, halt=halt)
        self._make_accounts(accepted)
        groups, contacts = self._make_groups(accepted), self._make_contacts(accepted)
        units = [self._unit(plan) for plan in accepted]
        write_units(units, self._connection)
        devices = [
            plan.device._replace(
                group_id=groups[plan.group.account_id, plan.group.name],
                contact_id=plan.device.contact_id
                if plan.contact is None
                else contacts[plan.contact.account_id, plan.contact.email],
            )
            for plan in accepted
        ]
        at = self._note.at
        mails = [(plan.request.id, plan.mail, at, 0) for plan in accepted if plan.mail is not None]
        insert("save_devices", devices, self._connection)
        insert("add_mails", mails, self._connection)
        insert("add_batch_rows", [self._batch_row(plan) for plan in accepted], self._connection)
        return looked

    def _judge(self, plans: Sequence[Plan], *, halt: bool) -> tuple[list[Plan], int]:
        new = [plan for plan in plans if plan.former is None]
        taken = self._open([[plan.request.device_broker, plan.request.client_id] for plan in new])
        room = self._room({plan.company.id for plan in new})
        current = self._current([plan.request.id for plan in plans if plan.former is not None])
        names = self._names([plan.company.name for plan in plans])
        accepted: list[Plan] = []
        for looked, plan in enumerate(plans, start=1):
            request, company = plan.request, plan.company
            if names.get(company.name, company.id) != company.id:
                plan.problem = "another company of that name was made meanwhile; try again"
            elif plan.former is None and (request.device_broker, request.client_id) in taken:
                plan.problem = "there is an open request for this ClientId meanwhile"
            elif plan.former is None and room.get(company.id, 1) <= 0:
                plan.problem = f"the company {company.display_name} has its {company.quota} open requests"
            elif plan.former is not None and current.get(request.id) != plan.former[1].optlock:
                plan.problem = "somebody changed this device meanwhile; try again"
            else:
                accepted.append(plan)
                current[request.id] = request.optlock
                if plan.former is None:
                    taken.add((request.device_broker, request.client_id))
                    if company.id in room:
                        room[company.id] -= 1
                continue
            if halt:
                return accepted, looked
        return accepted, len(plans)

    def _open(self, pairs: list[list[str]]) -> set[tuple[str, str]]:
        rows = _rows(self._connection, "find_open_pairs", {"pairs": json.dumps(pairs)}) if pairs else []
        return {(row[0], row[1]) for row in rows}

    def _room(self, accounts: set[int]) -> dict[int, int]:
        """How many more requests each account with a quota may have open."""
        rows = _rows(self._connection, "find_room", {"accounts": json.dumps(sorted(accounts))}) if accounts else []
        return {row[0]: row[1] for row in rows}

    def _current(self, ids: list[int]) -> dict[int, int]:
        rows = _rows(self._connection, "find_optlocks", {"ids": json.dumps(ids)}) if ids else []
        return {row[0]: row[1] for row in rows}

    def _names(self, names: list[str]) -> dict[str, int]:
        rows = _rows(self._connection, "find_account_names", {"names": json.dumps(sorted(set(names)))})
        return {row[0]: row[1] for row in rows}

    def _make_accounts(self, accepted: list[Plan]) -> None:
        there = set(self._names([plan.company.name for plan in accepted]).values()) if accepted else set()
        for plan in accepted:
            company = plan.company
            if company.id in there:
                continue
            there.add(company.id)
            plan.verdict.company_state = EntityState.NEW
            self._connection.execute(SQL["add_account"], row_values(company))
            note = Note(self._note.at, "create-account", self._note.actor, cause=company.name)
            append((line_of(note),), self._connection)

    def _make_groups(self, accepted: list[Plan]) -> dict[tuple[int, str], int]:
        made: dict[tuple[int, str], int] = {}
        for plan in accepted:
            key = plan.group.account_id, plan.group.name
            if key in made:
                continue
            if self._connection.execute(SQL["add_group"], plan.group).rowcount == 1:
                plan.verdict.group_state = EntityState.NEW
            made[key] = self._connection.execute(SQL["find_group"], key).fetchone()[0]
        return made

    def _make_contacts(self, accepted: list[Plan]) -> dict[tuple[int, str], int]:
        made: dict[tuple[int, str], int] = {}
        last: dict[tuple[int, str], Contact] = {}
        for plan in accepted:
            contact = plan.contact
            if contact is None:
                continue
            key = contact.account_id, contact.email
            if key not in made:
                known = self._connection.execute(SQL["find_contact"], key).fetchone()
                if known is None:
                    plan.verdict.user_state = EntityState.NEW
                made[key] = contact.id if known is None else known[0]
            last[key] = contact._replace(id=made[key])
        insert("save_contacts", list(last.values()), self._connection)
        return made

    def _unit(self, plan: Plan) -> Unit:
        if plan.former is None:
            return Unit(self._note, added=(plan.request,))
        saved = saved_of(plan)
        return Unit(self._note, saved=() if saved is None else (saved,))

    def _batch_row(self, plan: Plan) -> tuple[object, ...]:
        former = None
        if plan.former is not None:
            former = json.dumps([*plan.former[0], plan.former[1].device_name])
        request = plan.request
        number = plan.verdict.number
        return (self._batch_id, number, plan.device.device_id, request.id, request.optlock, former)


def _undo(connection: sqlite3.Connection, row: BatchRow, note: Note) -> bool:
    """Take one row back; False: something came of it since."""
    rows = _rows(connection, "find_request", {"id": row.request_id})
    if not rows:
        return False
    request = read_request(rows[0][1:])
    if request.optlock != row.optlock:
        return False
    if row.former is not None:
        *device, name = json.loads(row.former)
        after = Saved(request, _renamed(request, name, note))
        if not write_units([Unit(note, saved=(after,))], connection)[0][0]:
            return False
        insert("save_devices", [device], connection)
        connection.execute(SQL["delete_batch_row"], {"batch_id": row.batch_id, "number": row.number})
        return True
    if request.phase is not Phase.PENDING or request.generation:
        return False
    values = {"id": request.id, "optlock": request.optlock, "job_optlock": request.job_optlock}
    group_and_contact = _rows(connection, "find_device_ties", {"device_id": row.device_id})
    connection.execute(SQL["delete_request"], values)
    for group_id, contact_id in group_and_contact:
        connection.execute(SQL["delete_group_if_empty"], {"id": group_id})
        connection.execute(SQL["delete_contact_if_idle"], {"id": contact_id})
    connection.execute(SQL["delete_batch_row"], {"batch_id": row.batch_id, "number": row.number})
    append((line_about(note, request),), connection)
    return True


def _renamed(request: ProvisionRequest, name: str | None, note: Note) -> ProvisionRequest:
    return evolve(
        request,
        device_name=name,
        optlock=request.optlock + 1,
        modified_on=note.at,
        modified_by=note.actor or 0,
    )


_NONE: frozenset[str] = frozenset()


def _rows(connection: sqlite3.Connection, name: str, values: dict[str, Any]) -> list[Any]:
    return connection.execute(SQL[name], values).fetchall()


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
