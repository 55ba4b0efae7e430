"""How often each fault strikes. Each run has about half of them: rare meetings need that others stay away."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Weather:
    """Probabilities, but for the last group: those are mean seconds from one to the next, 0: never."""

    loss: float = 0.0
    """A message does not arrive."""
    twice: float = 0.0
    """A message arrives twice."""
    late: float = 0.0
    """A message is under way for minutes."""
    cut: float = 0.0
    """The connection breaks with a message on it."""
    power: float = 0.0
    """The device loses power at this step."""
    bad_flash: float = 0.0
    """What was written to flash reads back wrong."""

    commit_fails: float = 0.0
    commit_lies: float = 0.0
    """COMMIT says that it failed, and did not."""
    commit_kills: float = 0.0
    """The process dies at COMMIT, before or after it."""
    slow_disk: float = 0.0

    away: float = 0.0
    """The device broker does not answer."""
    busy: float = 0.0
    """It asks to come back later."""
    forgets: float = 0.0
    """It did what was asked, and its answer is lost."""
    slow: float = 0.0
    """It takes seconds."""
    refuses: float = 0.0
    """It refuses this user name for good."""

    crash: float = 0.0
    operator: float = 0.0
    clock: float = 0.0
    thief: float = 0.0
    outage: float = 0.0
    """The device broker is away for a while."""


CALM = Weather()

_WORST = Weather(
    loss=0.3,
    twice=0.5,
    late=0.1,
    cut=0.2,
    power=0.1,
    bad_flash=0.2,
    commit_fails=0.15,
    commit_lies=0.1,
    commit_kills=0.05,
    slow_disk=0.1,
    away=0.2,
    busy=0.4,
    forgets=0.3,
    slow=0.4,
    refuses=0.2,
)
_MEANS = (20.0, 60.0, 200.0)


def draw(rng: random.Random) -> Weather:
    """The weather of one run."""
    values = {}
    for field in fields(Weather):
        worst = getattr(_WORST, field.name)
        strikes = rng.random() < 0.5
        if worst:
            values[field.name] = rng.random() * worst if strikes else 0.0
        else:
            values[field.name] = rng.choice(_MEANS) if strikes else 0.0
    return Weather(**values)
