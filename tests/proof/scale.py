"""How often a proof tries, and where it writes what it found."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

SCALES = ("quick", "ci", "soak")
SCALE = os.environ.get("PROOF_SCALE", "quick")
FOLDER = Path(os.environ.get("PROOF_REPORT", "build/report")).resolve()

if SCALE not in SCALES:
    raise SystemExit(f"PROOF_SCALE is {SCALE!r}; it must be one of {', '.join(SCALES)}")


def rounds(quick: int, ci: int, soak: int) -> int:
    """The number of tries at the scale of this run."""
    return {"quick": quick, "ci": ci, "soak": soak}[SCALE]


def record(proof: str, target: str, **figures: float | str) -> None:
    """Keep the figures of a proof that held, e.g. `record("power-cuts", "F-2", cuts=10_000, lost=0)`."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    told = {"proof": proof, "target": target, "scale": SCALE, "at": int(time.time()), "figures": figures}
    file = FOLDER / f"{SCALE}-{proof}.json"
    temporary = file.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(told, indent=1), encoding="utf-8")
    temporary.replace(file)
