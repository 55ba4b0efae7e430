"""`provisioner import` and `provisioner export`: many devices from a file, and back into one.

1. An import is a dry run unless `--apply`: every row gets a verdict, nothing is changed.
2. Devices that are there already are left alone unless `--update`.
3. Activation codes are shown once: an import that is applied writes them to `--result` (mode 0600), or prints none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from broker.cli.client import Api, Door, Server, TokenFile, ask
from broker.cli.output import Failed, Json, emit, print_json, print_table, progress, say, where
from broker.lifetime import settle_memory
from broker.tables import BadTable, Writer, read_rows, writing


class _FileFirst(TyperGroup):
    """`import FILE` is `import file FILE`: a first word that is no command names a file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See the class."""
        if args and args[0] not in (*self.commands, "--help", "-h"):
            args = ["file", *args]
        return super().parse_args(ctx, args)


import_app = typer.Typer(
    cls=_FileFirst,
    no_args_is_help=True,
    add_completion=False,
    help="Devices from a CSV or XLSX file, one a row: `import FILE`, or one of these.",
)
export_app = typer.Typer(add_completion=False)

_PIECE = 1024
_PIECE_BYTES = 1000 * 1024
"""Rows sent at once, and how long they may be in JSON at the most; the API takes bodies of 1 MiB."""

_SHOWN = 50
_NEW = "00000000-0000-0000-0000-000000000000"
COLUMNS = (
    "Email", "FirstName", "LastName", "UserCustom1", "UserCustom2", "UserCustom3", "UserGroup", "CompanyName",
    "DeviceName", "DeviceId", "PolicyName", "CurrentStorageGB", "DeviceCustom1", "DeviceCustom2", "DeviceCustom3",
    "SendActivationEmail", "ClientId", "SerialNumber", "MacAddress", "Brand", "Model",
)  # fmt: skip
"""Columns of a file; those of ProvisionEntities, and ours behind."""

_IGNORED = (
    "Id", "Status", "Info", "UserState", "UserGroupState", "CompanyState", "DeviceState", "ActivationCode", "Phase",
    "Username",
)  # fmt: skip
_RESULT = ("Id", "Status", "Info", "CompanyName", "DeviceName", "DeviceId", "ClientId", "SerialNumber", "MacAddress",
           "PolicyName", "Email", "Username", "ActivationCode")  # fmt: skip
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@import_app.command("file")
def import_file(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or XLSX; its first row names the columns.")],
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Import; without this it is a dry run.")] = False,
    halt_on_error: Annotated[
        bool, typer.Option("--halt-on-error", help="Stop at the first row that is wrong or fails.")
    ] = False,
    update: Annotated[bool, typer.Option("--update", help="Change devices that are there already.")] = False,
    company: Annotated[str, typer.Option(help="Of rows without a CompanyName.")] = "",
    group: Annotated[str, typer.Option(help="Of rows without a UserGroup.")] = "",
    policy: Annotated[str, typer.Option(help="Of rows without a PolicyName.")] = "",
    storage_gb: Annotated[int, typer.Option(min=1, help="Of rows without a CurrentStorageGB.")] = 1,
    blank: Annotated[bool, typer.Option("--blank", help="With --update: empty cells empty what they name.")] = False,
    result: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write each row's verdict and activation code here (CSV or XLSX, 0600)."),
    ] = None,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Try the rows of a file, or import them with --apply."""
    defaults = {"CompanyName": company, "UserGroup": group, "PolicyName": policy, "CurrentStorageGB": storage_gb}

    async def work(api: Api) -> dict[str, Any]:
        settle_memory()
        with ExitStack() as stack:
            told = None if result is None else stack.enter_context(_new_table(result))
            advance = stack.enter_context(progress("Importing" if apply else "Checking"))
            run = _Run(api, file.name[:255], told, advance)
            try:
                for first, piece in _pieces(file, defaults, blank=blank):
                    options = {"update": update, "haltOnError": halt_on_error}
                    if not await run.send(first, piece, options, apply=apply) and halt_on_error:
                        break
            except (BadTable, Failed) as error:
                run.problem = str(error)  # what was done before it is told as well
            return run.said()

    said = ask(Door(where(ctx), server, token_file), work)
    if said["problem"] and not said["rows"]:
        raise Failed(said["problem"])
    _tell(said, as_json=as_json, applied=apply, result=result)


def _new_table(path: Path) -> Any:
    if path.exists():
        raise Failed(f"{path} exists already: name a new file.")
    return writing(path, _RESULT)


class _Run:
    """One import, or its dry run: counts verdicts, keeps the first wrong ones, and writes each to the result file."""

    def __init__(self, api: Api, name: str, told: Writer | None, advance: Callable[[int, int], None]) -> None:
        self._api = api
        self._name = name
        self._told = told
        self._advance = advance
        self._once = _Once()
        self._wrong: list[dict[str, Any]] = []
        self._right: list[dict[str, Any]] = []
        self._counts: dict[str, int] = {}
        self._import_id: int | None = None
        self._seen = 0
        self.problem: str | None = None

    async def send(self, first: int, piece: list[dict[str, object]], options: dict[str, bool], *, apply: bool) -> bool:
        """Import or check a piece; False: something is wrong with it."""
        if apply and self._import_id is None:
            self._import_id = (await self._api.post("/v2/imports", {"name": self._name}))["id"]
        path = "/v2/imports/check" if self._import_id is None else f"/v2/imports/{self._import_id}/rows"
        said = await self._api.post(path, {"rows": piece, "first": first, **options})
        good = bool(said["success"])
        for row, sent in zip(said["row"], piece, strict=True):
            # A dry run changes nothing, so the server cannot know of rows in earlier pieces.
            twin = None if apply else self._once.twin(row["Id"], sent)
            if twin is not None and row["Status"] == "Valid":
                row |= {"Status": "Invalid", "Info": twin}
                good = False
            self._take(row)
        self._advance(self._seen, self._seen)
        return good

    def _take(self, row: dict[str, Any]) -> None:
        self._seen += 1
        status = row["Status"]
        self._counts[status] = self._counts.get(status, 0) + 1
        kept = self._right if status in ("Valid", "Provisioned") else self._wrong
        if len(kept) < _SHOWN:
            kept.append({name: row[name] for name in (*_RESULT, "DeviceState") if name != "ActivationCode"})
        if self._told is not None:
            self._told.write(row)

    def said(self) -> dict[str, Any]:
        """The whole as JSON: counts, and a share of the rows, the wrong ones first."""
        shown = self._wrong + self._right[: _SHOWN - len(self._wrong)]
        return {
            "import": self._import_id,
            "rows": self._seen,
            "counts": self._counts,
            "row": sorted(shown, key=lambda row: row["Id"]),
            "problem": self.problem,
        }


def _tell(said: Mapping[str, Any], *, as_json: bool, applied: bool, result: Path | None) -> None:
    wrong = {name: count for name, count in said["counts"].items() if name not in ("Valid", "Provisioned")}
    if as_json:
        print_json(said)
    else:
        columns = ("row", "status", "device", "client id", "name", "info")
        keys = ("Id", "Status", "DeviceState", "ClientId", "DeviceName", "Info")
        print_table(columns, ([row[key] for key in keys] for row in said["row"]), empty="The file has no rows.")
        if len(said["row"]) < said["rows"]:
            say(f"{len(said['row'])} of {said['rows']} rows are shown; --result FILE writes all of them.")
        say(", ".join(f"{count} {name}" for name, count in said["counts"].items()) or "no rows")
        if not applied:
            say("Nothing was changed: this was a dry run; --apply imports.")
        elif said["import"] is not None:
            say(f"provisioner import undo {said['import']} takes it back.")
            if result is None:
                say("Activation codes were not written down: --result FILE does that; `request key` shows one.")
    if said["problem"]:
        raise Failed(said["problem"])
    if wrong:
        raise typer.Exit(1)


def _pieces(
    file: Path, defaults: Mapping[str, object], *, blank: bool
) -> Iterator[tuple[int, list[dict[str, object]]]]:
    """(number of the first row, rows) of a file; numbers are those of the file's lines where it has no gaps.

    Where the file breaks off, what came before comes first: `BadTable`, `Failed`.
    """
    spelled = {way: name for name in (*COLUMNS, *_IGNORED) for way in (name, name.lower())}
    piece: list[dict[str, object]] = []
    first = size = 0
    try:
        for number, cells in read_rows(file):
            row = _row(cells, spelled, defaults, blank=blank)
            length = 32 * len(row) + 6 * sum(len(cell) for cell in row.values() if isinstance(cell, str))
            is_next = number == first + len(piece)
            if piece and not (is_next and len(piece) < _PIECE and size + length <= _PIECE_BYTES):
                yield first, piece
                piece, size = [], 0
            if not piece:
                first = number
            piece.append(row)
            size += length
    except (BadTable, Failed):
        if piece:
            yield first, piece
        raise
    if piece:
        yield first, piece


class _Once:
    """Which row had which name first."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def twin(self, number: int, row: Mapping[str, object]) -> str | None:
        """A sentence where an earlier row has the same client id, serial number or MAC address."""
        if row.get("DeviceId") != _NEW:
            return None
        for name in ("ClientId", "SerialNumber", "MacAddress"):
            value = row.get(name)
            if value and (before := self._seen.setdefault(hash((name, value)), number)) != number:
                return f"Row {before} has the same {name}."
        return None


def _row(
    cells: Mapping[str, str], spelled: Mapping[str, str], defaults: Mapping[str, object], *, blank: bool
) -> dict[str, object]:
    said: dict[str, object] = {}
    for written, cell in cells.items():
        name = spelled.get(written) or spelled.get(written.lower().replace(" ", "").replace("_", ""))
        if name is None:
            raise Failed(f"The file has a column {written[:64]!a} that an import does not know.")
        if name not in _IGNORED:
            said[name] = _typed(name, cell)
    if blank and said.get("DeviceId", _NEW) != _NEW:
        said = dict.fromkeys((name for name in COLUMNS if name in _BLANKED), "") | said
    said.setdefault("DeviceId", _NEW)
    said.setdefault("SendActivationEmail", False)
    is_new = said["DeviceId"] == _NEW
    for name, value in defaults.items():
        if name != "CurrentStorageGB" or is_new:
            said.setdefault(name, value)
    return said


_BLANKED = frozenset(
    ("FirstName", "LastName", "UserCustom1", "UserCustom2", "UserCustom3", "DeviceCustom1", "DeviceCustom2",
     "DeviceCustom3")
)  # fmt: skip


def _typed(name: str, cell: str) -> object:
    """What a cell means; what means nothing goes on as text, and its row is told so."""
    if name == "CurrentStorageGB":
        return int(cell) if cell.isascii() and cell.isdigit() and len(cell) < 12 else cell
    if name == "SendActivationEmail":
        return _WORDS.get(cell.lower(), cell)
    return cell


# -- what was imported -------------------------------------------------------------------------------------------------


@import_app.command("list")
def list_imports(
    ctx: typer.Context, *, server: Server = None, token_file: TokenFile = None, as_json: Json = False
) -> None:
    """Imports, newest first, and how many rows could be undone."""

    async def work(api: Api) -> Any:
        return (await api.get("/v2/imports"))["import"]

    found = ask(Door(where(ctx), server, token_file), work)
    columns = {"import": "id", "name": "name", "rows": "rows", "created on": "createdOn"}
    emit(found, columns, as_json=as_json, empty="Nothing was imported yet.")


@import_app.command("undo")
def undo(
    ctx: typer.Context,
    import_id: Annotated[int, typer.Argument(metavar="IMPORT", help="Number of the import, from `import list`.")],
    *,
    server: Server = None,
    token_file: TokenFile = None,
    as_json: Json = False,
) -> None:
    """Take an import back: devices that claimed, or were changed since, stay."""

    async def work(api: Api) -> dict[str, Any]:
        undone, kept, before = 0, [], None
        with progress("Undoing") as advance:
            while True:
                query = "" if before is None else f"?before={before}"
                said = await api.post(f"/v2/imports/{import_id}/undo{query}")
                undone, before = undone + said["undone"], said["before"]
                kept += said["kept"]
                advance(undone, undone)
                if before is None:
                    return {"undone": undone, "kept": kept}

    said = ask(Door(where(ctx), server, token_file), work)
    if as_json:
        print_json(said)
        return
    say(f"{said['undone']} rows were undone.")
    if said["kept"]:
        columns = {"row": "number", "device": "deviceId", "request": "requestId"}
        say("These stay: their devices claimed, or somebody changed them since.")
        emit(said["kept"], columns, as_json=False)


@export_app.command()
def export(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, CSV or XLSX.")],
    *,
    import_id: Annotated[int | None, typer.Option("--import", help="Only devices of this import.")] = None,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Write imported devices to a file that can be imported again; without activation codes."""
    if file.exists():
        raise Failed(f"{file} exists already: name a new file.")
    path = "/v2/devices" if import_id is None else f"/v2/imports/{import_id}/devices"

    async def work(api: Api) -> int:
        count, after = 0, ""
        with writing(file, (*COLUMNS, "Phase")) as table:
            while True:
                page = await api.get(path, after=after)
                for device in page["device"]:
                    table.write(device)
                count += len(page["device"])
                if not page["limitExceeded"]:
                    return count
                after = page["device"][-1]["DeviceId"]

    count = ask(Door(where(ctx), server, token_file), work)
    say(f"{count} devices are in {file}.")
