"""`provisioner config`: what the settings are, and what is wrong with them, without starting anything."""

from __future__ import annotations

import typer

from broker.cli.output import Json, emit, print_json, say, where

app = typer.Typer(no_args_is_help=True, help="Check and show the settings.")


@app.command()
def check(ctx: typer.Context, as_json: Json = False) -> None:
    """Say what is wrong with the settings and where; exit code 0 when nothing is, else 2.

    Example: provisioner config check --config provisioner.toml
    """
    from broker import app as root  # noqa: PLC0415  # --help does not wait for it

    place = where(ctx)
    problems = root.check(place.config, place.data_dir)
    if as_json:
        print_json({"problems": list(problems)})
    else:
        for problem in problems:
            say(problem)
        if not problems:
            say("The settings are fine.")
    if problems:
        raise typer.Exit(2)


@app.command()
def show(ctx: typer.Context, as_json: Json = False) -> None:
    """Show the settings in effect and where each comes from. They name secret files; they hold no secrets.

    Example: provisioner config show --json
    """
    from broker import app as root  # noqa: PLC0415  # as above

    place = where(ctx)
    settings = root.load(place.config, place.data_dir).listed()
    if as_json:
        print_json({one.name: one.value for one in settings})
        return
    rows = [{"name": one.name, "value": _written(one.value), "origin": one.origin} for one in settings]
    emit(rows, {"setting": "name", "value": "value", "from": "origin"}, as_json=False)


def _written(value: object) -> str:
    """As one writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
