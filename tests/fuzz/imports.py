"""Imports: any bytes as a file of devices, and what a program may send as rows.

1. A file is a table within its bounds, or `BadTable` says in a printable sentence why not. Nothing else is raised.
2. A cell of it is within the bounds of a row, or `Invalid` names the field; what is taken is what was sent.
3. What was read is read again the same from a file that we wrote.
"""

from __future__ import annotations

import atexit
import io
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import openpyxl

from broker.cli.imports import COLUMNS
from broker.tables import LONGEST_CELL, MOST_COLUMNS, BadTable, read_rows, writing
from provisioner.elements import NOBODY, OURS, TEXTS, parse_element
from provisioner.errors import Invalid

_FOLDER = Path(tempfile.mkdtemp(prefix="imports-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
_FILE, _COPY = _FOLDER / "devices", _FOLDER / "copy.csv"
_ROW: dict[str, Any] = {
    "Email": "ann@example.com",
    "UserGroup": "",
    "CompanyName": "acme",
    "DeviceId": NOBODY,
    "PolicyName": "line",
    "CurrentStorageGB": 1,
    "SendActivationEmail": False,
}


def _workbook() -> bytes:
    """A small one, stored: a search cannot see through compression."""
    book, made, stored = openpyxl.Workbook(), io.BytesIO(), io.BytesIO()
    assert book.active is not None
    book.active.append(["ClientId", "DeviceName", "CurrentStorageGB"])
    book.active.append(["dev-1", "Hall", 5])
    book.save(made)
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            if "theme" not in name and "docProps" not in name:
                target.writestr(name, source.read(name))
    return stored.getvalue()


SEEDS = [
    b'\0ClientId,DeviceName,CompanyName\ndev-1,Hall,acme\ndev-2,"a ""b""",acme\n',
    b"\0\xef\xbb\xbfClientId;SerialNumber\r\ndev-1;'=1+1\r\n",
    b"\0" + "ClientId\tMacAddress\ndev-1\t00:1A:2B:3C:4D:5E\n".encode("utf-16"),
    b"\0" + _workbook(),
    b"\1" + json.dumps(_ROW).encode(),
    b"\1" + json.dumps(_ROW | dict.fromkeys(OURS, "x")).encode(),
]
TOKENS = [
    *(name.encode() for name in COLUMNS), b'"', b'""', b",", b";", b"\t", b"\r\n", b"'=", b"\0", b"\xff\xfe",
    b"PK\x03\x04",
    b"<row>", b'<c t="s">', b"<v>9999999999</v>", b'r="XFD1048576"', b"<!DOCTYPE", b"<!ENTITY", b"&#0;", b"1e308",
    NOBODY.encode(), b"null", b"true", b"\\u0000", b"\\ud800", b"[]", b"-1",
]  # fmt: skip


def try_one(data: bytes) -> None:
    """First byte: a file, or a row as JSON."""
    if not data:
        return
    if data[0] & 1:
        _try_row(data[1:])
    else:
        _try_file(data[1:])


def _try_file(content: bytes) -> None:
    _FILE.write_bytes(content)
    found: list[dict[str, str]] = []
    try:
        for _, cells in read_rows(_FILE):
            found.append(cells)
            if len(found) > 200:
                break
    except BadTable as error:
        told = str(error)
        assert told.isprintable(), told
        assert told.endswith("."), told
        assert len(told) < 400, told
        return
    names = sorted({name for cells in found for name in cells})
    assert len(names) <= MOST_COLUMNS
    assert all(0 < len(cell) <= LONGEST_CELL for cells in found for cell in cells.values())
    for cells in found:
        _check_row(dict(cells))
    if any("\0" in text for cells in found for text in (*cells, *cells.values())):
        raise AssertionError("a NUL came through")
    _copy([cells for cells in found if cells], names)


def _copy(rows: list[dict[str, str]], names: list[str]) -> None:
    if not names or not set(names) <= set(COLUMNS):
        return
    _COPY.unlink(missing_ok=True)
    with writing(_COPY, names) as table:
        for cells in rows:
            table.write(cells)
    again = [cells for _, cells in read_rows(_COPY)]
    # What is blank at the end of a row is no cell.
    assert [_told(cells) for cells in again] == [_told(cells) for cells in rows if _told(cells)]


def _told(cells: dict[str, str]) -> dict[str, str]:
    return {name: cell for name, cell in cells.items() if cell.strip()}


def _try_row(content: bytes) -> None:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError):
        return
    if isinstance(row, dict):
        _check_row(row)


def _check_row(row: dict[str, Any]) -> None:
    for needs_email in (True, False):
        refusal: Invalid | None = None
        try:
            element = parse_element(row, needs_email=needs_email)
        except Invalid as error:
            refusal = error
        if refusal is not None:
            assert refusal.detail.isprintable(), refusal.detail
            assert len(refusal.detail) < 500, refusal.detail
            continue
        for name, inside in TEXTS.items():
            sent, taken = row.get(name), getattr(element, inside)
            assert taken == (sent.lower() if name in ("Email", "DeviceId") and sent else sent)
