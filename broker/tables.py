"""Tables from outside and for outside: CSV and XLSX, row by row, however large the file.

1. A file is hostile until it was read: `read_rows` bounds the size of a workbook before it is opened (a ZIP may promise
   gigabytes), columns, cells and rows while they come, and tells one sentence for anything that is no table. With
   defusedxml installed, openpyxl takes no XML that defines entities.
2. Reading and writing stream: memory does not grow with the rows.
3. What is written cannot be a formula: a cell that a spreadsheet would take for one gets an apostrophe in front, which
   reading takes off again (OWASP, CSV injection).
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

MOST_COLUMNS = 100
LONGEST_CELL = 4096
MOST_ROWS = 1_000_000
_MOST_UNPACKED = 512 * 1024 * 1024
_MOST_PARTS = 1000
_LARGEST_SHARED = 64 * 1024 * 1024
"""Bytes of a workbook's shared strings and styles: openpyxl keeps them in memory."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_BOMS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class BadTable(Exception):
    """A file is no table we can read; the text is a sentence."""


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(number of the line or row, cells by the names of the first row). Empty cells are left out. `BadTable`.

    CSV in UTF-8 (or UTF-16 with its mark), separated by comma, semicolon or tab; XLSX: the first sheet.
    """
    rows = _workbook(path) if _is_zip(path) else _csv(path)
    names: list[str] = []
    for number, padded in rows:
        cells = _trimmed(padded)
        if len(cells) > MOST_COLUMNS:
            raise BadTable(f"{path} has more than {MOST_COLUMNS} columns in row {number}.")
        if not cells:
            continue
        if not names:
            names = _header(path, cells)
            continue
        if number > MOST_ROWS:
            raise BadTable(f"{path} has more than {MOST_ROWS} rows: split it.")
        if len(cells) > len(names):
            raise BadTable(f"{path} has a cell without a heading in row {number}.")
        for cell in cells:
            if len(cell) > LONGEST_CELL:
                raise BadTable(f"{path} has a cell of more than {LONGEST_CELL} characters in row {number}.")
        yield number, {name: _unescaped(cell) for name, cell in zip(names, cells, strict=False) if cell}
    if not names:
        raise BadTable(f"{path} is empty: its first row holds the names of the columns.")


def _trimmed(cells: list[str]) -> list[str]:
    """Without the empty cells at the end, of which a spreadsheet may write any number."""
    count = len(cells)
    while count and not cells[count - 1].strip():
        count -= 1
    return cells[:count]


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise BadTable(f"{path} cannot be read: {error.strerror}.") from None


def _header(path: Path, cells: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not all(names) or len({name.lower() for name in names}) < len(names):
        raise BadTable(f"{path} has a column without a name, or two of one name, in its first row.")
    return names


# -- CSV ---------------------------------------------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    with path.open("rb") as raw:
        head = raw.read(4096)
    encoding = next((name for mark, name in _BOMS.items() if head.startswith(mark)), "utf-8")
    try:
        with path.open(encoding=encoding, newline="") as file:
            reader = csv.reader(_Bounded(path, file), delimiter=_delimiter(head, encoding), strict=True)
            for cells in reader:
                yield reader.line_num, cells
    except UnicodeDecodeError:
        raise BadTable(f"{path} is not text in UTF-8: save it as CSV UTF-8.") from None
    except csv.Error as error:
        raise BadTable(f"{path} is no CSV: {error}.") from None


class _Bounded:
    """Lines of a file, none of which fills the memory."""

    def __init__(self, path: Path, file: io.TextIOBase | Any) -> None:
        self._path = path
        self._file = file

    def __iter__(self) -> Iterator[str]:
        longest = MOST_COLUMNS * LONGEST_CELL
        while line := self._file.readline(longest):
            if len(line) == longest:
                raise BadTable(f"{self._path} has a line of more than {longest} characters.")
            if "\0" in line:
                raise BadTable(f"{self._path} is no text: it has a NUL in it.")
            yield line


def _delimiter(head: bytes, encoding: str) -> str:
    first = head.decode(encoding, "replace").partition("\n")[0]
    return max(",;\t", key=first.count)


# -- XLSX --------------------------------------------------------------------------------------------------------------


def _workbook(path: Path) -> Iterator[tuple[int, list[str]]]:
    import openpyxl  # noqa: PLC0415  # a fifth of a second that a CSV need not wait for

    _check_archive(path)
    try:
        with (
            path.open("rb") as file,  # by its name the library would judge it
            closing(openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)) as book,
        ):
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # what a file says of itself is not believed
            for number, row in enumerate(sheet.iter_rows(max_col=MOST_COLUMNS + 1, values_only=True), start=1):
                yield number, [_cell(value) for value in row]
    except GeneratorExit:
        raise
    except Exception:  # noqa: BLE001  # whatever a broken file makes the library raise
        raise BadTable(f"{path} is no workbook (XLSX) that can be read.") from None


def _check_archive(path: Path) -> None:
    """Before anything is unpacked: how much it would be."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise BadTable(f"{path} is no workbook (XLSX) that can be read.") from None
    sheets = [part for part in parts if part.filename.startswith("xl/worksheets/")]
    kept = sum(part.file_size for part in parts if part not in sheets)
    unpacked = sum(part.file_size for part in parts)
    if len(parts) > _MOST_PARTS or unpacked > _MOST_UNPACKED or kept > _LARGEST_SHARED:
        raise BadTable(f"{path} would unpack to too much: save the sheet as CSV.")


def _cell(value: object) -> str:
    """A cell as people see it: whole numbers without a point."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 2**53:
            return str(int(value))
        case _:
            return str(value)


# -- writing -----------------------------------------------------------------------------------------------------------


class Writer(Protocol):
    """Takes rows."""

    def write(self, row: Mapping[str, object]) -> None:
        """One row; what is None is an empty cell."""


@contextmanager
def writing(path: Path, columns: Sequence[str]) -> Iterator[Writer]:
    """A new file (mode 0600) of these columns, XLSX where it is called so, else CSV. `FileExistsError`."""
    path.touch(mode=0o600, exist_ok=False)
    with ExitStack() as stack:
        if path.suffix.lower() == ".xlsx":
            yield stack.enter_context(_writing_workbook(path, columns))
        else:
            file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))
            yield _CsvWriter(file, columns)


class _CsvWriter:
    def __init__(self, file: Any, columns: Sequence[str]) -> None:
        self._columns = columns
        self._writer = csv.writer(file, lineterminator="\r\n")
        self._writer.writerow(columns)

    def write(self, row: Mapping[str, object]) -> None:
        self._writer.writerow(_cells(row, self._columns))


class _SheetWriter:
    def __init__(self, sheet: Any, columns: Sequence[str]) -> None:
        self._columns = columns
        self._sheet = sheet
        sheet.append(list(columns))

    def write(self, row: Mapping[str, object]) -> None:
        # openpyxl would make a formula of what begins like one; the apostrophe is seen, but nothing is computed.
        self._sheet.append(_cells(row, self._columns))


@contextmanager
def _writing_workbook(path: Path, columns: Sequence[str]) -> Iterator[Writer]:
    import openpyxl  # noqa: PLC0415  # as above

    book = openpyxl.Workbook(write_only=True)
    yield _SheetWriter(book.create_sheet("devices"), columns)
    book.save(path)


def _cells(row: Mapping[str, object], columns: Sequence[str]) -> list[object]:
    return [_escaped(row.get(column)) for column in columns]


def _escaped(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, str) and (value.startswith(_FORMULA) or (value.startswith("'") and len(value) > 1)):
        return "'" + value
    return value


def _unescaped(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*_FORMULA, "'")) else cell
