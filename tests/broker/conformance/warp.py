"""An event loop with real sockets and no waiting: when nothing arrives any more, time jumps to the next timer.

Both ends have to live on it. What was written a moment ago may need the kernel a moment, so it looks again before it
jumps; the further the jump, the longer it looks.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

_LOOKS_AGAIN = 0.003
_BEFORE_A_LEAP = 0.03


class _Selector(selectors.DefaultSelector):
    """Never waits as long as it is told to."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        if found or timeout == 0:
            return found
        if timeout is None:
            return super().select(None)
        found = super().select(min(timeout, _LOOKS_AGAIN if timeout < 1 else _BEFORE_A_LEAP))
        if not found:
            self.skipped += timeout
        return found


class WarpLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self) -> None:
        self._warp = _Selector()
        super().__init__(self._warp)

    def time(self) -> float:
        return super().time() + self._warp.skipped
