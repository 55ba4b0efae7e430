"""What a fleet run found: judged by its scenario's thresholds, told as a table, JSON, JUnit and an HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from broker.fleet.faults import Toll
from broker.fleet.scenario import Scenario
from broker.fleet.swarm import Tally
from broker.reports.charts import Line, Mark, bars, counted, lines, share_done
from broker.reports.page import Card, page, table, text
from broker.reports.verdict import Verdict
from provisioner import __version__

_PERCENTS = (50, 90, 99, 100)
_MOST_ROWS = 12


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is over; `where` names the server, `memory` is the most this process had, bytes."""

    name: str
    scenario: Scenario
    tally: Tally
    toll: Toll
    where: str
    memory: int


def verdicts(run: Run) -> list[Verdict]:
    """Each threshold of the scenario, judged."""
    wanted, tally = run.scenario.thresholds, run.tally
    share = tally.confirmed / tally.done if tally.done else 0.0
    missing = ", ".join(f"{count} {reason}" for reason, count in sorted(tally.refused.items()))
    told = [
        Verdict.of(
            "confirmed",
            share >= wanted.confirmed,
            f"{tally.confirmed} of {tally.done} devices are confirmed, {share:.2%}; at least {wanted.confirmed:.2%}"
            + (f" (not: {missing})" if missing else ""),
        )
    ]
    if tally.impostors:
        admitted = tally.impostors["confirmed"]
        said = f"{admitted} of {tally.impostors.total()} impostors got a credential; at most {wanted.impostors}"
        told.append(Verdict.of("impostors", admitted <= wanted.impostors, said))
    for name, limit, value in (
        ("p50", wanted.p50, tally.percentile(50)),
        ("p99", wanted.p99, tally.percentile(99)),
        ("seconds", wanted.seconds, max(tally.ends, default=tally.seconds)),
    ):
        if limit is not None:
            words = "the last was confirmed after" if name == "seconds" else f"the {name} of the latencies is"
            shown = "unknown" if value is None else f"{value:.2f} s"
            told.append(Verdict.of(name, value is not None and value <= limit, f"{words} {shown}; at most {limit:g} s"))
    return told


def told(run: Run) -> dict[str, Any]:
    """For programs; latencies in milliseconds."""
    tally = run.tally
    return {
        "scenario": run.name,
        "title": run.scenario.title,
        "seed": run.scenario.seed,
        "server": run.where,
        "devices": tally.done,
        "confirmed": tally.confirmed,
        "refused": dict(sorted(tally.refused.items())),
        "clones": dict(sorted(tally.clones.items())),
        "impostors": dict(sorted(tally.impostors.items())),
        "seconds": round(tally.seconds, 3),
        "perSecond": round(tally.rate, 1),
        **{f"p{percent}Ms": _milliseconds(tally, percent) for percent in _PERCENTS},
        "steps": dict(sorted(tally.steps.items())),
        "replies": dict(sorted(tally.replies.items())),
        "connections": {str(fate): count for fate, count in sorted(run.toll.connections.items())},
        "messages": dict(sorted(run.toll.packets.items())),
        "memoryMiB": round(run.memory / 2**20, 1),
        "checks": [{"name": one.name, "result": str(one.result), "said": one.said} for one in verdicts(run)],
    }


def html(run: Run) -> str:
    """The page."""
    tally, scenario = run.tally, run.scenario
    figures = [
        ("devices", f"{tally.done:,}"),
        ("confirmed", f"{tally.confirmed / tally.done:.2%}" if tally.done else "-"),
        ("p50", seconds(tally, 50)),
        ("p99", seconds(tally, 99)),
        ("slowest", seconds(tally, 100)),
        ("hand-overs a second", f"{tally.rate:,.0f}"),
    ]
    come = [Line("arrived", counted(tally.arrivals), steps=True), Line("confirmed", counted(tally.ends), steps=True)]
    marks = [Mark(value, percent, f"p{percent} {value:.2f} s") for percent, value in _marked(tally)]
    latencies = [Line("done", share_done(tally.latencies))] if tally.latencies else []
    cards = [
        Card("Who arrived, who is confirmed", lines(come, "seconds since the start", "devices")),
        Card("From switching on to confirmation", lines(latencies, "seconds", "percent done", marks=marks, log_x=True)),
        Card("What devices were told, besides offers", bars(_most(tally.replies), "replies")),
        Card("What happened on the way", bars(_happened(run), "events")),
        Card("Steps of all devices", table([(name, f"{count:,}") for name, count in _most(tally.steps, 20)])),
        Card("Connections that were lost, by what was said", table([(n, f"{c:,}") for n, c in _most(tally.lost)])),
        Card("The scenario", text(_settings(scenario)), wide=True),
    ]
    footer = (
        f"MQTT Provisioner {__version__}, scenario {run.name}, seed {scenario.seed}, against {run.where}; "
        f"the fleet's process took {run.memory / 2**20:.0f} MiB at most."
    )
    return page(scenario.title, " ".join(scenario.description.split()), verdicts(run), figures, cards, footer)


def rows(run: Run) -> list[tuple[str, object]]:
    """The table for the terminal."""
    tally = run.tally
    listed: list[tuple[str, object]] = [
        ("confirmed", tally.confirmed),
        *((f"not confirmed: {reason}", count) for reason, count in sorted(tally.refused.items())),
        ("refused", tally.refused.total()),
        *((f"clones: {reason}", count) for reason, count in sorted(tally.clones.items())),
        *((f"impostors: {reason}", count) for reason, count in sorted(tally.impostors.items())),
        ("seconds", f"{tally.seconds:.2f}"),
        ("hand-overs per second", f"{tally.rate:.0f}"),
        *((f"p{percent}", seconds(tally, percent)) for percent in _PERCENTS),
    ]
    return listed + [(name, count) for name, count in _happened(run) if count]


def seconds(tally: Tally, percent: float) -> str:
    """A latency for people."""
    value = tally.percentile(percent)
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _marked(tally: Tally) -> list[tuple[int, float]]:
    return [(percent, value) for percent in (50, 99) if (value := tally.percentile(percent)) is not None]


def _happened(run: Run) -> list[tuple[str, int]]:
    toll, steps = run.toll, run.tally.steps
    ours = [("power cuts", steps["power-cut"]), ("flash was full", steps["flash-failed"]), ("lost", steps["lost"])]
    theirs = [(f"connections {fate}", toll.connections[fate]) for fate in sorted(toll.connections)]
    messages = [(f"messages {kind}", toll.packets[kind]) for kind in sorted(toll.packets)]
    return [(name, count) for name, count in (*ours, *theirs, *messages) if count]


def _most(counter: Counter[str], most: int = _MOST_ROWS) -> Sequence[tuple[str, int]]:
    return counter.most_common(most)


def _settings(scenario: Scenario) -> str:
    """Every value, as one could write it."""
    lines_: list[str] = []
    for name, value in scenario.model_dump(mode="json", exclude={"title", "description"}).items():
        if isinstance(value, dict):
            lines_ += [f"\n[{name}]", *(f"{key} = {_value(one)}" for key, one in value.items() if one is not None)]
        else:
            lines_.append(f"{name} = {_value(value)}")
    return "\n".join(lines_)


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _milliseconds(tally: Tally, percent: float) -> float | None:
    value = tally.percentile(percent)
    return None if value is None else round(value * 1000, 1)
