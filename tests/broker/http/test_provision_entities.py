"""ProvisionEntities as its document tells it: flags, rows, states, null and empty, create and update."""

import asyncio
import itertools
import json
import os
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from broker.http.carbonite import shown
from broker.http.manners import PROVISION_ENTITIES as DOOR
from provisioner.bulk import CHUNK, Bulk, Options
from provisioner.drafting import Drafts
from provisioner.elements import Element, parse_element
from provisioner.errors import Unavailable
from provisioner.inventory import Stocktaking
from provisioner.model import Role
from provisioner.rowplans import Planner
from provisioner.store.devicerows import SqliteDevices
from provisioner.verdicts import EntityState, RowStatus, Verdict
from tests.broker.http.world import PATH, ROOT, Operator, World

NOBODY = "00000000-0000-0000-0000-000000000000"
NEW: dict[str, Any] = {
    "Email": "ann@example.com",
    "UserGroup": "Sales",
    "CompanyName": "acme",
    "DeviceId": NOBODY,
    "PolicyName": "line",
    "CurrentStorageGB": 5,
    "SendActivationEmail": False,
}
SEED_FIELDS = [
    "Id",
    "Status",
    "Info",
    "UserState",
    "Email",
    "FirstName",
    "LastName",
    "UserCustom1",
    "UserCustom2",
    "UserCustom3",
    "UserGroupState",
    "UserGroup",
    "CompanyState",
    "CompanyName",
    "DeviceState",
    "DeviceName",
    "DeviceId",
    "PolicyName",
    "CurrentStorageGB",
    "DeviceCustom1",
    "DeviceCustom2",
    "DeviceCustom3",
    "SendActivationEmail",
    "ActivationCode",
]


@pytest.fixture
async def admin(world: World) -> Operator:
    """With the policy `line`: at most 10 GB, logins as `factory`."""
    admin = await world.operator()
    rules = {"name": "line", "storageCeilingGB": 10, "provisionUserUsername": "factory"}
    await admin.ask(201, "POST", "/v2/policies", rules)
    return admin


async def provision(admin: Operator, *rows: dict[str, Any], status: int = 200, **flags: Any) -> Any:
    """The answer."""
    answer = await admin.http.post(DOOR, json={"ProvisionElements": rows, **flags})
    assert answer.status_code == status, answer.text
    return answer.json()


async def row(admin: Operator, **fields: Any) -> Any:
    """The answered element of a call with one row."""
    (element,) = (await provision(admin, NEW | fields))["Element"]
    return element


async def requests(admin: Operator) -> Any:
    return (await admin.get(PATH))["provisionRequest"]


# -- the document ------------------------------------------------------------------------------------------------------


async def test_a_device_is_added_as_the_document_says(admin: Operator, world: World) -> None:
    sent = NEW | {
        "FirstName": "Ann", "LastName": "Lee", "UserCustom1": "u1", "UserCustom2": "u2", "UserCustom3": "u3",
        "CompanyName": "Initech", "DeviceName": "Hall", "DeviceCustom1": "d1", "DeviceCustom2": "d2",
        "DeviceCustom3": "d3",
    }  # fmt: skip
    said = await provision(admin, sent, PartnerId=str(uuid.UUID(world.accounts["acme"].uid)))
    assert (said["Success"], said["Message"]) == (True, "1 Provisioned")
    (element,) = said["Element"]
    assert list(element)[: len(SEED_FIELDS) - 1] == SEED_FIELDS[:-1]
    made = {name: element.pop(name) for name in ("DeviceId", "ActivationCode", "ClientId", "Username")}
    assert uuid.UUID(made["DeviceId"]).version == 7
    assert (made["ClientId"], made["Username"]) == (made["DeviceId"], "factory")
    assert len(made["ActivationCode"]) == 32
    assert element == {name: value for name, value in sent.items() if name != "DeviceId"} | {
        "Id": 1, "Status": "Provisioned", "Info": "", "UserState": "New", "UserGroupState": "New",
        "CompanyState": "New", "DeviceState": "New", "SerialNumber": None, "MacAddress": None, "Brand": None,
        "Model": None,
    }  # fmt: skip
    (request,) = await requests(admin)
    assert (request["deviceName"], request["status"], request["clientId"]) == ("Hall", "ENABLED", made["ClientId"])
    assert request["policyName"] if "policyName" in request else request["policyUid"]
    account = await admin.get(f"/v2/accounts/{request['accountId']}")
    assert (account["displayName"], account["name"], account["parentId"]) == (
        "Initech",
        "initech",
        world.accounts["acme"].id,
    )


INPUT_CONTRACT = (
    "bool HaltOnProvisioningError; bool ProceedOnValidationError; bool ValidateOnly; Guid PartnerId; "
    "ProvisionElement[] ProvisionElements"
)
ELEMENT_CONTRACT = (
    "int Id; ProvisioningStatus Status; string Info; EntityState UserState; string Email; string FirstName; "
    "string LastName; string UserCustom1; string UserCustom2; string UserCustom3; EntityState UserGroupState; "
    "string UserGroup; EntityState CompanyState; string CompanyName; EntityState DeviceState; string DeviceName; "
    "string DeviceId; string PolicyName; int CurrentStorageGB; string DeviceCustom1; string DeviceCustom2; "
    "string DeviceCustom3; bool SendActivationEmail; string ActivationCode"
)
"""The document's data contracts, member by member."""


def members(contract: str) -> dict[str, str]:
    pairs = (member.split() for member in contract.split("; "))
    return {name: kind for kind, name in pairs}


async def test_the_documents_data_contracts_are_kept_member_by_member(admin: Operator, world: World) -> None:
    schemas = (await admin.get("/openapi.json"))["components"]["schemas"]
    assert list(schemas["ProvisionEntitiesInput"]["properties"]) == list(members(INPUT_CONTRACT))
    samples = {"int": 0, "string": "x", "bool": False, "ProvisioningStatus": "NotProcessed", "EntityState": "Unknown"}
    sent = {name: samples[kind] for name, kind in members(ELEMENT_CONTRACT).items()} | NEW
    flags = dict.fromkeys(("HaltOnProvisioningError", "ProceedOnValidationError", "ValidateOnly"), False)
    said = await provision(admin, sent, **flags, PartnerId=str(uuid.UUID(world.accounts["acme"].uid)))
    assert said.keys() == {"Success", "Message", "Element"}
    (element,) = said["Element"]
    for name, kind in members(ELEMENT_CONTRACT).items():
        match kind:
            case "ProvisioningStatus":
                assert element[name] == RowStatus.PROVISIONED
            case "EntityState":
                assert element[name] in set(EntityState)
            case _:
                assert type(element[name]) is {"int": int, "string": str, "bool": bool}[kind], name


def test_every_status_of_a_row_is_in_the_table_of_flags() -> None:
    assert {status for *_, statuses in TABLE for status in statuses.split()} == set(RowStatus)


async def test_the_device_claims_with_the_code_it_was_given(admin: Operator, world: World) -> None:
    element = await row(admin)
    created = {
        "provisionUserUsername": element["Username"],
        "activationKey": element["ActivationCode"],
        "clientId": element["ClientId"],
    }
    await world.claim(created)
    await world.confirm(created)
    (request,) = await requests(admin)
    assert request["phase"] == "CONFIRMED"


# -- the flags ---------------------------------------------------------------------------------------------------------

GOOD, WRONG, FAILING = "good", "wrong", "failing"
"""Rows: that of a company with room, one with a policy that is none, one of a company whose quota is used up."""

TABLE = [
    # rows, (ValidateOnly, Proceed, Halt) -> statuses; None stands for any value of that flag
    ((GOOD, GOOD), (True, None, None), "Valid Valid"),
    ((GOOD, WRONG), (True, None, None), "Valid Invalid"),
    ((GOOD, FAILING), (True, None, None), "Valid Valid"),
    ((GOOD, GOOD), (False, None, None), "Provisioned Provisioned"),
    ((GOOD, WRONG, GOOD), (False, False, None), "Valid Invalid Valid"),
    ((GOOD, WRONG, GOOD), (False, True, None), "Provisioned Invalid Provisioned"),
    ((WRONG,), (False, None, None), "Invalid"),
    ((GOOD, FAILING, GOOD), (False, None, False), "Provisioned Failed Provisioned"),
    ((GOOD, FAILING, GOOD), (False, None, True), "Provisioned Failed NotProcessed"),
    ((GOOD, FAILING, WRONG, GOOD), (False, True, True), "Provisioned Failed Invalid NotProcessed"),
    ((GOOD, FAILING, WRONG, GOOD), (False, True, False), "Provisioned Failed Invalid Provisioned"),
    ((GOOD, FAILING, WRONG, GOOD), (False, False, None), "Valid Valid Invalid Valid"),
    ((), (None, None, None), ""),
]
EVERY_COMBINATION = list(itertools.product((False, True), repeat=3))


def combinations(wanted: tuple[bool | None, ...]) -> list[tuple[bool, bool, bool]]:
    return [
        (only, proceed, halt)
        for only, proceed, halt in EVERY_COMBINATION
        if all(want in (None, flag) for want, flag in zip(wanted, (only, proceed, halt), strict=True))
    ]


def test_every_combination_of_flags_is_in_the_table() -> None:
    for kinds in ((GOOD, GOOD), (GOOD, FAILING, WRONG, GOOD)):
        rows = [wanted for rows, wanted, _ in TABLE if rows == kinds]
        found = sorted(flags for wanted in rows for flags in combinations(wanted))
        assert found == [flags for flags in EVERY_COMBINATION if kinds == (GOOD, GOOD) or not flags[0]]


@pytest.mark.parametrize(("rows", "wanted", "statuses"), TABLE)
async def test_the_flags_decide_which_rows_are_done(
    admin: Operator, rows: tuple[str, ...], wanted: tuple[bool | None, ...], statuses: str
) -> None:
    await admin.ask(201, "POST", "/v2/accounts", {"name": "full", "kind": "TARGET", "quota": 0})
    kinds = {GOOD: {}, WRONG: {"PolicyName": "LINE"}, FAILING: {"CompanyName": "full"}}
    done: list[str] = []
    for only, proceed, halt in combinations(wanted):
        said = await provision(
            admin,
            *(NEW | kinds[kind] for kind in rows),
            ValidateOnly=only,
            ProceedOnValidationError=proceed,
            HaltOnProvisioningError=halt,
        )
        found = [element["Status"] for element in said["Element"]]
        assert found == statuses.split()
        assert said["Success"] == (set(found) <= ({"Valid"} if only else {"Provisioned"}))
        done += [element["ClientId"] for element in said["Element"] if element["Status"] == "Provisioned"]
        for element in said["Element"]:
            assert (element["ActivationCode"] is not None) == (element["Status"] == "Provisioned")
            assert bool(element["Info"]) == (element["Status"] in ("Invalid", "Failed"))
    assert sorted(request["clientId"] for request in await requests(admin)) == sorted(done)


async def test_a_failed_row_tells_why(admin: Operator) -> None:
    await admin.ask(201, "POST", "/v2/accounts", {"name": "small", "kind": "TARGET", "quota": 1})
    said = await provision(admin, *(NEW | {"CompanyName": "small"} for _ in range(2)))
    assert [element["Status"] for element in said["Element"]] == ["Provisioned", "Failed"]
    assert said["Element"][1]["Info"] == "The company small has its 1 open requests."
    assert said["Message"] == "1 Provisioned, 1 Failed"


# -- states ------------------------------------------------------------------------------------------------------------


def states(element: Any) -> list[str]:
    return [element[f"{name}State"] for name in ("User", "UserGroup", "Company", "Device")]


async def test_states_tell_what_was_there_and_what_was_made(admin: Operator) -> None:
    first = NEW | {"CompanyName": "Initech", "FirstName": "Ann"}
    for only in (True, False):
        said = await provision(
            admin,
            first,
            first,
            first | {"FirstName": "Anna"},
            first | {"Email": "bob@example.com", "UserGroup": "IT"},
            first | {"PolicyName": "none"},
            ValidateOnly=only,
            ProceedOnValidationError=True,
        )
        assert [states(element) for element in said["Element"]] == [
            ["New", "New", "New", "New"],
            ["Existing", "Existing", "Existing", "New"],
            ["Updated", "Existing", "Existing", "New"],
            ["New", "New", "Existing", "New"],
            ["Unknown", "Unknown", "Unknown", "Unknown"],
        ]
    element = (await provision(admin, first | {"FirstName": None}))["Element"][0]
    assert states(element) == ["Existing", "Existing", "Existing", "New"]


class Overtaken:
    """A ledger in which somebody is quicker: `meanwhile` happens in front of each transaction."""

    def __init__(self, ledger: SqliteDevices, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._ledger = ledger
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def provision(self, *args: Any, **more: Any) -> int:
        await self._meanwhile()
        return await self._ledger.provision(*args, **more)


WHOLE, PROCEED = Options(), Options(proceed_on_validation_error=True)


async def overtaken(
    world: World, meanwhile: Callable[[], Awaitable[object]], *rows: dict[str, Any], options: Options = WHOLE
) -> Sequence[Verdict]:
    ledger: Any = Overtaken(world.store.devices, meanwhile)
    drafts = Drafts(world.administration, world.store)
    bulk = Bulk(ledger, world.administration, drafts, world.vault, os.urandom, mails=False)
    return (await bulk.provision(ROOT, None, rows, options, world.now)).verdicts


async def test_where_the_first_of_a_company_fails_the_next_one_makes_it(admin: Operator, world: World) -> None:
    fresh = NEW | {"CompanyName": "Initech"}
    verdicts = await overtaken(world, lambda: admin.create("dev-1"), fresh | {"ClientId": "dev-1"}, fresh)
    assert [(one.status, one.info) for one in verdicts] == [
        ("Failed", "There is an open request for this ClientId meanwhile."),
        ("Provisioned", ""),
    ]
    assert (verdicts[1].company_state, verdicts[1].group_state, verdicts[1].user_state) == ("New", "New", "New")


async def test_a_device_that_was_changed_meanwhile_fails(admin: Operator, world: World) -> None:
    device_id = (await row(admin))["DeviceId"]
    (request,) = await requests(admin)
    disable = f"{PATH}/{request['id']}/disable"
    change = NEW | {"DeviceId": device_id, "DeviceName": "two"}
    (verdict,) = await overtaken(world, lambda: admin.ask(200, "POST", disable), change)
    assert (verdict.status, verdict.info) == ("Failed", "Somebody changed this device meanwhile; try again.")
    assert (await requests(admin))[0]["deviceName"] != "two"


async def test_a_ledger_that_fails_is_told_with_the_rows_that_were_not_done(admin: Operator, world: World) -> None:
    async def fail() -> None:
        raise Unavailable("the database cannot be written")

    verdicts = await overtaken(world, fail, *[NEW] * (CHUNK + 1))
    assert {one.status for one in verdicts[:CHUNK]} == {"Failed"}
    assert verdicts[0].info == "The database cannot be written."
    assert verdicts[-1].status == "NotProcessed"
    assert await requests(admin) == []


async def test_empty_texts_have_the_meaning_of_the_document(admin: Operator) -> None:
    element = await row(admin, UserGroup="", CompanyName="", DeviceName="")
    assert (element["UserGroup"], element["CompanyName"]) == ("", "")
    assert element["DeviceName"] == f"Device-{element['DeviceId'][-8:]}"
    (exported,) = (await admin.get("/v2/devices"))["device"]
    assert (exported["UserGroup"], exported["CompanyName"]) == ("All Users", "unknown")
    account = await admin.get("/v2/accounts/unknown")
    assert account["displayName"] == "Unknown"


# -- update ------------------------------------------------------------------------------------------------------------

KEPT = ("FirstName", "LastName", "UserCustom1", "UserCustom2", "UserCustom3", "DeviceCustom1", "DeviceCustom2",
        "DeviceCustom3")  # fmt: skip


async def test_null_keeps_and_an_empty_text_blanks(admin: Operator) -> None:
    full = {name: f"x-{name}" for name in KEPT}
    device_id = (await row(admin, **full, DeviceName="Hall"))["DeviceId"]

    async def exported() -> Any:
        return (await admin.get("/v2/devices"))["device"][0]

    kept = await row(admin, DeviceId=device_id, **dict.fromkeys(KEPT), DeviceName=None, CurrentStorageGB=None)
    assert (kept["Status"], kept["DeviceState"], kept["UserState"]) == ("Provisioned", "Existing", "Existing")
    assert {name: (await exported())[name] for name in KEPT} == full
    changed = await row(admin, DeviceId=device_id.upper(), **dict.fromkeys(KEPT, ""), DeviceName="")
    assert (changed["DeviceState"], changed["UserState"]) == ("Updated", "Updated")
    told = await exported()
    assert {name: told[name] for name in KEPT} == dict.fromkeys(KEPT, "")
    assert told["DeviceName"] == f"Device-{device_id[-8:]}"
    assert told["CurrentStorageGB"] == 5


async def test_an_update_changes_group_person_policy_and_storage(admin: Operator) -> None:
    await admin.ask(201, "POST", "/v2/policies", {"name": "small", "storageCeilingGB": 2})
    device_id = (await row(admin))["DeviceId"]
    element = await row(
        admin, DeviceId=device_id, UserGroup="IT", Email="Bob@Example.com", PolicyName="small", CurrentStorageGB=2
    )
    assert states(element) == ["New", "New", "Existing", "Updated"]
    (told,) = (await admin.get("/v2/devices"))["device"]
    assert (told["UserGroup"], told["Email"], told["PolicyName"]) == ("IT", "bob@example.com", "small")
    assert element["ActivationCode"] is None
    (request,) = await requests(admin)
    small = next(one for one in (await admin.get("/v2/policies"))["policy"] if one["name"] == "small")
    assert request["policyUid"] == small["uid"]


@pytest.mark.parametrize(
    ("fields", "info"),
    [
        ({"DeviceId": str(uuid.UUID(int=7))}, "There is no device with this DeviceId; all zeros make a new one."),
        ({"CompanyName": "globex"}, "A device cannot change its company; make it anew there."),
        ({"ClientId": "dev-7"}, "ClientId of a device cannot be changed; leave it out."),
        ({"SerialNumber": "s-7"}, "SerialNumber of a device cannot be changed; leave it out."),
        ({"PolicyName": "tiny", "CurrentStorageGB": None},
         "This device has 5 GB and the policy allows 1; set CurrentStorageGB."),
    ],
)  # fmt: skip
async def test_an_update_that_cannot_be_is_an_error_of_its_row(
    admin: Operator, fields: dict[str, Any], info: str
) -> None:
    await admin.ask(201, "POST", "/v2/policies", {"name": "tiny", "storageCeilingGB": 1})
    device_id = (await row(admin))["DeviceId"]
    element = await row(admin, **{"DeviceId": device_id} | fields)
    assert (element["Status"], element["Info"]) == ("Invalid", info)


async def test_rows_of_one_call_follow_one_another(admin: Operator) -> None:
    device_id = (await row(admin))["DeviceId"]
    said = await provision(admin, *(NEW | {"DeviceId": device_id, "DeviceName": name} for name in ("one", "two")))
    assert [element["Status"] for element in said["Element"]] == ["Provisioned", "Provisioned"]
    assert (await requests(admin))[0]["deviceName"] == "two"


# -- bad input ---------------------------------------------------------------------------------------------------------

WRONG_ROWS: list[tuple[dict[str, Any], str]] = [
    ({"Email": None}, "Email is required."),
    ({"Email": ""}, "Email must be an address such as name@example.com."),
    ({"Email": "a@b\r\nBcc: c@d"}, "Email must have at most 255 printable characters."),
    ({"UserGroup": None}, "UserGroup is required."),
    ({"CompanyName": None}, "CompanyName is required."),
    ({"DeviceId": None}, "DeviceId is required."),
    ({"DeviceId": "7"}, "DeviceId must be a GUID; all zeros make a new device."),
    ({"PolicyName": None}, "PolicyName is required."),
    ({"PolicyName": ""}, "PolicyName must name a policy."),
    ({"PolicyName": "Line"}, "PolicyName must match exactly the name of a policy that this company may use."),
    ({"CurrentStorageGB": None}, "CurrentStorageGB is required for a new device."),
    ({"CurrentStorageGB": 0}, "CurrentStorageGB is required for a new device."),
    ({"CurrentStorageGB": -1}, "CurrentStorageGB must be a whole number of GB."),
    ({"CurrentStorageGB": 2.5}, "CurrentStorageGB must be a whole number of GB."),
    ({"CurrentStorageGB": True}, "CurrentStorageGB must be a whole number of GB."),
    ({"CurrentStorageGB": 11}, "CurrentStorageGB must be at most 10, the limit of policy line."),
    ({"SendActivationEmail": None}, "SendActivationEmail is required."),
    ({"SendActivationEmail": "yes"}, "SendActivationEmail must be true or false."),
    ({"FirstName": 5}, "FirstName must be a text."),
    ({"DeviceName": "x" * 256}, "DeviceName must have at most 255 printable characters."),
    ({"DeviceName": "a\x1b[31m"}, "DeviceName must have at most 255 printable characters."),
    ({"Colour": "red"}, "Colour is no field of a row; leave it out."),
    (
        {"ClientId": "a b"},
        "ClientId must start with a letter or digit and have at most 128 characters of A-Z a-z 0-9 . _ : -.",
    ),
    ({"MacAddress": "00:11"}, "MacAddress must have twelve hex digits."),
]  # fmt: skip


async def test_a_wrong_value_is_an_error_of_its_row_alone(admin: Operator) -> None:
    wrong = [NEW | fields for fields, _ in WRONG_ROWS]
    said = await provision(admin, *wrong, NEW, ProceedOnValidationError=True)
    assert [one["Info"] for one in said["Element"][:-1]] == [info for _, info in WRONG_ROWS]
    assert {one["Status"] for one in said["Element"][:-1]} == {"Invalid"}
    assert said["Element"][-1]["Status"] == "Provisioned"


async def test_what_is_given_out_only_is_not_looked_at(admin: Operator) -> None:
    said = {"Id": "x", "Status": 7, "Info": [1], "UserState": {}, "ActivationCode": "mine", "DeviceState": None}
    element = await row(admin, **said)
    assert (element["Id"], element["Status"]) == (1, "Provisioned")
    assert element["ActivationCode"] != "mine"


async def test_twins_in_one_call_are_found(admin: Operator) -> None:
    await admin.create("dev-1", serialNumber="s-1", brand="b")
    for fields, info in (
        ({"ClientId": "dev-9"}, "There is an open request for this ClientId."),
        ({"SerialNumber": "s-9"}, "There is an open request for this SerialNumber or MacAddress."),
        ({"MacAddress": "00:1A:2B:3C:4D:5E"}, "There is an open request for this SerialNumber or MacAddress."),
    ):
        said = await provision(admin, NEW | fields, NEW | fields, ValidateOnly=True)
        assert [(one["Status"], one["Info"]) for one in said["Element"]] == [("Valid", ""), ("Invalid", info)]
    for fields in ({"ClientId": "dev-1"}, {"SerialNumber": "s-1"}):
        assert (await row(admin, **fields))["Status"] == "Invalid"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ProvisionElements": {}},
        {"ProvisionElements": [5]},
        {"ProvisionElements": [], "Extra": 1},
        {"ProvisionElements": [], "ValidateOnly": 1},
        {"ProvisionElements": [], "PartnerId": "x"},
    ],
)
async def test_a_call_that_cannot_be_read_is_refused_whole(admin: Operator, body: Any) -> None:
    answer = await admin.http.post(DOOR, json=body)
    said = answer.json()
    assert (answer.status_code, said["Success"], said["Element"]) == (400, False, [])
    assert said["Message"].endswith(".")


async def test_an_unknown_partner_is_told_in_the_form_of_the_document(admin: Operator) -> None:
    said = await provision(admin, NEW, status=400, PartnerId=str(uuid.UUID(int=7)))
    assert said == {"Success": False, "Message": "There is no partner with this PartnerId.", "Element": []}


async def test_more_rows_than_a_call_takes_are_refused(admin: Operator) -> None:
    said = await provision(admin, *[{}] * 5001, status=400)
    assert said["Message"] == "`ProvisionElements`: list should have at most 5000 items after validation, not 5001."
    assert said["Element"] == []


async def test_rows_beyond_one_transaction_are_done_in_order(admin: Operator) -> None:
    said = await provision(admin, *(NEW | {"ClientId": f"dev-{number}"} for number in range(1100)))
    assert said["Message"] == "1100 Provisioned"
    assert [element["Id"] for element in said["Element"]] == list(range(1, 1101))
    listed = await admin.get(PATH, limit=1000, offset=600)
    assert len(listed["provisionRequest"]) == 500


async def test_what_one_transaction_made_is_there_for_the_next(admin: Operator) -> None:
    fresh = NEW | {"CompanyName": "Initech"}
    said = await provision(admin, *[fresh] * (2 * CHUNK + 1), ProceedOnValidationError=True)
    assert said["Message"] == f"{2 * CHUNK + 1} Provisioned"
    assert [element["Id"] for element in said["Element"]] == list(range(1, 2 * CHUNK + 2))
    assert states(said["Element"][0]) == ["New"] * 4
    assert all(states(element) == ["Existing"] * 3 + ["New"] for element in said["Element"][1:])
    assert (await admin.get("/v2/imports"))["import"][0]["rows"] == 2 * CHUNK + 1


async def test_a_halted_call_judges_the_rows_that_it_does_not_do(admin: Operator) -> None:
    await admin.ask(201, "POST", "/v2/accounts", {"name": "full", "kind": "TARGET", "quota": 0})
    failing, wrong = NEW | {"CompanyName": "full"}, NEW | {"PolicyName": "LINE"}
    said = await provision(
        admin,
        *[NEW] * CHUNK, NEW, failing, NEW, *[NEW] * CHUNK, wrong, NEW,
        ProceedOnValidationError=True, HaltOnProvisioningError=True,
    )  # fmt: skip
    expected = ["Provisioned"] * (CHUNK + 1) + ["Failed"] + ["NotProcessed"] * (CHUNK + 1) + ["Invalid", "NotProcessed"]
    assert [element["Status"] for element in said["Element"]] == expected
    assert (await admin.get("/v2/imports"))["import"][0]["rows"] == CHUNK + 1


async def test_where_the_ledger_fails_half_way_the_rows_before_are_done(admin: Operator, world: World) -> None:
    calls = itertools.count()

    async def fail_the_second_time() -> None:
        if next(calls) == 1:
            raise Unavailable("the database cannot be written")

    wrong = NEW | {"PolicyName": "LINE"}
    verdicts = await overtaken(world, fail_the_second_time, *[NEW] * (2 * CHUNK + 1), wrong, options=PROCEED)
    expected = ["Provisioned"] * CHUNK + ["Failed"] * CHUNK + ["NotProcessed", "Invalid"]
    assert [one.status for one in verdicts] == expected
    assert {one.activation_code is not None for one in verdicts[:CHUNK]} == {True}
    assert {one.activation_code for one in verdicts[CHUNK:]} == {None}
    assert (await admin.get("/v2/imports"))["import"][0]["rows"] == CHUNK


async def test_a_call_that_is_cut_off_leaves_whole_rows(admin: Operator, world: World) -> None:
    calls = itertools.count()

    async def cut_off_the_second_time() -> None:
        if next(calls) == 1:
            call.cancel()

    call = asyncio.create_task(overtaken(world, cut_off_the_second_time, *[NEW] * (3 * CHUNK), options=PROCEED))
    with pytest.raises(asyncio.CancelledError):
        await call
    await world.store.check()  # behind what was being written
    (batch,) = (await admin.get("/v2/imports"))["import"]
    assert batch["rows"] in (CHUNK, 2 * CHUNK)
    assert (await admin.ask(200, "POST", f"/v2/imports/{batch['id']}/undo"))["undone"] == min(batch["rows"], 1000)


async def test_planning_many_rows_lets_others_in(admin: Operator, world: World) -> None:
    desk, drafts = world.administration, Drafts(world.administration, world.store)
    verdicts = [Verdict(number, parse_element(NEW)) for number in range(1000)]
    stocktaking = Stocktaking(world.store.devices, desk, drafts, os.urandom)
    inventory = await stocktaking.take(ROOT, None, [parse_element(NEW)], world.now)
    planner = Planner(
        ROOT, inventory, desk, drafts, world.vault, os.urandom, world.now, mails=False, may_update=False
    )  # fmt: skip
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    assert len(await planner.plan(iter(verdicts), 1000)) == 1000
    other.cancel()
    assert turns >= 20


# -- who may do it -----------------------------------------------------------------------------------------------------


async def test_roles_and_companies(admin: Operator, world: World) -> None:
    for role, status in ((Role.VIEWER, 403), (Role.INSTALLER, 403), (Role.PREPARER, 200), (Role.ADMIN, 200)):
        await provision(await world.operator(role), NEW, status=status)
    (element,) = (await provision(await world.operator(Role.PREPARER), NEW | {"CompanyName": "Fresh"}))["Element"]
    assert element["Info"] == "There is no such company, and only an admin may have it made."


async def test_a_token_of_an_account_reaches_its_own_companies_only(admin: Operator, world: World) -> None:
    globex_device = (await row(admin, CompanyName="globex"))["DeviceId"]
    acme = await world.operator(Role.ADMIN, "acme")
    element = (await provision(acme, NEW | {"CompanyName": "acme-labs"}))["Element"][0]
    assert states(element)[2] == "Existing"
    element = (await provision(acme, NEW | {"CompanyName": "globex"}))["Element"][0]
    assert states(element)[2] == "New"  # another one, of its own
    element = (await provision(acme, NEW | {"DeviceId": globex_device}))["Element"][0]
    assert element["Info"].startswith("There is no device")
    await provision(acme, NEW, status=400, PartnerId=str(uuid.UUID(world.accounts["globex"].uid)))


def test_what_could_not_be_read_is_shown_where_it_is_text() -> None:
    told = shown(Verdict(3, None), {"Email": "x", "FirstName": 7, "LastName": "y" * 300})
    assert (told["Email"], told["FirstName"], told["LastName"]) == ("x", None, None)
    assert json.dumps(shown(Verdict(3, Element()), {}))
