"""`provisioner serve` and `provisioner init`: run it, or only prepare its data directory.

Generated secrets are never printed, as a log is kept longer and read by more people than a file of mode 0600. What is
printed is where they are, and the exact next command.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from broker.cli.output import Json, Where, print_json, say, where
from broker.datadir import Running

serve_app = typer.Typer()
init_app = typer.Typer()

_LOGIN = "provision-login"
_TOKEN = "admin-token"  # noqa: S105  # a file's name


@serve_app.command("serve")
def serve(
    ctx: typer.Context,
    chaos: Annotated[
        bool,
        typer.Option(
            "--chaos", help="For trying out firmware: withhold, double, drop and delay replies (settings chaos.*)."
        ),
    ] = False,
    chaos_seed: Annotated[
        int | None, typer.Option("--chaos-seed", metavar="N", help="With --chaos: the same seed has the same moods.")
    ] = None,
) -> None:
    """Run the provisioner until SIGTERM or Ctrl-C; the first start prepares the data directory.

    Standard output gets one JSON line when everything listens, standard error the log.

    Example: provisioner serve --data-dir /var/lib/provisioner
    """
    from broker import app as root  # noqa: PLC0415  # --help does not wait for it
    from broker.lifetime import run  # noqa: PLC0415  # as above

    if chaos_seed is not None and not chaos:
        raise typer.BadParameter("it is for --chaos: give that as well", param_hint="--chaos-seed")
    place = where(ctx)
    loaded = root.load(place.config, place.data_dir, chaos_seed)
    data_dir, is_default = loaded.settings.data_dir, "data_dir" not in loaded.origins

    def greet(running: Running, first: bool) -> None:
        commands = _next_commands(place, None if is_default else data_dir)
        if not sys.stderr.isatty():
            structlog.get_logger().info("next", commands=commands, login=str(data_dir / _LOGIN))
            return
        if first:
            say(_prepared(data_dir))
        say(f"Devices claim at {running.endpoint or running.endpoint_tls}; operators work at {running.http}.")
        if chaos:
            say("Chaos is on: devices are treated badly on purpose. Let nothing claim here but firmware under test.")
        say("\n".join(["Next, in another terminal:", "", *(f"  {command}" for command in commands), ""]))

    run(root.run(loaded.settings, greet, chaotic=chaos))


@init_app.command("init")
def init(ctx: typer.Context, as_json: Json = False) -> None:
    """Prepare the data directory without starting; `serve` does it by itself.

    Makes the keys, the provision account with the login `factory`, the target account `default` and an operator token.

    Example: provisioner init --data-dir /var/lib/provisioner
    """
    from broker import app as root  # noqa: PLC0415  # --help does not wait for it
    from broker.lifetime import run  # noqa: PLC0415  # as above

    place = where(ctx)
    settings = root.load(place.config, place.data_dir).settings
    fresh = run(root.prepare(settings))
    if as_json:
        print_json(
            {
                "dataDir": str(settings.data_dir),
                "prepared": fresh,
                "provisionLogin": str(settings.data_dir / _LOGIN),
                "adminToken": str(settings.data_dir / _TOKEN),
            }
        )
        return
    say(_prepared(settings.data_dir) if fresh else f"{settings.data_dir} was prepared before; nothing is changed.")


def _prepared(data_dir: Path) -> str:
    return (
        f"{data_dir} is prepared: the provisioning login is in {data_dir / _LOGIN}, "
        f"the operator token in {data_dir / _TOKEN}."
    )


def _next_commands(place: Where, data_dir: Path | None) -> list[str]:
    """What to type in another terminal, where neither this one's variables nor its environment are."""
    program = ["provisioner"]
    if shutil.which("provisioner") is None:
        called = Path(sys.argv[0])
        program = [str(called)] if called.name == "provisioner" else [sys.executable, "-m", "broker"]
    options = [] if data_dir is None else ["--data-dir", str(data_dir)]
    options += [] if place.config is None else ["--config", str(place.config)]
    return [
        shlex.join([*program, *words, *options])
        for words in (["request", "create", "dev-1", "--account", "default"], ["device", "claim", "dev-1"])
    ]
