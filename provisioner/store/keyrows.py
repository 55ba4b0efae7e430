"""The `KeyLedger` on SQLite: what the ledger knows of its keys, and every place where something is sealed.

A place's key columns, in order, and the name of its table make the context it is sealed as. The statements of a table
are `sealed_<table>`, which lists rows behind a key, and `reseal_<table>`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

from provisioner.epochs import KeyEpoch, KeyState, Sealed
from provisioner.journal import line_of
from provisioner.ports import Note
from provisioner.store.statements import SQL
from provisioner.store.units import append

SEALED = {"request": 1, "credential": 3}
"""Tables with sealed values, in the order of a pass, and how many columns their keys have."""

Read = Callable[[str, dict[str, Any]], Awaitable[list[Any]]]
Transact = Callable[[Callable[[sqlite3.Connection], None]], Awaitable[None]]


class SqliteKeys:
    """`read` runs a named query, `transact` a function in a transaction."""

    def __init__(self, read: Read, transact: Transact) -> None:
        self._read = read
        self._transact = transact

    async def list_epochs(self) -> Sequence[KeyEpoch]:
        """See `KeyLedger`."""
        rows = await self._read("list_epochs", {})
        return [KeyEpoch(epoch, key_id, made_on, KeyState(state)) for epoch, key_id, made_on, state in rows]

    async def find_pepper_id(self) -> str | None:
        """See `KeyLedger`."""
        found: str | None = (await self._read("find_ledger", {}))[0][0]
        return found

    async def save_epochs(self, epochs: Sequence[KeyEpoch], note: Note, pepper_id: str | None = None) -> None:
        """See `KeyLedger`."""

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(SQL["save_epoch"], [asdict(one) for one in epochs])
            connection.execute(SQL["begin_pass"], {"pepper_id": pepper_id})
            append((line_of(note),), connection)

        await self._transact(work)

    async def list_sealed(self, limit: int) -> Sequence[Sealed]:
        """See `KeyLedger`."""
        position = (await self._read("find_ledger", {}))[0][1]
        table, key = json.loads(position) if position else (next(iter(SEALED)), [])
        tables = list(SEALED)
        for name in tables[tables.index(table) :]:
            columns = SEALED[name]
            rows = await self._read(f"sealed_{name}", {"limit": limit} | _parameters(key, columns))
            if rows:
                return [Sealed(name, tuple(row[:columns]), row[columns]) for row in rows]
            key = []
        return []

    async def reseal(self, last: Sealed, changes: Sequence[tuple[Sealed, str]]) -> None:
        """See `KeyLedger`."""

        def work(connection: sqlite3.Connection) -> None:
            for place, after in changes:
                values = {"before": place.text, "after": after} | _parameters(place.key, len(place.key))
                connection.execute(SQL[f"reseal_{place.table}"], values)
            connection.execute(SQL["note_pass"], {"position": json.dumps([last.table, last.key])})

        await self._transact(work)

    async def count_sealed(self) -> int:
        """See `KeyLedger`."""
        return int((await self._read("count_sealed", {}))[0][0])


def _parameters(key: Sequence[int | str], columns: int) -> dict[str, int | str | None]:
    return {f"key_{position}": key[position] if key else None for position in range(columns)}
