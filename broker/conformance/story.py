"""What the stories share: a fresh device, its next claim, a good end, a power cut.

A device that has fallen silent is switched off and on, so that one fault does not hide the next. Where even that does
not help the story ends with `Unreached`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from broker.conformance.answers import Claimed, Credential, Desk, NotByTheContract
from broker.conformance.bench import Bench, Seen
from broker.conformance.line import Line, Side
from broker.conformance.power import Power
from broker.conformance.sheet import Check, Sheet
from broker.mqtt.packets import Connect, Publish
from provisioner.model import Result

T = TypeVar("T")


class Unreached(Exception):
    """The story cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds. `reply` is what a device waits for a reply, `patience` what anything expected may take.

    `quiet` is how long it must be seen not to do something, `retry_after` what it is told to wait, `settle` how long
    it must do nothing more until a confirmation counts as taken in.
    """

    reply: float = 10.0
    patience: float = 120.0
    quiet: float = 30.0
    retry_after: int = 3
    suback_delay: float = 1.0
    settle: float = 5.0


@dataclass(frozen=True, slots=True)
class Heard:
    """A good claim, when it came and on which connection."""

    at: float
    line: Line
    claim: Claimed


@dataclass(slots=True)
class Ending:
    """What was seen after an offer; `strange`: a login with something else than what was offered."""

    claims: int = 0
    acked: bool = False
    logged_in: bool = False
    strange: bool = False

    @property
    def confirmed(self) -> bool:
        """Either is enough (`confirm` of our offers is `either`)."""
        return self.acked or self.logged_in


class Story(ABC):
    """One device on one bench, and one credential for it; `tell` is the story. `messages` counts what was read."""

    what = ""

    def __init__(self, bench: Bench, desk: Desk, power: Power, sheet: Sheet, pace: Pace, generation: int) -> None:
        self.messages = 0
        self._bench = bench
        self._desk = desk
        self._power = power
        self._sheet = sheet
        self._pace = pace
        self._credential: Credential = desk.credential(generation)

    @abstractmethod
    async def tell(self) -> None:
        """Tell it; raises Unreached and PowerFailed."""

    async def _begin(self, *, suback_delay: float = 0.0) -> None:
        """The device is fresh from the factory."""
        self._bench.logins = {self._credential.username: self._credential.password}
        self._bench.suback_delay = suback_delay
        self._bench.freeze()
        self._bench.note(f"the device is fresh from the factory: {self.what}")
        await self._power.renew()
        self._bench.thaw()

    def _say(self, line: Line, payload: bytes, what: str) -> None:
        """Reply."""
        self._bench.note(f"replies: {what}")
        line.reply(payload)

    async def _cycle(self, why: str) -> int:
        """Power fails here. Returns where to look from."""
        self._bench.freeze()
        self._bench.note(f"power fails: {why}")
        await self._power.cycle(why)
        self._bench.thaw()
        return len(self._bench.seen)

    async def _revived(self, why: str) -> Heard:
        """The next claim of a device that has fallen silent."""
        await self._cycle("it has fallen silent")
        return await self._claim(f"{why}, not even after a power cut")

    async def _claim(self, why: str, check: Check | None = None) -> Heard:
        """The next good claim; where none comes `check` has failed, and Unreached is raised, both because of `why`."""
        heard = await self._next_claim()
        if heard is None:
            if check is not None:
                self._sheet.failed(check, why)
            raise Unreached(why)
        return heard

    async def _next_claim(self) -> Heard | None:
        deadline = self._bench.now() + self._pace.patience
        while (seen := await self._bench.next(self._is_claim, deadline - self._bench.now())) is not None:
            if (claim := self._read_claim(seen)) is not None:
                return Heard(seen.at, seen.line, claim)
        return None

    async def _finish(self, *, forget: bool = False, doubled: bool = False) -> Ending:
        """Serve it until it has acked and logged in and does nothing more for a moment, or nothing more comes."""
        end, pace = Ending(), self._pace
        deadline = self._bench.now() + pace.patience
        while True:
            done = pace.settle if end.acked and end.logged_in else pace.quiet
            seen = await self._next_deed(done if end.confirmed else deadline - self._bench.now())
            if seen is None or self._bench.now() > deadline:
                return end
            self._answer(seen, end, forget=forget, doubled=doubled)

    async def _login(self) -> bool:
        """Whether it logs in at the device broker; what it says at the provision broker meanwhile is answered."""
        deadline, end = self._bench.now() + self._pace.patience, Ending()
        while not end.logged_in:
            seen = await self._next_deed(deadline - self._bench.now())
            if seen is None:
                return False
            self._answer(seen, end)
        return True

    async def _next_deed(self, seconds: float) -> Seen | None:
        """Its next message or login at the device broker."""
        return await self._bench.next(lambda seen: self._is_message(seen) or is_at_work(seen), seconds)

    def _answer(self, seen: Seen, end: Ending, *, forget: bool = False, doubled: bool = False) -> None:
        """Say what a good provisioner says."""
        if is_at_work(seen):
            if self._is_login(seen):
                end.logged_in = True
            else:
                end.strange = True
        elif self._is_claim(seen):
            end.claims += 1
            if (claim := self._read_claim(seen)) is not None:
                self._say(seen.line, self._desk.offer(claim, self._credential), "offer")
        elif (acked := self._read(seen, self._desk.read_ack)) is not None:
            reply = self._desk.taken(acked, forget=forget)
            for _ in range(2 if doubled else 1):
                self._say(seen.line, reply, f"to its ack `{acked.result}`{', with forget' if forget else ''}")
            end.acked = end.acked or acked.result is Result.STORED

    def _acted(self, mark: int) -> str:
        """What it did since, that only a good offer makes a device do."""
        for seen in self._bench.since(mark):
            if is_at_work(seen):
                return "logged in at the device broker"
            if self._is_ack(seen):
                return "acked"
        return ""

    def _read_claim(self, seen: Seen) -> Claimed | None:
        return self._read(seen, self._desk.read_claim)

    def _read(self, seen: Seen, read: Callable[[bytes], T]) -> T | None:
        self.messages += 1
        try:
            return read(seen.packet.payload) if isinstance(seen.packet, Publish) else None
        except NotByTheContract as error:
            self._sheet.failed(Check.CONTRACT, f"one of its messages is not by the contract: {error}")
            return None

    def _is_message(self, seen: Seen) -> bool:
        if not isinstance(seen.packet, Publish) or not is_publish(seen):
            return False
        if not (self._is_claim(seen) or self._is_ack(seen)):
            self._sheet.failed(Check.CONTRACT, f"it published to {seen.packet.topic}, which is not its own")
            return False
        return True

    def _is_claim(self, seen: Seen) -> bool:
        return is_publish(seen) and isinstance(seen.packet, Publish) and seen.packet.topic == self._desk.request_topic

    def _is_ack(self, seen: Seen) -> bool:
        return is_publish(seen) and isinstance(seen.packet, Publish) and seen.packet.topic == self._desk.ack_topic

    def _is_login(self, seen: Seen) -> bool:
        """Whether it is a login at the device broker with the credential of this story."""
        connect = seen.packet
        return (
            is_at_work(seen)
            and isinstance(connect, Connect)
            and (connect.client_id, connect.username) == (self._desk.client_id, self._credential.username)
            and connect.password == self._credential.password.encode()
        )


def is_connect(seen: Seen) -> bool:
    """Whether it connects to claim."""
    return seen.side is Side.CLAIMS and seen.kind == "connect"


def is_subscribe(seen: Seen) -> bool:
    """Whether it subscribes at the provision broker."""
    return seen.side is Side.CLAIMS and seen.kind == "subscribe"


def is_publish(seen: Seen) -> bool:
    """Whether it says something at the provision broker."""
    return seen.side is Side.CLAIMS and seen.kind == "publish"


def is_at_work(seen: Seen) -> bool:
    """Whether it connects to the device broker."""
    return seen.side is Side.WORKS and seen.kind == "connect"


def is_alive(seen: Seen) -> bool:
    """Whether it connects anywhere."""
    return seen.kind == "connect"
