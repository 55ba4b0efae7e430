"""`python -m tests.proof`: the report of all proofs on record, as a table and in `build/report.md`."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.proof.scale import FOLDER, SCALES


def load(folder: Path) -> list[dict[str, Any]]:
    """What is on record, by target, the longest scale first."""
    told = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")]
    return sorted(told, key=lambda one: (one["target"], one["proof"], -SCALES.index(one["scale"])))


def words(figures: dict[str, float | str]) -> str:
    """Figures as people read them."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')} {value}"
        for name, value in figures.items()
    )


def markdown(told: list[dict[str, Any]]) -> str:
    """The report as a file."""
    lines = ["# What was proved", "", "| target | proof | scale | figures | when |", "|---|---|---|---|---|"]
    for one in told:
        when = datetime.fromtimestamp(one["at"], UTC).strftime("%Y-%m-%d %H:%M")
        lines.append(f"| {one['target']} | {one['proof']} | {one['scale']} | {words(one['figures'])} | {when} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    told = load(FOLDER)
    if not told:
        sys.exit("nothing is on record: run make proof first")
    table = Table("target", "proof", "scale", "figures")
    for one in told:
        table.add_row(one["target"], one["proof"], one["scale"], words(one["figures"]))
    Console().print(table)
    file = FOLDER.parent / "report.md"
    file.write_text(markdown(told), encoding="utf-8")
    sys.stdout.write(f"{file.name} written\n")


if __name__ == "__main__":
    main()
