"""Tables from outside: what is read, and the hostile files that are told in a sentence, quickly, in little memory."""

import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.tables import BadTable, read_rows, writing

NAMESPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
BOMB_SHEET = f'<worksheet xmlns="{NAMESPACE}"><sheetData>'


def workbook(rows: list[list[Any]], **parts: bytes | str) -> bytes:
    """A workbook with these rows; `parts` replace files in it."""
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in rows:
        book.active.append(row)
    made, changed = io.BytesIO(), io.BytesIO()
    book.save(made)
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            short = name.rpartition("/")[2].partition(".")[0]
            target.writestr(name, parts.pop(short, source.read(name)))
        for name, content in parts.items():
            target.writestr(name, content)
    return changed.getvalue()


def bomb() -> bytes:
    """A sheet of half a gigabyte in half a megabyte."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
        for name in ("[Content_Types].xml", "_rels/.rels", "xl/workbook.xml"):
            target.writestr(name, "<x/>")
        with target.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as sheet:
            for _ in range(600):
                sheet.write(b" " * 2**20)
    return made.getvalue()


def lying_bomb() -> bytes:
    """A part that says it is small."""
    data = bytearray(workbook([["ClientId"], ["x"]], sheet1=BOMB_SHEET + " " * (50 * 2**20)))
    size = (50 * 2**20 + len(BOMB_SHEET)).to_bytes(4, "little")
    return bytes(data.replace(size, (100).to_bytes(4, "little")))


HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "only line ends": lambda: b"\r\n" * 1000,
    "a NUL": lambda: b"ClientId\nde\x00v\n",
    "Latin-1": lambda: "ClientId\nM\u00fcller\n".encode("latin-1"),
    "UTF-16 cut off": lambda: "ClientId\ndev-1\n".encode("utf-16")[:-1],
    "UTF-32": lambda: "ClientId\ndev-1\n".encode("utf-32"),
    "surrogates": lambda: b"ClientId\n\xed\xa0\x80\n",
    "an open quote": lambda: b'ClientId\n"' + b"a" * 100_000,
    "a line without end": lambda: b"ClientId\n" + b"a" * 5_000_000,
    "a cell of a megabyte": lambda: b'ClientId\n"' + b"a\n" * 500_000 + b'"\n',
    "ten thousand columns": lambda: b"a," * 10_000 + b"\n",
    "columns of one name": lambda: b"ClientId,clientid\n1,2\n",
    "more cells than columns": lambda: b"ClientId\na,b\n",
    "no zip": lambda: b"PK\x03\x04" + b"\xff" * 1000,
    "an empty zip": lambda: b"PK\x05\x06" + bytes(18),
    "a zip of something else": lambda: workbook([["ClientId"]], workbook="<html/>"),
    "no sheet": lambda: workbook([["ClientId"]], sheet1=""),
    "a sheet cut off": lambda: workbook([["ClientId"]], sheet1=BOMB_SHEET + "<row><c>"),
    "a billion laughs": lambda: workbook(
        [["ClientId"]], sheet1=f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]>{BOMB_SHEET}<row><c><v>&l9;</v></c></row>'
    ),
    "an entity from the disk": lambda: workbook(
        [["ClientId"]],
        sheet1=f'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>{BOMB_SHEET}<row><c t="inlineStr"><is><t>&e;</t>'
        "</is></c></row></sheetData></worksheet>",
    ),
    "a bomb": bomb,
    "a bomb that lies": lying_bomb,
    "ten thousand parts": lambda: workbook([["ClientId"]], **{f"x{number}": b"" for number in range(2000)}),
    "a path that climbs": lambda: workbook([["ClientId"]], **{"../../evil": b"x"})[:-30],
    "shared strings of 100 MiB": lambda: workbook([["ClientId"]], sharedStrings=b" " * (100 * 2**20)),
    "a cell far out": lambda: workbook(
        [["ClientId"]],
        sheet1=f'{BOMB_SHEET}<row r="1"><c r="XFD1" t="inlineStr"><is><t>x</t></is></c></row></sheetData></worksheet>',
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_told_in_a_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "devices"
    path.write_bytes(HOSTILE[name]())
    began, before = time.thread_time(), psutil.Process().memory_info().rss
    with pytest.raises(BadTable) as caught:
        list(read_rows(path))
    assert time.thread_time() - began < 2
    assert psutil.Process().memory_info().rss - before < 128 * 2**20
    told = str(caught.value)
    assert told.startswith(f"{path} ")
    assert told.endswith(".")
    assert told.isprintable()
    assert "passwd" not in told


def test_no_xml_may_define_entities() -> None:
    assert openpyxl.xml.DEFUSEDXML


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadTable, match="cannot be read"):
        list(read_rows(tmp_path / "none.csv"))


@pytest.mark.parametrize(
    "content",
    [
        b"ClientId,Name\r\ndev-1,Hall\r\n",
        b"\xef\xbb\xbfClientId;Name\ndev-1;Hall",
        "ClientId\tName\ndev-1\tHall\n\n".encode("utf-16"),
        b"\n\nClientId,Name,\n,,\ndev-1, Hall".replace(b" ", b""),
        workbook([["ClientId", "Name"], [], ["dev-1", "Hall"]]),
        workbook([["ClientId", "Name", None], ["dev-1", "Hall"]]),
    ],
)
def test_the_same_table_in_many_forms(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "devices"
    path.write_bytes(content)
    assert [cells for _, cells in read_rows(path)] == [{"ClientId": "dev-1", "Name": "Hall"}]


def test_cells_of_a_workbook_are_what_people_see(tmp_path: Path) -> None:
    path = tmp_path / "devices.xlsx"
    path.write_bytes(workbook([["a", "b", "c", "d", "e"], [17.0, 1.5, True, None, 2**52]]))
    assert [cells for _, cells in read_rows(path)] == [{"a": "17", "b": "1.5", "c": "true", "e": str(2**52)}]


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@settings(deadline=None, max_examples=30)
@given(rows=st.lists(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1), max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[str]) -> None:
    path = tmp_path_factory.mktemp("tables") / f"out{suffix}"
    with writing(path, ["x", "y"]) as table:
        for row in rows:
            table.write({"x": row, "y": "1"})
    assert [cells["x"] for _, cells in read_rows(path)] == rows


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_no_cell_becomes_a_formula(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    evil = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "=cmd|' /C calc'!A0"]
    with writing(path, ["x"]) as table:
        for cell in evil:
            table.write({"x": cell})
    if suffix == ".csv":
        cells = [line.strip('"') for line in path.read_text().splitlines()[1:]]
    else:
        sheet = openpyxl.load_workbook(path).worksheets[0]
        assert {cell.data_type for (cell,) in sheet.iter_rows(min_row=2)} == {"s"}
        cells = [str(cell.value) for (cell,) in sheet.iter_rows(min_row=2)]
    assert all(cell.startswith("'") for cell in cells)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("mine")
    with pytest.raises(FileExistsError), writing(path, ["x"]):
        pass
    assert path.read_text() == "mine"
