"""The report tells what was recorded, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.proof import __main__ as report
from tests.proof import scale


def test_a_recorded_proof_is_a_row_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "FOLDER", tmp_path)
    scale.record("power-cuts", "F-2", cuts=10_000, lost=0)
    told = report.load(tmp_path)
    assert "| F-2 | power-cuts | quick | cuts 10,000, lost 0 |" in report.markdown(told)


def test_the_longest_scale_comes_first(tmp_path: Path) -> None:
    for name in ("quick", "soak", "ci"):
        told: dict[str, object] = {"proof": "cuts", "target": "F-2", "scale": name, "at": 0, "figures": {}}
        (tmp_path / f"{name}-cuts.json").write_text(json.dumps(told))
    assert [one["scale"] for one in report.load(tmp_path)] == ["soak", "ci", "quick"]
