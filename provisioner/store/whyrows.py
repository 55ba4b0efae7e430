"""The `WhyLedger` on SQLite."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from provisioner.model import Entry, ProvisionRequest
from provisioner.store.statements import read_entry, read_request

Read = Callable[[str, dict[str, Any]], Awaitable[list[Any]]]


class SqliteWhy:
    """`read` runs a named query."""

    def __init__(self, read: Read) -> None:
        self._read = read

    async def find_of_client(self, client_id: str) -> Sequence[ProvisionRequest]:
        """See `WhyLedger`."""
        return [read_request(row) for row in await self._read("find_of_client", {"client_id": client_id})]

    async def list_refusals(self, client_id: str, limit: int) -> Sequence[Entry]:
        """See `WhyLedger`."""
        return [read_entry(row) for row in await self._read("list_refusals", {"client_id": client_id, "limit": limit})]
