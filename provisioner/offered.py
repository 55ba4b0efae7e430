"""Offers that left a moment ago, as they were committed: their acks need no look-up.

1. What is known here is a guess, since somebody may have changed it: who decides upon it commits a unit, whose guards
   compare it with what is there, and whoever would refuse or answer without a commit has to look first.
2. Bounded: of more hand-overs at once than `_MOST` the oldest are looked up again, as all are after a restart.
"""

from __future__ import annotations

from provisioner.model import Ack, Claim, Dossier
from provisioner.ports import Unit

_MOST = 1024


class Offered:
    """Dossiers by (user, clientId, requestId)."""

    def __init__(self) -> None:
        self._dossiers: dict[tuple[str, str, str], Dossier] = {}

    def note(self, claim: Claim, unit: Unit) -> None:
        """`unit` was committed, and the offer it allows is about to answer `claim`."""
        credential = unit.credentials[-1]
        if len(self._dossiers) >= _MOST:
            del self._dossiers[next(iter(self._dossiers))]
        self._dossiers[claim.user, claim.client_id, claim.request_id] = Dossier(
            request=unit.saved[0].after,
            credential=credential,
            bound_generation=credential.generation,
            last_generation=credential.generation,
            occupied=False,
        )

    def take(self, ack: Ack) -> Dossier | None:
        """What an ack of this very generation is about, once; None: look."""
        dossier = self._dossiers.pop((ack.user, ack.client_id, ack.request_id), None)
        if dossier is None or dossier.credential is None or dossier.credential.generation != ack.generation:
            return None
        return dossier
