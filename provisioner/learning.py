"""From loose to tight: watch which client ids use each loose credential, propose bindings, bind, and undo that.

1. A login with a LOOSE credential is a sighting: kept when it is new, and again once an hour. Nobody waits for it.
2. A credential that one client id alone was seen with may be bound to that id: from then on it is as tight as a STRICT
   one, and so are the generations that follow. One seen with several is in several hands: those need requests of
   their own, and nothing is bound. Nor is it where two credentials are used with one client id.
3. Bindings are made in batches, and a batch is undone as a whole: its credentials are loose again.
4. Only where the ledger is asked at each login is there anything to see, and anything to hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from provisioner.errors import Conflict, Invalid, NotFound
from provisioner.labels import Accounts
from provisioner.model import Coupling, Credential, Millis, Role
from provisioner.policy import Actor, check_role
from provisioner.ports import Lock, LooseCredential, Note, SightingLedger

MOST_IDS = 64
"""Client ids kept for one credential: more say no more."""

_AGAIN = 3_600_000
_REST = 60_000
_MOST_KNOWN = 100_000
_MAY_LEARN = tuple(Role)


class Verdict(StrEnum):
    """What may be done with a loose credential."""

    BIND = "bind"
    SHARED = "shared"
    CONTESTED = "contested"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True)
class Finding:
    """A loose credential in force, and who uses it."""

    credential: LooseCredential
    verdict: Verdict

    @property
    def client_id(self) -> str | None:
        """The binding proposed."""
        return self.credential.seen[0].client_id if self.verdict is Verdict.BIND else None


class Learning:
    """What operators may learn of loose credentials, and do about it."""

    def __init__(self, accounts: Accounts, ledger: SightingLedger, next_id: Callable[[Millis], int]) -> None:
        self._accounts = accounts
        self._ledger = ledger
        self._next_id = next_id
        self.wake: Callable[[], None] = lambda: None
        """Set by whoever runs `step`; called when there is something to write."""
        self._known: dict[tuple[str, str], dict[str, Millis]] = {}
        self._waiting: list[tuple[str, str, str, Millis]] = []

    # -- watching ------------------------------------------------------------------------------------------------------

    def note(self, credential: Credential, client_id: str, now: Millis) -> None:
        """Somebody logged in with a credential."""
        if credential.coupling is not Coupling.LOOSE:
            return
        key = credential.device_broker, credential.username
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[key] = {}
        last = known.get(client_id)
        if (last is None and len(known) > MOST_IDS) or (last is not None and now < last + _AGAIN):
            return
        known[client_id] = now
        self._waiting.append((*key, client_id, now))
        self.wake()

    async def step(self, now: Millis) -> Millis:
        """Write down what was seen; when to come back. Raises `Unavailable`."""
        if self._waiting:
            seen, self._waiting = self._waiting, []
            try:
                await self._ledger.add_sightings(seen, MOST_IDS + 1)
            except BaseException:
                self._waiting = seen + self._waiting
                raise
        return now + _REST

    # -- for operators -------------------------------------------------------------------------------------------------

    async def learn(self, actor: Actor, now: Millis) -> Sequence[Finding]:
        """Every loose credential in force that the operator sees and that is bound to nothing yet, by user name."""
        check_role(actor, *_MAY_LEARN)
        await self.step(now)
        visible = await self._accounts.visible(actor)
        loose = await self._ledger.find_loose()
        users = Counter((one.device_broker, seen.client_id) for one in loose for seen in one.seen)
        return [
            Finding(one, await self._verdict(one, users))
            for one in loose
            if visible is None or one.account_id in visible
        ]

    async def _verdict(self, one: LooseCredential, users: Counter[tuple[str, str]]) -> Verdict:
        if not one.seen:
            return Verdict.UNSEEN
        if len(one.seen) > 1:
            return Verdict.SHARED
        client_id = one.seen[0].client_id
        if users[one.device_broker, client_id] > 1 or await self._ledger.is_bound(one.device_broker, client_id):
            return Verdict.CONTESTED
        return Verdict.BIND

    async def lock(self, actor: Actor, usernames: Sequence[str] | None, now: Millis) -> Lock:
        """Bind each of these, or all that may be bound, to the client id that it is used with.

        Raises `Invalid` where one that is named may not be bound, `Conflict` where there is nothing to bind.
        """
        check_role(actor)
        findings = {one.credential.username: one for one in await self.learn(actor, now)}
        for name in usernames or ():
            if name not in findings or findings[name].verdict is not Verdict.BIND:
                raise Invalid("not-bindable", f"{_why(findings, name)}; nothing was bound", field="usernames")
        chosen = [
            one
            for one in findings.values()
            if one.verdict is Verdict.BIND and (usernames is None or one.credential.username in usernames)
        ]
        if not chosen:
            raise Conflict("nothing-to-bind", "no loose credential is used with one client id alone")
        batch = self._next_id(now)
        bindings = [(one.credential, one.client_id or "") for one in chosen]
        bound = await self._ledger.lock(batch, bindings, Note(now, "lock", actor.token_id, cause=f"batch {batch}"))
        return Lock(batch, now, actor.token_id, None, bound)

    async def undo(self, actor: Actor, batch: int, now: Millis) -> Lock:
        """Let the credentials of a batch be loose again. Raises `NotFound`, `Conflict` where that was done before."""
        check_role(actor)
        found = next((one for one in await self.list_locks(actor) if one.id == batch), None)
        if found is None:
            raise NotFound("no-such-lock", "there is no such batch of bindings")
        if found.undone_on is not None:
            raise Conflict("undone", "this batch was undone already")
        await self._ledger.undo(batch, Note(now, "unlock", actor.token_id, cause=f"batch {batch}"))
        return Lock(found.id, found.locked_on, found.locked_by, now, found.bound)

    async def list_locks(self, actor: Actor) -> Sequence[Lock]:
        """Batches of bindings of which the operator sees every credential, newest first."""
        check_role(actor)
        visible = await self._accounts.visible(actor)
        return [
            one
            for one in await self._ledger.find_locks()
            if visible is None or all(bound.account_id in visible for bound in one.bound)
        ]


def _why(findings: Mapping[str, Finding], name: str) -> str:
    found = findings.get(name)
    if found is None:
        return "one of these is no loose credential in force, or is bound already"
    if found.verdict is Verdict.SHARED:
        return "one of these is used with several client ids: each of them needs a request of its own"
    if found.verdict is Verdict.CONTESTED:
        return "one of these is used with a client id that another credential is used with as well"
    return "one of these was not seen in use yet"
