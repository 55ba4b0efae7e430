"""A swarm for people: a bar that moves while it runs, and a table when it is over."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from broker.cli.output import print_json, print_table
from broker.fleet.actions import Identity
from broker.fleet.swarm import Swarm, Tally
from broker.fleet.unit import Outcome


class Bar:
    """Progress of one thing on standard error; nothing of it stays. A quiet one shows nothing."""

    def __init__(self, what: str, count: int, *, quiet: bool, figures: ProgressColumn | None = None) -> None:
        columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn()]
        self._progress = Progress(
            *columns,
            *((figures,) if figures else ()),
            console=Console(stderr=True),
            transient=True,
            disable=quiet,
        )
        self._task = self._progress.add_task(what, total=count)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        """One more is done."""
        self._progress.advance(self._task)


class _Figures(ProgressColumn):
    """Rate and latency so far."""

    max_refresh = 0.25

    def __init__(self) -> None:
        super().__init__()
        self.tally = Tally()

    def render(self, task: Task) -> Text:  # noqa: ARG002  # its own figures are in the tally
        tally = self.tally
        words = f"{tally.rate:6.0f}/s  p50 {milliseconds(tally, 50)}  p99 {milliseconds(tally, 99)}"
        refused = tally.refused.total()
        return Text(words, no_wrap=True).append(f"  refused {refused}" if refused else "", style="red")


async def watch(
    swarm: Swarm, identities: Sequence[Identity], outcomes: list[Outcome] | None = None, *, quiet: bool
) -> Tally:
    """Run a swarm with a moving bar; each outcome is appended to `outcomes` if given."""
    figures = _Figures()
    with Bar("claiming", len(identities), quiet=quiet, figures=figures) as bar:

        def observe(outcome: Outcome, tally: Tally) -> None:
            figures.tally = tally
            if outcomes is not None:
                outcomes.append(outcome)
            bar.advance()

        return await swarm.run(identities, len(identities), observe)


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
