"""Refusals on their way into the journal.

1. A refusal is answered at once and written a moment later: nothing depends on it, and a flood of wrong keys must not
   become a flood of commits.
2. In one minute at most `per_minute` refusals get a line of their own; of the rest it tells how many.
"""

from __future__ import annotations

from provisioner.journal import line_of
from provisioner.model import Line, Millis
from provisioner.ports import Note

_MINUTE = 60_000


class Refusals:
    """Gathers lines between two writings; bounded by `per_minute`."""

    def __init__(self, per_minute: int = 600) -> None:
        self._per_minute = per_minute
        self._waiting: list[Line] = []
        self._since: Millis = 0
        self._last: Millis = 0
        self._told = 0
        self._untold = 0

    def add(self, line: Line) -> bool:
        """Take a line; whether it is the first that waits."""
        if not 0 <= line.at - self._since < _MINUTE:
            self._since, self._told = line.at, 0
        self._last = line.at
        if self._told >= self._per_minute:
            self._untold += 1
            return False
        self._told += 1
        self._waiting.append(line)
        return len(self._waiting) == 1

    def take(self) -> list[Line]:
        """What is to be written now."""
        if self._untold:
            self._waiting.append(line_of(Note(self._last, "refused", cause=f"{self._untold} more in this minute")))
            self._untold = 0
        lines, self._waiting = self._waiting, []
        return lines
