"""The `provisioner` command: one file per group of commands.

A group is imported when it is called, so `--help` and a typing error answer at once. `output.py` holds what the groups
share; errors become a sentence and an exit code in `broker/__main__.py`, so no command catches for show.

`--data-dir` and `--config` may stand anywhere on the line: they say where to look, whatever the command.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from broker.cli.output import Where
from provisioner import __version__

_COMMANDS = {
    "serve": ("serve:serve_app", "Run the provisioner; the first start prepares the data directory."),
    "init": ("serve:init_app", "Prepare the data directory without starting."),
    "config": ("config:app", "Check and show the settings."),
    "broker": ("brokers:app", "The broker you already run: what it has to be told."),
    "doctor": ("doctor:app", "Is the broker fit for the bridge, and which line is missing there?"),
    "account": ("accounts:app", "Provision accounts and target accounts."),
    "user": ("users:app", "Logins that devices start with."),
    "token": ("tokens:app", "Bearer tokens of operators."),
    "request": ("requests:app", "Provision requests: permissions for one device each."),
    "policy": ("policies:app", "Named sets of rules that requests are made by."),
    "learn": ("learning:learn_app", "Which client ids use each loose credential."),
    "lock": ("learning:lock_app", "Bind loose credentials to the client ids that use them; undo that."),
    "tag": ("labels:tags", "Tags: what devices are for."),
    "location": ("labels:locations", "Locations: where devices are."),
    "import": ("imports:import_app", "Devices from a CSV or XLSX file: dry run, import, undo."),
    "export": ("imports:export_app", "Imported devices to a CSV or XLSX file."),
    "pack": ("pack:app", "Labels with QR codes, NVS files and C headers of an import."),
    "why": ("why:app", "Why a device does not get its credential, and what helps."),
    "keys": ("keys:app", "Keys that the ledger is sealed under."),
    "ca": ("authority:app", "The certificate authority."),
    "audit": ("oversight:audit", "The audit journal: every decision, chained."),
    "drift": ("oversight:drift_app", "What device brokers hold that the ledger does not, and the reverse."),
    "backup": ("backup:backup_app", "Copy the ledger to a file, while it is used."),
    "restore": ("backup:restore_app", "Put a backup in the place of the ledger."),
    "events": ("events:app", "What happened, as others are told it."),
    "device": ("devices:app", "Be a device: claim a credential, log in with it."),
    "fleet": ("devices:fleet_app", "Be many devices."),
    "check-device": ("checkdevice:app", "Does this firmware keep the contract? Pass or fail, with reasons."),
    "demo": ("demo:app", "200 simulated devices get their credentials, with a live display."),
}
_ANYWHERE = ("--data-dir", "--config")


class _Commands(TyperGroup):
    """Lists commands from the table above and imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands.update({name: TyperCommand(name, help=text) for name, (_, text) in _COMMANDS.items()})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Options that say where to look are moved to the front."""
        return super().parse_args(ctx, _hoisted(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command itself, imported now."""
        name, listed, rest = super().resolve_command(ctx, args)
        if name is None or listed is None:
            return name, listed, rest
        module, _, attribute = _COMMANDS[name][0].partition(":")
        command: Any = typer.main.get_command(getattr(importlib.import_module(f"broker.cli.{module}"), attribute))
        command.name = name
        return name, command, rest


def _hoisted(args: list[str]) -> list[str]:
    front: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in _ANYWHERE:
            value = next(words, None)
            if value is None:
                return [*front, word]  # nothing but this word: the error is about it
            front += [word, value]
        elif word.startswith(tuple(f"{option}=" for option in _ANYWHERE)):
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"provisioner {__version__}\n")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    name="provisioner",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    ctx: typer.Context,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="Folder of the ledger and the keys; default: the setting data_dir."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings file (TOML); default: PROVISIONER_CONFIG, else none.")
    ] = None,
    version: Annotated[  # noqa: ARG001  # its callback has done the work
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Gives factory-fresh devices their own credentials over MQTT, beside any broker."""
    ctx.obj = Where(data_dir, config)
