"""Times as people write them on a command line: from now, or a date."""

from __future__ import annotations

import re
import time
from datetime import datetime

import typer

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"([0-9]{1,6})([smhdw])")


def parse_moment(text: str) -> int:
    """Epoch milliseconds of `24h` (from now) or `2027-01-31T08:00` (here, unless it names a zone)."""
    span = _SPAN.fullmatch(text)
    if span:
        return round(time.time() * 1000) + int(span[1]) * _UNITS[span[2]] * 1000
    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(
            f"{text!r} is no time; write 30m, 24h, 7d, or a date such as 2027-01-31T08:00."
        ) from None


def parse_past(text: str) -> int:
    """As `parse_moment`, but `24h` is before now."""
    when = parse_moment(text)
    return 2 * round(time.time() * 1000) - when if _SPAN.fullmatch(text) else when


def moment(millis: int | None) -> str | None:
    """A time for people, in the zone of this machine, to the second."""
    return None if millis is None else datetime.fromtimestamp(millis / 1000).astimezone().isoformat(" ", "seconds")
