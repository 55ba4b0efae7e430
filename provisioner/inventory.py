"""What is there of that which rows name: read once before a call is planned, then kept up as rows are planned.

1. Whatever has to be asked for is asked for here: planning waits for nothing.
2. A company that is not there is drafted where the operator may have it made. It counts once a row of it is planned.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from provisioner import policy
from provisioner.devices import Contact, Device, DeviceLedger, Group, Plan
from provisioner.elements import Element
from provisioner.errors import NotFound, Refused
from provisioner.model import Account, AccountKind, Coupling, Facts, Millis, ProvisionRequest, Role
from provisioner.policy import Actor
from provisioner.ports import Entropy

NO_COMPANY = "Unknown"


class Accounts(Protocol):
    """Who there is, and where devices of new accounts work."""

    @property
    def default_broker(self) -> str:
        """Name of the device broker."""

    async def list_accounts(self, actor: Actor) -> Sequence[Account]:
        """Accounts the operator may see."""

    def next_id(self, now: Millis) -> int:
        """A fresh id."""


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
class Inventory:
    """See the module. `companies` and `drafted` are by name and by display name; `terms` by (company, policy)."""

    partner: Account | None
    companies: dict[str, Account]
    groups: dict[tuple[int, str], Group]
    contacts: dict[tuple[int, str], Contact]
    devices: dict[str, tuple[Device, ProvisionRequest]]
    client_ids: set[str]
    units: set[str]
    drafted: dict[str, Account] = field(default_factory=dict)
    terms: dict[tuple[str, str], Terms | Refused] = field(default_factory=dict)

    def remember(self, plan: Plan) -> None:
        """Later rows find what this one would make."""
        company, group, contact = plan.company, plan.group, plan.contact
        for name in (company.display_name, company.name):
            self.companies.setdefault(name, company)
        self.groups[group.account_id, group.name] = group
        if contact is not None:
            self.contacts[contact.account_id, contact.email] = contact
        self.devices[plan.device.device_id] = (plan.device, plan.request)
        if plan.former is None:
            self.client_ids.add(plan.request.client_id)
            facts = plan.request.facts
            self.units.update(units(facts.serial_number, facts.mac_address))


class Stocktaking:
    """Makes inventories."""

    def __init__(self, ledger: DeviceLedger, accounts: Accounts, drafting: Drafting, entropy: Entropy) -> None:
        self._ledger = ledger
        self._accounts = accounts
        self._drafting = drafting
        self._entropy = entropy

    async def take(
        self, actor: Actor, partner: int | str | None, elements: Sequence[Element], now: Millis
    ) -> Inventory:
        """What is there of that which these rows name, as far as the operator may see it. Raises `NotFound`."""
        accounts = await self._accounts.list_accounts(actor)
        above = _partner(actor, partner, accounts)
        parent = None if above is None else above.id
        mine = [one for one in accounts if one.kind is AccountKind.TARGET and (one.parent_id == parent or one is above)]
        found = await self._ledger.find(
            [account.id for account in mine],
            sorted({element.email for element in elements if element.email}),
            sorted({element.device_id for element in elements if element.device_id and not element.is_new}),
            sorted({element.client_id for element in elements if element.client_id}),
            sorted({unit for element in elements for unit in units(element.serial_number, element.mac_address)}),
        )
        visible = {account.id for account in accounts}
        inventory = Inventory(
            partner=above,
            companies={name: one for one in reversed(mine) for name in (one.name, one.display_name)},
            groups={(group.account_id, group.name): group for group in found.groups},
            contacts={(contact.account_id, contact.email): contact for contact in found.contacts},
            devices={device.device_id: (device, one) for device, one in found.devices if one.account_id in visible},
            client_ids=set(found.open_client_ids),
            units=set(found.open_units),
        )
        if actor.role is Role.ADMIN:
            taken = {account.name for account in accounts}
            for name in dict.fromkeys(element.company_name or NO_COMPANY for element in elements):
                self._draft(actor, inventory, name, taken, now)
        await self._read_terms(actor, inventory, elements, now)
        return inventory

    def _draft(self, actor: Actor, inventory: Inventory, display_name: str, taken: set[str], now: Millis) -> None:
        if display_name in inventory.companies or display_name in inventory.drafted:
            return
        partner = inventory.partner
        account = Account(
            id=self._accounts.next_id(now),
            uid=self._entropy(16).hex(),
            name=_account_name(display_name, taken),
            display_name=display_name,
            kind=AccountKind.TARGET,
            parent_id=None if partner is None else partner.id,
            coupling=Coupling.STRICT,
            device_broker=self._accounts.default_broker if partner is None else partner.device_broker,
            quota=None,
            created_on=now,
            created_by=actor.token_id,
            modified_on=now,
            modified_by=actor.token_id,
        )
        taken.add(account.name)
        for name in (display_name, account.name):
            inventory.drafted.setdefault(name, account)

    async def _read_terms(self, actor: Actor, inventory: Inventory, elements: Iterable[Element], now: Millis) -> None:
        for name, policy_name in {
            (element.company_name or NO_COMPANY, element.policy_name or "") for element in elements
        }:
            company = inventory.companies.get(name) or inventory.drafted.get(name)
            if company is None:
                continue
            try:
                terms: Terms | Refused = await self._drafting.terms(actor, company, policy_name, now)
            except Refused as refusal:
                terms = refusal
            inventory.terms[name, policy_name] = terms


def units(serial_number: str | None, mac_address: str | None) -> list[str]:
    """By what a unit is known, as it is compared."""
    mac = policy.normal_mac(mac_address) if mac_address else None
    return [known for known in (serial_number, mac) if known]


def _partner(actor: Actor, partner: int | str | None, accounts: Sequence[Account]) -> Account | None:
    wanted: int | str | None = actor.account_id if partner is None else partner
    if wanted is None:
        return None
    for account in accounts:
        if wanted in (account.id, account.name, account.uid):
            return account
    raise NotFound("no-such-partner", "there is no partner with this PartnerId")


def _account_name(display_name: str, taken: set[str]) -> str:
    """A name for topics and logins that people still recognise."""
    stem = re.sub(r"[^A-Za-z0-9._:]+", "-", display_name).strip("-._:")[:48].lower() or "company"
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name
