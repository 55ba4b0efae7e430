"""`provisioner import`, `export` and `pack`: a file of devices, tried, imported, undone, written back, packed."""

import csv
import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from broker.cli.pack import _c_text
from provisioner.model import PolicyRules
from tests.broker.cli.test_operator_commands import Call, Server
from tests.broker.http.world import ROOT
from tests.programs import needed

FILE = """\
client id,DeviceName,Serial_Number,Company Name,Email
dev-1,Hall,s-1,acme,ann@example.com
dev-2,,s-2,acme,
dev-3,=2+5,s-3,Initech,
"""


@pytest.fixture(autouse=True)
def policy(server: Server, data: Path) -> None:
    server.run(server.world.administration.policies.create(ROOT, "line", None, PolicyRules(username="factory"), 1))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def clients(call: Call) -> list[str]:
    return sorted(one["clientId"] for one in call("request", "list", "--json").json)


def imported(call: Call, tmp_path: Path, text: str = FILE, *more: object, code: int = 0) -> Any:
    (tmp_path / "devices.csv").write_text(text)
    return call("import", "devices.csv", "--policy", "line", *more, "--json", code=code).json


def test_a_dry_run_tells_and_changes_nothing(call: Call, tmp_path: Path) -> None:
    (tmp_path / "devices.csv").write_text(FILE)
    said = call("import", "devices.csv", "--policy", "line")
    assert [line.split()[:4] for line in said.out.splitlines()[1:]] == [
        ["2", "Valid", "New", "dev-1"],
        ["3", "Valid", "New", "dev-2"],
        ["4", "Valid", "New", "dev-3"],
    ]
    assert "Nothing was changed: this was a dry run; --apply imports." in said.err
    assert clients(call) == []
    assert call("import", "list", "--json").json == []


def test_an_import_its_result_and_its_undoing(call: Call, tmp_path: Path) -> None:
    said = imported(call, tmp_path, FILE, "--apply", "--result", "result.csv")
    assert (said["counts"], said["rows"]) == ({"Provisioned": 3}, 3)
    assert clients(call) == ["dev-1", "dev-2", "dev-3"]
    result = tmp_path / "result.csv"
    assert stat.S_IMODE(result.stat().st_mode) == 0o600
    told = rows(result)
    assert [row["Id"] for row in told] == ["2", "3", "4"]
    assert told[2]["DeviceName"] == "'=2+5"  # no spreadsheet computes it
    key = call("request", "key", "dev-1", "--json").json
    assert told[0]["ActivationCode"] in json.dumps(key)
    assert told[0]["ActivationCode"] not in json.dumps(said)
    (listed,) = call("import", "list", "--json").json
    assert (listed["id"], listed["name"], listed["rows"]) == (said["import"], "devices.csv", 3)
    undone = call("import", "undo", said["import"], "--json").json
    assert undone == {"undone": 3, "kept": []}
    assert clients(call) == []
    assert call("import", "list", "--json").json[0]["rows"] == 0
    imported(call, tmp_path, FILE, "--apply")  # once more


def test_what_a_device_or_an_operator_did_since_is_not_undone(
    call: Call,
    tmp_path: Path,
    server: Server,
) -> None:
    said = imported(call, tmp_path, FILE, "--apply", "--result", "result.csv")
    code = rows(tmp_path / "result.csv")[0]["ActivationCode"]
    unit = {"provisionUserUsername": "factory", "clientId": "dev-1", "activationKey": code}
    server.run(server.world.claim(unit))
    call("request", "disable", "dev-2")
    undone = call("import", "undo", said["import"], "--json").json
    assert (undone["undone"], [row["number"] for row in undone["kept"]]) == (1, [3, 2])
    assert clients(call) == ["dev-1", "dev-2"]


def test_existing_devices_are_left_alone_unless_told(call: Call, tmp_path: Path) -> None:
    imported(call, tmp_path, FILE, "--apply")
    call("export", "out.csv")
    exported = rows(tmp_path / "out.csv")
    assert [row["ClientId"] for row in sorted(exported, key=lambda row: row["ClientId"])] == ["dev-1", "dev-2", "dev-3"]
    text = (tmp_path / "out.csv").read_text().replace("Hall", "Lobby")
    said = imported(call, tmp_path, text, "--apply", code=1)
    assert said["counts"] == {"Invalid": 3}
    assert "this import leaves existing ones alone" in said["row"][0]["Info"]
    said = imported(call, tmp_path, text, "--apply", "--update")
    assert said["counts"] == {"Provisioned": 3}
    assert call("request", "show", "dev-1", "--json").json["deviceName"] == "Lobby"
    undone = call("import", "undo", said["import"], "--json").json
    assert undone["undone"] == 3
    assert call("request", "show", "dev-1", "--json").json["deviceName"] == "Hall"


def test_wrong_rows_are_told_and_the_others_imported(call: Call, tmp_path: Path) -> None:
    text = FILE + "dev 4,,,acme,\ndev-5,,,acme,\n"
    said = imported(call, tmp_path, text, "--apply", code=1)
    assert said["counts"] == {"Provisioned": 4, "Invalid": 1}
    assert [row["Status"] for row in said["row"]] == ["Provisioned"] * 3 + ["Invalid", "Provisioned"]
    assert said["row"][3]["Info"].startswith("ClientId must start")


def test_halt_on_error_stops_and_says_what_was_done(call: Call, tmp_path: Path) -> None:
    call("account", "create", "full", "--quota", 0)
    text = FILE + "dev-4,,,full,\ndev-5,,,acme,\n"
    said = imported(call, tmp_path, text, "--apply", "--halt-on-error", "--result", "result.csv", code=1)
    assert said["counts"] == {"Provisioned": 3, "Failed": 1, "NotProcessed": 1}
    assert [row["Status"] for row in rows(tmp_path / "result.csv")] == ["Provisioned"] * 3 + ["Failed", "NotProcessed"]
    assert clients(call) == ["dev-1", "dev-2", "dev-3"]


def test_a_file_that_breaks_off_tells_what_was_done_before(call: Call, tmp_path: Path) -> None:
    lines = [f"dev-{number},acme" for number in range(600)]
    text = "ClientId,CompanyName\n" + "\n".join(lines) + '\n"dev-x,acme\n'
    (tmp_path / "devices.csv").write_text(text)
    said = call("import", "devices.csv", "--policy", "line", "--apply", "--json", code=1)
    assert json.loads(said.out)["counts"] == {"Provisioned": 600}
    assert "is no CSV" in said.err
    assert len(clients(call)) == 50


def test_twins_in_two_pieces_of_a_file_are_found_by_the_dry_run(call: Call, tmp_path: Path) -> None:
    lines = [f"dev-{number % 2050},acme" for number in range(2150)]
    text = "ClientId,CompanyName\n" + "\n".join(lines) + "\n"
    for more in ((), ("--apply",)):
        said = imported(call, tmp_path, text, *more, code=1)
        assert said["counts"]["Invalid"] == 100


def test_long_rows_go_in_pieces_that_the_server_takes(call: Call, tmp_path: Path) -> None:
    names = [f"UserCustom{number}" for number in (1, 2, 3)] + [f"DeviceCustom{number}" for number in (1, 2, 3)]
    lines = [f"dev-{number},acme,{','.join(['é' * 255] * len(names))}" for number in range(300)]
    text = f"ClientId,CompanyName,{','.join(names)}\n" + "\n".join(lines) + "\n"
    assert imported(call, tmp_path, text, "--apply")["counts"] == {"Provisioned": 300}


def test_a_workbook_is_read_and_written(call: Call, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    assert book.active is not None
    for row in (["ClientId", "DeviceName", "CurrentStorageGB"], ["dev-1", "=1+1", 3], ["dev-2", 17.0, 4]):
        book.active.append(row)
    book.active["B2"].data_type = "s"
    book.save(tmp_path / "devices.xlsx")
    call("import", "devices.xlsx", "--policy", "line", "--company", "acme", "--apply", "--result", "result.xlsx")
    sheet = openpyxl.load_workbook(tmp_path / "result.xlsx").worksheets[0]
    found = [
        dict(zip([cell.value for cell in sheet[1]], row, strict=True)) for row in sheet.iter_rows(2, values_only=True)
    ]
    assert [(row["ClientId"], row["DeviceName"]) for row in found] == [("dev-1", "'=1+1"), ("dev-2", "17")]
    assert all(cell.data_type == "s" for row in sheet.iter_rows() for cell in row if isinstance(cell.value, str))
    call("export", "out.xlsx")
    said = call("import", "out.xlsx", "--apply", "--update", "--json").json
    assert said["counts"] == {"Provisioned": 2}
    assert call("request", "show", "dev-1", "--json").json["deviceName"] == "=1+1"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("ClientId,ClientId\n", "two of one name"),
        ("ClientId,,x\n", "without a name"),
        ("Colour\nred\n", "that an import does not know"),
        ('ClientId\n"a', "is no CSV"),
        ("ClientId\na,b\n", "a cell without a heading in row 2"),
        ("ClientId\n" + "a" * 5000 + "\n", "more than 4096 characters in row 2"),
        ("ClientId\n" + "a" * 500_000, "a line of more than"),
        (",".join(f"c{number}" for number in range(200)) + "\n", "more than 100 columns"),
    ],
)
def test_a_file_that_is_no_table_is_told_in_a_sentence(
    call: Call,
    tmp_path: Path,
    text: str,
    told: str,
) -> None:
    (tmp_path / "devices.csv").write_text(text)
    assert told in call("import", "devices.csv", code=1).err


def test_what_a_factory_needs(call: Call, tmp_path: Path) -> None:
    text = 'ClientId,DeviceName,CompanyName\n00:1A:2B:3C:4D:5E,"<b>""Hall"" & co",acme\ndev-2,,acme\n'
    imported(call, tmp_path, text, "--apply", "--result", "result.csv")
    call("pack", "result.csv", "pack")
    folder = tmp_path / "pack"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    key = rows(tmp_path / "result.csv")[0]["ActivationCode"]
    stem = "000002-00-1A-2B-3C-4D-5E"
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(stem[:6])) == [
        f"{stem}.h",
        f"{stem}.nvs.csv",
    ]
    assert (folder / f"{stem}.nvs.csv").read_text() == (
        "key,type,encoding,value\nprovisioner,namespace,,\nuser,data,string,factory\n"
        f"client_id,data,string,00:1A:2B:3C:4D:5E\nactivation_key,data,string,{key}\n"
    )
    sheet = (folder / "labels-0001.html").read_text()
    assert "<b>&lt;b&gt;&quot;Hall&quot; &amp; co</b>" in sheet
    assert (sheet.count("<svg"), sheet.count(key)) == (2, 1)
    printed = subprocess.run(
        [needed("gcc", "gcc"), "-x", "c", "-", "-o", "unit"], cwd=folder, check=True, capture_output=True, text=True,
        input=f'#include <stdio.h>\n#include "{stem}.h"\nint main(void) {{ puts(PROVISIONER_CLIENT_ID); '
              "puts(PROVISIONER_ACTIVATION_KEY); puts(PROVISIONER_USER); return 0; }",
    )  # fmt: skip
    assert printed.returncode == 0
    said = subprocess.run([folder / "unit"], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["00:1A:2B:3C:4D:5E", key, "factory"]


def test_a_pack_of_nothing_is_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "result.csv").write_text("ClientId,ActivationCode\ndev-1,\n")
    assert "has no activation codes" in call("pack", "result.csv", "pack", code=1).err
    assert not (tmp_path / "pack").exists()
    (tmp_path / "pack").mkdir()
    assert "cannot be made" in call("pack", "result.csv", "pack", code=1).err


def test_the_words_of_a_c_header_are_escaped() -> None:
    assert _c_text('a"b\\c??=\n\u00e9') == '"a\\"b\\\\c\\?\\?=\\012\\303\\251"'
    assert re.fullmatch(r'"[ -~]*"', _c_text("\x00\x7f"))


def test_why_tells_people_and_programs(call: Call) -> None:
    call("request", "create", "dev-1", "--account", "acme", "--user", "factory")
    call("request", "disable", "dev-1")
    said = call("why", "dev-1")
    assert said.out.splitlines()[-1].split()[:2] == ["enabled", "FAILED"]
    assert "A right claim of dev-1 is answered 403 disabled now." in said.err
    assert "What helps: provisioner request enable dev-1" in said.err
    assert call("why", "dev-1", "--json").json["reason"] == "disabled"
