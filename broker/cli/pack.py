"""`provisioner pack`: labels, NVS files and C headers from the activation data of an import.

1. It reads what `import --apply --result` wrote and nothing else: no server, no ledger.
2. Everything it writes holds activation keys: a new folder of mode 0700, files of mode 0600.
3. What a file says goes into another language here: it is escaped for that, whatever it is.
"""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.output import Failed, progress, say
from broker.tables import BadTable, read_rows

app = typer.Typer(add_completion=False)

_PER_SHEET = 240
_NAMESPACE = "provisioner"
"""Of the NVS partition; at most 15 characters, as its keys (ESP-IDF)."""

_STYLE = """\
@page { size: A4; margin: 10mm }
body { font: 8pt/1.3 sans-serif; margin: 0; display: grid; grid-template-columns: repeat(3, 1fr); gap: 2mm }
div { border: .2mm solid #999; border-radius: 2mm; padding: 2mm; display: flex; gap: 2mm; break-inside: avoid }
svg { width: 24mm; height: 24mm; flex: none }
p { margin: 0; overflow-wrap: anywhere }
b { font-size: 9pt }
code { font-size: 7pt }
"""


@dataclass(frozen=True, slots=True)
class Unit:
    """What is flashed into one device, or printed on it."""

    number: int
    name: str
    client_id: str
    username: str
    activation_key: str

    @property
    def stem(self) -> str:
        """Of its files' names: the row, and what file systems take of the client id."""
        return f"{self.number:06d}-{re.sub(r'[^A-Za-z0-9._-]', '-', self.client_id)}"

    def code(self) -> str:
        """What its QR code says: JSON, with the names of the wire contract."""
        told = {"v": 1, "user": self.username, "clientId": self.client_id, "activationKey": self.activation_key}
        return json.dumps(told, separators=(",", ":"), ensure_ascii=False)


@app.command()
def pack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `import --apply --result FILE` wrote.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder.")],
    *,
    labels: Annotated[bool, typer.Option("--labels", help="Label sheets with QR codes (HTML, to be printed).")] = False,
    nvs: Annotated[bool, typer.Option("--nvs", help="A CSV a unit for ESP-IDF's NVS partition generator.")] = False,
    headers: Annotated[bool, typer.Option("--headers", help="A C header a unit.")] = False,
) -> None:
    """Write what a factory needs of an import; all of it, unless some is asked for."""
    wanted = {"labels": labels, "nvs": nvs, "headers": headers}
    kinds = {kind for kind, is_wanted in wanted.items() if is_wanted} or set(wanted)
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise Failed(f"{folder} cannot be made: {(error.strerror or '').lower()}; name a new folder.") from None
    count = 0
    try:
        with progress("Packing") as advance:
            for count in _pack(file, folder, kinds):
                advance(count, count)
    except BadTable as error:
        raise Failed(f"{str(error).rstrip('.')}; {count} units are in {folder}.") from None
    except OSError as error:
        raise Failed(f"{folder} cannot be written: {error.strerror}; {count} units are in it.") from None
    if not count:
        folder.rmdir()
        raise Failed(f"{file} has no activation codes: give the --result of an import with --apply.")
    say(f"{count} units are in {folder}; delete it once they are flashed and labelled.")


def _pack(file: Path, folder: Path, kinds: Collection[str]) -> Iterator[int]:
    """Write everything, a sheet of labels at a time; how many units are done."""
    units, count = _units(file), 0
    for sheet, some in enumerate(iter(lambda: list(itertools.islice(units, _PER_SHEET)), []), start=1):
        if "labels" in kinds:
            _write(folder / f"labels-{sheet:04d}.html", _sheet(some))
        for unit in some:
            if "nvs" in kinds:
                _write(folder / f"{unit.stem}.nvs.csv", _nvs(unit))
            if "headers" in kinds:
                _write(folder / f"{unit.stem}.h", _header(unit))
        count += len(some)
        yield count


def _units(file: Path) -> Iterator[Unit]:
    for number, row in read_rows(file):
        key, client_id = row.get("ActivationCode"), row.get("ClientId")
        if key and client_id:
            yield Unit(number, row.get("DeviceName", client_id), client_id, row.get("Username", ""), key)


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text, encoding="utf-8")


def _sheet(units: Sequence[Unit]) -> str:
    import segno  # noqa: PLC0415  # --help does not wait for it

    told = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Labels</title>',
        # What the page shows came from a file: it may load nothing and run nothing.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<style>{_STYLE}</style>",
    ]
    for unit in units:
        image = segno.make(unit.code(), error="m", micro=False).svg_inline(scale=1, border=2, omitsize=True)
        name, client_id, key = (html.escape(text) for text in (unit.name, unit.client_id, unit.activation_key))
        told.append(f"<div>{image}<p><b>{name}</b><br>{client_id}<br><code>{key}</code></p></div>")
    return "\n".join(told) + "\n"


def _nvs(unit: Unit) -> str:
    text = io.StringIO()
    rows = [("key", "type", "encoding", "value"), (_NAMESPACE, "namespace", "", "")]
    values = {"user": unit.username, "client_id": unit.client_id, "activation_key": unit.activation_key}
    rows += [(name, "data", "string", value) for name, value in values.items()]
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _header(unit: Unit) -> str:
    return (
        "/* Activation data of one unit. Generated: do not commit. */\n"
        "#ifndef PROVISIONER_UNIT_H\n"
        "#define PROVISIONER_UNIT_H\n"
        f"#define PROVISIONER_USER {_c_text(unit.username)}\n"
        f"#define PROVISIONER_CLIENT_ID {_c_text(unit.client_id)}\n"
        f"#define PROVISIONER_ACTIVATION_KEY {_c_text(unit.activation_key)}\n"
        "#endif\n"
    )


def _c_text(text: str) -> str:
    """A C string literal of printable ASCII: octal escapes for all else, and no trigraphs."""
    plain = {byte: chr(byte) for byte in range(0x20, 0x7F)} | {0x22: '\\"', 0x5C: "\\\\", 0x3F: "\\?"}
    return '"' + "".join(plain.get(byte, f"\\{byte:03o}") for byte in text.encode()) + '"'
