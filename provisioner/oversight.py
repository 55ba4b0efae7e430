"""What operators look at and do not decide: the log of a request, the journal, and the drift of device brokers.

1. The log of a request is its part of the journal; who may see the request may see it.
2. The whole journal and the drift are an installation's: only an admin token that is bound to no account gets them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from provisioner.administration import Administration
from provisioner.errors import Forbidden
from provisioner.model import Entry, Millis
from provisioner.plans import Look, Plan, look, plan
from provisioner.policy import Actor, check_role
from provisioner.ports import Store
from provisioner.reconcile import Drift, Reconciler


class Oversight:
    """Reads the journal; compares device brokers with the ledger and mends them on demand."""

    def __init__(self, administration: Administration, store: Store, reconciler: Reconciler) -> None:
        self._administration = administration
        self._store = store
        self._reconciler = reconciler

    async def list_log(self, actor: Actor, request_id: int, after: int, limit: int) -> Sequence[Entry]:
        """What was decided about a request, oldest first. Raises `NotFound`."""
        await self._administration.get_request(actor, request_id)
        return await self._store.list_journal(request_id, after, limit)

    async def list_journal(self, actor: Actor, after: int, limit: int) -> Sequence[Entry]:
        """The journal behind `after`, oldest first. Raises `Forbidden`."""
        _check_everywhere(actor)
        return await self._store.list_journal(None, after, limit)

    async def compare(self, actor: Actor) -> Drift:
        """Where device brokers and the ledger disagree. Raises `Forbidden`."""
        _check_everywhere(actor)
        return await self._reconciler.compare()

    async def plan(self, actor: Actor) -> tuple[Sequence[Plan], Sequence[str]]:
        """What mending would change and cost, and which device brokers cannot be asked. Raises `Forbidden`."""
        drift = await self.compare(actor)
        return plan(drift, self._reconciler.brokers), drift.unreachable

    async def look(self, actor: Actor) -> Sequence[Look]:
        """Every device broker as it is now. Raises `Forbidden`."""
        _check_everywhere(actor)
        return await asyncio.gather(*map(look, self._reconciler.brokers.values()))

    async def mend(self, actor: Actor, now: Millis) -> Drift:
        """Bring device brokers back to the ledger; what was found. Raises `Forbidden`."""
        _check_everywhere(actor)
        return await self._reconciler.mend(now)


def _check_everywhere(actor: Actor) -> None:
    check_role(actor)
    if actor.account_id is not None:
        raise Forbidden("forbidden", "this is for an admin token that is bound to no account")
