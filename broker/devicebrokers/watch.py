"""Notices that a device broker is back, or that its list was changed behind our back, and has it compared.

1. Once a second each broker is felt for its pulse, which is cheap: something that changes with every start of the
   broker and every change of its list by somebody else.
2. Away is told once in the log, and back once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from provisioner.errors import Unavailable
from provisioner.model import Millis
from provisioner.ports import DeviceBroker

EVERY = 1_000
"""Milliseconds."""

_log = structlog.get_logger(__name__)


class Beside(DeviceBroker, Protocol):
    """A device broker that is not ours."""

    async def pulse(self) -> object:
        """Equal to the last one as long as nothing happened there. Raises `Unavailable`."""


class Watch:
    """Feels the pulse of one device broker; `changed` is called when it has to be compared."""

    def __init__(self, broker: Beside, changed: Callable[[], None]) -> None:
        self.broker = broker
        self.is_there = True
        self._changed = changed
        self._pulse: object = None

    async def step(self, now: Millis) -> Millis:
        """One look; when to come back."""
        try:
            pulse = await self.broker.pulse()
        except Unavailable as error:
            if self.is_there:
                _log.warning("device broker away", device_broker=self.broker.name, detail=error.detail)
            self.is_there = False
            return now + EVERY
        if not self.is_there:
            _log.info("device broker back", device_broker=self.broker.name)
        if not self.is_there or self._pulse not in (None, pulse):
            self._changed()
        self.is_there, self._pulse = True, pulse
        return now + EVERY
