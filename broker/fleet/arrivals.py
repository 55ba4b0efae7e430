"""When the units of a fleet are switched on."""

import random
from collections.abc import Sequence
from enum import StrEnum


class Curve(StrEnum):
    """How arrivals lie in time.

    `trickle` spreads them evenly, `poisson` lets them come independently of each other at the same mean rate, `herd` is
    power coming back to a site: everybody boots at once, some units a little faster than others.
    """

    AT_ONCE = "at-once"
    TRICKLE = "trickle"
    POISSON = "poisson"
    HERD = "herd"


def arrivals(curve: Curve, count: int, seconds: float, chance: random.Random) -> Sequence[float]:
    """Seconds after the start, in order; all of them within `seconds` (`poisson`: about so many)."""
    match curve:
        case Curve.AT_ONCE:
            return [0.0] * count
        case Curve.TRICKLE:
            return [seconds * index / count for index in range(count)]
        case Curve.POISSON:
            return _poisson(count, seconds / count, chance)
        case Curve.HERD:
            # Boot times are the sum of many small things: three already make a bell.
            return sorted(seconds * (chance.random() + chance.random() + chance.random()) / 3 for _ in range(count))


def _poisson(count: int, mean: float, chance: random.Random) -> list[float]:
    at, times = 0.0, []
    for _ in range(count):
        at += chance.expovariate(1 / mean) if mean else 0.0
        times.append(at)
    return times
