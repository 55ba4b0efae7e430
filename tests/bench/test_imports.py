"""The bench of imports: it measures the real command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(120)
def test_a_small_import_is_measured_and_drawn(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.imports", "--rows", "600", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert "P-10" in done.stdout, done.stderr
    told = json.loads((tmp_path / "imports.json").read_text())
    assert told["rows"] == 600
    assert min(told[kind]["rowsPerSecond"] for kind in ("import", "dry run")) > 0
    assert (tmp_path / "imports.png").read_bytes().startswith(b"\x89PNG")
