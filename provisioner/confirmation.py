"""The end of a hand-over: the device proved that it holds its credential, by ack or by its first login.

The former credential, in a renewal, is retired by the same commit; what of the activation key is not needed is wiped.
"""

from __future__ import annotations

from collections.abc import Callable

from provisioner import transitions
from provisioner.handover import Keys, Vault
from provisioner.jobs import Jobs
from provisioner.keys import wipe_key
from provisioner.lifecycle import Phase
from provisioner.model import Credential, ProvisionRequest
from provisioner.ports import Note, Store


class Confirmation:
    """`forget` is called with the id of each request that is confirmed."""

    def __init__(self, store: Store, vault: Vault, jobs: Jobs, forget: Callable[[int], None]) -> None:
        self._store = store
        self._vault = vault
        self._jobs = jobs
        self._forget = forget

    async def confirm(
        self, request: ProvisionRequest, credential: Credential, note: Note, known: Keys | None = None
    ) -> bool:
        """Commit it; False: it changed since it was read. `known` are the request's keys where they are open."""
        former = None
        if request.phase is Phase.RENEWING:
            others = await self._store.find_credentials(request.id)
            former = next((other for other in others if other.generation == request.proved_generation), None)
        keys = wipe_key(self._vault, request, known)
        if not await self._store.commit(transitions.confirm(request, credential, former, keys, note)):
            return False
        self._forget(request.id)
        if former is not None:
            self._jobs.wake()
        return True
