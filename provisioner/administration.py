"""What operators may do with provision requests: read them, change them, and the verbs.

1. An operator sees its account and that account's children; what it may not see does not exist for it (`NotFound`).
2. A request's change of phase goes through `transitions`, guarded by what was read, and starts over when stale.
3. An activation key is shown on create (`creation`); later only to a role that may reveal it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from provisioner import policy, transitions
from provisioner.creation import TRIES, Created, Creation, NewRequest
from provisioner.errors import Conflict, Invalid, NotFound, Refused
from provisioner.handover import new_text
from provisioner.journal import line_about
from provisioner.keys import reveal_key, seal_key
from provisioner.lifecycle import Event, Phase, may
from provisioner.model import (
    Account,
    Coupling,
    Credential,
    Kind,
    Millis,
    PolicyRules,
    ProvisionRequest,
    Role,
    Secret,
    Status,
    evolve,
)
from provisioner.policies import render, values_of
from provisioner.policy import Actor, check_role
from provisioner.ports import DeviceBroker, Listing, Note, Saved, Unit
from provisioner.terms import (
    check_attempts,
    check_certificate,
    check_confirm,
    check_confirm_time,
    check_secure,
    check_tight,
    check_unit,
    check_window,
    configuration_text,
)


class _Keep:
    """Stands where a value stays as it is."""


KEEP = _Keep()


class Administration(Creation):
    """The operator's use cases around provision requests. Accounts, users and tokens: see `Desk`."""

    @property
    def default_broker(self) -> str:
        """Where devices of an account work that names no device broker."""
        return self._default_broker

    def next_id(self, now: Millis) -> int:
        """A fresh id, for what hangs on accounts and is kept elsewhere."""
        return self._ids.next(now)

    def new_uid(self) -> str:
        """A fresh uid: 32 hex digits."""
        return self._entropy(16).hex()

    # -- read ----------------------------------------------------------------------------------------------------------

    async def get_request(self, actor: Actor, request_id: int) -> ProvisionRequest:
        """One request. Raises `NotFound`."""
        dossier = await self._store.find_request(request_id)
        visible = await self.visible(actor)
        if dossier is None or (visible is not None and dossier.request.account_id not in visible):
            raise NotFound("no-such-request", "there is no such provision request")
        return dossier.request

    async def list_requests(self, actor: Actor, listing: Listing) -> tuple[Sequence[ProvisionRequest], bool]:
        """A page of what the operator may see, newest first, and whether there is more."""
        visible = await self.visible(actor)
        if visible is not None:
            asked = visible if listing.accounts is None else [one for one in listing.accounts if one in visible]
            listing = replace(listing, accounts=tuple(asked))
        return await self._store.list_requests(listing)

    async def reveal_key(self, actor: Actor, request_id: int, now: Millis) -> Secret:
        """The activation key, as long as it is kept; the journal says who saw it. Raises `Forbidden`, `Conflict`."""
        check_role(actor)
        request = await self.get_request(actor, request_id)
        key = reveal_key(self._vault, request)
        if key is None:
            raise Conflict("key-wiped", "the activation key is not kept any more; reopen with generateActivationKey")
        await self._store.record([line_about(Note(now, "reveal-key", actor.token_id), request)])
        return key

    def device_broker(self, name: str) -> DeviceBroker | None:
        """The one of that name; None: the settings do not have it (any more)."""
        return self._brokers.get(name)

    # -- change --------------------------------------------------------------------------------------------------------

    async def update_request(
        self, actor: Actor, request_id: int, optlock: int, changes: Mapping[str, object], now: Millis
    ) -> ProvisionRequest:
        """Change what the operator may change; keys are fields of `ProvisionRequest`, with values of their types."""
        check_role(actor, Role.PREPARER)
        for _ in range(TRIES):
            before = await self._current(actor, request_id, optlock)
            values = dict(changes)
            if "configuration" in values:
                values["configuration"] = configuration_text(values["configuration"])
            after = self._modified(before, actor, now, **values)
            self._check_changed(before, after)
            if after.labels != before.labels:
                await self.labels.check(after.labels, after.account_id)
            if after.facts != before.facts:
                await self._check_twin(after)
            note = Note(now, "update", actor.token_id, cause=", ".join(sorted(changes)))
            if await self._store.commit(Unit(note, saved=(Saved(before, after),))):
                self._wake()
                return after
        raise _busy()

    def _check_changed(self, before: ProvisionRequest, after: ProvisionRequest) -> None:
        check_window(after.activates_on, after.expires_on)
        broker = self._brokers.get(after.device_broker)
        check_confirm(broker, after.confirm)
        check_confirm_time(after.confirm_time // 1000)
        check_attempts(after.retry_max_attempts)
        if before.phase is Phase.PENDING and after.retry_max_attempts <= after.retry_count:
            # It would wait for claims that can only be answered `abandoned`.
            raise Invalid(
                "invalid-attempts",
                f"retryMaxAttempts must be more than the {after.retry_count} attempts made; or stop the request",
                field="retryMaxAttempts",
            )
        if after.kind is Kind.X509:
            check_certificate(after.account_name, after.client_id, after.coupling, secure=after.secure_url)
        if after.secure_url != before.secure_url:
            check_secure(broker, secure=after.secure_url)
        check_unit(after.facts, after.device_name)
        if after.coupling is Coupling.INHERITED:
            raise Invalid(
                "invalid-coupling",
                "deviceCredentialsTight must be STRICT or LOOSE here",
                field="deviceCredentialsTight",
            )
        if after.coupling is not before.coupling:
            check_tight(broker, after.coupling)

    async def delete_request(self, actor: Actor, request_id: int, now: Millis) -> None:
        """Delete a request of which nothing is live; its credentials' names stay. Raises `Conflict`."""
        check_role(actor)
        for _ in range(TRIES):
            request = await self.get_request(actor, request_id)
            if await self._store.find_credentials(request_id):
                raise Conflict("still-live", "a credential of this request is live; revoke or stop it first")
            if await self._store.delete_request(request, Note(now, "delete", actor.token_id)):
                return
        raise _busy()

    async def enable(self, actor: Actor, request_id: int, now: Millis, optlock: int | None = None) -> ProvisionRequest:
        """Switch a request on."""
        return await self._switch(actor, request_id, now, optlock, Status.ENABLED)

    async def disable(self, actor: Actor, request_id: int, now: Millis, optlock: int | None = None) -> ProvisionRequest:
        """Switch a request off: claims are refused, acks still count."""
        return await self._switch(actor, request_id, now, optlock, Status.DISABLED)

    async def _switch(
        self, actor: Actor, request_id: int, now: Millis, optlock: int | None, status: Status
    ) -> ProvisionRequest:
        check_role(actor, Role.PREPARER, Role.INSTALLER)
        for _ in range(TRIES):
            before = await self._current(actor, request_id, optlock)
            after = self._modified(before, actor, now, status=status)
            note = Note(now, "enable" if status is Status.ENABLED else "disable", actor.token_id)
            if await self._store.commit(Unit(note, saved=(Saved(before, after),))):
                return after
        raise _busy()

    async def stop(self, actor: Actor, request_id: int, now: Millis, optlock: int | None = None) -> ProvisionRequest:
        """End an unfinished hand-over; a renewal falls back to the proved credential."""
        check_role(actor, Role.PREPARER, Role.INSTALLER)
        leaving: tuple[Credential, ...]
        for _ in range(TRIES):
            before = await self._current(actor, request_id, optlock)
            if before.phase is Phase.CONFIRMED:
                raise Conflict("already-provisioned", "the device has its credential; revoke it instead")
            if before.phase is Phase.PENDING:
                saved, leaving = transitions.stop_pending(before), ()
            elif before.phase is Phase.RENEWING:
                saved, leaving = await self._end_renewal(before, now)
            else:
                saved, leaving = await self._withdraw(before, now, stop_wanted=True)
            if (after := await self._commit_verb(actor, "stop", saved, leaving, now)) is not None:
                return after
        raise _busy()

    async def _end_renewal(self, before: ProvisionRequest, now: Millis) -> tuple[Saved, tuple[Credential, ...]]:
        credentials = await self._store.find_credentials(before.id)
        candidate = next((one for one in credentials if one.generation == before.generation), None)
        if candidate is None or candidate.generation == before.proved_generation:
            raise _busy()
        unit = transitions.retire(before, candidate, Note(now, "stop"))
        saved = unit.saved[0]
        return Saved(before, evolve(saved.after, rotate_wanted=False)), unit.credentials

    async def revoke(self, actor: Actor, request_id: int, now: Millis, optlock: int | None = None) -> ProvisionRequest:
        """Take the device's credentials away for good."""
        check_role(actor)
        for _ in range(TRIES):
            before = await self._current(actor, request_id, optlock)
            saved, leaving = await self._withdraw(before, now, stop_wanted=True)
            if (after := await self._commit_verb(actor, "revoke", saved, leaving, now)) is not None:
                return after
        raise _busy()

    async def _withdraw(
        self, before: ProvisionRequest, now: Millis, **changes: object
    ) -> tuple[Saved, tuple[Credential, ...]]:
        if not may(before.phase, Event.WITHDRAW):
            raise Conflict("nothing-live", f"nothing of this request is live; it is {before.phase}")
        return transitions.withdraw(before, await self._store.find_credentials(before.id), now, **changes)

    async def rotate(self, actor: Actor, request_id: int, now: Millis, optlock: int | None = None) -> ProvisionRequest:
        """Let the device's next claim renew its credential; the proved one lives until the next is confirmed."""
        check_role(actor)
        for _ in range(TRIES):
            before = await self._current(actor, request_id, optlock)
            if before.phase not in (Phase.CONFIRMED, Phase.RENEWING):
                raise Conflict("not-confirmed", f"only a confirmed credential can be rotated; this is {before.phase}")
            if not before.reuse_key and before.kind is not Kind.X509:  # a device renews with its certificate as well
                raise Conflict("key-wiped", "the key of this request was wiped; reopen with generateActivationKey")
            count = before.retry_count if before.phase is Phase.RENEWING else 0
            saved = transitions.changed(before, rotate_wanted=True, retry_count=count)
            if (after := await self._commit_verb(actor, "rotate", saved, (), now)) is not None:
                return after
        raise _busy()

    async def reopen(
        self,
        actor: Actor,
        request_id: int,
        now: Millis,
        optlock: int | None = None,
        *,
        generate_key: bool = False,
        activates_on: Millis | _Keep | None = KEEP,
        expires_on: Millis | _Keep | None = KEEP,
        again: bool = False,
    ) -> Created:
        """Start over, with the same key where it is still known, in a new window where one is given.

        `again`: switched on, and out of a hand-over under way as well.
        """
        check_role(actor, Role.PREPARER)
        key = Secret(new_text(self._entropy)) if generate_key else None
        for _ in range(TRIES):
            before = await self._current(actor, request_id, optlock)
            window = {
                name: value
                for name, value in (("activates_on", activates_on), ("expires_on", expires_on))
                if not isinstance(value, _Keep)
            }
            saved, leaving = await self._reopened(before, key, now, again=again)
            status = Status.ENABLED if again else before.status
            saved = Saved(before, evolve(saved.after, status=status, **window))
            check_window(saved.after.activates_on, saved.after.expires_on)
            if policy.is_lapsed(saved.after, now):
                raise Conflict("window-over", "the window of this request is over; give a later expiresOn")
            if (after := await self._commit_verb(actor, "reopen", saved, leaving, now)) is not None:
                return Created(after, key)
        raise _busy()

    async def _reopened(
        self, before: ProvisionRequest, key: Secret | None, now: Millis, *, again: bool
    ) -> tuple[Saved, tuple[Credential, ...]]:
        confirmed = before.phase in (Phase.CONFIRMED, Phase.RENEWING)
        under_way = again and may(before.phase, Event.WITHDRAW)
        if not confirmed and not under_way and not transitions.is_closed(before):
            raise Conflict("still-open", f"this request is {before.phase}; only a closed or confirmed one is reopened")
        if key is None and not before.reuse_key and reveal_key(self._vault, before) is None:
            raise Conflict("key-wiped", "the key of this request was wiped; set generateActivationKey")
        if not confirmed and not under_way:
            others = await self._store.find_open(before.device_broker, before.client_id)
            if others:
                raise Conflict("duplicate-client-id", "there is an open request for this clientId")
        sealed = before.keys_sealed
        if key is not None:
            sealed = seal_key(self._vault, before.id, key, before.provision_username, before.client_id)
        if transitions.is_closed(before):
            return transitions.reopen(before, sealed), ()
        return await self._withdraw(before, now, **transitions.fresh(sealed))

    # -- hand over to another account ----------------------------------------------------------------------------------

    async def move(
        self, actor: Actor, request: ProvisionRequest, account: Account, changes: Mapping[str, object], now: Millis
    ) -> ProvisionRequest:
        """Let a request start over in an account, with the key that it has; if it is switched on, in a window from now.

        What its policy fills in is filled in anew. Raises `Conflict`: `busy` where it changed since it was read.
        """
        check_role(actor, Role.PREPARER)
        before = await self._current(actor, request.id, None)
        if (before.optlock, before.job_optlock) != (request.optlock, request.job_optlock):
            raise _busy()
        if account.id != before.account_id:
            await self._check_quota(account)
            policy.check_username_fits(account.name, before.client_id)
            if account.device_broker != before.device_broker and before.generation:
                raise Conflict("another-broker", "the organisation uses another device broker; make a request there")
        saved, leaving = await self._begun_anew(before, now)
        ruled = await self._ruled_anew(before, account, now, opens=changes.get("status") is Status.ENABLED)
        after = evolve(saved.after, **ruled, **changes)
        check_tight(self._brokers.get(account.device_broker), after.coupling)
        done = await self._commit_verb(actor, "move", Saved(before, after), leaving, now)
        if done is None:
            raise _busy()
        return done

    async def _ruled_anew(
        self, before: ProvisionRequest, account: Account, now: Millis, *, opens: bool
    ) -> dict[str, object]:
        rules = await self.policies.made_by(before.labels) or PolicyRules()
        configuration = before.configuration
        if rules.configuration is not None:
            values = values_of(account, before.client_id, before.facts, before.device_name)
            configuration = configuration_text(render(json.loads(rules.configuration), values))
        return {
            "account_id": account.id,
            "account_name": account.name,
            "device_broker": account.device_broker,
            "coupling": policy.resolve_coupling(rules.coupling, account.coupling),
            "configuration": configuration,
            "activates_on": now if opens else None,
            "expires_on": now + rules.window * 1000 if opens and rules.window is not None else None,
        }

    async def _begun_anew(self, before: ProvisionRequest, now: Millis) -> tuple[Saved, tuple[Credential, ...]]:
        if before.phase is Phase.PENDING:
            return transitions.changed(before, retry_count=0, last_refusal=None), ()
        return await self._reopened(before, None, now, again=True)

    async def end(self, actor: Actor, request: ProvisionRequest, now: Millis) -> None:
        """Take away what a request has, or may get: it is closed, or will be as soon as nothing of it is live."""
        if request.phase in (Phase.CONFIRMED, Phase.RENEWING):
            await self.revoke(actor, request.id, now)
        elif not transitions.is_closed(request):
            await self.stop(actor, request.id, now)

    async def succeed(
        self,
        actor: Actor,
        former: ProvisionRequest,
        successor: NewRequest | ProvisionRequest,
        changes: Mapping[str, object],
        note: Note,
        **left: object,
    ) -> ProvisionRequest:
        """End a request, and let another one take its place, in one commit: neither half is ever there alone.

        `successor` is made, or changed as `changes` say; switched on, it starts over. `left`: changes of `former`.
        Raises `Conflict`: `busy` where one of them is not as it was read.
        """
        check_role(actor)
        leaving: tuple[Credential, ...] = ()
        more: tuple[Credential, ...] = ()
        ended = former
        if former.phase is Phase.PENDING:
            ended = transitions.stop_pending(former).after
        elif not transitions.is_closed(former):
            saved, leaving = await self._withdraw(former, note.at, stop_wanted=True)
            ended = saved.after
        if isinstance(successor, NewRequest):
            unit = await self._adding_one(actor, successor, note.at)
            after = unit.added[0]
        else:
            begun = Saved(successor, successor)
            if changes.get("status") is Status.ENABLED:
                begun, more = await self._begun_anew(successor, note.at)
            after = self._modified(begun.after, actor, note.at, **changes)
            check_window(after.activates_on, after.expires_on)
            unit = Unit(note, saved=(Saved(successor, after),), credentials=more)
        gone = Saved(former, self._modified(ended, actor, note.at, **left))
        unit = replace(unit, note=note, saved=(gone, *unit.saved), credentials=(*leaving, *unit.credentials))
        if not await self._store.commit(unit):
            raise _busy()
        self._wake()
        return after

    # -- shared --------------------------------------------------------------------------------------------------------

    async def _current(self, actor: Actor, request_id: int, optlock: int | None) -> ProvisionRequest:
        request = await self.get_request(actor, request_id)
        if optlock is not None and request.optlock != optlock:
            raise Conflict(
                "stale-optlock",
                f"somebody changed this request; read it again and use optlock {request.optlock}",
                current=request,
            )
        return request

    @staticmethod
    def _modified(request: ProvisionRequest, actor: Actor, now: Millis, **changes: object) -> ProvisionRequest:
        return evolve(
            request,
            optlock=request.optlock + 1,
            modified_on=now,
            modified_by=actor.token_id,
            **changes,
        )

    async def _commit_verb(
        self, actor: Actor, verb: str, saved: Saved, leaving: tuple[Credential, ...], now: Millis
    ) -> ProvisionRequest | None:
        after = self._modified(saved.after, actor, now)
        note = Note(now, verb, actor.token_id)
        if await self._store.commit(Unit(note, saved=(Saved(saved.before, after),), credentials=leaving)):
            self._wake()
            return after
        return None


def _busy() -> Refused:
    return Conflict("busy", "this request is being changed right now; try again")
