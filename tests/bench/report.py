"""The figures of a run: a table for the terminal, JSON for programs, a picture for people."""

import json
import math
import os
import platform
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

TARGET_RATIO = 0.33
TARGET_P99 = 0.250


@dataclass
class Series:
    """Rounds of one kind."""

    name: str
    what: str
    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: int = 0

    def add(self, said: dict[str, Any]) -> None:
        """Take what the generator told about a round."""
        self.rates.append(len(said["latencies"]) / said["seconds"])
        self.latencies += said["latencies"]
        self.failed.update(said["failed"])
        self.wrong += said["wrong"]

    @property
    def rate(self) -> float:
        """The median of the rounds, per second."""
        return median(self.rates)

    def percentile(self, percent: float) -> float:
        """The latency in seconds that `percent` of all did not exceed."""
        ordered = sorted(self.latencies) or [math.nan]
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass
class Run:
    """A whole run."""

    devices: int
    concurrency: int
    null: Series
    handover: Series

    @property
    def ratios(self) -> list[float]:
        """Hand-overs to null cycles, round by round."""
        return [ours / theirs for ours, theirs in zip(self.handover.rates, self.null.rates, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of them."""
        return median(self.ratios)

    @property
    def failures(self) -> int:
        """Whatever did not end as it should."""
        return sum(series.failed.total() + series.wrong for series in (self.null, self.handover))


def print_table(run: Run) -> None:
    """Print the table."""
    table = Table(title=f"{run.concurrency} connections at a time, {len(run.null.rates)} rounds", title_justify="left")
    for heading in ("", "per second", "rounds", "p50", "p99", "failed"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for series in (run.null, run.handover):
        table.add_row(
            f"{series.name}\n[dim]{series.what}",
            f"{series.rate:,.0f}",
            "\n".join(f"{rate:,.0f}" for rate in series.rates),
            f"{series.percentile(50) * 1000:.1f} ms",
            f"{series.percentile(99) * 1000:.1f} ms",
            str(series.failed.total() + series.wrong),
            end_section=True,
        )
    console = Console()
    console.print(table)
    p99 = run.handover.percentile(99)
    for name, value, good in (
        ("ratio", f"{run.ratio:.2f} (target: at least {TARGET_RATIO})", run.ratio >= TARGET_RATIO),
        ("p99", f"{p99 * 1000:.0f} ms (target: under {TARGET_P99 * 1000:.0f} ms)", p99 < TARGET_P99),
    ):
        console.print(f"{name:>6}  {value}  {'[green]reached' if good else '[red]missed'}")
    for series in (run.null, run.handover):
        for reason, count in sorted(series.failed.items()):
            console.print(f"[red]{series.name}: {count} x {reason}")
        if series.wrong:
            console.print(f"[red]{series.name}: {series.wrong} replies were not what the contract says")


def write_json(run: Run, file: Path) -> None:
    """Write the figures."""
    file.write_text(
        json.dumps(
            {
                "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
                "devicesPerRound": run.devices,
                "concurrency": run.concurrency,
                "ratio": round(run.ratio, 4),
                "ratios": [round(ratio, 4) for ratio in run.ratios],
                "nullEndpoint": _told(run.null),
                "handOver": _told(run.handover),
            },
            indent=2,
        )
        + "\n"
    )


def _told(series: Series) -> dict[str, Any]:
    return {
        "perSecond": round(series.rate, 1),
        "rounds": [round(rate, 1) for rate in series.rates],
        "p50Ms": round(series.percentile(50) * 1000, 2),
        "p99Ms": round(series.percentile(99) * 1000, 2),
        "failed": dict(series.failed),
        "wrong": series.wrong,
    }


def write_plot(run: Run, file: Path) -> None:
    """Draw the rates beside the latencies."""
    import matplotlib as mpl  # noqa: PLC0415  # half a second that the measuring need not wait for

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    colours = ("#9aa5b1", "#0b7285")
    with plt.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure, (rates, delays) = plt.subplots(1, 2, figsize=(11, 4.8), width_ratios=(2, 3), layout="constrained")
        figure.suptitle(
            f"Full hand-overs beside the null endpoint: ratio {run.ratio:.2f}",
            x=0.01,
            ha="left",
            fontsize=14,
            fontweight="bold",
        )
        for place, (series, colour) in enumerate(zip((run.null, run.handover), colours, strict=True)):
            bar = rates.bar(place, series.rate, width=0.62, color=colour)
            rates.bar_label(bar, [f"{series.rate:,.0f}/s"], padding=4, fontweight="bold")
            rates.scatter([place] * len(series.rates), series.rates, color="#212529", s=14, zorder=3, alpha=0.7)
            ordered = sorted(latency * 1000 for latency in series.latencies)
            share = [(index + 1) / len(ordered) * 100 for index in range(len(ordered))]
            p50, p99 = series.percentile(50) * 1000, series.percentile(99) * 1000
            delays.plot(
                ordered, share, color=colour, lw=2.2, label=f"{series.name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms"
            )
            delays.scatter([p50, p99], [50, 99], color=colour, s=26, zorder=3)
        rates.axhline(run.null.rate * TARGET_RATIO, color="#e8590c", lw=1.3, ls="--")
        rates.annotate(
            f"target: {TARGET_RATIO} of the null endpoint",
            (-0.4, run.null.rate * TARGET_RATIO),
            xytext=(0, 4),
            textcoords="offset points",
            color="#e8590c",
            fontsize=9,
        )
        rates.set_xticks([0, 1], [run.null.name, run.handover.name])
        rates.set_ylabel("per second (dots: rounds)")
        rates.margins(y=0.12)
        delays.axvline(TARGET_P99 * 1000, color="#e8590c", lw=1.3, ls="--", label="target for p99")
        delays.set_xscale("log")
        delays.xaxis.set_major_formatter("{x:g}")
        delays.set_xlabel(f"milliseconds from connecting to the end, {run.concurrency} connections at a time")
        delays.set_ylabel("percent done")
        delays.grid(alpha=0.25)
        delays.legend(loc="upper left", frameon=False)
        figure.savefig(file, dpi=140)
        plt.close(figure)
