"""Requests by policy for many devices at once: what all of them have in common is worked out once."""

from __future__ import annotations

import json
from dataclasses import dataclass

from provisioner.administration import Administration
from provisioner.creation import NewRequest
from provisioner.errors import Invalid
from provisioner.inventory import Terms
from provisioner.model import Account, Facts, Millis, ProvisionRequest, evolve
from provisioner.policies import render, values_of
from provisioner.policy import Actor
from provisioner.ports import Store
from provisioner.terms import configuration_text

_ANY = "any"


@dataclass(frozen=True, slots=True)
class _Drafted(Terms):
    """With the policy's configuration template, where it has one."""

    account: Account | None = None
    template: str | None = None


class Drafts:
    """See `Drafting`."""

    def __init__(self, administration: Administration, store: Store) -> None:
        self._administration = administration
        self._store = store

    async def terms(self, actor: Actor, account: Account, policy_name: str, now: Millis) -> Terms:
        """See `Drafting`. A policy that names no provision user gets the oldest one."""
        if not policy_name:
            raise Invalid("unknown-policy", "PolicyName must name a policy", field="PolicyName")
        exists = await self._store.find_account(account.id) is not None
        try:
            found = await self._administration.policies.of_account(
                account.id if exists else account.parent_id, name=policy_name
            )
        except Invalid:
            told = "PolicyName must match exactly the name of a policy that this company may use"
            raise Invalid("unknown-policy", told, field="PolicyName") from None
        username = found.rules.username
        if username is None:
            users = await self._store.list_users()
            if not users:
                raise Invalid("unknown-user", "there is no provision user; make one, or name it in the policy")
            username = users[0].username
        new = NewRequest(account=account.id, client_id=_ANY, username=username, configuration={})
        draft = await self._administration.draft(actor, account, new, found, now)
        return _Drafted(found.rules.storage_ceiling_gb, draft, account, found.rules.configuration)

    def request(self, terms: Terms, client_id: str, facts: Facts, device_name: str) -> ProvisionRequest:
        """See `Drafting`."""
        made = evolve(terms.draft, client_id=client_id, facts=facts, device_name=device_name)
        if isinstance(terms, _Drafted) and terms.template is not None and terms.account is not None:
            values = values_of(terms.account, client_id, facts, device_name)
            made = evolve(made, configuration=configuration_text(render(json.loads(terms.template), values)))
        return made
