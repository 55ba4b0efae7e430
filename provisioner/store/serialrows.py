"""The `SerialLedger` on SQLite: models of vendors and the serial numbers they know of."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

from provisioner.journal import line_of
from provisioner.model import Line, ProvisionRequest
from provisioner.ports import Note
from provisioner.ranges import Casing, Format, SerialRange
from provisioner.serials import Model
from provisioner.store.statements import SQL, read_request

Read = Callable[[str, dict[str, Any]], Awaitable[list[Any]]]
Transact = Callable[[Callable[[sqlite3.Connection], None]], Awaitable[None]]
Append = Callable[[Sequence[Line], sqlite3.Connection], None]


class SqliteSerials:
    """`read` runs a named query, `transact` a function in a transaction, in which `append` writes to the journal."""

    def __init__(self, read: Read, transact: Transact, append: Append) -> None:
        self._read = read
        self._transact = transact
        self._append = append

    async def add_model(self, model: Model, user_id: int, note: Note) -> None:
        """See `SerialLedger`."""
        values = {
            "id": model.id,
            "account_id": model.account_id,
            "name": model.name,
            "user_id": user_id,
            "created_on": model.created_on,
            "created_by": model.created_by,
        }
        await self._change(note, [("add_model", [values])])

    async def find_models(self, vendor: str, name: str | None = None) -> Sequence[Model]:
        """See `SerialLedger`."""
        return [Model(*row) for row in await self._read("find_models", {"vendor": vendor, "name": name})]

    async def delete_model(self, model: Model, note: Note) -> None:
        """See `SerialLedger`."""
        await self._change(note, [("delete_model", [{"id": model.id}])])

    async def add_serials(
        self, model: Model, serials: Sequence[tuple[str, str]], ranges: Sequence[SerialRange], note: Note
    ) -> None:
        """See `SerialLedger`."""
        rows = [{"model_id": model.id, "serial_number": number, "extra": extra} for number, extra in serials]
        await self._change(note, [("add_serial", rows), ("add_range", _ranges(model, ranges))])

    async def delete_serials(
        self, model: Model, serial_numbers: Sequence[str], ranges: Sequence[SerialRange], note: Note
    ) -> None:
        """See `SerialLedger`."""
        values = [{"model_id": model.id, "serial_numbers": json.dumps(list(serial_numbers))}]
        await self._change(note, [("delete_serials", values), ("delete_range", _ranges(model, ranges))])

    async def find_extra(self, model: Model, serial_number: str) -> str | None:
        """See `SerialLedger`."""
        rows = await self._read("find_serial", {"model_id": model.id, "serial_number": serial_number})
        return rows[0][0] if rows else None

    async def list_serials(self, model: Model, offset: int, limit: int) -> Sequence[tuple[str, str]]:
        """See `SerialLedger`."""
        values = {"model_id": model.id, "offset": offset, "limit": limit}
        return [(row[0], row[1]) for row in await self._read("list_serials", values)]

    async def list_ranges(self, model: Model) -> Sequence[SerialRange]:
        """See `SerialLedger`."""
        rows = await self._read("list_ranges", {"model_id": model.id})
        return [SerialRange(Format(row[0]), row[1], Casing(row[2]), row[3], row[4]) for row in rows]

    async def find_newest(
        self, device_broker: str, account_id: int, client_ids: Sequence[str]
    ) -> Sequence[ProvisionRequest]:
        """See `SerialLedger`."""
        values = {"device_broker": device_broker, "account_id": account_id, "client_ids": json.dumps(list(client_ids))}
        return [read_request(row) for row in await self._read("find_newest", values)]

    async def _change(self, note: Note, steps: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> None:
        def work(connection: sqlite3.Connection) -> None:
            for name, rows in steps:
                for row in rows:
                    connection.execute(SQL[name], row)
            self._append((line_of(note),), connection)

        await self._transact(work)


def _ranges(model: Model, ranges: Sequence[SerialRange]) -> list[dict[str, Any]]:
    return [{"model_id": model.id, **asdict(one)} for one in ranges]
