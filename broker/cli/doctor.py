"""`provisioner doctor`: whether the broker is fit for the bridge, and which line is missing there."""

from __future__ import annotations

import time
from typing import Any

import typer

from broker.cli.output import Failed, Json, print_json, say, where
from broker.lifetime import run

app = typer.Typer()

_COLOURS = {"ok": "green", "note": "cyan", "problem": "yellow", "leak": "red"}


@app.command("doctor")
def doctor(ctx: typer.Context, as_json: Json = False) -> None:
    """Try the broker of bridge.url as a device and an intruder would; exit code 1 if anything is wrong there.

    It logs in with the bridge's account and the provision account, sends and asks for what must and what must not be
    possible, and says which line is missing or too many in the words of bridge.kind. It leaves nothing behind.

    Example: provisioner doctor --json
    """
    from broker import app as root  # noqa: PLC0415  # --help does not wait for it
    from broker import wiring  # noqa: PLC0415  # as above
    from broker.beside.doctor import consult  # noqa: PLC0415  # as above

    place = where(ctx)
    settings = root.load(place.config, place.data_dir).settings
    patient = wiring.bridge_patient(settings)
    if patient is None:
        raise Failed("There is no bridge: set bridge.url to the broker it shall serve on.")
    findings = run(consult(patient, time.time()))
    told = [
        {"check": one.check, "verdict": one.verdict.value, "detail": one.detail, "cure": one.cure} for one in findings
    ]
    bad = [one for one in told if one["verdict"] in ("problem", "leak")]
    if as_json:
        print_json({"broker": str(patient.site), "kind": patient.kind, "healthy": not bad, "findings": told})
    else:
        _print(told)
        say("Nothing is wrong there." if not bad else "\n".join(["", "What helps:", *(_helps(one) for one in bad)]))
    if bad:
        raise typer.Exit(1)


def _helps(one: dict[str, str]) -> str:
    return f"  {one['check']}: {one['cure']}"


def _print(told: list[dict[str, str]]) -> None:
    from rich.console import Console  # noqa: PLC0415  # 0.1 s that --json need not wait for
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from broker.cli.output import printable  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for heading in ("check", "verdict", "what was seen"):
        table.add_column(heading, overflow="fold")
    for one in told:
        cells: list[Any] = [Text(printable(one["check"])), Text(one["verdict"], style=_COLOURS[one["verdict"]])]
        table.add_row(*cells, Text(printable(one["detail"])))
    Console(highlight=False).print(table)
