"""The figures of a run: tables for the terminal, JSON for programs; `plot` draws them for people."""

from __future__ import annotations

import json
import math
import os
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.bench.herd import MOST_MEMORY, PATIENCE, Herd
from tests.bench.sampled import PHASES

TARGET_P99 = 0.250
# Through a bridge the messages are the cost, so the yardstick there has as many: aiomqtt's share is in both.
_BOTH = "request, constant reply, ack, constant reply"


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
class Pair:
    """Hand-overs beside their yardstick, which spoke the same with the same sockets in the same run."""

    target: str
    target_ratio: float
    null: Series
    ours: Series

    @property
    def ratios(self) -> list[float]:
        """Hand-overs to null cycles, round by round."""
        return [ours / theirs for ours, theirs in zip(self.ours.rates, self.null.rates, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of them."""
        return median(self.ratios)

    @property
    def cpu_ratio(self) -> float:
        """The same in the servers' processor time, which hardly notices who else uses the machine."""
        return median(self.null.server_cpu) / median(self.ours.server_cpu)


def _pair(target: str, target_ratio: float, how: str, null: str = "request, constant reply") -> Pair:
    return Pair(
        target,
        target_ratio,
        Series(f"null{how}", f"connect, subscribe, {null}, disconnect"),
        Series(f"hand-over{how}", "connect, subscribe, claim, sealed offer, ack, confirmed, disconnect"),
    )


def _certificates() -> Pair:
    """X.509 by CSR beside passwords."""
    claimed = "connect, subscribe, claim with a CSR, sealed offer, ack, confirmed, disconnect"
    return Pair("P-4", 0.8, Series("hand-over", "as above"), Series("certificate", claimed))


@dataclass
class Costs:
    """The server's processor time of one hand-over or null cycle, seconds by phase (`sampled.PHASES`)."""

    name: str
    seconds: dict[str, float]


@dataclass
class Run:
    """A whole run."""

    devices: int
    concurrency: int
    plain: Pair = field(default_factory=lambda: _pair("P-1", 0.33, ""))
    tls: Pair = field(default_factory=lambda: _pair("P-3", 0.8, ", TLS"))
    certificate: Pair = field(default_factory=_certificates)
    costs: list[Costs] = field(default_factory=list)
    herd: Herd | None = None
    bridge: Pair = field(default_factory=lambda: _pair("P-2", 0.6, ", bridge", _BOTH))

    @property
    def series(self) -> Iterator[Series]:
        """All seven; the yardstick of certificates is the hand-over itself."""
        for pair in (self.plain, self.tls, self.bridge):
            yield from (pair.null, pair.ours)
        yield self.certificate.ours

    @property
    def failures(self) -> int:
        """Whatever did not end as it should."""
        late = 0 if self.herd is None else self.herd.devices - self.herd.confirmed
        return late + sum(series.failed.total() + series.wrong for series in self.series)


def print_report(run: Run) -> None:
    """Print everything; it fits a terminal of 80 columns."""
    console = Console(highlight=False)
    console.print(_rates(run))
    for series in run.series:
        rates = ", ".join(f"{rate:,.0f}" for rate in series.rates)
        console.print(f"{series.name}: {series.what}\n  rounds: {rates} a second", soft_wrap=True)
    console.print(_costs(run.costs))
    _judge_pairs(run, console)
    if run.herd is not None:
        _judge_herd(run.herd, console)
    if not run.failures:
        console.print("Nothing failed; every offer was opened, every confirmation's proof checked.")
    for series in run.series:
        for reason, count in sorted(series.failed.items()):
            console.print(f"[red]{series.name}: {count} x {reason}")
        if series.wrong:
            console.print(f"[red]{series.name}: {series.wrong} replies were not what the contract says")


def _rates(run: Run) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{run.concurrency} connections at a time, {len(run.plain.null.rates)} rounds",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    for heading in ("per second", "p50", "p99", "server CPU", "generator"):
        table.add_column(heading, justify="right", no_wrap=True)
    for series in run.series:
        table.add_row(
            series.name,
            f"{series.rate:,.0f}",
            f"{series.percentile(50) * 1000:.1f} ms",
            f"{series.percentile(99) * 1000:.1f} ms",
            f"{median(series.server_cpu) * 1e6:,.0f} µs",
            f"{median(series.generator_cpu) * 1e6:,.0f} µs",
        )
    return table


def _costs(costs: list[Costs]) -> Table:
    table = Table(box=SIMPLE_HEAD, title="Server CPU by phase, sampled", title_justify="left")
    table.add_column("", no_wrap=True)
    for cost in costs:
        table.add_column(cost.name, justify="right", no_wrap=True)
    for phase in PHASES:
        table.add_row(phase, *(f"{cost.seconds.get(phase, 0) * 1e6:,.0f} µs" for cost in costs))
    return table


def _judge_pairs(run: Run, console: Console) -> None:
    for pair in (run.plain, run.bridge, run.tls, run.certificate):
        _say(
            console,
            pair.target,
            f"ratio {pair.ratio:.2f} (at least {pair.target_ratio})",
            pair.ratio >= pair.target_ratio,
        )
        console.print(f"     {pair.cpu_ratio:.2f} in the servers' processor time")
    p99 = run.plain.ours.percentile(99)
    _say(console, "P-1", f"p99 {p99 * 1000:.0f} ms (under {TARGET_P99 * 1000:.0f} ms)", p99 < TARGET_P99)


def _judge_herd(herd: Herd, console: Console) -> None:
    told = f"{herd.confirmed:,} of {herd.devices:,} confirmed within {herd.ended:.0f} s (under {PATIENCE:.0f} s)"
    _say(console, "P-7", told, herd.confirmed == herd.devices and herd.ended < PATIENCE)
    _say(console, "P-7", f"{herd.answered:,} of {herd.claims:,} claims answered", herd.answered == herd.claims)
    memory = f"{herd.memory / 2**20:.0f} MiB at most (under {MOST_MEMORY / 2**20:.0f} MiB)"
    _say(console, "P-7", memory, herd.memory < MOST_MEMORY)
    console.print(
        f"     {herd.replies['slow-down']:,} times slow-down, {herd.turned_away:,} CONNECTs turned away, "
        f"{herd.lost.total():,} in vain; up to {herd.files:,} open files",
        soft_wrap=True,
    )


def _say(console: Console, target: str, told: str, good: bool) -> None:
    console.print(f"{target}  {told}  {'[green]reached' if good else '[red]missed'}", soft_wrap=True)


def write_json(run: Run, file: Path) -> None:
    """Write the figures."""
    told: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
        "devicesPerRound": run.devices,
        "concurrency": run.concurrency,
        "plain": _pair_told(run.plain),
        "tls": _pair_told(run.tls),
        "bridge": _pair_told(run.bridge),
        "certificate": _pair_told(run.certificate),
        "serverCpuUsByPhase": {
            cost.name: {phase: round(cost.seconds.get(phase, 0) * 1e6, 1) for phase in PHASES} for cost in run.costs
        },
    }
    if run.herd is not None:
        told["herd"] = _herd_told(run.herd)
    file.write_text(json.dumps(told, indent=2) + "\n")


def _pair_told(pair: Pair) -> dict[str, Any]:
    return {
        "ratio": round(pair.ratio, 4),
        "cpuRatio": round(pair.cpu_ratio, 4),
        "ratios": [round(ratio, 4) for ratio in pair.ratios],
        "nullEndpoint": _series_told(pair.null),
        "handOver": _series_told(pair.ours),
    }


def _series_told(series: Series) -> dict[str, Any]:
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


def _herd_told(herd: Herd) -> dict[str, Any]:
    return {
        "devices": herd.devices,
        "confirmed": herd.confirmed,
        "failed": dict(herd.failed),
        "lastConfirmedS": round(herd.ended, 2),
        "p50S": round(herd.percentile(50), 2),
        "p99S": round(herd.percentile(99), 2),
        "claims": herd.claims,
        "answered": herd.answered,
        "replies": dict(herd.replies),
        "connectsTurnedAway": herd.turned_away,
        "connectsInVain": herd.lost.total(),
        "memoryMiB": round(herd.memory / 2**20, 1),
        "openFiles": herd.files,
    }
