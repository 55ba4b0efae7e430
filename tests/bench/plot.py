"""The picture of a run: rates, latencies, where the processor time goes, and the herd."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.report import TARGET_P99, Costs, Pair, Run
from tests.bench.sampled import PHASES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tests.bench.herd import Herd

_GREY, _BLUE, _ACCENT, _INK = "#9aa5b1", "#0b7285", "#e8590c", "#212529"
_LIGHT_GREY, _LIGHT_BLUE = "#ced4da", "#66a9b5"
_PHASE_COLOURS = (
    "#495057",
    "#868e96",
    "#adb5bd",
    "#1971c2",
    "#6741d9",
    "#0b7285",
    "#38a3a5",
    "#e8590c",
    "#f59f00",
    "#2f9e44",
    "#94d82d",
)


def write_plot(run: Run, file: Path) -> None:
    """Draw everything into one PNG."""
    import matplotlib as mpl  # noqa: PLC0415  # half a second that the measuring need not wait for

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    with plt.rc_context(
        {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    ):
        figure, panels = plt.subplots(2, 2, figsize=(15, 10), width_ratios=(2, 3), layout="constrained")
        (rates, delays), (crowd, costs) = panels
        title = (
            f"Full hand-overs beside the null endpoint: {run.plain.ratio:.2f} plain, {run.tls.ratio:.2f} with TLS 1.3; "
            f"beside the null bridge: {run.bridge.ratio:.2f}"
        )
        figure.suptitle(title, x=0.01, ha="left", fontsize=15, fontweight="bold")
        _draw_rates((run.plain, run.bridge, run.tls, run.certificate), rates)
        _draw_latencies(run, delays)
        _draw_costs(run.costs, costs)
        if run.herd is None:
            crowd.axis("off")
        else:
            _draw_herd(run.herd, crowd)
        figure.savefig(file, dpi=120)
        plt.close(figure)


def _draw_rates(pairs: Sequence[Pair], axes: Axes) -> None:
    """Bars are the medians, dots the rounds, the lines are the targets."""
    names = []
    for number, pair in enumerate(pairs):
        for place, series, colour in ((2.3 * number, pair.null, _GREY), (2.3 * number + 1, pair.ours, _BLUE)):
            axes.bar(place, series.rate, width=0.7, color=colour)
            axes.scatter([place] * len(series.rates), series.rates, color=_INK, s=16, zorder=3)
            axes.annotate(
                f"{series.rate:,.0f}/s",
                (place, max(series.rates)),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontweight="bold",
            )
            names.append((place, series.name.replace(", ", "\n")))
        target = pair.null.rate * pair.target_ratio
        axes.hlines(target, 2.3 * number + 0.55, 2.3 * number + 1.45, color=_ACCENT, lw=1.8, ls="--", zorder=4)
        axes.annotate(
            f"{pair.target}: {pair.target_ratio}",
            (2.3 * number + 1.45, target),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            color=_ACCENT,
        )
    axes.set_xticks([place for place, _ in names], [name for _, name in names])
    axes.set_ylabel("per second (bars: median, dots: rounds)")
    axes.margins(x=0.1, y=0.12)
    axes.grid(axis="y", alpha=0.25)


def _draw_latencies(run: Run, axes: Axes) -> None:
    """How many percent were done after how many milliseconds."""
    from matplotlib.ticker import LogLocator  # noqa: PLC0415  # as above

    at_the_endpoint = (run.plain.null, run.plain.ours, run.tls.null, run.tls.ours, run.certificate.ours)
    for series, colour in zip(at_the_endpoint, (_GREY, _BLUE, _LIGHT_GREY, _LIGHT_BLUE, _INK), strict=True):
        ordered = sorted(latency * 1000 for latency in series.latencies)
        share = [(index + 1) / len(ordered) * 100 for index in range(len(ordered))]
        p50, p99 = series.percentile(50) * 1000, series.percentile(99) * 1000
        label = f"{series.name}: p50 {p50:.0f} ms, p99 {p99:.0f} ms"
        axes.plot(ordered, share, color=colour, lw=2.2, label=label)
        axes.scatter([p50, p99], [50, 99], color=colour, s=30, zorder=3)
    axes.axvline(TARGET_P99 * 1000, color=_ACCENT, lw=1.4, ls="--", label=f"P-1: p99 under {TARGET_P99 * 1000:.0f} ms")
    axes.set_xscale("log", subs=[])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(0, 103)
    axes.set_xlabel(f"milliseconds from connecting to the end, {run.concurrency} connections at a time")
    axes.set_ylabel("percent done")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", frameon=False, fontsize=10)


def _draw_costs(costs: Sequence[Costs], axes: Axes) -> None:
    """One bar a way to connect, its parts the phases in their order."""
    for place, cost in enumerate(costs):
        left = 0.0
        for phase, colour in zip(PHASES, _PHASE_COLOURS, strict=True):
            width = cost.seconds.get(phase, 0.0) * 1e6
            axes.barh(place, width, left=left, height=0.7, color=colour, label=phase if place == 0 else None)
            if width > 60:
                axes.annotate(
                    f"{width:.0f}", (left + width / 2, place), ha="center", va="center", color="white", fontsize=10
                )
            left += width
        axes.annotate(
            f"{left:,.0f} µs", (left, place), xytext=(5, 0), textcoords="offset points", va="center", fontweight="bold"
        )
    axes.set_yticks(range(len(costs)), [cost.name for cost in costs])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("where the server's processor time goes, microseconds each (sampled)")
    axes.grid(axis="x", alpha=0.25)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6, frameon=False, fontsize=10)


def _draw_herd(herd: Herd, axes: Axes) -> None:
    """Who has arrived, and who is confirmed."""
    ends = sorted(herd.ends)
    axes.plot([0, herd.spread], [0, herd.devices], color=_GREY, lw=2.2, label="arrived")
    axes.plot(ends, range(1, len(ends) + 1), color=_BLUE, lw=2.2, label="confirmed")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(
        f"seconds; {herd.answered:,} of {herd.claims:,} claims answered, at most {herd.memory / 2**20:.0f} MiB"
    )
    axes.set_ylabel("devices of the herd")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
