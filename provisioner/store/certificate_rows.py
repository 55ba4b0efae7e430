"""The `Certificates` on SQLite.

1. A certificate is added with the unit that mints its credential, and revoked by the one that retires it.
2. Devices that come together are looked up together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from provisioner.lifecycle import State
from provisioner.model import Certificate, Credential, Millis
from provisioner.ports import Unit
from provisioner.store.statements import certificate_key, read_certificate, read_credential

Read = Callable[[str, dict[str, Any]], Awaitable[list[Any]]]
Found = tuple[Certificate, Credential]

_LEAVING = (State.RETIRING, State.RETIRED)
_REASONS = {"ack": "superseded", "login": "superseded", "revoke": "privilegeWithdrawn"}
"""Why a certificate is revoked, by what was decided, in the words of RFC 5280, 5.3.1; else `unspecified`."""


class Batches(Protocol):
    """Questions that arrive together are answered together."""

    def ask(self, question: Any) -> Awaitable[Any]:
        """The answer to one of them."""

    async def drain(self) -> None:
        """Return when nothing is out."""


class SqliteCertificates:
    """`read` runs a named query, `read_batch` one that answers many questions, `gather` makes such batches."""

    def __init__(
        self,
        read: Read,
        read_batch: Callable[[str, Sequence[object]], Awaitable[Sequence[Any]]],
        gather: Callable[[Callable[[list[Any]], Awaitable[list[Any]]]], Batches],
    ) -> None:
        self._read = read
        self._read_batch = read_batch
        self._serials = gather(self._find)
        self._keys = gather(self._find_keys)
        self._credentials = gather(self._find_of)
        self.tell: Callable[[], None] = lambda: None
        """Set by whoever makes revocation lists; called when certificates were revoked."""

    async def drain(self) -> None:
        """Return when nothing is asked any more."""
        await self._serials.drain()
        await self._keys.drain()
        await self._credentials.drain()

    async def find(self, serial: str) -> Found | None:
        """See `Certificates`."""
        found: Found | None = await self._serials.ask(serial)
        return found

    async def _find(self, batch: list[str]) -> list[Found | None]:
        found: list[Found | None] = [None] * len(batch)
        for row in await self._read_batch("find_serials", batch):
            found[row[0]] = (read_certificate(row[1:]), read_credential(row[13:]))
        return found

    async def find_key(self, key_id: str) -> Certificate | None:
        """See `Certificates`."""
        found: Certificate | None = await self._keys.ask(key_id)
        return found

    async def _find_keys(self, batch: list[str]) -> list[Certificate | None]:
        found: list[Certificate | None] = [None] * len(batch)
        for row in await self._read_batch("find_keys", batch):
            found[row[0]] = read_certificate(row[1:])
        return found

    async def find_of(self, credential: Credential) -> Certificate | None:
        """See `Certificates`."""
        key = credential.device_broker, credential.client_id, credential.generation
        found: Certificate | None = await self._credentials.ask(key)
        return found

    async def _find_of(self, batch: list[tuple[str, str, int]]) -> list[Certificate | None]:
        found: list[Certificate | None] = [None] * len(batch)
        for row in await self._read_batch("find_certificates", batch):
            found[row[0]] = read_certificate(row[1:])
        return found

    async def list_revoked(self, issuer: str, now: Millis) -> Sequence[Certificate]:
        """See `Certificates`."""
        return [read_certificate(row) for row in await self._read("list_revoked", {"issuer": issuer, "now": now})]

    async def count_revoked(self) -> int:
        """See `Certificates`."""
        return int((await self._read("count_revoked", {}))[0][0])

    async def list_issuers(self) -> Sequence[str]:
        """See `Certificates`."""
        return [row[0] for row in await self._read("list_issuers", {})]


def revokes(unit: Unit) -> bool:
    """Whether it takes a certificate out of force."""
    return any(credential.state in _LEAVING and credential.is_certificate for credential in unit.credentials)


def revoked_by(unit: Unit) -> list[dict[str, Any]]:
    """Rows of `revoke_certificates`: what of a unit takes a certificate out of force."""
    reason = _REASONS.get(unit.note.action, "unspecified")
    return [
        certificate_key(credential) | {"revoked_on": unit.note.at, "reason": reason}
        for credential in unit.credentials
        if credential.state in _LEAVING and credential.is_certificate
    ]
