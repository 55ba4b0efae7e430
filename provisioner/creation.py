"""How a provision request comes to be.

1. A client id is live once per device broker: a new request while another is open is a `Conflict`, or overwrites it.
2. Secrets are shown once, to the one who made them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from provisioner import policy, transitions
from provisioner.attachments import Wanted
from provisioner.entities import Desk
from provisioner.errors import Conflict, Invalid, QuotaExceeded, Unavailable, sentence
from provisioner.handover import new_text
from provisioner.keys import seal_key
from provisioner.lifecycle import Phase
from provisioner.model import (
    NO_LABELS,
    Account,
    AccountKind,
    Confirm,
    Coupling,
    Credential,
    Facts,
    Kind,
    Labels,
    Millis,
    Policy,
    ProvisionRequest,
    Role,
    Secret,
    Status,
    User,
    evolve,
)
from provisioner.policies import render, values_of
from provisioner.policy import Actor, check_role
from provisioner.ports import Note, Saved, Turned, Unit
from provisioner.terms import (
    check_attempts,
    check_certificate,
    check_confirm,
    check_confirm_time,
    check_device_broker,
    check_kind,
    check_loose,
    check_secure,
    check_tight,
    check_unit,
    check_window,
    configuration_text,
)

TRIES = 8
"""How often a change starts over when something changed meanwhile."""

_TOLD = frozenset(
    ("duplicate-client-id", "client-id-taken", "duplicate-unit", "unknown-policy", "unknown-tag", "unknown-location")
)
"""Refusals that are no slip of the pen: an event tells of them."""


@dataclass(frozen=True, slots=True)
class NewRequest:
    """What an operator says about a new request; Everyware's creator fields in snake case. Times: epoch ms.

    `account` is an id or a name. `client_id` empty: the serial number, else the MAC address. `confirm_time` seconds.
    `user_password` only where the user may have to be made. `labels.policy_uid`, or exactly `policy_name`, names the
    policy, which says what is None or empty here; `topics` and `validity` are its alone.
    """

    account: int | str
    client_id: str = ""
    username: str = ""
    user_password: Secret | None = None
    generate_key: bool = True
    activation_key: Secret | None = None
    retry_max_attempts: int | None = None
    activates_on: Millis | None = None
    expires_on: Millis | None = None
    overwrite: bool = False
    secure_url: bool | None = None
    coupling: Coupling = Coupling.INHERITED
    kind: Kind | None = None
    confirm: Confirm | None = None
    confirm_time: int | None = None
    configuration: Mapping[str, object] | None = None
    facts: Facts = field(default_factory=Facts)
    device_name: str | None = None
    labels: Labels = NO_LABELS
    policy_name: str = ""
    record: str | None = None
    attachments: tuple[Wanted, ...] = ()
    topics: str | None = None
    validity: Millis | None = None
    forget: bool = False
    reuse_key: bool = True
    status: Status = Status.ENABLED

    @property
    def secure(self) -> bool:
        """Whether the device is told the TLS address: a certificate is shown in TLS only."""
        return bool(self.secure_url) or self.kind is Kind.X509


@dataclass(frozen=True, slots=True)
class Created:
    """A request, and the activation key where one was made just now."""

    request: ProvisionRequest
    activation_key: Secret | None


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What becomes a request; `fresh` are the ids of the attachments that were kept for it."""

    new: NewRequest
    key: Secret | None
    enclosed: str | None
    fresh: Sequence[str]


class Creation(Desk):
    """The operator's use case of a new provision request."""

    async def create_request(self, actor: Actor, new: NewRequest, now: Millis) -> Created:
        """A request and its activation key. Raises `Invalid`, `Conflict`, `QuotaExceeded`, `Forbidden`, `NotFound`."""
        check_role(actor, Role.PREPARER)
        account = await self.get_account(actor, new.account)
        new = replace(new, client_id=_client_id(new))
        async with self._telling(actor, account, new, now):
            return (await self._create(actor, account, [new], now))[0]

    async def create_requests(
        self, actor: Actor, account: Account, news: Sequence[NewRequest], now: Millis
    ) -> Sequence[Created]:
        """Requests of one account, all of them in one commit, or none. Raises as `create_request`."""
        check_role(actor, Role.PREPARER)
        return await self._create(actor, account, news, now)

    @asynccontextmanager
    async def _telling(self, actor: Actor, account: Account, new: NewRequest, now: Millis) -> AsyncIterator[None]:
        """Whoever follows the events hears of a request that was not let in (domain, table of phases)."""
        try:
            yield
        except (Conflict, Invalid) as refusal:
            if refusal.code in _TOLD:
                turned = self._request_of(actor, account, _nobody(new), new, None, now)
                turned = evolve(turned, phase=Phase.STOPPED, skipped=True)
                note = Note(now, "turn-away", actor.token_id, cause=refusal.code)
                await self._store.commit(Unit(note, turned=(Turned(turned, sentence(refusal.detail)),)))
            raise

    async def _create(
        self, actor: Actor, account: Account, news: Sequence[NewRequest], now: Millis
    ) -> Sequence[Created]:
        drawn: list[_Drawn] = []
        try:
            for new in news:
                drawn += [await self._draw(actor, account, new, now)]
            for _ in range(TRIES):
                created, unit = await self._adding(actor, account, drawn, now)
                if await self._store.commit(unit):
                    self._wake()
                    return created
        except Exception:
            await self.attachments.forget([one for each in drawn for one in each.fresh], now, actor)
            raise
        raise Unavailable("this device is being changed too often", retry_after=2)

    async def _draw(self, actor: Actor, account: Account, new: NewRequest, now: Millis) -> _Drawn:
        if new.labels.policy_uid or new.policy_name:
            found = await self.policies.of_account(account.id, new.labels.policy_uid or "", new.policy_name)
            new = _ruled(new, found, account, now)
        await self.labels.check(new.labels, account.id)
        self._check_new(account, new)
        key = self._new_key(generate=new.generate_key, given=new.activation_key)
        enclosed, fresh = await self.attachments.enclose(actor, account.id, new.attachments, now)
        return _Drawn(new, key, enclosed, fresh)

    async def _adding(
        self, actor: Actor, account: Account, drawn: Sequence[_Drawn], now: Millis
    ) -> tuple[Sequence[Created], Unit]:
        """The unit that adds requests, and takes away those that they overwrite.

        Their users are made last: a request that is refused leaves none behind.
        """
        await self._check_quota(account, len(drawn))
        replaced = [pair for one in drawn for pair in await self._make_room(account, one.new, now)]
        created = []
        for one in drawn:
            request = self._request_of(actor, account, _nobody(one.new), one.new, one.key, now)
            await self._check_twin(request)
            created.append(Created(evolve(request, attachments=one.enclosed), one.key))
        users = [await self._provision_user(actor, one.new, now) for one in drawn]
        created = [
            Created(evolve(one.request, provision_user_id=user.id), one.activation_key)
            for one, user in zip(created, users, strict=True)
        ]
        return created, Unit(
            Note(now, "create", actor.token_id),
            saved=tuple(saved for saved, _ in replaced),
            added=tuple(one.request for one in created),
            credentials=tuple(credential for _, leaving in replaced for credential in leaving),
        )

    async def _adding_one(self, actor: Actor, new: NewRequest, now: Millis) -> Unit:
        """The unit that adds a request without attachments."""
        account = await self.get_account(actor, new.account)
        async with self._telling(actor, account, new, now):
            return (await self._adding(actor, account, [await self._draw(actor, account, new, now)], now))[1]

    async def draft(
        self, actor: Actor, account: Account, new: NewRequest, found: Policy, now: Millis
    ) -> ProvisionRequest:
        """A request as that policy makes it, without its key, and without a look at what is there. Raises `Invalid`."""
        new = _ruled(new, found, account, now)
        self._check_new(account, new)
        return self._request_of(actor, account, await self._provision_user(actor, new, now), new, None, now)

    async def _check_twin(self, request: ProvisionRequest) -> None:
        """One unit has one open request, whatever it is called there."""
        if request.facts.serial_number is None and request.facts.mac_address is None:
            return
        if await self._store.find_twin(request) is not None:
            raise Conflict(
                "duplicate-unit",
                "there is an open request for a unit with this serialNumber or macAddress under another clientId",
                field="macAddress" if request.facts.serial_number is None else "serialNumber",
            )

    def _check_new(self, account: Account, new: NewRequest) -> None:
        policy.parse_identifier(new.client_id, "clientId")
        if not new.username:
            raise Invalid(
                "no-user", "give a provisionUserUsername, or a policy that names one", field="provisionUserUsername"
            )
        policy.parse_identifier(new.username, "provisionUserUsername")
        if account.kind is not AccountKind.TARGET:
            raise Invalid("not-a-target-account", "accountId must be a TARGET account", field="accountId")
        policy.check_username_fits(account.name, new.client_id)
        check_device_broker(self._brokers, account, new.client_id)
        check_window(new.activates_on, new.expires_on)
        broker = self._brokers.get(account.device_broker)
        check_confirm(broker, new.confirm or Confirm.EITHER)
        check_tight(broker, policy.resolve_coupling(new.coupling, account.coupling))
        check_loose(broker, policy.resolve_coupling(new.coupling, account.coupling))
        if new.confirm_time is not None:
            check_confirm_time(new.confirm_time)
        if new.retry_max_attempts is not None:
            check_attempts(new.retry_max_attempts)
        check_secure(broker, secure=new.secure)
        check_kind(broker, new.kind or Kind.PASSWORD)
        if new.kind is Kind.X509:
            coupling = policy.resolve_coupling(new.coupling, account.coupling)
            check_certificate(account.name, new.client_id, coupling, secure=new.secure)
        check_unit(new.facts, new.device_name)
        if new.validity is not None and not new.reuse_key:
            raise Invalid(
                "key-not-reused", "a credential with a validity is renewed by its key; set reuseKey", field="reuseKey"
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

    async def _check_quota(self, account: Account, wanted: int = 1) -> None:
        if account.quota is None:
            return
        room = max(0, account.quota - await self._store.count_open(account.id))
        if room < wanted:
            told = f"has room for {room} more" if room else f"has its {account.quota} open requests"
            raise QuotaExceeded("quota-exceeded", f"account {account.name} {told}")

    async def _make_room(
        self, account: Account, new: NewRequest, now: Millis
    ) -> list[tuple[Saved, tuple[Credential, ...]]]:
        if await self._store.sightings.is_bound(account.device_broker, new.client_id):
            raise Conflict(
                "client-id-bound",
                "a loose credential is bound to this clientId; undo that first: provisioner lock --undo",
                field="clientId",
            )
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
            secure_url=new.secure,
            coupling=policy.resolve_coupling(new.coupling, account.coupling),
            confirm=new.confirm or Confirm.EITHER,
            confirm_time=confirm_time * 1000,
            configuration=configuration_text(new.configuration or {}),
            facts=new.facts,
            device_name=new.device_name,
            labels=new.labels,
            topics=new.topics,
            validity=new.validity,
            record=new.record,
            forget=new.forget,
            reuse_key=new.reuse_key,
            retry_max_attempts=self._retry_max if new.retry_max_attempts is None else new.retry_max_attempts,
            kind=new.kind or Kind.PASSWORD,
            keys_sealed=None if key is None else seal_key(self._vault, request_id, key, user.username, new.client_id),
            created_on=now,
            created_by=actor.token_id,
            modified_on=now,
            modified_by=actor.token_id,
        )


def _ruled(new: NewRequest, found: Policy, account: Account, now: Millis) -> NewRequest:
    """What the policy says where the creator does not (`policies`, rule 3)."""
    rules = found.rules
    if new.kind is not None and new.kind not in rules.kinds:
        raise Invalid("kind-not-ruled", f"the policy has {', '.join(rules.kinds)} only", field="credentialKind")
    start = now if new.activates_on is None else new.activates_on
    # What is registered only gets its window when it is allocated.
    ends = None if rules.window is None or new.record is not None else start + rules.window * 1000
    configuration = new.configuration
    if configuration is None and rules.configuration is not None:
        values = values_of(account, new.client_id, new.facts, new.device_name)
        configuration = render(json.loads(rules.configuration), values)
    return replace(
        new,
        username=new.username or rules.username or "",
        coupling=rules.coupling if new.coupling is Coupling.INHERITED else new.coupling,
        confirm=new.confirm or rules.confirm,
        confirm_time=rules.confirm_time if new.confirm_time is None else new.confirm_time,
        retry_max_attempts=rules.retry_max_attempts if new.retry_max_attempts is None else new.retry_max_attempts,
        expires_on=ends if new.expires_on is None else new.expires_on,
        kind=new.kind or Kind(rules.kinds[0]),
        secure_url=rules.secure_url if new.secure_url is None else new.secure_url,
        configuration=configuration,
        topics=rules.topics,
        validity=None if rules.validity is None else rules.validity * 1000,
        labels=replace(new.labels, policy_uid=found.uid, policy_version=found.version),
    )


def _nobody(new: NewRequest) -> User:
    """Stands for the provision user of a request until there is one."""
    return User(0, 0, new.username, "", 0, 0)


def _client_id(new: NewRequest) -> str:
    """The one given; else the serial number, else the MAC address, of a unit whose brand is named (domain)."""
    if new.client_id:
        return new.client_id
    found = new.facts.serial_number or new.facts.mac_address
    if found is None:
        raise Invalid(
            "no-identity", "give a clientId, or a serialNumber or macAddress with its brand", field="clientId"
        )
    if not (new.facts.brand or new.facts.vendor):
        raise Invalid("no-brand", "a unit known by serialNumber or macAddress needs its brand", field="brand")
    if not policy.is_identifier(found):
        raise Invalid(
            "no-client-id",
            "this serialNumber has characters that no clientId may have; give a clientId as well",
            field="serialNumber",
        )
    return found
