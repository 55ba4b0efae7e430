"""The shipped scenario `herd`: ten thousand devices in one process, all confirmed, in less than 1 GiB.

The command is the one that users type. Whether the herd was through in time says more about the machine, which has to
be the devices as well, and is not judged here (P-7 is).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.proof.scale import record, rounds

ROOT = Path(__file__).parents[2]
MOST_MEMORY = 1024


@pytest.mark.timeout(rounds(120, 900, 900))
def test_all_are_confirmed(tmp_path: Path) -> None:
    count = rounds(200, 10_000, 10_000)
    report = tmp_path / "report.json"
    words = ["fleet", "run", "herd", "--temporary", "--count", str(count), "--timeout", "800", "--report", str(report)]
    if count < 10_000:
        words += ["--spread", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "broker", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert report.exists(), done.stderr
    told = json.loads(report.read_text())
    assert (told["devices"], told["confirmed"], told["refused"]) == (count, count, {})
    assert told["memoryMiB"] < MOST_MEMORY
    record(
        "fleet",
        "fleet",
        devices=count,
        confirmed=told["confirmed"],
        seconds=told["seconds"],
        p50=f"{told['p50Ms'] / 1000:.1f} s",
        p99=f"{told['p99Ms'] / 1000:.1f} s",
        memory=f"{told['memoryMiB']:.0f} MiB",
    )
