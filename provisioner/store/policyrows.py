"""The `PolicyLedger` on SQLite: see `policies`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from provisioner.model import Policy
from provisioner.policies import parse_rules, rules_text
from provisioner.ports import Note
from provisioner.store.labelrows import Read
from provisioner.store.statements import SQL


class Journaled(Protocol):
    """Runs a function in a transaction, and writes the note into the journal there."""

    async def __call__(self, work: Callable[[sqlite3.Connection], Any], note: Note) -> Any:
        """What `work` returns. Raises `Conflict`, `Unavailable`."""
        ...


class SqlitePolicies:
    """See the module; the store that owns the connections hands it out."""

    def __init__(self, read: Read, journaled: Journaled) -> None:
        self._read = read
        self._journaled = journaled

    async def save(self, policy: Policy, note: Note) -> None:
        """See `PolicyLedger`."""
        values = {
            "uid": policy.uid,
            "version": policy.version,
            "account_id": policy.account_id,
            "name": policy.name,
            "rules": rules_text(policy.rules),
            "created_on": policy.created_on,
            "created_by": policy.created_by,
        }

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(SQL["add_policy"], values)
            connection.execute(SQL["put_policy_in_force"], values)

        await self._journaled(work, note)

    async def find(self, uid: str | None = None, version: int | None = None) -> Sequence[Policy]:
        """See `PolicyLedger`."""
        rows = await self._read("find_policies", {"uid": uid, "version": version})
        return [Policy(row[0], row[1], row[2], row[3], parse_rules(row[4]), row[5], row[6]) for row in rows]

    async def delete(self, uid: str, note: Note) -> bool:
        """See `PolicyLedger`."""

        def work(connection: sqlite3.Connection) -> bool:
            return connection.execute(SQL["delete_policy"], {"uid": uid}).rowcount == 1

        return bool(await self._journaled(work, note))
