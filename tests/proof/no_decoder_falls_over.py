"""H-1: whatever reads what strangers wrote is fuzzed: no crash, no hang, nothing accepted that the contract forbids.

Each target runs in a process of its own, as `python -m tests.fuzz TARGET` does: atheris instruments what is imported.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.engine import TARGETS
from tests.proof.scale import SCALE, record, rounds

ROOT = Path(__file__).parents[2]
SECONDS = rounds(2, 60, 900)
_STARTING = 120


@pytest.mark.parametrize("target", ("session", "claim") if SCALE == "quick" else TARGETS)
@pytest.mark.timeout(SECONDS + 2 * _STARTING)
def test_a_search_finds_nothing(target: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", target, "--seconds", str(SECONDS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS + _STARTING,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    told = re.search(r"Done (\d+) runs in (\d+) second", said)
    assert told, said[-4000:]
    runs = int(told[1])
    assert runs > SECONDS, f"{runs} inputs in {SECONDS} s are no search"
    engine = "plain" if "plain search" in said else "atheris"
    record(f"fuzz-{target}", "H-1", inputs=runs, seconds=SECONDS, broken=0, engine=engine)
