"""The clone alarm: one activation key in two hands at once.

1. Only claims that proved their key are looked at; a stranger can raise no alarm.
2. Two claims for one request within the window from two addresses, or with two keys to seal to or to certify, are two
   hands. One unit whose address changed or that lost its key between two tries looks the same: it is a suspicion.
3. One alarm a request and window. The memory is bounded: the longest unseen is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

from provisioner.model import Millis


class CloneAction(StrEnum):
    """What the operator wants on suspicion: nothing, an event, or the event and the request switched off."""

    OFF = "off"
    ALARM = "alarm"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class CloneRule:
    """`window` milliseconds."""

    action: CloneAction = CloneAction.ALARM
    window: Millis = 60_000


@dataclass(slots=True)
class _Seen:
    source: str
    key: str
    at: Millis
    told: Millis | None = None


class CloneWatch:
    """Remembers who claimed last for each request."""

    def __init__(self, rule: CloneRule, most: int = 20_000) -> None:
        self._rule = rule
        self._most = most
        self._seen: OrderedDict[int, _Seen] = OrderedDict()

    def suspects(self, request_id: int, source: str, key: str, now: Millis) -> tuple[str, tuple[str, ...]] | None:
        """What is suspicious about this proved claim, a sentence, and the addresses; None: nothing new."""
        if self._rule.action is CloneAction.OFF:
            return None
        last = self._seen.pop(request_id, None)
        told = None if last is None else last.told
        suspicion = None
        if last is not None and self._is_near(last.at, now) and (told is None or not self._is_near(told, now)):
            if last.source != source:
                suspicion = "the same activation key was used from two addresses at once"
            elif last.key != key:
                suspicion = "the same activation key was used with two device keys at once"
        if suspicion is not None:
            told = now
        self._seen[request_id] = _Seen(source, key, now, told)
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
        if suspicion is None or last is None:
            return None
        return suspicion, tuple(sorted({last.source, source}))

    def _is_near(self, then: Millis, now: Millis) -> bool:
        return abs(now - then) < self._rule.window
