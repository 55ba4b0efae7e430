"""The `AttachmentLedger` on SQLite: see the ports."""

from __future__ import annotations

import json
from collections.abc import Sequence

from provisioner.model import Attachment, Millis
from provisioner.ports import Note
from provisioner.store.labelrows import Change, Read
from provisioner.store.statements import row_values


class SqliteAttachments:
    """See the module; the store that owns the connections hands it out."""

    def __init__(self, read: Read, change: Change) -> None:
        self._read = read
        self._change = change

    async def add_piece(self, attachment_id: str, number: int, content: bytes) -> None:
        """See `AttachmentLedger`."""
        await self._change("add_piece", {"id": attachment_id, "number": number, "content": content})

    async def read_piece(self, attachment_id: str, number: int) -> bytes:
        """See `AttachmentLedger`."""
        rows = await self._read("read_piece", {"id": attachment_id, "number": number})
        content: bytes = rows[0][0]
        return content

    async def add(self, attachment: Attachment, note: Note) -> None:
        """See `AttachmentLedger`."""
        await self._change("add_attachment", row_values(attachment), note)

    async def find(self, ids: Sequence[str] | None = None) -> Sequence[Attachment]:
        """See `AttachmentLedger`."""
        rows = await self._read("find_attachments", {"ids": None if ids is None else json.dumps(list(ids))})
        return [Attachment(*row) for row in rows]

    async def delete(self, attachment_id: str, note: Note) -> bool:
        """See `AttachmentLedger`."""
        if not await self._change("delete_attachment", {"id": attachment_id}, note):
            return False
        await self._change("delete_pieces", {"id": attachment_id})
        return True

    async def prune(self) -> None:
        """See `AttachmentLedger`."""
        await self._change("delete_stray_pieces", {})

    async def is_used(self, nonce: str) -> bool:
        """See `AttachmentLedger`."""
        return bool(await self._read("is_used", {"nonce": nonce}))

    async def use(self, nonce: str, expires_on: Millis, now: Millis) -> None:
        """See `AttachmentLedger`."""
        await self._change("delete_used", {"now": now})
        await self._change("add_used", {"nonce": nonce, "expires_on": expires_on})
