"""From rows to plans: what each row would make or change, without doing it. That is validation, and all of a dry run.

1. Rows are planned in order: each finds what those before it would make (`inventory`).
2. A device that exists is changed where the caller wants that, and only what its row says.
3. Planning reads nothing, so the only others it keeps waiting are those of this process; it lets them in between rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from provisioner import policy
from provisioner.devices import Contact, Device, Group, Plan
from provisioner.elements import Element
from provisioner.errors import Forbidden, Invalid, NotFound, Refused
from provisioner.handover import Vault, new_text
from provisioner.inventory import NO_COMPANY, Accounts, Drafting, Inventory, Terms, units
from provisioner.keys import reveal_key, seal_key
from provisioner.model import Account, Facts, Millis, ProvisionRequest, Secret, evolve
from provisioner.policy import Actor
from provisioner.ports import Entropy
from provisioner.verdicts import EntityState, RowStatus, Verdict

EVERYBODY = "All Users"
_BREATH = 50
"""Rows after which others get a turn: a few milliseconds."""

_RULED = ("coupling", "confirm", "confirm_time", "secure_url", "retry_max_attempts")
"""What another policy changes of a request that is there."""


class _Ties(NamedTuple):
    """What a row's device belongs to."""

    company: Account
    terms: Terms
    group: Group
    contact: Contact | None


class Planner:
    """The planner of one call. `mails`: whether e-mail can be sent; `may_update`: whether devices may be changed."""

    def __init__(
        self,
        actor: Actor,
        inventory: Inventory,
        accounts: Accounts,
        drafting: Drafting,
        vault: Vault,
        entropy: Entropy,
        now: Millis,
        *,
        mails: bool,
        may_update: bool,
    ) -> None:
        self._actor = actor
        self._inventory = inventory
        self._accounts = accounts
        self._drafting = drafting
        self._vault = vault
        self._entropy = entropy
        self._now = now
        self._mails = mails
        self._may_update = may_update

    async def plan(self, rows: Iterator[Verdict], most: int) -> list[Plan]:
        """Plans of the rows that come next, at most so many; rows that are wrong get their verdict."""
        plans: list[Plan] = []
        for turn, verdict in enumerate(rows):
            if turn % _BREATH == 0:
                await asyncio.sleep(0)
            if verdict.element is None:
                continue
            try:
                plans.append(self._plan(verdict.element, verdict))
            except Refused as refusal:
                verdict.turn(RowStatus.INVALID, refusal.detail)
                continue
            verdict.status = RowStatus.VALID
            if len(plans) == most:
                break
        return plans

    def _plan(self, element: Element, verdict: Verdict) -> Plan:
        if element.send_activation_email and not self._mails:
            raise Invalid("no-mail", "e-mail is not set up here (mail.server); set SendActivationEmail to false")
        company, company_state = self._company(element)
        terms = self._terms(element)
        group, group_state = self._group(company, element)
        contact, user_state = self._contact(company, element)
        verdict.company_state, verdict.group_state, verdict.user_state = company_state, group_state, user_state
        ties = _Ties(company, terms, group, contact)
        plan = self._new_device(element, verdict, ties) if element.is_new else self._change(element, verdict, ties)
        self._inventory.remember(plan)
        return plan

    # -- what it belongs to --------------------------------------------------------------------------------------------

    def _company(self, element: Element) -> tuple[Account, EntityState]:
        name = element.company_name or NO_COMPANY
        known = self._inventory.companies.get(name)
        if known is not None:
            return known, EntityState.EXISTING
        drafted = self._inventory.drafted.get(name)
        if drafted is None:
            raise Forbidden("forbidden", "there is no such company, and only an admin may have it made")
        return drafted, EntityState.NEW

    def _terms(self, element: Element) -> Terms:
        name = element.policy_name or ""
        known = self._inventory.terms[element.company_name or NO_COMPANY, name]
        if isinstance(known, Refused):
            raise known.with_traceback(None)  # else it grows by each row
        ceiling, wanted = known.storage_ceiling_gb, element.current_storage_gb
        if ceiling is not None and wanted is not None and wanted > ceiling:
            raise Invalid(
                "over-ceiling",
                f"CurrentStorageGB must be at most {ceiling}, the limit of policy {name}",
                field="CurrentStorageGB",
            )
        return known

    def _group(self, company: Account, element: Element) -> tuple[Group, EntityState]:
        name = element.user_group or EVERYBODY
        known = self._inventory.groups.get((company.id, name))
        if known is not None:
            return known, EntityState.EXISTING
        return Group(self._accounts.next_id(self._now), company.id, name), EntityState.NEW

    def _contact(self, company: Account, element: Element) -> tuple[Contact | None, EntityState]:
        if element.email is None:
            return None, EntityState.UNKNOWN
        known = self._inventory.contacts.get((company.id, element.email))
        before = known or Contact(self._accounts.next_id(self._now), company.id, element.email)
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

    # -- the device ----------------------------------------------------------------------------------------------------

    def _new_device(self, element: Element, verdict: Verdict, ties: _Ties) -> Plan:
        device_id = _guid(self._entropy, self._now)
        client_id = element.client_id or device_id
        if client_id in self._inventory.client_ids:
            raise Invalid("duplicate-client-id", "there is an open request for this ClientId", field="ClientId")
        if not self._inventory.units.isdisjoint(units(element.serial_number, element.mac_address)):
            raise Invalid("duplicate-unit", "there is an open request for this SerialNumber or MacAddress")
        policy.check_username_fits(ties.company.name, client_id)
        name = element.device_name or _generated_name(device_id)
        request, key = self._request(element, ties, client_id, name)
        verdict.device_state = EntityState.NEW
        verdict.device_id, verdict.client_id, verdict.device_name = device_id, client_id, name
        verdict.username, verdict.activation_code = request.provision_username, key.reveal()
        device = Device(
            device_id,
            request.id,
            None if ties.contact is None else ties.contact.id,
            ties.group.id,
            element.policy_name or "",
            element.current_storage_gb or 0,
            element.device_custom1 or "",
            element.device_custom2 or "",
            element.device_custom3 or "",
        )
        mail = element.email if element.send_activation_email else None
        return Plan(verdict, ties.company, ties.group, ties.contact, device, request, None, mail)

    def _request(self, element: Element, ties: _Ties, client_id: str, name: str) -> tuple[ProvisionRequest, Secret]:
        facts = Facts(
            serial_number=element.serial_number or None,
            mac_address=element.mac_address or None,
            brand=element.brand or None,
            model=element.model or None,
        )
        drafted = self._drafting.request(ties.terms, client_id, facts, name)
        request_id, key = self._accounts.next_id(self._now), Secret(new_text(self._entropy))
        request = evolve(
            drafted,
            id=request_id,
            job_id=self._accounts.next_id(self._now),
            account_id=ties.company.id,
            account_name=ties.company.name,
            keys_sealed=seal_key(self._vault, request_id, key, drafted.provision_username, client_id),
        )
        return request, key

    def _change(self, element: Element, verdict: Verdict, ties: _Ties) -> Plan:
        known = self._inventory.devices.get(element.device_id or "")
        if known is None:
            raise NotFound("no-such-device", "there is no device with this DeviceId; all zeros make a new one")
        device, request = known
        verdict.device_state, verdict.device_id = EntityState.EXISTING, device.device_id
        verdict.client_id = request.client_id
        if not self._may_update:
            raise Invalid("device-exists", "this device is there already, and this import leaves existing ones alone")
        _check_same(element, request, ties.company)
        after = _changed_device(element, device, ties)
        mail = element.email if element.send_activation_email else None
        if mail is not None and reveal_key(self._vault, request) is None:
            raise Invalid("key-wiped", "this device has its credential already; set SendActivationEmail to false")
        name = request.device_name
        if element.device_name is not None:
            name = element.device_name or _generated_name(device.device_id)
        changed = after != device or name != request.device_name
        verdict.device_state = EntityState.UPDATED if changed else EntityState.EXISTING
        verdict.device_name = name
        saved = request
        if changed:
            changes = _ruled(request, ties.terms) if after.policy_name != device.policy_name else {}
            saved = evolve(
                request,
                **changes,
                device_name=name,
                optlock=request.optlock + 1,
                modified_on=self._now,
                modified_by=self._actor.token_id,
            )
        return Plan(verdict, ties.company, ties.group, ties.contact, after, saved, known, mail)


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


def _changed_device(element: Element, device: Device, ties: _Ties) -> Device:
    ceiling, kept = ties.terms.storage_ceiling_gb, device.storage_gb
    if ceiling is not None and element.current_storage_gb is None and kept > ceiling:
        raise Invalid(
            "over-ceiling",
            f"this device has {kept} GB and the policy allows {ceiling}; set CurrentStorageGB",
            field="CurrentStorageGB",
        )
    return device._replace(
        contact_id=device.contact_id if ties.contact is None else ties.contact.id,
        group_id=ties.group.id,
        policy_name=element.policy_name or "",
        storage_gb=element.current_storage_gb or kept,
        custom1=_kept(element.device_custom1, device.custom1),
        custom2=_kept(element.device_custom2, device.custom2),
        custom3=_kept(element.device_custom3, device.custom3),
    )


def _ruled(request: ProvisionRequest, terms: Terms) -> dict[str, object]:
    """What the rules of another policy make of a request that is there."""
    labels = replace(
        request.labels,
        policy_uid=terms.draft.labels.policy_uid,
        policy_version=terms.draft.labels.policy_version,
    )
    return {rule: getattr(terms.draft, rule) for rule in _RULED} | {"labels": labels}


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
