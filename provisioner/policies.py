"""Policies: named sets of rules that operators reuse; each request says by which version it was made.

1. A policy belongs to an account and rules requests of that account and of all below it, as labels do (`labels`).
2. A change makes the next version. Versions are never changed or deleted, so what a request says stays true; a deleted
   policy makes no more requests.
3. What a creator says itself stands above the policy, the policy above the account and the settings. The storage
   ceiling is no default: nothing stands above it.
4. A template's places are `${clientId}`, `${account}`, `${serialNumber}`, …; they are filled when a request is made, so
   what is wrong with them is told to the operator and never to a device. `$$` is a dollar sign.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from string import Template
from typing import Any, Protocol

from provisioner.errors import Conflict, Invalid, NotFound
from provisioner.labels import LONGEST_NAME, Accounts
from provisioner.model import Account, Confirm, Coupling, Facts, Kind, Labels, Millis, Policy, PolicyRules
from provisioner.policy import Actor, check_role
from provisioner.ports import Entropy, Note, PolicyLedger
from provisioner.terms import check_attempts, check_confirm_time, configuration_text
from provisioner.topics import parse_topics

_LONGEST = 100 * 366 * 86_400
"""Seconds of a window or a validity: a century."""

PLACES = ("account", "clientId", "serialNumber", "macAddress", "vendor", "brand", "model", "deviceName")
"""What a configuration template may have filled in."""


class Users(Accounts, Protocol):
    """The accounts, and which users there are."""

    async def has_user(self, username: str) -> bool:
        """Whether there is such a provision user."""


class PolicyDesk:
    """The operator's use cases around policies."""

    def __init__(self, accounts: Users, ledger: PolicyLedger, entropy: Entropy) -> None:
        self._accounts = accounts
        self._ledger = ledger
        self._entropy = entropy

    async def create(
        self, actor: Actor, name: str, account: int | str | None, rules: PolicyRules, now: Millis
    ) -> Policy:
        """A new policy, version 1. Raises `Conflict` when its account has one of that name."""
        check_role(actor)
        await self._check(name, rules)
        if account is None:
            account = actor.account_id
        account_id = None if account is None else (await self._accounts.get_account(actor, account)).id
        policy = Policy(self._entropy(16).hex(), 1, account_id, name, rules, now, actor.token_id)
        return await self._save(policy, "create-policy")

    async def change(self, actor: Actor, uid: str, version: int, name: str, rules: PolicyRules, now: Millis) -> Policy:
        """The next version; `version` is the one that the operator saw. Raises `Conflict`, `NotFound`."""
        check_role(actor)
        before = await self._own(actor, uid)
        await self._check(name, rules)
        if before.version != version:
            raise Conflict(
                "stale-version",
                f"somebody changed this policy; read it again and use version {before.version}",
                current=before,
            )
        after = replace(before, version=version + 1, name=name, rules=rules, created_on=now, created_by=actor.token_id)
        return await self._save(after, "change-policy")

    async def delete(self, actor: Actor, uid: str, now: Millis) -> None:
        """It makes no more requests. Raises `NotFound`."""
        check_role(actor)
        policy = await self._own(actor, uid)
        await self._ledger.delete(uid, Note(now, "delete-policy", actor.token_id, cause=f"{policy.name}, {uid}"))

    async def list(self, actor: Actor) -> Sequence[Policy]:
        """Those the operator may use or sees, by name."""
        seen = await self._seen(actor)
        return [policy for policy in await self._ledger.find() if seen is None or policy.account_id in seen]

    async def get(self, actor: Actor, uid: str, version: int | None = None) -> Policy:
        """The version in force, or that one. Raises `NotFound`."""
        seen = await self._seen(actor)
        for policy in await self._ledger.find(uid, version):
            if seen is None or policy.account_id in seen:
                return policy
        raise _unknown()

    async def of_account(self, account_id: int | None, uid: str = "", name: str = "") -> Policy:
        """The policy of this uid, or of exactly this name, that an account may use; the nearest. Raises `Invalid`."""
        usable = await self._accounts.above(account_id)
        found = [one for one in await self._ledger.find(uid or None) if not name or one.name == name]
        ranked = sorted((usable.index(one.account_id), one.uid, one) for one in found if one.account_id in usable)
        if not ranked:
            field = "policyUid" if uid else "policyName"
            raise Invalid("unknown-policy", f"{field} names a policy that this account does not have", field=field)
        return ranked[0][2]

    async def made_by(self, labels: Labels) -> PolicyRules | None:
        """The rules that a request was made by; None: by no policy."""
        if labels.policy_uid is None:
            return None
        found = await self._ledger.find(labels.policy_uid, labels.policy_version)
        return found[0].rules if found else None

    async def _seen(self, actor: Actor) -> frozenset[int | None] | None:
        visible = await self._accounts.visible(actor)
        return None if visible is None else visible | frozenset(await self._accounts.above(actor.account_id))

    async def _own(self, actor: Actor, uid: str) -> Policy:
        visible = await self._accounts.visible(actor)
        for policy in await self._ledger.find(uid):
            if visible is None or policy.account_id in visible:
                return policy
        raise _unknown()

    async def _save(self, policy: Policy, action: str) -> Policy:
        note = Note(policy.created_on, action, policy.created_by, cause=f"{policy.uid}, version {policy.version}")
        try:
            await self._ledger.save(policy, note)
        except Conflict:
            raise Conflict("name-taken", "there is a policy of that name already", field="name") from None
        return policy

    async def _check(self, name: str, rules: PolicyRules) -> None:
        if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
            raise Invalid("invalid-name", f"name must have 1 to {LONGEST_NAME} printable characters", field="name")
        check_rules(rules)
        if rules.username is not None and not await self._accounts.has_user(rules.username):
            raise Invalid("unknown-user", "there is no such provision user", field="provisionUserUsername")


def _unknown() -> NotFound:
    return NotFound("no-such-policy", "there is no such policy, or it is not yours")


def check_rules(rules: PolicyRules) -> None:
    """Whether requests can be made by these. Raises `Invalid`."""
    if not rules.kinds or len(set(rules.kinds)) != len(rules.kinds):
        raise Invalid("invalid-kinds", f"kinds must be of {', '.join(Kind)}, each once", field="kinds")
    if rules.confirm_time is not None:
        check_confirm_time(rules.confirm_time)
    if rules.retry_max_attempts is not None:
        check_attempts(rules.retry_max_attempts)
    for field, seconds in (("window", rules.window), ("validity", rules.validity)):
        if seconds is not None and not 60 <= seconds <= _LONGEST:
            raise Invalid(f"invalid-{field}", f"{field} must be a minute to a century, in seconds", field=field)
    if rules.configuration is not None:
        render(json.loads(rules.configuration), dict.fromkeys(PLACES, "x"))


def values_of(account: Account, client_id: str, facts: Facts, device_name: str | None) -> dict[str, str]:
    """What a template is filled with; what is not known is absent."""
    known = {
        "account": account.name,
        "clientId": client_id,
        "serialNumber": facts.serial_number,
        "macAddress": facts.mac_address,
        "vendor": facts.vendor,
        "brand": facts.brand,
        "model": facts.model,
        "deviceName": device_name,
    }
    return {name: value for name, value in known.items() if value is not None}


def render(template: Any, values: Mapping[str, str]) -> Any:
    """A JSON value with its texts filled in, names of members too. Raises `Invalid`."""
    match template:
        case str():
            return _fill(template, values)
        case list():
            return [render(one, values) for one in template]
        case dict():
            filled = {_fill(name, values): render(one, values) for name, one in template.items()}
            if len(filled) != len(template):
                raise Invalid("invalid-template", "two members of configuration have one name", field="configuration")
            return filled
        case _:
            return template


def _fill(text: str, values: Mapping[str, str]) -> str:
    template = Template(text)
    if not template.is_valid() or not set(template.get_identifiers()) <= set(PLACES):
        raise Invalid(
            "invalid-template",
            f"configuration has places for {', '.join(PLACES)}, written ${{clientId}}; write $$ for a dollar sign",
            field="configuration",
        )
    for name in template.get_identifiers():
        if name not in values:
            raise Invalid("missing-fact", f"the policy's configuration needs the {name} of the device", field=name)
    return template.substitute(values)


def rules_text(rules: PolicyRules) -> str:
    """JSON text of rules."""
    return json.dumps({field.name: getattr(rules, field.name) for field in fields(rules)}, separators=(",", ":"))


def parse_rules(text: str) -> PolicyRules:
    """Inverse of `rules_text`; what a later version of the program added says nothing."""
    said = json.loads(text)
    coupling, confirm = Coupling(said.pop("coupling")), said.pop("confirm")
    kinds = tuple(map(Kind, said.pop("kinds")))
    return PolicyRules(coupling=coupling, confirm=confirm and Confirm(confirm), kinds=kinds, **said)


def read_rules(said: Mapping[str, Any]) -> PolicyRules:
    """Rules as an operator writes them, by the names inside; topics and configuration become text. Raises `Invalid`."""
    made = dict(said)
    if made.get("topics") is not None:
        made["topics"] = parse_topics(made["topics"])
    if made.get("configuration") is not None:
        made["configuration"] = configuration_text(made["configuration"])
    return PolicyRules(**made)
