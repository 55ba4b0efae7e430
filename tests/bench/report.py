"""The figures of a run: a table for the terminal, JSON for programs, a picture for people."""

from __future__ import annotations

import json
import math
import os
import platform
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TARGET_RATIO = 0.33
TARGET_P99 = 0.250
_COLOURS = ("#9aa5b1", "#0b7285")
_ACCENT = "#e8590c"


@dataclass
class Series:
    """Rounds of one kind."""

    name: str
    what: str
    rates: list[float] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)
    generator_cpu: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    wrong: int = 0

    def add(self, said: dict[str, Any]) -> None:
        """Take what the generator told about a round; processor times become seconds for each that ended well."""
        ended = len(said["latencies"])
        self.rates.append(ended / said["seconds"])
        self.server_cpu.append(said["serverCpu"] / max(ended, 1))
        self.generator_cpu.append(said["cpu"] / max(ended, 1))
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
    def cpu_ratio(self) -> float:
        """The same in the servers' processor time, which hardly notices who else uses the machine."""
        return median(self.null.server_cpu) / median(self.handover.server_cpu)

    @property
    def failures(self) -> int:
        """Whatever did not end as it should."""
        return sum(series.failed.total() + series.wrong for series in (self.null, self.handover))


def print_table(run: Run) -> None:
    """Print the table; it fits a terminal of 80 columns."""
    console = Console(highlight=False)
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{run.concurrency} connections at a time, {len(run.null.rates)} rounds",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    for heading in ("per second", "p50", "p99", "server CPU", "generator"):
        table.add_column(heading, justify="right", no_wrap=True)
    for series in (run.null, run.handover):
        table.add_row(
            series.name,
            f"{series.rate:,.0f}",
            f"{series.percentile(50) * 1000:.1f} ms",
            f"{series.percentile(99) * 1000:.1f} ms",
            f"{median(series.server_cpu) * 1e6:,.0f} µs",
            f"{median(series.generator_cpu) * 1e6:,.0f} µs",
        )
    console.print(table)
    for series in (run.null, run.handover):
        console.print(f"{series.name}: {series.what}", soft_wrap=True)
        console.print(f"  rounds: {', '.join(f'{rate:,.0f}/s' for rate in series.rates)}")
    console.print(f"\n   CPU  {run.cpu_ratio:.2f} is the ratio in the servers' processor time")
    p99 = run.handover.percentile(99)
    for name, value, good in (
        ("ratio", f"{run.ratio:.2f} (target: at least {TARGET_RATIO})", run.ratio >= TARGET_RATIO),
        ("p99", f"{p99 * 1000:.0f} ms (target: under {TARGET_P99 * 1000:.0f} ms)", p99 < TARGET_P99),
    ):
        console.print(f"{name:>6}  {value}  {'[green]reached' if good else '[red]missed'}")
    if not run.failures:
        console.print("Nothing failed; every offer was opened, every confirmation's proof checked.")
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
                "cpuRatio": round(run.cpu_ratio, 4),
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
        "serverCpuUs": round(median(series.server_cpu) * 1e6, 1),
        "generatorCpuUs": round(median(series.generator_cpu) * 1e6, 1),
        "failed": dict(series.failed),
        "wrong": series.wrong,
    }


def write_plot(run: Run, file: Path) -> None:
    """Draw the rates beside the latencies."""
    import matplotlib as mpl  # noqa: PLC0415  # half a second that the measuring need not wait for

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    with plt.rc_context(
        {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    ):
        figure, (rates, delays) = plt.subplots(1, 2, figsize=(12, 5), width_ratios=(2, 3), layout="constrained")
        title = f"Full hand-overs beside the null endpoint: ratio {run.ratio:.2f}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=15, fontweight="bold")
        _draw_rates(run, rates)
        _draw_latencies(run, delays)
        figure.savefig(file, dpi=140)
        plt.close(figure)


def _draw_rates(run: Run, axes: Axes) -> None:
    """Bars are the medians, dots the rounds, the line is the target."""
    target = run.null.rate * TARGET_RATIO
    for place, series in enumerate((run.null, run.handover)):
        axes.bar(place, series.rate, width=0.6, color=_COLOURS[place])
        axes.scatter([place] * len(series.rates), series.rates, color="#212529", s=16, zorder=3)
        axes.annotate(
            f"{series.rate:,.0f}/s",
            (place, max(series.rates)),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
        )
    axes.axhline(target, color=_ACCENT, lw=1.4, ls="--")
    axes.annotate(
        f"target {TARGET_RATIO}", (1.42, target), xytext=(0, 4), textcoords="offset points", ha="right", color=_ACCENT
    )
    axes.set_xticks([0, 1], [f"{series.name}\n{len(series.latencies):,} in all" for series in (run.null, run.handover)])
    axes.set_xlim(-0.45, 1.45)
    axes.set_ylabel("per second (bars: median, dots: rounds)")
    axes.margins(y=0.12)
    axes.grid(axis="y", alpha=0.25)


def _draw_latencies(run: Run, axes: Axes) -> None:
    """How many percent were done after how many milliseconds."""
    from matplotlib.ticker import LogLocator  # noqa: PLC0415  # as above

    for series, colour in zip((run.null, run.handover), _COLOURS, strict=True):
        ordered = sorted(latency * 1000 for latency in series.latencies)
        share = [(index + 1) / len(ordered) * 100 for index in range(len(ordered))]
        p50, p99 = series.percentile(50) * 1000, series.percentile(99) * 1000
        axes.plot(ordered, share, color=colour, lw=2.4, label=f"{series.name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
        axes.scatter([p50, p99], [50, 99], color=colour, s=34, zorder=3)
    axes.axvline(TARGET_P99 * 1000, color=_ACCENT, lw=1.4, ls="--", label=f"target for p99: {TARGET_P99 * 1000:.0f} ms")
    axes.set_xscale("log", subs=[])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 103)
    axes.set_xlabel(f"milliseconds from connecting to the end, {run.concurrency} connections at a time")
    axes.set_ylabel("percent done")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=10)
