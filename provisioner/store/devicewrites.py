"""Rows of a bulk call going into a transaction, and being taken out again.

1. Rows are judged in order inside the write transaction and written together: few statements a table, however many
   rows there are.
2. What two calls make at once (a group, a person) is made once: the later row takes what is there.
3. A row is taken back only while nothing came of it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from provisioner.devices import BatchRow, Contact, Plan
from provisioner.journal import line_about, line_of
from provisioner.lifecycle import Phase
from provisioner.model import ProvisionRequest, evolve
from provisioner.ports import Note, Saved, Unit
from provisioner.store.inserting import insert
from provisioner.store.statements import SQL, read_request, row_values
from provisioner.store.units import append, write_units
from provisioner.verdicts import EntityState


def select(connection: sqlite3.Connection, name: str, values: dict[str, Any]) -> list[Any]:
    """All rows of a statement."""
    return connection.execute(SQL[name], values).fetchall()


class Chunk:
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
        write_units(self._units(accepted), self._connection)
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
        rows = select(self._connection, "find_open_pairs", {"pairs": json.dumps(pairs)}) if pairs else []
        return {(row[0], row[1]) for row in rows}

    def _room(self, accounts: set[int]) -> dict[int, int]:
        """How many more requests each account with a quota may have open."""
        rows = select(self._connection, "find_room", {"accounts": json.dumps(sorted(accounts))}) if accounts else []
        return {row[0]: row[1] for row in rows}

    def _current(self, ids: list[int]) -> dict[int, int]:
        rows = select(self._connection, "find_optlocks", {"ids": json.dumps(ids)}) if ids else []
        return {row[0]: row[1] for row in rows}

    def _names(self, names: list[str]) -> dict[str, int]:
        rows = select(self._connection, "find_account_names", {"names": json.dumps(sorted(set(names)))})
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

    def _units(self, accepted: list[Plan]) -> list[Unit]:
        """In the order of the rows; new requests that follow one another make one unit, as nothing guards them."""
        units: list[Unit] = []
        for is_new, plans in groupby(accepted, lambda plan: plan.former is None):
            if is_new:
                units.append(Unit(self._note, added=tuple(plan.request for plan in plans)))
            else:
                units += [Unit(self._note, saved=(plan.saved,)) for plan in plans if plan.saved is not None]
        return units

    def _batch_row(self, plan: Plan) -> tuple[object, ...]:
        former = None
        if plan.former is not None:
            former = json.dumps([*plan.former[0], plan.former[1].device_name])
        request = plan.request
        number = plan.verdict.number
        return (self._batch_id, number, plan.device.device_id, request.id, request.optlock, former)


def undo(connection: sqlite3.Connection, row: BatchRow, note: Note) -> bool:
    """Take one row back; False: something came of it since."""
    rows = select(connection, "find_request", {"id": row.request_id})
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
    group_and_contact = select(connection, "find_device_ties", {"device_id": row.device_id})
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
