"""The service's own code in thousands of seeded worlds (F-3): every rule holds after every step, nobody is locked out.

Each run is one seed; `python -m tests.simulation --seed N` tells the story of a broken one.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import pytest

from tests.proof.scale import record, rounds
from tests.simulation.world import simulate

_CHUNK = 50


class _Told(NamedTuple):
    steps: int
    seconds: float
    broken: list[str]


def _run(first: int, count: int) -> _Told:
    verdicts = [simulate(seed) for seed in range(first, first + count)]
    broken = [
        f"python -m tests.simulation --seed {verdict.seed}\n  {verdict.broken}\n" + "\n".join([*verdict.lines()][-15:])
        for verdict in verdicts
        if verdict.broken
    ]
    return _Told(sum(verdict.steps for verdict in verdicts), sum(verdict.seconds for verdict in verdicts), broken)


@pytest.mark.timeout(0)
def test_every_rule_holds_in_every_world() -> None:
    seeds = rounds(quick=200, ci=20_000, soak=200_000)
    began = time.monotonic()
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        told = list(pool.map(_run, range(1, seeds + 1, _CHUNK), [_CHUNK] * (seeds // _CHUNK)))
    broken = [one for chunk in told for one in chunk.broken]
    assert not broken, f"{len(broken)} of {seeds} seeds:\n" + "\n".join(broken[:5])
    record(
        "simulation",
        "F-3",
        seeds=seeds,
        steps=sum(chunk.steps for chunk in told),
        virtual_hours=round(sum(chunk.seconds for chunk in told) / 3600),
        broken=0,
        seconds=round(time.monotonic() - began),
    )
