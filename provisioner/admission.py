"""Verify first, then limit: only wrong keys are limited, and a right key never waits for others' failures.

1. A wrong key takes one token from each of four buckets: its (user, clientId), its source, its connection, and one for
   all. When one of them is empty the answer is `slow-down` and tells nothing about the key. Through somebody else's
   broker no source or connection is known, and only the first and the last count.
2. A right key asks nobody here (wire contract, section 9, rule 7).
3. The buckets are bounded: the longest unused is forgotten first, and a forgotten one was full anyhow or is under a
   flood that the bucket for all still holds.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from provisioner.errors import Reason, Rejected
from provisioner.model import SHARED, Millis


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, then `per_minute`."""

    burst: int
    per_minute: float


@dataclass(frozen=True, slots=True)
class WrongKeyRates:
    """How many wrong keys are answered `denied` before `slow-down`."""

    per_id: Rate = Rate(10, 6)
    per_source: Rate = Rate(60, 60)
    per_connection: Rate = Rate(5, 6)
    overall: Rate = Rate(1000, 6000)


class _Buckets:
    """Token buckets of one rate, by key."""

    def __init__(self, rate: Rate, most: int) -> None:
        self._rate = rate
        self._most = most
        self._levels: OrderedDict[Hashable, tuple[float, Millis]] = OrderedDict()

    def take(self, key: Hashable, now: Millis) -> int:
        """0 when a token was there, else seconds until one is."""
        level, since = self._levels.pop(key, (float(self._rate.burst), now))
        per_milli = self._rate.per_minute / 60_000
        level = min(self._rate.burst, level + max(0, now - since) * per_milli)
        taken = level >= 1
        self._levels[key] = (level - 1 if taken else level, now)
        if len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return 0 if taken else max(1, math.ceil((1 - level) / per_milli / 1000))


class Admission:
    """The limiter of wrong keys."""

    def __init__(self, rates: WrongKeyRates, most: int = 50_000) -> None:
        self._ids = _Buckets(rates.per_id, most)
        self._sources = _Buckets(rates.per_source, most)
        self._connections = _Buckets(rates.per_connection, most)
        self._overall = _Buckets(rates.overall, 1)

    def check_failure(self, user: str, client_id: str, source: str, connection: int, now: Millis) -> None:
        """Count one wrong key; `slow-down` when any bucket is empty."""
        waits = [self._ids.take((user, client_id), now), self._overall.take(None, now)]
        if connection != SHARED:
            waits += [self._sources.take(source, now), self._connections.take(connection, now)]
        if (wait := max(waits)) > 0:
            raise Rejected(Reason.SLOW_DOWN, "too many wrong keys", step="authenticate", retry_after=min(wait, 86_400))
