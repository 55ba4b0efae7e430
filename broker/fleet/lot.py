"""What one unit of a fleet is dealt: who it is, when it comes, how it is built, and what goes wrong with it.

1. Everything is drawn before the run, from the scenario's seed and the unit's number: the same seed, the same lots.
2. Power is cut at points of the hand-over, each once: a unit that was dealt all of them dies that many times.
3. Flash that is cut short keeps what a chip would: nothing, half of the record, or all of it without the mark.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from broker.fleet.actions import Identity, Options
from broker.fleet.flash import MemoryFlash
from broker.mqtt.packets import V5


class Role(StrEnum):
    """Whose unit it is: a customer's, a copy of one with the same key, or somebody's with a wrong key."""

    GENUINE = "genuine"
    CLONE = "clone"
    IMPOSTOR = "impostor"


class Cut(StrEnum):
    """Where power is lost: after this step, or while the credential is written."""

    CONNECT = "connect"
    SUBSCRIBE = "subscribe"
    CLAIM = "claim"
    UNWRITTEN = "unwritten"
    HALF_WRITTEN = "half-written"
    UNMARKED = "unmarked"
    STORED = "stored"
    LOGGED_IN = "logged-in"
    ACK = "ack"


IN_FLASH: Final = (Cut.UNWRITTEN, Cut.HALF_WRITTEN, Cut.UNMARKED)


class PowerCut(Exception):
    """The unit has no power any more."""


@dataclass(frozen=True, slots=True)
class Lot:
    """One unit. `arrives` in seconds after the start; `version` is MQTT 4 or 5.

    `cuts` are met in any order, `off` seconds later it is switched on again; `full_writes` so many writes find flash
    full; `clock_rate` seconds pass on its clock in one of ours.
    """

    identity: Identity
    arrives: float = 0.0
    options: Options = field(default_factory=Options)
    version: int = V5
    role: Role = Role.GENUINE
    cuts: frozenset[Cut] = frozenset()
    off: float = 1.0
    full_writes: int = 0
    clock_rate: float = 1.0


class Board:
    """What of a unit outlives a power cut: its flash, and which troubles it has not met yet."""

    def __init__(self, lot: Lot) -> None:
        self.flash = _Flash(set(lot.cuts), lot.full_writes)
        self.cuts = 0

    def pass_by(self, step: str) -> None:
        """The unit took this step; raises PowerCut if it was to be its last."""
        self.flash.cut(step)


class _Flash(MemoryFlash):
    """See rule 3."""

    def __init__(self, cuts: set[Cut], full_writes: int) -> None:
        self._mark: int | None = None
        self._cuts = cuts
        self._full_writes = full_writes
        super().__init__()

    def cut(self, point: str) -> None:
        """Raise PowerCut if power is lost here, the first time."""
        if point in self._cuts:
            self._cuts.discard(Cut(point))
            raise PowerCut

    @property
    def marked(self) -> int | None:
        """Which slot is current."""
        return self._mark

    @marked.setter
    def marked(self, slot: int | None) -> None:
        if slot is not None:
            self.cut(Cut.UNMARKED)
        self._mark = slot

    def write(self, slot: int, octets: bytes) -> None:
        """Replace what the slot holds, unless flash is full or power fails."""
        self.cut(Cut.UNWRITTEN)
        if self._full_writes > 0:
            self._full_writes -= 1
            return
        if Cut.HALF_WRITTEN in self._cuts:
            super().write(slot, octets[: len(octets) // 2])
            self.cut(Cut.HALF_WRITTEN)
        super().write(slot, octets)
