"""A server in a bad mood, for those who write firmware: `provisioner serve --chaos`.

1. The decision is untouched: what a claim or ack came to is committed as ever, only what the device hears differs.
2. It says nothing the wire contract does not allow: a good claim may be told to `wait`, proved as any reply, and a
   reply may be lost, come twice, or late. A device that follows the contract gets its credential all the same.
3. The same seed has the same moods: the n-th message of a client id meets the same in every run, whatever others do.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import structlog

from broker.mqtt.interface import Answer, Inbound
from broker.mqtt.messages import Body
from broker.mqtt.responder import Responder
from provisioner.errors import ProvisionerError, Reason, Rejected
from provisioner.model import Millis, Offer, Taken
from provisioner.ports import Entropy
from provisioner.service import Provisioner

log = structlog.get_logger(__name__)

_REMEMBERED = 100_000
_LONGEST_WAIT = 5


@dataclass(frozen=True, slots=True)
class Moods:
    """How bad: shares of offers withheld (`wait`), of replies sent twice and not at all; `delay` at most, seconds."""

    seed: int
    wait: float
    double: float
    drop: float
    delay: float


class ChaoticResponder(Responder):
    """A `Responder` whose devices have to be patient."""

    def __init__(self, provisioner: Provisioner, clock: Callable[[], Millis], entropy: Entropy, moods: Moods) -> None:
        super().__init__(provisioner, clock, entropy)
        self._moods = moods
        log.warning(
            "chaos is on: replies are withheld, doubled, dropped and delayed on purpose; keep production away",
            **asdict(moods),
        )
        self._counts: OrderedDict[tuple[str, str, str], int] = OrderedDict()

    async def answer(self, message: Inbound) -> Answer:
        """See `Service`."""
        chance = self._chance(message, "reply")
        drawn, seconds = chance.random(), chance.uniform(0, self._moods.delay)
        answer = await super().answer(message)
        await asyncio.sleep(seconds)
        copies = 1
        if drawn < self._moods.drop:
            copies = 0
        elif drawn < self._moods.drop + self._moods.double:
            copies = 2
        log.info("chaos", client_id=message.client_id, copies=copies, delay_ms=round(seconds * 1000))
        return replace(answer, copies=copies)

    async def outcome(self, message: Inbound, body: Body, trace: str) -> Offer | Taken | ProvisionerError:
        """What a message came to, or `wait` in place of an offer: nothing was lost, the next claim gets the same."""
        outcome = await super().outcome(message, body, trace)
        chance = self._chance(message, "offer")
        if not isinstance(outcome, Offer) or chance.random() >= self._moods.wait:
            return outcome
        wait = Rejected(Reason.WAIT, "chaos", step="install", retry_after=chance.randint(1, _LONGEST_WAIT))
        wait.conversation = outcome.conversation
        return wait

    def _chance(self, message: Inbound, what: str) -> random.Random:
        """The mood for the n-th message of this client id; who was not heard of for long begins anew."""
        key = (message.user, message.client_id, what)
        count = self._counts.pop(key, 0)
        self._counts[key] = count + 1
        if len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)
        return random.Random(f"{self._moods.seed}|{'|'.join(key)}|{count}")  # noqa: S311  # moods are no secret
