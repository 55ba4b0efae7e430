"""The `SightingLedger` on SQLite: see the ports."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol

from provisioner.model import Millis
from provisioner.ports import BoundCredential, Lock, LoginSeen, LooseCredential, Note
from provisioner.store.labelrows import Read
from provisioner.store.policyrows import Journaled
from provisioner.store.statements import SQL


class Transact(Protocol):
    """Runs a function in a transaction of its own."""

    async def __call__(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Raises `Unavailable`."""
        ...


class SqliteSightings:
    """See the module; the store that owns the connections hands it out."""

    def __init__(self, read: Read, transact: Transact, journaled: Journaled) -> None:
        self._read = read
        self._transact = transact
        self._journaled = journaled

    async def add_sightings(self, seen: Sequence[tuple[str, str, str, Millis]], most: int) -> None:
        """See `SightingLedger`."""
        rows = [
            {"device_broker": broker, "username": username, "client_id": client_id, "at": at, "most": most}
            for broker, username, client_id, at in seen
        ]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(SQL["add_sighting"], rows)

        await self._transact(work)

    async def find_loose(self) -> Sequence[LooseCredential]:
        """See `SightingLedger`."""
        rows = await self._read("find_loose", {})
        found = []
        for (account_id, broker, username, request_id, own_id), group in groupby(rows, key=lambda row: row[:5]):
            seen = tuple(LoginSeen(*row[5:]) for row in group if row[5] is not None)
            found.append(LooseCredential(account_id, broker, username, request_id, own_id, seen))
        return found

    async def lock(
        self, batch: int, bindings: Sequence[tuple[LooseCredential, str]], note: Note
    ) -> tuple[BoundCredential, ...]:
        """See `SightingLedger`."""

        def work(connection: sqlite3.Connection) -> tuple[BoundCredential, ...]:
            connection.execute(SQL["add_locking"], {"id": batch, "on": note.at, "by": note.actor})
            bound = []
            for credential, client_id in bindings:
                values = {
                    "locking_id": batch,
                    "account_id": credential.account_id,
                    "device_broker": credential.device_broker,
                    "username": credential.username,
                    "client_id": client_id,
                }
                if connection.execute(SQL["bind_credential"], values).rowcount == 1:
                    connection.execute(SQL["add_locked"], values)
                    bound.append(
                        BoundCredential(credential.account_id, credential.device_broker, credential.username, client_id)
                    )
            return tuple(bound)

        made: tuple[BoundCredential, ...] = await self._journaled(work, note)
        return made

    async def undo(self, batch: int, note: Note) -> None:
        """See `SightingLedger`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(SQL["release_bound"], {"id": batch})
            connection.execute(SQL["end_locking"], {"id": batch, "on": note.at})

        await self._journaled(work, note)

    async def is_bound(self, device_broker: str, client_id: str) -> bool:
        """See `SightingLedger`."""
        return bool(await self._read("is_bound", {"device_broker": device_broker, "client_id": client_id}))

    async def find_locks(self) -> Sequence[Lock]:
        """See `SightingLedger`."""
        return [
            Lock(row[0], row[1], row[2], row[3], tuple(BoundCredential(*one) for one in json.loads(row[4])))
            for row in await self._read("find_locks", {})
        ]
