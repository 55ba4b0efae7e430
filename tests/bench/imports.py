"""`python -m tests.bench.imports`: how fast `provisioner import` takes 100,000 rows, and whether memory is flat (P-10).

The command runs as its users run it, in a process of its own over a fresh ledger, where no server runs. What it takes
to start is measured with a file of one row and taken off. Prints a table, writes `build/imports.json` and `.png`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
LEAST_RATE = 5000.0
MOST_GROWTH = 32 * 2**20
"""Bytes between a quarter of the way and the end: what "flat" may hide."""
_SAMPLE = 0.05


@dataclass
class Took:
    """One run of the command: seconds, seconds of processor time, and resident bytes as it went on."""

    seconds: float = 0.0
    cpu: float = 0.0
    memory: list[int] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """Of the memory, over the last three quarters."""
        rest = self.memory[len(self.memory) // 4 :]
        return rest[-1] - rest[0] if rest else 0


def write_file(path: Path, rows: int) -> None:
    """Devices of five groups, each with a serial number."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ClientId", "SerialNumber", "DeviceName", "CompanyName", "UserGroup", "Email"])
        for number in range(rows):
            group = f"Line {number % 5}"
            writer.writerow([f"u-{rows}-{number}", f"S{rows}-{number:08d}", f"Unit {number}", "default", group, ""])


def run(folder: Path, *words: str) -> Took:
    """Run `provisioner` and look at it."""
    took, began = Took(), time.monotonic()
    command = [sys.executable, "-m", "broker", "--data-dir", str(folder / "data"), *words]
    with subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL) as process:
        looked = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                times = looked.cpu_times()
                took.memory.append(looked.memory_info().rss)
                took.cpu = times.user + times.system
            except psutil.Error:
                break
            time.sleep(_SAMPLE)
        code = process.wait()
    took.seconds = time.monotonic() - began
    if code != 0:
        raise SystemExit(f"provisioner {' '.join(words)} ended with {code}")
    # The last look comes while the process is being taken down.
    del took.memory[-2:]
    return took


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PROVISIONER_")}


def measure(folder: Path, rows: int) -> dict[str, Took]:
    """A dry run and an import of so many rows, and of one."""
    run(folder, "init")
    (folder / "line.json").write_text('{"provisionUserUsername": "factory"}')
    run(folder, "policy", "create", "line", "--rules", str(folder / "line.json"))
    for count in (1, rows):
        write_file(folder / f"{count}.csv", count)
    words = ("--policy", "line", "--json")
    return {
        "start": run(folder, "import", str(folder / "1.csv"), *words, "--apply"),
        "dry run": run(folder, "import", str(folder / f"{rows}.csv"), *words),
        "import": run(folder, "import", str(folder / f"{rows}.csv"), *words, "--apply"),
    }


def main() -> None:
    """See the module. Exit code 1 where P-10 is missed."""
    arguments = argparse.ArgumentParser(prog="python -m tests.bench.imports", description=__doc__)
    arguments.add_argument("--rows", type=int, default=100_000)
    arguments.add_argument("--out", type=Path, default=Path("build"))
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="imports-") as folder:
        took = measure(Path(folder), asked.rows)
    start = took.pop("start")
    table = Table(title=f"{asked.rows} rows")
    for column in ("", "rows/s", "rows/s of processor time", "peak MiB", "growth MiB"):
        table.add_column(column, justify="right")
    told = {}
    for name, one in took.items():
        rate = asked.rows / max(one.seconds - start.seconds, 0.001)
        cpu_rate = asked.rows / max(one.cpu - start.cpu, 0.001)
        peak = max(one.memory, default=0)
        table.add_row(name, f"{rate:,.0f}", f"{cpu_rate:,.0f}", f"{peak / 2**20:.0f}", f"{one.growth / 2**20:.1f}")
        told[name] = {
            "rowsPerSecond": rate,
            "rowsPerCpuSecond": cpu_rate,
            "peakBytes": peak,
            "growthBytes": one.growth,
            "memory": one.memory,
        }
    console = Console()
    console.print(table)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "imports.json").write_text(json.dumps({"rows": asked.rows, **told}, indent=1) + "\n")
    _plot(took, asked.out / "imports.png")
    good = told["import"]["rowsPerSecond"] >= LEAST_RATE and took["import"].growth <= MOST_GROWTH
    console.print(f"P-10: at least {LEAST_RATE:,.0f} rows/s, memory flat: {'met' if good else 'MISSED'}")
    raise SystemExit(0 if good else 1)


def _plot(took: dict[str, Took], file: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415  # half a second

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415  # behind the choice of its back-end

    figure, axes = plt.subplots(figsize=(7, 4))
    for name, one in took.items():
        axes.plot([at * _SAMPLE for at in range(len(one.memory))], [size / 2**20 for size in one.memory], label=name)
    axes.set(xlabel="seconds", ylabel="resident MiB", ylim=(0, None), title="Memory of an import")
    axes.legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
