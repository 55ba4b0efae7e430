"""How a provision request comes to be.

1. A client id is live once per device broker: a new request while another is open is a `Conflict`, or overwrites it.
2. Secrets are shown once, to the one who made them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from provisioner import policy, transitions
from provisioner.entities import Desk
from provisioner.errors import Conflict, Invalid, QuotaExceeded, Unavailable
from provisioner.handover import new_text
from provisioner.keys import seal_key
from provisioner.lifecycle import Phase
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
)
from provisioner.policy import Actor, check_role
from provisioner.ports import Note, Saved, Unit
from provisioner.terms import (
    check_attempts,
    check_confirm,
    check_confirm_time,
    check_device_broker,
    check_mac,
    check_secure,
    check_tight,
    check_window,
    configuration_text,
)

TRIES = 8
"""How often a change starts over when something changed meanwhile."""


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


class Creation(Desk):
    """The operator's use case of a new provision request."""

    async def create_request(self, actor: Actor, new: NewRequest, now: Millis) -> Created:
        """A request and its activation key. Raises `Invalid`, `Conflict`, `QuotaExceeded`, `Forbidden`, `NotFound`."""
        check_role(actor, Role.PREPARER)
        account = await self.get_account(actor, new.account)
        self._check_new(account, new)
        user = await self._provision_user(actor, new, now)
        key = self._new_key(generate=new.generate_key, given=new.activation_key)
        for _ in range(TRIES):
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
        check_device_broker(self._brokers, account, new.client_id)
        check_window(new.activates_on, new.expires_on)
        broker = self._brokers.get(account.device_broker)
        check_confirm(broker, new.confirm)
        check_tight(broker, policy.resolve_coupling(new.coupling, account.coupling))
        if new.confirm_time is not None:
            check_confirm_time(new.confirm_time)
        if new.retry_max_attempts is not None:
            check_attempts(new.retry_max_attempts)
        check_secure(broker, secure=new.secure_url)
        check_mac(new.facts)

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
            configuration=configuration_text(new.configuration or {}),
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
