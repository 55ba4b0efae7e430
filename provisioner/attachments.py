"""Attachments: files that a device gets with its credential (Everyware's `provisionAttachments`).

1. At most ten for a request: one configuration and up to nine bundles. A request names them as they were when it was
   made, with size and SHA-256, so what a device fetches can be checked against its sealed offer.
2. Up to `INLINE` bytes in all travel in the offer. Each other one has a URL there: a ticket signed for this request,
   generation and attachment, good until the offer has to be confirmed, and for one download. An offer that is repeated
   has fresh tickets, so a download that broke off is had again by claiming again.
3. A ticket of a generation that is not on offer any more opens nothing.
4. An attachment belongs to an account and may be used by requests of that account and of all below it, as labels may.
"""

from __future__ import annotations

import builtins
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from provisioner.errors import Conflict, Invalid, NotFound
from provisioner.handover import Vault, equal
from provisioner.labels import LONGEST_NAME, Accounts
from provisioner.lifecycle import Phase
from provisioner.model import Attached, Attachment, Millis, ProvisionRequest, Role
from provisioner.policy import Actor, check_role
from provisioner.ports import AttachmentLedger, Entropy, Note, Store

INLINE = 4096
"""Bytes of attachments in one offer, at most."""

LARGEST = 16 * 1024 * 1024
PIECE = 256 * 1024
MOST_BUNDLES = 9
DOWNLOADS = "/v2/attachments/download"

_ON_OFFER = frozenset((Phase.INSTALLED, Phase.OFFERED, Phase.CONFIRMED, Phase.RENEWING))


class AttachmentType(StrEnum):
    """What a device does with it."""

    CONFIGURATION = "CONFIGURATION"
    BUNDLE = "BUNDLE"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An attachment as a creator names it: one that is there, by id, or its content. `name` empty: its own."""

    type: AttachmentType
    id: str | None = None
    name: str = ""
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Enclosed:
    """An attachment of a request, as it was when the request was made."""

    id: str
    type: str
    name: str
    size: int
    sha256: str


class Gone(NotFound):
    """The ticket is forged, used, over, or of an offer that is not in force any more: one answer for all."""


class Attachments:
    """`base_url` is where devices reach the HTTP listener (None: nobody said where that is)."""

    def __init__(self, accounts: Accounts, store: Store, vault: Vault, entropy: Entropy) -> None:
        self._accounts = accounts
        self._store = store
        self._vault = vault
        self._entropy = entropy
        self._under_way: set[str] = set()
        self.base_url: str | None = None
        """Set by whoever listens."""

    @property
    def _ledger(self) -> AttachmentLedger:
        return self._store.attachments

    # -- for operators -------------------------------------------------------------------------------------------------

    async def add(self, actor: Actor, name: str, account: int | str | None, content: bytes, now: Millis) -> Attachment:
        """Keep a file. Raises `Invalid`, `NotFound`."""
        check_role(actor, Role.PREPARER)
        _check_name(name)
        if not 1 <= len(content) <= LARGEST:
            raise Invalid("invalid-size", f"an attachment has 1 to {LARGEST} bytes", field="content")
        if account is None:
            account = actor.account_id
        account_id = None if account is None else (await self._accounts.get_account(actor, account)).id
        digest = hashlib.sha256(content).hexdigest()
        kept = Attachment(self._entropy(16).hex(), account_id, name, len(content), digest, now, actor.token_id)
        for number, start in enumerate(range(0, len(content), PIECE)):
            await self._ledger.add_piece(kept.id, number, content[start : start + PIECE])
        await self._ledger.add(kept, Note(now, "add-attachment", actor.token_id, cause=f"{kept.id}, {kept.size} bytes"))
        return kept

    async def list(self, actor: Actor) -> Sequence[Attachment]:
        """Those the operator may use or sees, oldest first."""
        visible = await self._accounts.visible(actor)
        found = await self._ledger.find()
        if visible is None:
            return found
        seen = visible | frozenset(await self._accounts.above(actor.account_id))
        return [one for one in found if one.account_id in seen]

    async def delete(self, actor: Actor, attachment_id: str, now: Millis) -> None:
        """Raises `NotFound`; `Conflict` while an open request encloses it."""
        check_role(actor)
        visible = await self._accounts.visible(actor)
        found = await self._ledger.find([attachment_id])
        if not found or (visible is not None and found[0].account_id not in visible):
            raise NotFound("no-such-attachment", "there is no such attachment, or it is not yours")
        if not await self._ledger.delete(
            attachment_id, Note(now, "delete-attachment", actor.token_id, cause=attachment_id)
        ):
            raise Conflict("enclosed", "an open request encloses this attachment; stop or delete the request first")

    async def enclose(
        self, actor: Actor, account_id: int, wanted: Sequence[Wanted], now: Millis
    ) -> tuple[str | None, Sequence[str]]:
        """Text for a request of an account, and the ids of what was kept just now. Raises `Invalid`."""
        if not wanted:
            return None, ()
        bundles = sum(one.type is AttachmentType.BUNDLE for one in wanted)
        if bundles > MOST_BUNDLES or len(wanted) - bundles > 1:
            raise _invalid("invalid-attachments", f"at most one CONFIGURATION and {MOST_BUNDLES} BUNDLEs")
        fresh: list[str] = []
        try:
            enclosed = [await self._enclosed(actor, account_id, one, fresh, now) for one in wanted]
            self._check_reach(enclosed)
        except Exception:
            await self.forget(fresh, now, actor)
            raise
        return json.dumps([asdict(one) for one in enclosed], separators=(",", ":"), ensure_ascii=False), fresh

    def _check_reach(self, enclosed: Sequence[Enclosed]) -> None:
        if sum(one.size for one in enclosed) > INLINE and self.base_url is None:
            raise _invalid("no-download-url", "set http.download_url: devices need an address for large attachments")

    async def _enclosed(
        self, actor: Actor, account_id: int, wanted: Wanted, fresh: builtins.list[str], now: Millis
    ) -> Enclosed:
        if (wanted.id is None) == (wanted.content is None):
            raise _invalid("invalid-attachments", "give each attachment an id or its content, one of the two")
        if wanted.content is not None:
            found = await self.add(actor, wanted.name, account_id, wanted.content, now)
            fresh.append(found.id)
        else:
            usable = await self._accounts.above(account_id)
            known = [one for one in await self._ledger.find([wanted.id or ""]) if one.account_id in usable]
            if not known:
                raise _invalid("unknown-attachment", "provisionAttachments names one that this account does not have")
            found = known[0]
        if wanted.name:
            _check_name(wanted.name)
        return Enclosed(found.id, wanted.type, wanted.name or found.name, found.size, found.sha256)

    async def forget(self, fresh: Sequence[str], now: Millis, actor: Actor) -> None:
        """The request that these were kept for was refused."""
        for one in fresh:
            await self._ledger.delete(one, Note(now, "delete-attachment", actor.token_id, cause=one))

    # -- for devices ---------------------------------------------------------------------------------------------------

    async def deliver(
        self, request: ProvisionRequest, generation: int, expires_on: Millis, *, inline: int = INLINE
    ) -> tuple[Attached, ...]:
        """What an offer says of its attachments: content, or a fresh ticket."""
        delivered = []
        for one in enclosed_in(request):
            attached = Attached(one.type, one.name, one.size, one.sha256)
            if one.size <= inline:
                inline -= one.size
                content = b"".join([piece async for piece in self._pieces(one)])
                delivered.append(replace(attached, content=content))
                continue
            ticket = self._sign(f"{one.id}.{request.id}.{generation}.{expires_on}.{self._entropy(16).hex()}")
            url = f"{self.base_url or ''}{DOWNLOADS}/{ticket}"
            delivered.append(replace(attached, url=url, expires_on=expires_on))
        return tuple(delivered)

    async def redeem(self, ticket: str, now: Millis) -> tuple[Enclosed, AsyncIterator[bytes]]:
        """The attachment behind a ticket, and its content, which may be had once. Raises `Gone`."""
        attachment_id, request_id, generation, expires_on, nonce = self._parse(ticket)
        if expires_on <= now or nonce in self._under_way or await self._ledger.is_used(nonce):
            raise _gone()
        dossier = await self._store.find_request(request_id)
        if dossier is None or dossier.request.generation != generation or dossier.request.phase not in _ON_OFFER:
            raise _gone()
        for one in enclosed_in(dossier.request):
            if one.id == attachment_id:
                return one, self._download(one, nonce, expires_on, now)
        raise _gone()

    async def _download(self, one: Enclosed, nonce: str, expires_on: Millis, now: Millis) -> AsyncIterator[bytes]:
        if nonce in self._under_way:
            raise _gone()
        self._under_way.add(nonce)
        try:
            held = b""
            async for piece in self._pieces(one):
                if held:
                    yield held
                held = piece
            await self._ledger.use(nonce, expires_on, now)
            yield held
        finally:
            self._under_way.discard(nonce)

    async def _pieces(self, one: Enclosed) -> AsyncIterator[bytes]:
        for number in range(-(-one.size // PIECE)):
            yield await self._ledger.read_piece(one.id, number)

    def _sign(self, text: str) -> str:
        return f"{text}.{self._vault.fingerprint(text, 'attachment')}"

    def _parse(self, ticket: str) -> tuple[str, int, int, Millis, str]:
        text, _, mac = ticket.rpartition(".")
        if not equal(self._vault.fingerprint(text, "attachment").encode(), mac.encode("utf-8", "replace")):
            raise _gone()
        attachment_id, request_id, generation, expires_on, nonce = text.split(".")
        return attachment_id, int(request_id), int(generation), int(expires_on), nonce


def enclosed_in(request: ProvisionRequest) -> Sequence[Enclosed]:
    """The attachments of a request."""
    return () if request.attachments is None else [Enclosed(**one) for one in json.loads(request.attachments)]


def _check_name(name: str) -> None:
    if (
        not 1 <= len(name) <= LONGEST_NAME
        or not name.isprintable()
        or "/" in name
        or "\\" in name
        or name in (".", "..")
    ):
        raise _invalid("invalid-name", f"the name of an attachment is a file name of at most {LONGEST_NAME} characters")


def _invalid(code: str, detail: str) -> Invalid:
    return Invalid(code, detail, field="provisionAttachments")


def _gone() -> Gone:
    return Gone("gone", "this address is over or was used; claim again for a fresh one")
