"""Back-pressure in time: how many claims may be in work, and when those that are too many shall come back.

1. A claim is taken as long as it would be answered within `patience`: by Little's law, claims in work divided by the
   rate at which claims end. Below `always` in work it is taken whatever that rate says.
2. The rate is measured while a quarter of `always` is in work: a server with little to do does not show what it could.
3. Those sent away queue in time instead of memory: each gets the next free slot behind all before it, one slot for each
   claim that ends. A herd comes back as a stream that fits, not as a herd, and nothing is kept but a few numbers.
4. A slot is at most `longest` away, lest a crowd that never returns pushes everybody else out of sight; there, and
   between whole seconds, chance spreads.
5. Nothing here looks at who asks or with which key: the answer tells nobody anything.

`now` is monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BacklogLimits:
    """Times in seconds. `patience` stays well below the 10 s after which a device repeats an unanswered claim.

    Above 60 s a device gives its connection up while it waits (wire contract, section 10): `longest` keeps it.
    """

    patience: float = 2.0
    always: int = 256
    longest: float = 60.0


class Backlog:
    """The claims in work. `entropy` gives the chance of rule 4."""

    __slots__ = ("_at", "_busy", "_ended", "_entropy", "_limits", "_next_slot", "in_work")

    def __init__(self, limits: BacklogLimits, entropy: Callable[[int], bytes]) -> None:
        self._limits = limits
        self._entropy = entropy
        self.in_work = 0
        # Claims that ended and the seconds they took, both fading: the latest seconds count most. They begin, lightly
        # weighted, with the rate at which `always` is just answered in time.
        self._ended = limits.always / 8
        self._busy = limits.patience / 8
        self._at = 0.0
        self._next_slot = -math.inf

    @property
    def rate(self) -> float:
        """Claims a second that this server is known to end."""
        return self._ended / self._busy

    def take(self, now: float) -> int:
        """0: the claim is in work, until `end`. Otherwise whole seconds, at least 1, after which to come again."""
        self._pass(now)
        if self.in_work >= self._limits.always and self.in_work > self.rate * self._limits.patience:
            return self._give_slot(now)
        self.in_work += 1
        return 0

    def end(self, now: float) -> None:
        """A claim that was taken is answered."""
        self._pass(now)
        if self._is_busy():
            self._ended += 1
        self.in_work -= 1

    def _is_busy(self) -> bool:
        return self.in_work * 4 >= self._limits.always

    def _pass(self, now: float) -> None:
        if self._is_busy():
            # With the patience as time constant: what is older is not what a newcomer will wait for.
            fade = math.exp((self._at - now) / self._limits.patience)
            self._ended *= fade
            self._busy = self._busy * fade + self._limits.patience * (1 - fade)
        self._at = now

    def _give_slot(self, now: float) -> int:
        longest = self._limits.longest
        chance = int.from_bytes(self._entropy(4)) / 2**32
        rate = max(self.rate, 1 / longest)
        # The first slot is where those in work are through. One given to a client that stays away is lost.
        slot = max(self._next_slot, now + self.in_work / rate)
        if slot > now + longest:
            return max(1, math.ceil(longest * (1 + chance) / 2))
        self._next_slot = slot + 1 / rate
        return max(1, math.floor(slot - now + chance))
