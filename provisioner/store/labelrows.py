"""The `LabelLedger` on SQLite: see the ports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from provisioner.model import Label, LabelKind
from provisioner.ports import Note
from provisioner.store.statements import row_values


class Read(Protocol):
    """Runs a named query."""

    async def __call__(self, name: str, values: dict[str, Any]) -> list[Any]:
        """Its rows. Raises `Unavailable`."""
        ...


class Change(Protocol):
    """Runs a named statement and writes the note into the journal, in one transaction."""

    async def __call__(self, name: str, values: dict[str, Any], note: Note | None = None) -> list[Any]:
        """The rows it returns. Raises `Conflict`, `Unavailable`."""
        ...


class SqliteLabels:
    """See the module; the store that owns the connections hands it out."""

    def __init__(self, read: Read, change: Change) -> None:
        self._read = read
        self._change = change

    async def add(self, label: Label, note: Note) -> None:
        """See `LabelLedger`."""
        await self._change("add_label", row_values(label), note)

    async def find(self, kind: LabelKind | None = None, uids: Sequence[str] | None = None) -> Sequence[Label]:
        """See `LabelLedger`."""
        values = {"kind": kind, "uids": None if uids is None else json.dumps(uids)}
        rows = await self._read("list_labels", values)
        return [Label(row[0], LabelKind(row[1]), *row[2:]) for row in rows]

    async def delete(self, uid: str, note: Note) -> bool:
        """See `LabelLedger`."""
        return bool(await self._change("delete_label", {"uid": uid}, note))
