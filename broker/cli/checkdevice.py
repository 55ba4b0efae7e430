"""`provisioner check-device`: examine whether a firmware keeps the contract.

1. Two brokers of our own listen, one to claim at and one to work at; the device is pointed at the first.
2. It is switched by commands (`--reset`, `--off`, `--on`), else by whoever answers the prompts.
3. Exit code 0 when no check failed.
"""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.output import Failed, Json, claim_files, print_json, print_table, read_secret, say
from broker.conformance.bench import Tls
from broker.conformance.examination import Examined, Place, Subject, examine
from broker.conformance.power import Person, Power, Relay
from broker.conformance.story import Pace
from broker.lifetime import run
from broker.reports.junit import junit as write_junit
from broker.reports.page import Card, page, text
from broker.reports.verdict import Result, is_good
from broker.tls import server_context
from provisioner import __version__

app = typer.Typer()


@app.command("check-device")
def check_device(
    client_id: Annotated[str, typer.Argument(help="The MQTT client id of the device under test.")],
    user: Annotated[str, typer.Option(help="The provision user it starts with.")] = "factory",
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with that user's password; - reads standard input.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with its activation key; - reads standard input.")
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where it is to claim.")] = "127.0.0.1:1884",
    work_listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where it is to work afterwards.")
    ] = "127.0.0.1:1883",
    host: Annotated[
        str | None, typer.Option(help="Name or address under which it reaches us; default: that of --work-listen.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate chain to show (PEM): both brokers speak TLS.")
    ] = None,
    private_key: Annotated[Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What vouches for it (PEM), told in the offer.")
    ] = None,
    root_topic: Annotated[str, typer.Option(metavar="TOPIC", help="Root of the topics.")] = "prov/v1",
    reset: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Makes the device as new and switches it on.")
    ] = None,
    off: Annotated[str | None, typer.Option(metavar="COMMAND", help="Switches it off.")] = None,
    on: Annotated[str | None, typer.Option(metavar="COMMAND", help="Switches it on.")] = None,
    retry_after: Annotated[int, typer.Option(min=1, max=60, help="Seconds it is told to wait.")] = 3,
    patience: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds until something expected counts as not coming.")
    ] = 120.0,
    quiet: Annotated[float, typer.Option(min=0.1, help="Seconds it must be seen not to do something.")] = 30.0,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the checks as JUnit XML.")] = None,
    as_json: Json = False,
) -> None:
    """Examine a device: withheld, late, doubled and hostile replies, power cuts after each step, a good end.

    Point it at --listen with the user, the password and the activation key given here. It takes some ten minutes.

    Example: provisioner check-device dev-1 --listen 0.0.0.0:1884 --work-listen 0.0.0.0:1883 --host bench.local
    """
    power = _power(reset, off, on)
    claims, works = _listen("--listen", listen), _listen("--work-listen", work_listen)
    tls = _tls(certificate, private_key, ca)
    password = read_secret(f"Password of {user}", password_file)
    subject = Subject(user, password, client_id, read_secret(f"Activation key of {client_id}", key_file), root_topic)
    place = Place(claims, works, host or works[0], tls)
    claim_files(html, junit)
    pace = Pace(patience=patience, quiet=quiet, retry_after=retry_after)

    def ready(claims_port: int, works_port: int) -> None:
        say(f"{client_id} is to claim at port {claims_port}; it will be sent to {place.host}:{works_port}.")

    done = run(examine(subject, place, power, pace, ready, say))
    _tell(client_id, done, html, junit, as_json=as_json)


def _tell(client_id: str, done: Examined, html: Path | None, junit: Path | None, *, as_json: bool) -> None:
    verdicts = done.verdicts
    if html is not None:
        html.write_text(_page(client_id, done), encoding="utf-8")
    if junit is not None:
        junit.write_bytes(write_junit(f"check-device {client_id}", verdicts, done.seconds))
    if as_json:
        checks = [{"name": one.name, "result": str(one.result), "said": one.said} for one in verdicts]
        print_json({"clientId": client_id, "seconds": round(done.seconds, 1), "checks": checks})
    else:
        print_table(("check", "result", "seen"), [(one.name, one.result, one.said) for one in verdicts])
    if not is_good(verdicts):
        raise typer.Exit(1)


def _page(client_id: str, done: Examined) -> str:
    counts = [(str(result), str(sum(one.result is result for one in done.verdicts))) for result in Result]
    lead = "What this device did when replies were withheld, doubled, late, forged or huge, and when its power failed."
    figures = [*counts, ("minutes", f"{done.seconds / 60:.1f}")]
    cards = [Card("Everything it did", text("\n".join(done.story)), wide=True)]
    return page(f"Firmware of {client_id}", lead, done.verdicts, figures, cards, f"MQTT Provisioner {__version__}")


def _power(reset: str | None, off: str | None, on: str | None) -> Power:
    if reset is not None and off is not None and on is not None:
        return Relay(reset, off, on)
    if reset is not None or off is not None or on is not None:
        raise Failed("A relay needs three commands: give --reset, --off and --on, or none of them.", code=2)
    if not sys.stdin.isatty():
        raise Failed(
            "Nobody is there to switch the device: give the commands --reset, --off and --on, or use a terminal.",
            code=2,
        )
    return Person(_prompt)


def _prompt(sentence: str) -> None:
    sys.stderr.write(f"\n  {sentence} Then press Enter. ")
    sys.stderr.flush()
    sys.stdin.readline()


def _listen(option: str, written: str) -> tuple[str, int]:
    host, colon, port = written.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise Failed(f"{option} {written} is no address: write it as HOST:PORT.", code=2)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _tls(certificate: Path | None, private_key: Path | None, ca: Path | None) -> Tls | None:
    if certificate is None and private_key is None and ca is None:
        return None
    if certificate is None or private_key is None or ca is None:
        raise Failed("TLS needs three files: give --certificate, --private-key and --ca, or none of them.", code=2)
    try:
        return Tls(server_context(certificate, private_key), ca.read_text(encoding="ascii"))
    except ssl.SSLError as error:
        raise Failed(f"{certificate} and {private_key} are no certificate with its key: {error.reason}.") from None
    except UnicodeDecodeError:
        raise Failed(f"{ca} is no PEM file.") from None
