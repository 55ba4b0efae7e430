"""Many devices in one call: the engine behind ProvisionEntities and behind imports.

1. Each row is read and planned first, against what is there and what the rows before it would make; that is validation,
   and all of a dry run.
2. Planned rows are provisioned in order, some hundred in one transaction. A row is done whole (company, group, person,
   request, device, e-mail to send, line of the batch) or not at all, and the answer says which were done.
3. What may have changed since it was read (client ids in use, quotas, the request of a device) is looked at again
   inside the transaction: there it is exact, and a row that meets it is `Failed`.
4. A device that exists is changed where the caller wants that, and only what its row says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

from provisioner import policy
from provisioner.elements import Element, EntityState, RowStatus, Verdict, parse_element
from provisioner.errors import Forbidden, Invalid, NotFound, Refused, Unavailable
from provisioner.handover import Vault, new_text
from provisioner.keys import reveal_key, seal_key
from provisioner.model import (
    Account,
    AccountKind,
    Coupling,
    Facts,
    Millis,
    ProvisionRequest,
    Role,
    Secret,
    evolve,
)
from provisioner.policy import Actor, check_role
from provisioner.ports import Entropy, Note, Saved

EVERYBODY = "All Users"
NO_COMPANY = "Unknown"
CHUNK = 500
"""Rows of one transaction."""

MOST_ROWS = 5000
"""Rows of one call."""


@dataclass(frozen=True, slots=True)
class Options:
    """The seed's flags; for imports, whether existing devices may change, and whether rows need an e-mail address."""

    halt_on_provisioning_error: bool = False
    proceed_on_validation_error: bool = False
    validate_only: bool = False
    may_update: bool = True
    needs_email: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a call. `success`: nothing was wrong; `message` a sentence. `batch_id`: what undoes it."""

    success: bool
    message: str
    verdicts: Sequence[Verdict]
    batch_id: int | None = None


class Group(NamedTuple):
    """A user group of an account."""

    id: int
    account_id: int
    name: str


class Contact(NamedTuple):
    """A person, by e-mail address, in one account."""

    id: int
    account_id: int
    email: str
    first_name: str = ""
    last_name: str = ""
    custom1: str = ""
    custom2: str = ""
    custom3: str = ""


class Device(NamedTuple):
    """What is kept beside a request."""

    device_id: str
    request_id: int
    contact_id: int | None
    group_id: int
    policy_name: str
    storage_gb: int
    custom1: str = ""
    custom2: str = ""
    custom3: str = ""


class Batch(NamedTuple):
    """Rows that came together."""

    id: int
    name: str
    account_id: int | None
    created_on: Millis
    created_by: int


class BatchRow(NamedTuple):
    """What a batch did to a device. `optlock` is that of the request afterwards.

    `former`: JSON of the device's row and name as they were; None: the batch made it.
    """

    batch_id: int
    number: int
    device_id: str
    request_id: int
    optlock: int
    former: str | None


class Mail(NamedTuple):
    """An activation e-mail that is to be sent; `attempts` counts this one."""

    request_id: int
    email: str
    attempts: int


@dataclass(frozen=True, slots=True)
class There:
    """What is there of that which rows name."""

    groups: Sequence[Group]
    contacts: Sequence[Contact]
    devices: Sequence[tuple[Device, ProvisionRequest]]
    open_client_ids: frozenset[str]
    open_units: frozenset[str]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a policy says to this engine: whose login, how much storage at most, and the request it makes.

    `draft` is a request with everything that all devices under this policy have in common.
    """

    storage_ceiling_gb: int | None
    draft: ProvisionRequest


class Drafting(Protocol):
    """Requests by policy."""

    async def terms(self, actor: Actor, account: Account, policy_name: str, now: Millis) -> Terms:
        """What exactly that policy says for an account, which may not exist yet. Raises `Invalid`."""

    def request(self, terms: Terms, client_id: str, facts: Facts, device_name: str) -> ProvisionRequest:
        """A request for one device, without its ids and key. Raises `Invalid` where its template lacks a fact."""


@dataclass(slots=True)
class Plan:
    """A row that may be provisioned. `former` None: a new device. The values are as they shall be."""

    verdict: Verdict
    company: Account
    group: Group
    contact: Contact | None
    device: Device
    request: ProvisionRequest
    former: tuple[Device, ProvisionRequest] | None = None
    mail: str | None = None
    problem: str = ""


class DeviceLedger(Protocol):
    """Where devices, people, groups and batches are kept."""

    async def find(
        self,
        accounts: Sequence[int],
        emails: Sequence[str],
        device_ids: Sequence[str],
        client_ids: Sequence[str],
        units: Sequence[str],
    ) -> There:
        """What is there of these; `units` are serial numbers, and MAC addresses in their normal form."""

    async def provision(self, plans: Sequence[Plan], batch_id: int, note: Note, *, halt: bool) -> int:
        """Provision rows in order, in one transaction; each plan's `problem` says why not. How many were looked at."""

    async def add_batch(self, batch: Batch) -> None:
        """A batch without rows."""

    async def find_batch(self, batch_id: int) -> Batch | None:
        """One batch."""

    async def list_batches(self, accounts: Sequence[int] | None, limit: int) -> Sequence[tuple[Batch, int]]:
        """Batches, newest first, and how many rows of each could still be undone."""

    async def list_batch_rows(self, batch_id: int, before: int, limit: int) -> Sequence[BatchRow]:
        """Rows of a batch in front of that number, the last one first."""

    async def undo(self, rows: Sequence[BatchRow], note: Note) -> Sequence[BatchRow]:
        """Take rows back, in one transaction, but for those of which something came since; which ones were."""

    async def list_devices(
        self, accounts: Sequence[int] | None, batch_id: int | None, after: str, limit: int
    ) -> Sequence[tuple[Device, ProvisionRequest, Group, Contact | None]]:
        """Devices by id, those behind `after`; of these accounts, and of one batch, where that is said."""


class Accounts(Protocol):
    """Who there is, and where devices of new accounts work."""

    @property
    def default_broker(self) -> str:
        """Name of the device broker."""

    async def list_accounts(self, actor: Actor) -> Sequence[Account]:
        """Accounts the operator may see."""

    def next_id(self, now: Millis) -> int:
        """A fresh id."""


@dataclass
class _World:
    """What is there, and what the rows so far would add to it."""

    partner: Account | None
    companies: dict[str, Account]
    names: set[str]
    groups: dict[tuple[int, str], Group]
    contacts: dict[tuple[int, str], Contact]
    devices: dict[str, tuple[Device, ProvisionRequest]]
    client_ids: set[str]
    units: set[str]
    fresh: set[int] = field(default_factory=set)
    """Ids of what earlier rows would make."""
    terms: dict[tuple[int, str], Terms | Invalid] = field(default_factory=dict)


class Bulk:
    """`mails`: whether e-mail can be sent here."""

    def __init__(
        self,
        ledger: DeviceLedger,
        accounts: Accounts,
        drafting: Drafting,
        vault: Vault,
        entropy: Entropy,
        *,
        mails: bool,
    ) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self._drafting = drafting
        self._vault = vault
        self._entropy = entropy
        self._mails = mails

    async def provision(
        self,
        actor: Actor,
        partner: int | str | None,
        rows: Sequence[Mapping[str, object]],
        options: Options,
        now: Millis,
        *,
        batch: Batch | None = None,
        first: int = 1,
    ) -> Outcome:
        """Validate rows and provision them, as `options` say; see the module. `first`: number of the first row.

        `partner`: account under which companies are, by id, name or uid; None: the operator's own. Raises `Forbidden`,
        `NotFound`, `Invalid` for what is wrong with the call itself.
        """
        check_role(actor, Role.PREPARER)
        if len(rows) > MOST_ROWS:
            raise Invalid("too-many-rows", f"send at most {MOST_ROWS} rows in one call", field="ProvisionElements")
        elements, verdicts = _parse(rows, first, needs_email=options.needs_email)
        world = await self._look(actor, partner, elements)
        plans: list[Plan] = []
        for element, verdict in zip(elements, verdicts, strict=True):
            if element is None:
                continue
            try:
                plan = await self._plan(actor, world, element, verdict, options, now)
            except Refused as refusal:
                verdict.status, verdict.info = RowStatus.INVALID, _sentence(refusal.detail)
                continue
            verdict.status = RowStatus.VALID
            plans.append(plan)
        invalid = sum(verdict.status is RowStatus.INVALID for verdict in verdicts)
        if options.validate_only or not plans or (invalid and not options.proceed_on_validation_error):
            return Outcome(not invalid, _told(verdicts), [_unmade(verdict) for verdict in verdicts])
        if batch is None:
            account_id = None if world.partner is None else world.partner.id
            batch = Batch(self._accounts.next_id(now), "ProvisionEntities", account_id, now, actor.token_id)
            await self._ledger.add_batch(batch)
        await self._run(plans, batch.id, Note(now, "import", actor.token_id), options)
        is_good = all(verdict.status is RowStatus.PROVISIONED for verdict in verdicts)
        return Outcome(is_good, _told(verdicts), [_unmade(verdict) for verdict in verdicts], batch.id)

    async def _run(self, plans: list[Plan], batch_id: int, note: Note, options: Options) -> None:
        for plan in plans:
            plan.verdict.status = RowStatus.NOT_PROCESSED
        halt = options.halt_on_provisioning_error
        for start in range(0, len(plans), CHUNK):
            chunk = plans[start : start + CHUNK]
            try:
                looked = await self._ledger.provision(chunk, batch_id, note, halt=halt)
            except Unavailable as trouble:
                # Nothing of this chunk was done, and the next would fare no better.
                for plan in chunk:
                    plan.problem = trouble.detail
                    _settle(plan)
                return
            for plan in chunk[:looked]:
                _settle(plan)
            if halt and any(plan.problem for plan in chunk):
                return

    # -- what is there -------------------------------------------------------------------------------------------------

    async def _look(self, actor: Actor, partner: int | str | None, elements: Sequence[Element | None]) -> _World:
        accounts = await self._accounts.list_accounts(actor)
        above = _partner(actor, partner, accounts)
        said = [element for element in elements if element is not None]
        parent = None if above is None else above.id
        mine = [one for one in accounts if one.kind is AccountKind.TARGET and (one.parent_id == parent or one is above)]
        found = await self._ledger.find(
            [account.id for account in mine],
            sorted({element.email for element in said if element.email}),
            sorted({element.device_id for element in said if element.device_id and not element.is_new}),
            sorted({element.client_id for element in said if element.client_id}),
            sorted({unit for element in said for unit in _units(element)}),
        )
        visible = {account.id for account in accounts}
        return _World(
            partner=above,
            companies={name: one for one in reversed(mine) for name in (one.name, one.display_name)},
            names={account.name for account in accounts},
            groups={(group.account_id, group.name): group for group in found.groups},
            contacts={(contact.account_id, contact.email): contact for contact in found.contacts},
            devices={device.device_id: (device, one) for device, one in found.devices if one.account_id in visible},
            client_ids=set(found.open_client_ids),
            units=set(found.open_units),
        )

    # -- planning ------------------------------------------------------------------------------------------------------

    async def _plan(
        self, actor: Actor, world: _World, element: Element, verdict: Verdict, options: Options, now: Millis
    ) -> Plan:
        if element.send_activation_email and not self._mails:
            raise Invalid("no-mail", "e-mail is not set up here (mail.server); set SendActivationEmail to false")
        company, company_state = self._company(actor, world, element, now)
        terms = await self._terms(actor, world, company, element, now)
        group, group_state = self._group(world, company, element, now)
        contact, user_state = self._contact(world, company, element, now)
        verdict.company_state, verdict.group_state, verdict.user_state = company_state, group_state, user_state
        if element.is_new:
            plan = self._new_device(world, element, verdict, company, group, contact, terms, now)
        else:
            plan = self._change(actor, world, element, verdict, company, group, contact, terms, options, now)
        _remember(world, plan)
        return plan

    def _company(self, actor: Actor, world: _World, element: Element, now: Millis) -> tuple[Account, EntityState]:
        name = element.company_name or NO_COMPANY
        company = world.companies.get(name)
        if company is not None:
            return company, EntityState.EXISTING
        if actor.role is not Role.ADMIN:
            raise Forbidden("forbidden", "there is no such company, and only an admin may have it made")
        account = Account(
            id=self._accounts.next_id(now),
            uid=self._entropy(16).hex(),
            name=_account_name(name, world.names),
            display_name=name,
            kind=AccountKind.TARGET,
            parent_id=None if world.partner is None else world.partner.id,
            coupling=Coupling.STRICT,
            device_broker=self._accounts.default_broker if world.partner is None else world.partner.device_broker,
            quota=None,
            created_on=now,
            created_by=actor.token_id,
            modified_on=now,
            modified_by=actor.token_id,
        )
        return account, EntityState.NEW

    async def _terms(self, actor: Actor, world: _World, company: Account, element: Element, now: Millis) -> Terms:
        name = element.policy_name or ""
        known = world.terms.get((company.id, name))
        if known is None:
            try:
                known = await self._drafting.terms(actor, company, name, now)
            except Invalid as refusal:
                known = refusal
            world.terms[company.id, name] = known
        if isinstance(known, Invalid):
            raise Invalid(known.code, known.detail, field=known.field)
        ceiling, wanted = known.storage_ceiling_gb, element.current_storage_gb
        if ceiling is not None and wanted is not None and wanted > ceiling:
            raise Invalid(
                "over-ceiling",
                f"CurrentStorageGB must be at most {ceiling}, the limit of policy {name}",
                field="CurrentStorageGB",
            )
        return known

    def _group(self, world: _World, company: Account, element: Element, now: Millis) -> tuple[Group, EntityState]:
        name = element.user_group or EVERYBODY
        known = world.groups.get((company.id, name))
        if known is not None:
            return known, EntityState.EXISTING
        return Group(self._accounts.next_id(now), company.id, name), EntityState.NEW

    def _contact(
        self, world: _World, company: Account, element: Element, now: Millis
    ) -> tuple[Contact | None, EntityState]:
        if element.email is None:
            return None, EntityState.UNKNOWN
        known = world.contacts.get((company.id, element.email))
        before = known or Contact(self._accounts.next_id(now), company.id, element.email)
        after = before._replace(
            first_name=_kept(element.first_name, before.first_name),
            last_name=_kept(element.last_name, before.last_name),
            custom1=_kept(element.user_custom1, before.custom1),
            custom2=_kept(element.user_custom2, before.custom2),
            custom3=_kept(element.user_custom3, before.custom3),
        )
        if known is None:
            return after, EntityState.NEW
        return after, EntityState.EXISTING if after == known else EntityState.UPDATED

    def _new_device(
        self,
        world: _World,
        element: Element,
        verdict: Verdict,
        company: Account,
        group: Group,
        contact: Contact | None,
        terms: Terms,
        now: Millis,
    ) -> Plan:
        device_id = _guid(self._entropy, now)
        client_id = element.client_id or device_id
        if client_id in world.client_ids:
            raise Invalid("duplicate-client-id", "there is an open request for this ClientId", field="ClientId")
        if not world.units.isdisjoint(_units(element)):
            raise Invalid("duplicate-unit", "there is an open request for this SerialNumber or MacAddress")
        policy.check_username_fits(company.name, client_id)
        name = element.device_name or _generated_name(device_id)
        facts = Facts(
            serial_number=element.serial_number or None,
            mac_address=element.mac_address or None,
            brand=element.brand or None,
            model=element.model or None,
        )
        request = self._drafting.request(terms, client_id, facts, name)
        request_id = self._accounts.next_id(now)
        key = Secret(new_text(self._entropy))
        request = evolve(
            request,
            id=request_id,
            job_id=self._accounts.next_id(now),
            account_id=company.id,
            account_name=company.name,
            keys_sealed=seal_key(self._vault, request_id, key, request.provision_username, client_id),
        )
        verdict.device_state = EntityState.NEW
        verdict.device_id, verdict.client_id, verdict.device_name = device_id, client_id, name
        verdict.username, verdict.activation_code = request.provision_username, key.reveal()
        device = Device(
            device_id,
            request_id,
            None if contact is None else contact.id,
            group.id,
            element.policy_name or "",
            element.current_storage_gb or 0,
            element.device_custom1 or "",
            element.device_custom2 or "",
            element.device_custom3 or "",
        )
        mail = element.email if element.send_activation_email else None
        return Plan(verdict, company, group, contact, device, request, None, mail)

    def _change(
        self,
        actor: Actor,
        world: _World,
        element: Element,
        verdict: Verdict,
        company: Account,
        group: Group,
        contact: Contact | None,
        terms: Terms,
        options: Options,
        now: Millis,
    ) -> Plan:
        known = world.devices.get(element.device_id or "")
        if known is None:
            raise NotFound("no-such-device", "there is no device with this DeviceId; all zeros make a new one")
        device, request = known
        verdict.device_state, verdict.device_id = EntityState.EXISTING, device.device_id
        verdict.client_id = request.client_id
        if not options.may_update:
            raise Invalid("device-exists", "this device is there already, and this import leaves existing ones alone")
        _check_same(element, request, company)
        ceiling, kept = terms.storage_ceiling_gb, device.storage_gb
        if ceiling is not None and element.current_storage_gb is None and kept > ceiling:
            raise Invalid(
                "over-ceiling",
                f"this device has {kept} GB and the policy allows {ceiling}; set CurrentStorageGB",
                field="CurrentStorageGB",
            )
        name = request.device_name
        if element.device_name is not None:
            name = element.device_name or _generated_name(device.device_id)
        after = device._replace(
            contact_id=device.contact_id if contact is None else contact.id,
            group_id=group.id,
            policy_name=element.policy_name or "",
            storage_gb=element.current_storage_gb or kept,
            custom1=_kept(element.device_custom1, device.custom1),
            custom2=_kept(element.device_custom2, device.custom2),
            custom3=_kept(element.device_custom3, device.custom3),
        )
        mail = element.email if element.send_activation_email else None
        if mail is not None and reveal_key(self._vault, request) is None:
            raise Invalid("key-wiped", "this device has its credential already; set SendActivationEmail to false")
        changes: dict[str, object] = {"device_name": name}
        if after.policy_name != device.policy_name:
            changes |= {rule: getattr(terms.draft, rule) for rule in _RULED}
            changes["labels"] = replace(
                request.labels,
                policy_uid=terms.draft.labels.policy_uid,
                policy_version=terms.draft.labels.policy_version,
            )
        changed = after != device or name != request.device_name
        verdict.device_state = EntityState.UPDATED if changed else EntityState.EXISTING
        verdict.device_name = name
        saved = request
        if changed:
            optlock, by = request.optlock + 1, actor.token_id
            saved = evolve(request, **changes, optlock=optlock, modified_on=now, modified_by=by)
        return Plan(verdict, company, group, contact, after, saved, known, mail)


_RULED = ("coupling", "confirm", "confirm_time", "secure_url", "retry_max_attempts")
"""What another policy changes of a request that is there."""


def _check_same(element: Element, request: ProvisionRequest, company: Account) -> None:
    """What a device is known by elsewhere does not change under it."""
    if company.id != request.account_id:
        raise Invalid("other-company", "a device cannot change its company; make it anew there", field="CompanyName")
    facts = request.facts
    for name, said, known in (
        ("ClientId", element.client_id, request.client_id),
        ("SerialNumber", element.serial_number, facts.serial_number),
        ("MacAddress", element.mac_address, facts.mac_address),
        ("Brand", element.brand, facts.brand),
        ("Model", element.model, facts.model),
    ):
        if said is not None and said != (known or ""):
            raise Invalid("read-only", f"{name} of a device cannot be changed; leave it out", field=name)


def _remember(world: _World, plan: Plan) -> None:
    """Later rows find what this one would make."""
    company, group, contact = plan.company, plan.group, plan.contact
    for name in (company.display_name, company.name):
        world.companies.setdefault(name, company)
    world.names.add(company.name)
    world.groups[group.account_id, group.name] = group
    if contact is not None:
        world.contacts[contact.account_id, contact.email] = contact
    world.devices[plan.device.device_id] = (plan.device, plan.request)
    if plan.former is None:
        world.client_ids.add(plan.request.client_id)
        facts = plan.request.facts
        world.units.update(_known_by(facts.serial_number, facts.mac_address))


def _units(element: Element) -> list[str]:
    """By what a unit is known, as it is compared."""
    return _known_by(element.serial_number, element.mac_address)


def _known_by(serial_number: str | None, mac_address: str | None) -> list[str]:
    mac = policy.normal_mac(mac_address) if mac_address else None
    return [known for known in (serial_number, mac) if known]


def _kept(said: str | None, before: str) -> str:
    return before if said is None else said


def _guid(entropy: Entropy, now: Millis) -> str:
    """A GUID (RFC 9562, version 7: 48 bits of milliseconds, then 74 random ones), dashed, in small letters.

    Ids made together sort together: random ones put each row on a page of its own, and each page is written twice.
    """
    data = bytearray(now.to_bytes(6, "big") + entropy(10))
    data[6] = data[6] & 0x0F | 0x70
    data[8] = data[8] & 0x3F | 0x80
    text = data.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _generated_name(device_id: str) -> str:
    """From its last digits: the first ones are a time."""
    return f"Device-{device_id[-8:]}"


def _account_name(display_name: str, taken: set[str]) -> str:
    """A name for topics and logins that people still recognise."""
    stem = re.sub(r"[^A-Za-z0-9._:]+", "-", display_name).strip("-._:")[:48].lower() or "company"
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name


def _partner(actor: Actor, partner: int | str | None, accounts: Sequence[Account]) -> Account | None:
    wanted: int | str | None = actor.account_id if partner is None else partner
    if wanted is None:
        return None
    for account in accounts:
        if wanted in (account.id, account.name, account.uid):
            return account
    raise NotFound("no-such-partner", "there is no partner with this PartnerId")


def _parse(
    rows: Sequence[Mapping[str, object]], first: int, *, needs_email: bool
) -> tuple[list[Element | None], list[Verdict]]:
    elements: list[Element | None] = []
    verdicts: list[Verdict] = []
    for number, row in enumerate(rows, start=first):
        try:
            element = parse_element(row, needs_email=needs_email)
        except Invalid as refusal:
            elements.append(None)
            verdicts.append(Verdict(number, None, RowStatus.INVALID, _sentence(refusal.detail)))
            continue
        elements.append(element)
        verdicts.append(Verdict(number, element))
    return elements, verdicts


def _settle(plan: Plan) -> None:
    verdict = plan.verdict
    if not plan.problem:
        verdict.status = RowStatus.PROVISIONED
        return
    verdict.status, verdict.info = RowStatus.FAILED, _sentence(plan.problem)


def _unmade(verdict: Verdict) -> Verdict:
    """Where no device was made, there is no id of it and no code."""
    if verdict.status is not RowStatus.PROVISIONED and verdict.device_state is EntityState.NEW:
        verdict.device_id = verdict.username = verdict.activation_code = None
        verdict.client_id = None if verdict.element is None else verdict.element.client_id
    return verdict


def _told(verdicts: Sequence[Verdict]) -> str:
    """How many rows ended how, in the order of a row's life."""
    counts = {status: sum(verdict.status is status for verdict in verdicts) for status in RowStatus}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no rows"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "." if text[:1].islower() else text.rstrip(".") + "."


def saved_of(plan: Plan) -> Saved | None:
    """The change of a request that a plan makes; None: it makes none, or a new one."""
    if plan.former is None or plan.former[1] is plan.request:
        return None
    return Saved(plan.former[1], plan.request)
