"""Tags and locations: labels that operators make once and put on requests by uid.

1. A label belongs to an account and may be put on requests of that account and of all below it; one of no account on
   any. An operator sees those that it may use, and deletes those of accounts that it sees.
2. A deleted label stays on the requests that have it: it says what was so when they were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from provisioner.errors import Conflict, Invalid, NotFound
from provisioner.model import Account, Label, LabelKind, Labels, Millis
from provisioner.policy import Actor, check_role
from provisioner.ports import Entropy, LabelLedger, Note

MOST_TAGS = 32
LONGEST_NAME = 255


class Accounts(Protocol):
    """Who is above and below whom."""

    async def get_account(self, actor: Actor, id_or_name: int | str) -> Account:
        """One account that the operator sees. Raises `NotFound`."""

    async def visible(self, actor: Actor) -> frozenset[int] | None:
        """Ids of the accounts an operator sees; None: all."""

    async def above(self, account_id: int | None) -> tuple[int | None, ...]:
        """Ids of an account and of all above it, nearest first, and None."""


class LabelDesk:
    """The operator's use cases around tags and locations."""

    def __init__(self, accounts: Accounts, ledger: LabelLedger, entropy: Entropy) -> None:
        self._accounts = accounts
        self._ledger = ledger
        self._entropy = entropy

    async def create(self, actor: Actor, kind: LabelKind, name: str, account: int | str | None, now: Millis) -> Label:
        """A new label. Raises `Conflict` when its account has one of that kind and name."""
        check_role(actor)
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
            raise Invalid("invalid-name", f"name must have 1 to {LONGEST_NAME} printable characters", field="name")
        if account is None:
            account = actor.account_id
        account_id = None if account is None else (await self._accounts.get_account(actor, account)).id
        label = Label(self._entropy(16).hex(), kind, account_id, name, now, actor.token_id)
        try:
            await self._ledger.add(label, Note(now, f"create-{kind}", actor.token_id, cause=label.uid))
        except Conflict:
            raise Conflict("name-taken", f"there is a {kind} of that name already", field="name") from None
        return label

    async def list(self, actor: Actor, kind: LabelKind) -> Sequence[Label]:
        """Those the operator may use or sees, oldest first."""
        visible = await self._accounts.visible(actor)
        labels = await self._ledger.find(kind)
        if visible is None:
            return labels
        seen = visible | frozenset(await self._accounts.above(actor.account_id))
        return [label for label in labels if label.account_id in seen]

    async def delete(self, actor: Actor, kind: LabelKind, uid: str, now: Millis) -> None:
        """Raises `NotFound`: there is none, or it belongs to an account that the operator does not see."""
        check_role(actor)
        visible = await self._accounts.visible(actor)
        found = [
            label for label in await self._ledger.find(kind, [uid]) if visible is None or label.account_id in visible
        ]
        if not found:
            raise NotFound(f"no-such-{kind}", f"there is no such {kind}, or it is not yours")
        await self._ledger.delete(uid, Note(now, f"delete-{kind}", actor.token_id, cause=uid))

    async def check(self, labels: Labels, account_id: int) -> None:
        """Whether an account's request may have these. Raises `Invalid`."""
        wanted = (
            (LabelKind.TAG, labels.tag_uids, "tagUids"),
            (LabelKind.LOCATION, (labels.location_uid,) if labels.location_uid else (), "locationUid"),
        )
        for kind, uids, field in wanted:
            if not uids:
                continue
            if len(set(uids)) != len(uids) or len(uids) > MOST_TAGS:
                raise Invalid("invalid-labels", f"{field} must name at most {MOST_TAGS}, each once", field=field)
            usable = await self._accounts.above(account_id)
            known = {label.uid for label in await self._ledger.find(kind, uids) if label.account_id in usable}
            if known != set(uids):
                raise Invalid(f"unknown-{kind}", f"{field} names a {kind} that this account does not have", field=field)
