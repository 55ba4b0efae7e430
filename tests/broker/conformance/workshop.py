"""The reference device on a bench, good or with one fault built in, and the hand that switches it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from broker.conformance.examination import Examined, Place, Subject, examine
from broker.conformance.story import Pace
from broker.fleet.actions import Identity, Options
from broker.fleet.device import Device, State
from broker.fleet.flash import Flash, MemoryFlash
from broker.fleet.keys import NotForUs
from broker.fleet.replies import Address, Encoding, Reply, Unreadable, parse_reply
from broker.fleet.unit import Endpoint, Unit
from tests.broker.fleet import double

SUBJECT = Subject(double.USER, "provisioning-password", double.CLIENT_ID, double.KEY)
PACE = Pace(patience=700.0)
"""The pauses of a device may be as long as 300 s, and here they cost nothing."""

Make = Callable[[Identity, Options, Flash, Callable[[int], bytes]], Device]


class Hand:
    """Makes devices and switches them: what a relay does to real ones."""

    def __init__(self, make: Make, options: Options, version: int) -> None:
        self.port = 0
        self._make = make
        self._options = options
        self._version = version
        self._flash = MemoryFlash()
        self._life: asyncio.Task[Any] | None = None

    async def renew(self) -> None:
        await self.stop()
        self._flash = MemoryFlash()
        self._start()

    async def cycle(self, why: str) -> None:
        await self.stop()
        self._start()

    async def stop(self) -> None:
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)

    def _start(self) -> None:
        identity = Identity(SUBJECT.user, SUBJECT.password, SUBJECT.client_id, SUBJECT.activation_key)
        device = self._make(identity, self._options, self._flash, secrets.token_bytes)
        unit = _Tireless(device, Endpoint(Address("127.0.0.1", self.port), self._version), patience=1e6, stubborn=True)
        self._life = asyncio.get_running_loop().create_task(unit.run())


class _Tireless(Unit):
    """Goes on after refusals, as firmware does; a command would end there."""

    def _watch(self, step: Any) -> None:
        if step.name != "refused":
            super()._watch(step)


async def examined(
    make: Make = Device, options: Options | None = None, *, version: int = 5, pace: Pace = PACE
) -> Examined:
    """Examine the device that `make` makes."""
    hand = Hand(make, options or Options(), version)

    def ready(claims: int, _works: int) -> None:
        hand.port = claims

    try:
        return await examine(SUBJECT, Place(), hand, pace, ready)
    finally:
        await hand.stop()


# Faulty ones ------------------------------------------------------------------------------------------------------


class Hasty(Device):
    """Claims before it subscribes."""

    def connected(self, _now: float) -> None:
        self._link = "up"
        self._send(_now)
        super().connected(_now)


class Renaming(Device):
    """Gives every repeat a requestId of its own."""

    def _send(self, now: float) -> None:
        if self._link == "up" and self._exchange is not None and not self._exchange.result:
            self.request_id = "r-" + secrets.token_hex(8)
        super()._send(now)


class Impatient(Device):
    """Asks again at once, whatever `retryAfter` says."""

    def _obey(self, reply: Reply, now: float) -> None:
        super()._obey(reply if reply.retry_after is None else replace(reply, retry_after=0), now)


class Marching(Device):
    """Adds no jitter."""

    def _random(self) -> float:
        return 0.5


class Remembering(Device):
    """Takes proved replies to any nonce it ever used, and to any requestId."""

    def receive(self, payload: bytes, now: float) -> None:
        super().receive(payload, now)
        try:
            reply = parse_reply(payload, Encoding.JSON)
            if reply.proof is not None and reply.reason == "abandoned":
                self._messages.check(reply.proof, reply)
                self._obey(reply, now)
        except (Unreadable, NotForUs):
            return


class Restless(Device):
    """Begins anew when a second offer comes."""

    def receive(self, payload: bytes, now: float) -> None:
        if b'"sealed"' in payload and self.state is State.STORED:
            self._claim_anew(now)
        else:
            super().receive(payload, now)


class SealBlind(Device):
    """Gives up when an offer does not open."""

    def _take_proved(self, exchange: Any, reply: Reply, now: float) -> None:
        try:
            super()._take_proved(exchange, reply, now)
        except NotForUs:
            self._halt(State.STOPPED, "bad seal")


class Credulous(Device):
    """Believes refusals that anybody may have written."""

    def _doubt(self, reply: Reply, now: float) -> None:
        self._obey(reply, now)


class Small(Device):
    """Its buffer has 4 KiB, and it does not look."""

    def receive(self, payload: bytes, now: float) -> None:
        if len(payload) > 4096:
            self._halt(State.STOPPED, "overrun")
        else:
            super().receive(payload, now)


class Forgetful(Device):
    """Says `stored` while the credential is in memory only; flash is written when it is confirmed."""

    def __init__(self, identity: Identity, options: Options, flash: Flash, entropy: Callable[[int], bytes]) -> None:
        self._real = flash
        self._memory = MemoryFlash()
        self._memory.marked, self._memory.forgotten = flash.marked, flash.forgotten
        for slot in range(3):
            self._memory.write(slot, flash.read(slot))
        super().__init__(identity, options, self._memory, entropy)

    def _halt(self, state: State, why: str = "") -> None:
        if state is State.CONFIRMED:
            for slot in range(3):
                self._real.write(slot, self._memory.read(slot))
            self._real.marked, self._real.forgotten = self._memory.marked, self._memory.forgotten
        super()._halt(state, why)


class Clinging(Device):
    """Keeps the provisioning login, whatever it is told."""

    def _end_exchange(self, exchange: Any, reply: Reply, now: float, *, proved: bool) -> bool:
        return super()._end_exchange(exchange, replace(reply, forget=False), now, proved=proved)


class Brittle(Device):
    """Does not come back from a power cut once it has claimed."""

    def start(self, now: float) -> None:
        if self._flash.read(2) and self.credential is None:
            self._halt(State.STOPPED, "bricked")
            return
        super().start(now)

    def _send(self, now: float) -> None:
        if self._link == "up":
            self._flash.write(2, b"claiming")
        super()._send(now)


class Nameless(Device):
    """Never logs in at the device broker: it acks, and goes on under its provisioning name."""

    def _go_on(self, now: float) -> None:
        self._todo.logged_in = True
        super()._go_on(now)
