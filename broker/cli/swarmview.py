"""A swarm for people: what is going on while it runs, and a table when it is over."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from broker.cli.output import print_json, print_table
from broker.fleet.swarm import Tally

_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDE = 40
_BUCKETS = 8


class Bar:
    """Progress of one thing on standard error; nothing of it stays. A quiet one shows nothing."""

    def __init__(self, what: str, count: int, *, quiet: bool) -> None:
        self._progress = Progress(*_columns(), console=Console(stderr=True), transient=True, disable=quiet)
        self._task = self._progress.add_task(what, total=count)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        """One more is done."""
        self._progress.advance(self._task)


@contextmanager
def watched(what: str, tally: Tally, count: int, *, quiet: bool) -> Iterator[None]:
    """Show `tally` on standard error four times a second, as long as the block lasts; nothing of it stays."""
    if quiet:
        yield
        return
    progress = Progress(*_columns(), TimeElapsedColumn())
    task = progress.add_task(what, total=count)

    def picture() -> Group:
        progress.update(task, completed=tally.done)
        return Group(progress, *_pictures(tally))

    with Live(get_renderable=picture, console=Console(stderr=True), transient=True, refresh_per_second=4):
        yield


def _columns() -> tuple[Any, ...]:
    return SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn()


def _pictures(tally: Tally) -> Iterator[Text | Table]:
    words = f"  {tally.on} on   {_lately(tally):.0f}/s   " + "   ".join(
        f"p{percent} {milliseconds(tally, percent)}" for percent in (50, 90, 99)
    )
    line = Text(words, no_wrap=True)
    if refused := tally.refused.total():
        line.append(f"   refused {refused}", style="red")
    yield line
    troubles = [(name, tally.steps[step]) for name, step in (("power cuts", "power-cut"), ("lost", "lost"))]
    told = [*troubles, *tally.replies.most_common(3)]
    if any(count for _, count in told):
        yield Text("  " + "   ".join(f"{name} {count}" for name, count in told if count), style="dim", no_wrap=True)
    if tally.ends:
        yield Text(f"  confirmed a second {_sparks(tally)}", style="cyan", no_wrap=True)
        yield _histogram(tally.latencies)


def _lately(tally: Tally) -> float:
    """Confirmations a second in the last two."""
    begin = tally.seconds - 2
    return sum(1 for end in reversed(tally.ends[-5000:]) if end >= begin) / min(2.0, max(tally.seconds, 0.1))


def _sparks(tally: Tally) -> str:
    last = int(tally.seconds)
    counts = [0] * _WIDE
    for end in tally.ends:
        if 0 <= (place := int(end) - last + _WIDE - 1) < _WIDE:
            counts[place] += 1
    most = max(counts) or 1
    return "".join(_BLOCKS[math.ceil(count / most * 8)] for count in counts)


def _histogram(latencies: Sequence[float]) -> Table:
    """Latencies in buckets, each so many times as wide as the one before."""
    low, high = max(min(latencies), 1e-4), max(*latencies, 1e-3)
    ratio = max((high / low) ** (1 / _BUCKETS), 1.01)
    counts = [0] * _BUCKETS
    for latency in latencies:
        place = int(math.log(max(latency, low) / low) / math.log(ratio))
        counts[min(place, _BUCKETS - 1)] += 1
    table = Table.grid(padding=(0, 1))
    for number, count in enumerate(counts):
        bar = "█" * round(count / max(counts) * _WIDE)
        table.add_row(Text(f"  ≤ {_spelled(low * ratio ** (number + 1)):>8}"), Text(bar, style="cyan"), str(count))
    return table


def _spelled(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def print_tally(tally: Tally, *, as_json: bool = False) -> None:
    """Print what became of the devices."""
    if as_json:
        print_json(told(tally))
        return
    rows = [
        ("confirmed", tally.confirmed),
        *((f"not confirmed: {reason}", count) for reason, count in sorted(tally.refused.items())),
        ("refused", tally.refused.total()),
        ("seconds", f"{tally.seconds:.2f}"),
        ("hand-overs per second", f"{tally.rate:.0f}"),
        ("p50", milliseconds(tally, 50)),
        ("p99", milliseconds(tally, 99)),
    ]
    print_table(("devices", f"{tally.done}"), rows)


def told(tally: Tally) -> dict[str, Any]:
    """The same for programs; latencies in milliseconds."""
    return {
        "devices": tally.done,
        "confirmed": tally.confirmed,
        "refused": dict(sorted(tally.refused.items())),
        "seconds": round(tally.seconds, 3),
        "perSecond": round(tally.rate, 1),
        "p50Ms": _rounded(tally, 50),
        "p99Ms": _rounded(tally, 99),
    }


def milliseconds(tally: Tally, percent: float) -> str:
    """A latency for people."""
    value = _rounded(tally, percent)
    return "-" if value is None else f"{value:.0f} ms"


def run_id() -> str:
    """A few letters that tell one run's devices from another's."""
    return secrets.token_hex(2)


def _rounded(tally: Tally, percent: float) -> float | None:
    value = tally.percentile(percent)
    return None if value is None else round(value * 1000, 1)
