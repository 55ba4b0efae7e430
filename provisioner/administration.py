"""What operators may do: accounts, users, tokens, and the provision requests.

1. An operator sees its account and that account's children; what it may not see does not exist for it (`NotFound`).
2. A request's change of phase goes through `transitions`, guarded by what was read, and starts over when stale.
3. A client id is live once per device broker: a new request while another is open is a `Conflict`, or overwrites it.
4. Secrets are shown once, to the one who made them; an activation key later only to a role that may reveal it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from provisioner import policy, transitions
from provisioner.entities import Desk
from provisioner.errors import Conflict, Invalid, NotFound, QuotaExceeded, Refused, Unavailable
from provisioner.handover import new_text
from provisioner.journal import line_about
from provisioner.keys import reveal_key, seal_key
from provisioner.lifecycle import Event, Phase, may
from provisioner.model import (
    Account,
    AccountKind,
    Confirm,
    Coupling,
    Credential,
    Facts,
    Millis,
    ProvisionRequest,
    Role,
    Secret,
    Status,
    User,
    evolve,
)
from provisioner.policy import Actor, check_role
from provisioner.ports import Listing, Note, Saved, Unit

_TRIES = 8
_LONGEST_CONFIRM = 24 * 3600


class _Keep:
    """Stands where a value stays as it is."""


KEEP = _Keep()


@dataclass(frozen=True, slots=True)
class NewRequest:
    """What an operator says about a new request; Everyware's creator fields in snake case. Times: epoch ms.

    `account` is an id or a name. `confirm_time` seconds. `user_password` only where the user may have to be made.
    """

    account: int | str
    client_id: str
    username: str
    user_password: Secret | None = None
    generate_key: bool = True
    activation_key: Secret | None = None
    retry_max_attempts: int | None = None
    activates_on: Millis | None = None
    expires_on: Millis | None = None
    overwrite: bool = False
    secure_url: bool = False
    coupling: Coupling = Coupling.INHERITED
    confirm: Confirm = Confirm.EITHER
    confirm_time: int | None = None
    configuration: Mapping[str, object] | None = None
    facts: Facts = field(default_factory=Facts)
    device_name: str | None = None
    forget: bool = False
    reuse_key: bool = True
    status: Status = Status.ENABLED


@dataclass(frozen=True, slots=True)
class Created:
    """A request, and the activation key where one was made just now."""

    request: ProvisionRequest
    activation_key: Secret | None


class Administration(Desk):
    """The operator's use cases around provision requests. Accounts, users and tokens: see `Desk`."""

    # -- create --------------------------------------------------------------------------------------------------------

    async def create_request(self, actor: Actor, new: NewRequest, now: Millis) -> Created:
        """A request and its activation key. Raises `Invalid`, `Conflict`, `QuotaExceeded`, `Forbidden`, `NotFound`."""
        check_role(actor, Role.PREPARER)
        account = await self.get_account(actor, new.account)
        self._check_new(account, new)
        user = await self._provision_user(actor, new, now)
        key = self._new_key(generate=new.generate_key, given=new.activation_key)
        for _ in range(_TRIES):
            replaced = await self._make_room(account, new, now)
            request = self._request_of(actor, account, user, new, key, now)
            unit = Unit(
                Note(now, "create", actor.token_id),
                saved=tuple(saved for saved, _ in replaced),
                added=(request,),
                credentials=tuple(credential for _, leaving in replaced for credential in leaving),
            )
            if await self._store.commit(unit):
                self._wake()
                return Created(request, key)
        raise Unavailable("this device is being changed too often", retry_after=2)

    def _check_new(self, account: Account, new: NewRequest) -> None:
        policy.parse_identifier(new.client_id, "clientId")
        policy.parse_identifier(new.username, "provisionUserUsername")
        if account.kind is not AccountKind.TARGET:
            raise Invalid("not-a-target-account", "accountId must be a TARGET account", field="accountId")
        policy.check_username_fits(account.name, new.client_id)
        _check_window(new.activates_on, new.expires_on)
        self._check_confirm(account.device_broker, new.confirm, new.confirm_time)
        if new.retry_max_attempts is not None:
            _check_attempts(new.retry_max_attempts)
        self._check_secure(account.device_broker, secure=new.secure_url)
        _check_mac(new.facts)

    def _check_confirm(self, device_broker: str, confirm: Confirm, confirm_time: int | None) -> None:
        broker = self._brokers.get(device_broker)
        if confirm is Confirm.LOGIN and (broker is None or not broker.sees_logins):
            raise Invalid(
                "logins-not-seen", "logins at this device broker cannot be seen; use confirm ack", field="confirm"
            )
        if confirm_time is not None and not 1 <= confirm_time <= _LONGEST_CONFIRM:
            raise Invalid("invalid-confirm-time", "confirmTime must be 1 to 86400 seconds", field="confirmTime")

    def _check_secure(self, device_broker: str, *, secure: bool) -> None:
        broker = self._brokers.get(device_broker)
        if broker is not None and broker.address(secure=secure) is None:
            wanted, setting = ("mqtts", "tls_listen") if secure else ("mqtt", "listen")
            raise Invalid(
                "no-such-url",
                f"the device broker has no {wanted} address; set device_broker.{setting}, or change provisionSecureURL",
                field="provisionSecureURL",
            )

    async def _provision_user(self, actor: Actor, new: NewRequest, now: Millis) -> User:
        user = await self._store.find_user(new.username)
        if user is None:
            if new.user_password is None:
                raise Invalid(
                    "unknown-user",
                    "there is no such provision user; give provisionUserPassword and it will be made",
                    field="provisionUserUsername",
                )
            return await self._make_user(actor.token_id, new.username, new.user_password, None, now)
        if new.user_password is not None and not await self._logins.verify(
            user.username, new.user_password.reveal().encode()
        ):
            raise Conflict(
                "wrong-user-password",
                "this provision user exists with another password; give that one, or leave it out",
                field="provisionUserPassword",
            )
        return user

    def _new_key(self, *, generate: bool, given: Secret | None) -> Secret | None:
        if given is not None:
            return Secret(policy.parse_activation_key(given.reveal()))
        if generate:
            return Secret(new_text(self._entropy))
        if not self._allow_keyless:
            raise Invalid(
                "no-activation-key",
                "give an activationKey or set generateActivationKey; requests without a key are switched off here",
                field="generateActivationKey",
            )
        return None

    async def _make_room(
        self, account: Account, new: NewRequest, now: Millis
    ) -> list[tuple[Saved, tuple[Credential, ...]]]:
        if account.quota is not None and await self._store.count_open(account.id) >= account.quota:
            raise QuotaExceeded("quota-exceeded", f"account {account.name} has its {account.quota} open requests")
        others = await self._store.find_open(account.device_broker, new.client_id)
        if others and any(other.account_id != account.id for other in others):
            raise Conflict("client-id-taken", "this clientId belongs to another account of the same device broker")
        if others and not new.overwrite:
            raise Conflict(
                "duplicate-client-id",
                "there is an open request for this clientId; set overwriteIfDuplicate to replace it",
                field="clientId",
            )
        return [await self._replace(other, now) for other in others]

    async def _replace(self, other: ProvisionRequest, now: Millis) -> tuple[Saved, tuple[Credential, ...]]:
        if other.phase is Phase.PENDING:
            return transitions.stop_pending(other, skipped=True), ()
        credentials = await self._store.find_credentials(other.id)
        return transitions.withdraw(other, credentials, now, stop_wanted=True)

    def _request_of(
        self, actor: Actor, account: Account, user: User, new: NewRequest, key: Secret | None, now: Millis
    ) -> ProvisionRequest:
        request_id = self._ids.next(now)
        confirm_time = self._confirm_time if new.confirm_time is None else new.confirm_time
        return ProvisionRequest(
            id=request_id,
            job_id=self._ids.next(now),
            account_id=account.id,
            account_name=account.name,
            client_id=new.client_id,
            provision_user_id=user.id,
            provision_username=user.username,
            device_broker=account.device_broker,
            status=new.status,
            activates_on=new.activates_on,
            expires_on=new.expires_on,
            secure_url=new.secure_url,
            coupling=policy.resolve_coupling(new.coupling, account.coupling),
            confirm=new.confirm,
            confirm_time=confirm_time * 1000,
            configuration=_configuration(new.configuration or {}),
            facts=new.facts,
            device_name=new.device_name,
            forget=new.forget,
            reuse_key=new.reuse_key,
            retry_max_attempts=self._retry_max if new.retry_max_attempts is None else new.retry_max_attempts,
            keys_sealed=None if key is None else seal_key(self._vault, request_id, key, user.username, new.client_id),
            created_on=now,
            created_by=actor.token_id,
            modified_on=now,
            modified_by=actor.token_id,
        )

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

    # -- change --------------------------------------------------------------------------------------------------------

    async def update_request(
        self, actor: Actor, request_id: int, optlock: int, changes: Mapping[str, object], now: Millis
    ) -> ProvisionRequest:
        """Change what the operator may change; keys are fields of `ProvisionRequest`, `facts` a `Facts`."""
        check_role(actor, Role.PREPARER)
        for _ in range(_TRIES):
            before = await self._current(actor, request_id, optlock)
            values = dict(changes)
            if "configuration" in values:
                values["configuration"] = _configuration(values["configuration"])
            after = self._modified(before, actor, now, **values)
            self._check_changed(before, after)
            note = Note(now, "update", actor.token_id, cause=", ".join(sorted(changes)))
            if await self._store.commit(Unit(note, saved=(Saved(before, after),))):
                self._wake()
                return after
        raise _busy()

    def _check_changed(self, before: ProvisionRequest, after: ProvisionRequest) -> None:
        _check_window(after.activates_on, after.expires_on)
        self._check_confirm(after.device_broker, after.confirm, after.confirm_time // 1000)
        _check_attempts(after.retry_max_attempts)
        if before.phase is Phase.PENDING and after.retry_max_attempts <= after.retry_count:
            # It would wait for claims that can only be answered `abandoned`.
            raise Invalid(
                "invalid-attempts",
                f"retryMaxAttempts must be more than the {after.retry_count} attempts made; or stop the request",
                field="retryMaxAttempts",
            )
        if after.secure_url != before.secure_url:
            self._check_secure(after.device_broker, secure=after.secure_url)
        _check_mac(after.facts)
        if after.coupling is Coupling.INHERITED:
            raise Invalid(
                "invalid-coupling",
                "deviceCredentialsTight must be STRICT or LOOSE here",
                field="deviceCredentialsTight",
            )

    async def delete_request(self, actor: Actor, request_id: int, now: Millis) -> None:
        """Delete a request of which nothing is live; its credentials' names stay. Raises `Conflict`."""
        check_role(actor)
        for _ in range(_TRIES):
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
        for _ in range(_TRIES):
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
        for _ in range(_TRIES):
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
        for _ in range(_TRIES):
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
        for _ in range(_TRIES):
            before = await self._current(actor, request_id, optlock)
            if before.phase not in (Phase.CONFIRMED, Phase.RENEWING):
                raise Conflict("not-confirmed", f"only a confirmed credential can be rotated; this is {before.phase}")
            if not before.reuse_key:
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
    ) -> Created:
        """Start over, with the same key where it is still known, in a new window where one is given."""
        check_role(actor, Role.PREPARER)
        key = Secret(new_text(self._entropy)) if generate_key else None
        for _ in range(_TRIES):
            before = await self._current(actor, request_id, optlock)
            window = {
                name: value
                for name, value in (("activates_on", activates_on), ("expires_on", expires_on))
                if not isinstance(value, _Keep)
            }
            saved, leaving = await self._reopened(before, key, now)
            saved = Saved(before, evolve(saved.after, **window))
            _check_window(saved.after.activates_on, saved.after.expires_on)
            if policy.is_lapsed(saved.after, now):
                raise Conflict("window-over", "the window of this request is over; give a later expiresOn")
            if (after := await self._commit_verb(actor, "reopen", saved, leaving, now)) is not None:
                return Created(after, key)
        raise _busy()

    async def _reopened(
        self, before: ProvisionRequest, key: Secret | None, now: Millis
    ) -> tuple[Saved, tuple[Credential, ...]]:
        confirmed = before.phase in (Phase.CONFIRMED, Phase.RENEWING)
        if not confirmed and not transitions.is_closed(before):
            raise Conflict("still-open", f"this request is {before.phase}; only a closed or confirmed one is reopened")
        if key is None and not before.reuse_key and reveal_key(self._vault, before) is None:
            raise Conflict("key-wiped", "the key of this request was wiped; set generateActivationKey")
        if not confirmed:
            others = await self._store.find_open(before.device_broker, before.client_id)
            if others:
                raise Conflict("duplicate-client-id", "there is an open request for this clientId")
        sealed = before.keys_sealed
        if key is not None:
            sealed = seal_key(self._vault, before.id, key, before.provision_username, before.client_id)
        if transitions.is_closed(before):
            return transitions.reopen(before, sealed), ()
        return await self._withdraw(before, now, **transitions.fresh(sealed))

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


def _check_window(activates_on: Millis | None, expires_on: Millis | None) -> None:
    if activates_on is not None and expires_on is not None and expires_on <= activates_on:
        raise Invalid("invalid-window", "expiresOn must be after activatesOn", field="expiresOn")


def _check_attempts(attempts: int) -> None:
    if not 1 <= attempts <= 1000:
        raise Invalid("invalid-attempts", "retryMaxAttempts must be 1 to 1000", field="retryMaxAttempts")


def _check_mac(facts: Facts) -> None:
    if facts.mac_address is not None and policy.normal_mac(facts.mac_address) is None:
        raise Invalid("invalid-mac-address", "macAddress must have twelve hex digits", field="macAddress")


def _configuration(value: object) -> str:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if len(text.encode()) > 8192:
        raise Invalid("configuration-too-large", "configuration must fit 8192 bytes of JSON", field="configuration")
    return text
