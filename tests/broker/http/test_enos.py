"""EnOS's document, replayed: its sample field by field, its codes and texts, its statuses; and the verbs beside it."""

import json
from typing import Any

import pytest

from provisioner.errors import Rejected, Unavailable
from provisioner.model import Role
from provisioner.ports import Unit
from tests.broker.http.world import NOW, PATH, Operator, World

DEVICE = "/dps-service/v2.5/pvs/device"

REQUEST_SAMPLE: dict[str, Any] = {"sn": "yourSn", "deviceData": {"max_capacity": 1.0, "scale": 1}}
RETURN_SAMPLE: dict[str, Any] = json.loads("""
{
  "code": 0, "msg": "OK", "requestId": "fb8495da-fa7d-4ba6-b105-bcc75517e0d8",
  "data": {
    "sn": "yourSn", "groupId": "yourGroupId", "regionId": "regionId", "orgId": "yourOrgId",
    "productKey": "yourProductKey", "batchOrder": 723,
    "batchTag": {"defaultValue": "yourDevice", "i18nValue": {}},
    "deviceData": {
      "date": "2023-06-08", "commDeviceSn": "yourDevice", "seqNo": 1, "timezone": "+14:00", "optModel": "yourDevice",
      "deviceName": {
        "defaultValue": "yourDevice",
        "i18nValue": {"en_US": "yourDevice", "zh_CN": "yourDevice", "ja_JP": "yourDevice", "es_ES": "yourDevice"}
      },
      "deviceSn": "yourDevice", "orgId": "o15735524440141", "capacity": 12, "capacity_rated": 11,
      "assetId": "yourAssetId", "parentDeviceSn": "yourDevice", "optIndex": ["yourDevice", "yourDevice"],
      "optVersion": "yourDevice", "tokenReplacing": "yourDevice", "optSN": ["yourDevice", "yourDevice"],
      "topoSize": 11, "modelID": "yourDevice", "version": "yourDevice", "enum": "DISTRIBUTED",
      "modelName": "yourDevice", "regionId": "beta", "regcode": "yourDevice", "tokenInUse": "yourDevice"
    },
    "desc": "yourDevice",
    "status": {
      "currentStatus": "allocated", "connectedTime": null, "allocatedTime": 1690779060469, "finishedTime": null,
      "discardedTime": null
    },
    "reprovisioning": false, "allocateErrorMsg": null, "createBy": null, "createTime": 1690775762727,
    "updateBy": null, "updateTime": 1690775762727, "manufacturerOrgId": "manufacturerOrgId",
    "connectStatus": "init", "allocateStatus": "allocated"
  }
}
""")


class Enos:
    """Somebody who speaks EnOS; `acme` makes devices, `acme-labs` gets them."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.group: dict[str, Any] = {}

    async def ask(
        self, code: int, action: str, body: Any = None, org: str | None = "acme-labs", status: int = 200
    ) -> Any:
        """`data` of an answer with this code."""
        parameters = {"action": action} | ({} if org is None else {"orgId": org})
        answer = await self.operator.http.post(DEVICE, params=parameters, json=body)
        assert answer.status_code == status, answer.text
        said = answer.json()
        assert list(said) == list(RETURN_SAMPLE), said
        assert said["code"] == code, said
        assert (said["data"] is None) == (code != 0)
        return said["data"] if code == 0 else said["msg"]

    async def register(self, count: int = 1, **more: Any) -> list[str]:
        """Serial numbers of fresh devices of `acme`."""
        body = {"groupId": self.group["groupId"], "count": count, **more}
        found = await self.ask(0, "create", body, "acme")
        assert isinstance(found, list)
        return found

    async def allocate(self, serial_number: str, org: str = "acme-labs", code: int = 0, **data: Any) -> Any:
        return await self.ask(code, "allocate", {"sn": serial_number, "deviceData": data}, org)

    async def get(self, serial_number: str) -> dict[str, Any]:
        parameters = {"action": "get", "orgId": "acme", "sn": serial_number}
        data: dict[str, Any] = (await self.operator.get(DEVICE, **parameters))["data"]
        return data


async def group_of(admin: Operator, world: World, **more: Any) -> dict[str, Any]:
    rules = {
        "name": f"p-{len(more)}",
        "provisionUserUsername": "factory",
        "window": 3600,
        "configuration": {"a": "${account}"},
    }
    policy = await admin.ask(201, "POST", "/v2/policies", rules)
    form = {
        "accountId": world.accounts["acme"].id,
        "name": "line-3",
        "policyUid": policy["uid"],
        "productKey": "yourProductKey",
        "regionId": "regionId",
        **more,
    }
    made: dict[str, Any] = await admin.ask(201, "POST", "/v2/dps/groups", form)
    return made


@pytest.fixture
async def enos(admin: Operator, world: World) -> Enos:
    spoken = Enos(admin)
    spoken.group = await group_of(admin, world)
    return spoken


async def of_device(admin: Operator, serial_number: str) -> dict[str, Any]:
    """The request behind it, as the world's devices want it: with its key."""
    (request,) = (await admin.get(PATH, clientIDs=serial_number))["provisionRequest"]
    return {**request, **await admin.get(f"{PATH}/{request['id']}/activationKey")}


async def test_the_documents_sample_is_answered_field_by_field(enos: Enos, admin: Operator) -> None:
    sample = RETURN_SAMPLE["data"]
    registered = {"desc": sample["desc"], "batchTag": sample["batchTag"], "deviceData": sample["deviceData"]}
    (serial_number,) = await enos.register(**registered)
    answer = await admin.http.post(
        DEVICE, params={"action": "allocate", "orgId": "acme-labs"}, json={**REQUEST_SAMPLE, "sn": serial_number}
    )
    said = answer.json()
    assert (answer.status_code, said["code"], said["msg"]) == (200, 0, "OK")
    assert len(said["requestId"]) == len(RETURN_SAMPLE["requestId"])
    data = said["data"]
    assert list(data) == list(sample)
    assert list(data["status"]) == list(sample["status"])
    alike = ("regionId", "productKey", "batchTag", "desc", "reprovisioning", "allocateErrorMsg", "connectStatus")
    assert {name: data[name] for name in alike} == {name: sample[name] for name in alike}
    assert data["allocateStatus"] == sample["allocateStatus"]
    assert data["status"] == {**sample["status"], "allocatedTime": NOW}
    assert data["deviceData"] == sample["deviceData"] | REQUEST_SAMPLE["deviceData"]
    assert (data["sn"], data["orgId"], data["manufacturerOrgId"]) == (serial_number, "acme-labs", "acme")
    assert (data["groupId"], data["batchOrder"], data["createTime"]) == (enos.group["groupId"], 1, NOW)


def check_types(example: Any, ours: Any, path: str) -> None:
    """`ours` has the example's names, and a value of the type it has there; null stands for what is not so yet."""
    if isinstance(example, dict):
        assert list(ours) == list(example), path
        for name, value in example.items():
            check_types(value, ours[name], f"{path}.{name}")
    elif example is None:
        assert isinstance(ours, int | str | None), path
    else:
        assert type(ours) is type(example), path


async def test_a_device_is_shown_with_the_documents_types_in_every_status(
    enos: Enos, admin: Operator, world: World
) -> None:
    sample = RETURN_SAMPLE["data"]
    (serial_number,) = await enos.register(deviceData=sample["deviceData"], batchTag=sample["batchTag"], desc="d")
    made = await of_device(admin, serial_number)

    async def look() -> None:
        device = await enos.get(serial_number)
        check_types(sample | {"status": {}}, device | {"status": {}}, "data")
        assert list(device["status"]) == list(sample["status"])
        for name, value in device["status"].items():
            assert type(value) in ((str,) if name == "currentStatus" else (int, type(None))), name

    await look()
    await enos.allocate(serial_number)
    await look()
    await world.claim(made)
    await world.confirm(made)
    await look()
    await admin.ask(200, "POST", f"{PATH}/{made['id']}/revoke")
    await world.run_jobs()
    await look()


async def test_a_device_registered_here_claims_and_works(enos: Enos, admin: Operator, world: World) -> None:
    (serial_number,) = await enos.register()
    made = await of_device(admin, serial_number)
    with pytest.raises(Rejected, match="disabled"):
        await world.claim(made)
    await enos.allocate(serial_number)
    offer = await world.claim(made)
    assert (offer.account, offer.client_id) == ("acme-labs", serial_number)
    assert json.loads(offer.configuration) == {"a": "acme-labs"}
    assert offer.grant.publish == (f"acme-labs/{serial_number}/#",)
    await world.confirm(made)
    assert (await of_device_account(admin, serial_number)) == world.accounts["acme-labs"].id


async def of_device_account(admin: Operator, serial_number: str) -> Any:
    return (await admin.get(PATH, clientIDs=serial_number))["provisionRequest"][0]["accountId"]


async def test_each_status_is_reached(enos: Enos, admin: Operator, world: World) -> None:
    (serial_number,) = await enos.register()
    made = await of_device(admin, serial_number)
    told: list[tuple[str, str, str]] = []

    async def look() -> None:
        device = await enos.get(serial_number)
        assert device["status"]["currentStatus"] not in [one[0] for one in told]
        told.append((device["status"]["currentStatus"], device["allocateStatus"], device["connectStatus"]))
        times.append({name: value for name, value in device["status"].items() if name.endswith("Time")})

    times: list[dict[str, Any]] = []
    await look()
    world.now += 1000
    await enos.allocate(serial_number)
    await look()
    world.now += 1000
    await world.claim(made)
    await look()
    world.now += 1000
    await world.confirm(made)
    await look()
    world.now += 1000
    await admin.ask(200, "POST", f"{PATH}/{made['id']}/revoke")
    await world.run_jobs()
    await look()
    assert told == [
        ("created", "init", "init"),
        ("allocated", "allocated", "init"),
        ("connected", "allocated", "connected"),
        ("finished", "allocated", "connected"),
        ("discarded", "allocated", "connected"),
    ]
    names = ("allocatedTime", "connectedTime", "finishedTime", "discardedTime")
    assert [[one[name] for name in names] for one in times] == [
        [None, None, None, None],
        [NOW + 1000, None, None, None],
        [NOW + 1000, NOW + 2000, None, None],
        [NOW + 1000, NOW + 2000, NOW + 3000, None],
        [NOW + 1000, NOW + 2000, None, NOW + 4000],
    ]


async def test_the_window_of_an_allocated_device_ends(enos: Enos, world: World) -> None:
    (serial_number,) = await enos.register()
    world.now += 10 * 3_600_000
    await world.run_jobs()
    assert (await enos.get(serial_number))["status"]["currentStatus"] == "created"
    await enos.allocate(serial_number)
    world.now += 3_600_000
    await world.run_jobs()
    device = await enos.get(serial_number)
    assert (device["status"]["currentStatus"], device["connectStatus"]) == ("discarded", "init")
    assert device["status"]["discardedTime"] == world.now
    assert (await enos.allocate(serial_number))["status"]["currentStatus"] == "allocated"


@pytest.mark.parametrize(
    ("org", "body", "code", "text"),
    [
        (None, {"sn": "{sn}"}, 35400, "OrgId/sn is required"),
        ("", {"sn": "{sn}"}, 35400, "OrgId/sn is required"),
        ("  ", {"sn": "{sn}"}, 35400, "OrgId/sn is required"),
        ("nobody", {"sn": "{sn}"}, 35400, "OrgId/sn is required"),
        ("floor", {"sn": "{sn}"}, 35400, "OrgId/sn is required"),
        ("acme-labs", {}, 35400, "OrgId/sn is required"),
        ("acme-labs", None, 35400, "OrgId/sn is required"),
        ("acme-labs", {"sn": None}, 35400, "OrgId/sn is required"),
        ("acme-labs", {"sn": " "}, 35400, "OrgId/sn is required"),
        ("acme-labs", {"sn": 5}, 35400, "OrgId/sn is required"),
        ("acme-labs", {"sn": "ABC"}, 35601, "Verify not pass/sn not found"),
        ("acme-labs", {"sn": "a/b' OR 1=1 --"}, 35601, "Verify not pass/sn not found"),
        ("acme-labs", {"sn": "x" * 5000}, 35601, "Verify not pass/sn not found"),
        ("acme-labs", {"sn": "dev-1"}, 35601, "Verify not pass/sn not found"),
        ("acme-labs", {"sn": "{sn}", "deviceData": []}, 35601, "Verify not pass/sn not found"),
        ("acme-labs", {"sn": "{sn}", "colour": "red"}, 35601, "Verify not pass/sn not found"),
        ("acme-labs", {"sn": "{sn}", "deviceData": {"colour": "red"}}, 35601, "Verify not pass/sn not found"),
        ("acme-labs", {"sn": "{sn}", "deviceData": {"scale": "1"}}, 35601, "Verify not pass/sn not found"),
    ],
)
async def test_what_is_wrong_has_the_documents_code_and_text(
    enos: Enos, admin: Operator, org: str | None, body: Any, code: int, text: str
) -> None:
    await admin.create("dev-1", serialNumber="dev-1")
    (serial_number,) = await enos.register()
    if body and body.get("sn") == "{sn}":
        body = {**body, "sn": serial_number}
    assert await enos.ask(code, "allocate", body, org) == text
    assert (await enos.get(serial_number))["allocateStatus"] == "init"


async def test_what_did_not_fit_stays_on_the_device(enos: Enos) -> None:
    (serial_number,) = await enos.register()
    await enos.allocate(serial_number, code=35601, scale="1")
    assert (await enos.get(serial_number))["allocateErrorMsg"] == "scale must be of type Integer"
    assert (await enos.allocate(serial_number, scale=1))["allocateErrorMsg"] is None


@pytest.mark.parametrize("kind", ["group", "masterDataGroup"])
async def test_a_group_that_is_gone_allocates_no_more(enos: Enos, admin: Operator, world: World, kind: str) -> None:
    schema = {"accountId": world.accounts["acme"].id, "name": "schema", "schema": {}}
    made = await admin.ask(201, "POST", "/v2/dps/masterDataGroups", schema)
    enos.group = await group_of(admin, world, masterDataGroupId=made["id"], name="line-4")
    (serial_number,) = await enos.register()
    gone = enos.group["groupId"] if kind == "group" else made["id"]
    await admin.ask(204, "DELETE", f"/v2/dps/groups/{gone}")
    assert await enos.allocate(serial_number, code=35404) == "Group/Device group not found"
    assert await enos.ask(35404, "create", {"groupId": enos.group["groupId"], "count": 1}, "acme")
    await admin.refused(404, "no-such-group", "DELETE", f"/v2/dps/groups/{gone}")


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("seqNo", [0, -5, 2**53 - 1], [1.0, "1", True, 2**53, [1]]),
        ("capacity", [12, 1.5, -2], ["12", False, {}]),
        ("version", ["", "ü", "x" * 512], ["x" * 513, 5, ["a"]]),
        ("enum", ["DISTRIBUTED", "CENTRALIZED"], ["distributed", "", 1, ["DISTRIBUTED"]]),
        (
            "date",
            ["2023-06-08", "2024-02-29"],
            ["2023-02-29", "20230608", "2023-6-8", "08.06.2023", 5, "2023-06-08T00:00"],
        ),
        ("optSN", [[], ["a", "b"]], ["a", [1], ["x" * 513], ["a"] * 65]),
        (
            "deviceName",
            [{"defaultValue": "a", "i18nValue": {}}, {"defaultValue": "a", "i18nValue": {"en_US": "b"}}],
            [
                "a",
                {"defaultValue": "a"},
                {"defaultValue": 1, "i18nValue": {}},
                {"defaultValue": "a", "i18nValue": {"english": "b"}},
            ],
        ),
        ("shade", ["red", "blue"], ["green", 1]),
    ],
)
async def test_master_data_have_types(
    enos: Enos, admin: Operator, world: World, name: str, right: list[Any], wrong: list[Any]
) -> None:
    schema = {
        "accountId": world.accounts["acme"].id,
        "name": "s",
        "schema": {"shade": {"type": "Enum", "options": ["red", "blue"]}},
    }
    made = await admin.ask(201, "POST", "/v2/dps/masterDataGroups", schema)
    enos.group = await group_of(admin, world, masterDataGroupId=made["id"], name="line-4")
    (serial_number,) = await enos.register()
    for value in right:
        assert (await enos.allocate(serial_number, **{name: value}))["deviceData"] == {name: value}
    for value in wrong:
        await enos.allocate(serial_number, code=35601, **{name: value})
    assert (await enos.ask(0, "allocate", {"sn": serial_number, "deviceData": {name: None}}))["deviceData"] == {}


@pytest.mark.parametrize("reprovisioning", ["unsupported", "migrate", "initialise"])
async def test_a_device_moves_to_another_organisation_as_its_group_says(
    admin: Operator, world: World, reprovisioning: str
) -> None:
    enos = Enos(admin)
    enos.group = await group_of(admin, world, reprovisioning=reprovisioning)
    (serial_number,) = await enos.register(deviceData={"version": "1"})
    made = await of_device(admin, serial_number)
    await enos.allocate(serial_number, version="2")
    await world.claim(made)
    await world.confirm(made)
    if reprovisioning == "unsupported":
        await enos.allocate(serial_number, "globex", 35601)
        assert "does not support reprovisioning" in (await enos.get(serial_number))["allocateErrorMsg"]
        assert await of_device_account(admin, serial_number) == world.accounts["acme-labs"].id
        return
    moved = await enos.allocate(serial_number, "globex")
    assert (moved["orgId"], moved["reprovisioning"]) == ("globex", True)
    assert moved["deviceData"]["version"] == {"migrate": "2", "initialise": "1"}[reprovisioning]
    await world.run_jobs()
    assert world.shelf.names == []
    offer = await world.claim(made, request_id="r-2")
    assert (offer.account, offer.generation) == ("globex", 2)
    device = await enos.get(serial_number)
    assert (device["reprovisioning"], device["status"]["currentStatus"]) == (False, "connected")


async def test_a_device_that_never_called_in_may_go_elsewhere(enos: Enos) -> None:
    (serial_number,) = await enos.register()
    await enos.allocate(serial_number)
    moved = await enos.allocate(serial_number, "globex")
    assert (moved["orgId"], moved["reprovisioning"]) == ("globex", False)


async def test_reset_takes_a_device_back(enos: Enos, admin: Operator, world: World) -> None:
    (serial_number,) = await enos.register(deviceData={"version": "1"})
    made = await of_device(admin, serial_number)
    await enos.allocate(serial_number, version="2")
    await world.claim(made)
    await world.confirm(made)
    back = await enos.ask(0, "reset", {"sn": serial_number})
    assert (back["orgId"], back["allocateStatus"], back["deviceData"]) == ("acme", "init", {"version": "1"})
    await world.run_jobs()
    assert world.shelf.names == []
    device = await enos.get(serial_number)
    assert (device["status"]["currentStatus"], device["connectStatus"]) == ("created", "init")
    await enos.allocate(serial_number)
    assert (await world.claim(made, request_id="r-2")).generation == 2


async def test_replace_lets_new_hardware_take_a_place(enos: Enos, admin: Operator, world: World) -> None:
    former, successor = await enos.register(2, deviceData={"version": "1"}, desc="here")
    await enos.allocate(former, version="2")
    made = await of_device(admin, former)
    await world.claim(made)
    await world.confirm(made)
    device = await enos.ask(0, "replace", {"sn": former, "replacementSn": successor})
    assert (device["sn"], device["deviceData"], device["desc"]) == (successor, {"version": "2"}, "here")
    await world.run_jobs()
    assert world.shelf.names == []
    assert await enos.allocate(former, code=35601) == "Verify not pass/sn not found"
    await enos.allocate(successor)
    (other,) = await enos.register()
    answer = await enos.ask(35603, "replace", {"sn": other, "replacementSn": successor})
    assert answer == "Replacement device is allocated"
    assert await enos.ask(35404, "replace", {"sn": former, "replacementSn": other}) == "Sn not found"
    assert await enos.ask(35400, "replace", {"sn": other}) == "OrgId/sn is required"
    enos.group = await group_of(admin, world, name="line-9", productKey="k")
    (stranger,) = await enos.register()
    answer = await enos.ask(35400, "replace", {"sn": other, "replacementSn": stranger})
    assert answer == "Target device and replacement device should belong to the same group"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"count": 1}, "Invalid Argument groupId:groupId is missing"),
        ({"groupId": " ", "count": 1}, "Invalid Argument groupId:groupId is missing"),
        ({"groupId": "{group}"}, "Invalid Argument count:count is missing"),
        ({"groupId": "{group}", "count": 0}, "count of PvsDeviceCreateInfo must between 1 to 1000"),
        ({"groupId": "{group}", "count": 1001}, "count of PvsDeviceCreateInfo must between 1 to 1000"),
        ({"groupId": "{group}", "count": True}, "count of PvsDeviceCreateInfo must between 1 to 1000"),
        (
            {"groupId": "{group}", "count": 1, "desc": 5},
            "Invalid Argument: desc is a text, batchTag and deviceData are objects",
        ),
        ({"groupId": "{group}", "count": 1, "colour": 5}, "Invalid Argument colour: it is unknown"),
    ],
)
async def test_a_mistake_in_create_is_named(enos: Enos, body: dict[str, Any], text: str) -> None:
    if body.get("groupId") == "{group}":
        body = {**body, "groupId": enos.group["groupId"]}
    assert await enos.ask(99400, "create", body, "acme") == text


async def test_devices_are_registered_all_or_none(
    enos: Enos, admin: Operator, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = await admin.ask(201, "POST", "/v2/accounts", {"name": "small", "kind": "TARGET", "quota": 3})
    form = {name: value for name, value in enos.group.items() if name != "groupId"}
    group = await admin.ask(201, "POST", "/v2/dps/groups", {**form, "accountId": small["id"], "name": "line-5"})
    four = {"groupId": group["groupId"], "count": 4}
    assert await enos.ask(99409, "create", four, "small", 409) == "Account small has room for 3 more."
    assert (await admin.get(PATH))["provisionRequest"] == []
    assert len(await enos.ask(0, "create", {**four, "count": 3}, "small")) == 3
    commit, units = world.store.commit, list[Unit]()

    async def note(unit: Unit) -> bool:
        units.append(unit)
        return await commit(unit)

    monkeypatch.setattr(world.store, "commit", note)
    made = await enos.register(4)
    assert [[one.client_id for one in unit.added] for unit in units] == [made]


async def test_a_replacement_is_one_commit(enos: Enos, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    former, successor = await enos.register(2)
    await enos.allocate(former, version="2")
    commit, units = world.store.commit, list[Unit]()
    is_failing = True

    async def commit_or_fail(unit: Unit) -> bool:
        if is_failing:
            raise Unavailable("the database cannot be written")
        units.append(unit)
        return await commit(unit)

    monkeypatch.setattr(world.store, "commit", commit_or_fail)
    both = {"sn": former, "replacementSn": successor}
    before = [await enos.get(one) for one in (former, successor)]
    assert await enos.ask(99503, "replace", both, status=503) == "The database cannot be written."
    assert [await enos.get(one) for one in (former, successor)] == before
    is_failing = False
    assert (await enos.ask(0, "replace", both))["deviceData"] == {"version": "2"}
    assert len(units) == 1


async def test_devices_are_found(enos: Enos, admin: Operator, world: World) -> None:
    first, second = await enos.register(2)
    (third,) = await enos.register()
    await enos.allocate(third, "globex")

    async def found(expression: str, **page: int) -> list[str]:
        body = {"expression": expression} | ({"pagination": page} if page else {})
        return [one["sn"] for one in (await enos.ask(0, "search", body, None))["items"]]

    assert await found("") == [third, second, first]
    assert await found(f"sn = '{first}'") == [first]
    assert await found('batchOrder = 1 AND regionId = "regionId"') == [second, first]
    assert await found(f"groupId='{enos.group['groupId']}' and productKey='yourProductKey'", pageNo=2, pageSize=1) == [
        second
    ]
    assert await found("regionId = 'elsewhere'") == []
    labs = Enos(await world.operator(Role.VIEWER, "acme-labs"))
    assert (await labs.ask(0, "search", {"expression": ""}, None))["items"] == []


async def test_a_search_has_the_operators_of_each_field(enos: Enos, admin: Operator, world: World) -> None:
    first, second = await enos.register(2, deviceData={"version": "1 and a half", "scale": 3})
    world.now += 1000
    (third,) = await enos.register(deviceData={"version": "100%", "capacity": 2.5})
    names = {first: "1", second: "2", third: "3"}

    async def found(expression: str) -> str:
        body = {"expression": expression.format(first=first, second=second, third=third)}
        said = await enos.ask(0, "search", body, None)
        return "".join(sorted(names[one["sn"]] for one in said["items"]))

    for expression, expected in (
        ("sn = '{first}'", "1"),
        ("sn IN ('{first}', \"{third}\")", "13"),
        ("sn like '{second}'", "2"),
        (f"sn LIKE '{first[:9]}%'", "1"),
        (f"sn like '{first[4:12]}'", "1"),
        ("sn like '%'", "123"),
        ("sn like '!'", ""),
        ("regionId in ('elsewhere', 'regionId')", "123"),
        ("productKey = 'yourProductKey' and batchOrder = 1", "12"),
        ("batchOrder != 1", "3"),
        ("batchOrder >= 2", "3"),
        ("batchOrder < 2 and batchOrder > 0", "12"),
        ("batchOrder in (1, 2)", "123"),
        ("batchOrder <= 1 AND sn = '{second}'", "2"),
        (f"createTime > {NOW}", "3"),
        (f"createTime = {NOW}", "12"),
        (f"createTime <= {NOW + 1000}", "123"),
        ("deviceData.scale = 3", "12"),
        ("deviceData.scale = '3'", ""),
        ("deviceData.scale is null", "3"),
        ("deviceData.capacity IN (1, 2.5)", "3"),
        ("deviceData.version = '1 and a half'", "12"),
        ("deviceData.* = '100%'", "3"),
        ("deviceData.* in (3, 'x')", "12"),
        ("deviceData.* is null", ""),
        ("status = 'created'", "123"),
        ("status in ('allocated', 'finished')", ""),
    ):
        assert await found(expression) == expected, expression


async def test_a_search_is_within_an_organisation(enos: Enos, admin: Operator, world: World) -> None:
    kept, labs, elsewhere = await enos.register(3)
    await enos.allocate(labs, "acme-labs")
    await enos.allocate(elsewhere, "globex")

    async def found(org: str | None) -> set[str]:
        return {one["sn"] for one in (await enos.ask(0, "search", {"expression": ""}, org))["items"]}

    assert await found(None) == {kept, labs, elsewhere}
    assert await found("acme") == {kept, labs}
    assert await found("acme-labs") == {labs}
    assert await found("globex") == {elsewhere}
    for org in ("", " ", "nobody", "floor"):
        assert await enos.ask(35400, "search", {"expression": ""}, org) == "OrgId/sn is required"
    stranger = Enos(await world.operator(Role.ADMIN, "globex"))
    assert await stranger.ask(35400, "search", {"expression": ""}, "acme") == "OrgId/sn is required"


async def test_a_search_by_status_finds_what_is_shown(enos: Enos, admin: Operator, world: World) -> None:
    created, allocated, connected, finished, discarded, off = await enos.register(6)
    for serial_number in (allocated, connected, finished, discarded, off):
        await enos.allocate(serial_number)
    for serial_number in (connected, finished):
        await world.claim(await of_device(admin, serial_number))
    await world.confirm(await of_device(admin, finished))
    for verb, serial_number in (("stop", discarded), ("disable", off)):
        await admin.ask(200, "POST", f"{PATH}/{(await of_device(admin, serial_number))['id']}/{verb}")
    for status, expected in (
        ("created", {created, off}),
        ("allocated", {allocated}),
        ("connected", {connected}),
        ("finished", {finished}),
        ("discarded", {discarded}),
    ):
        said = await enos.ask(0, "search", {"expression": f"status = '{status}'"}, None)
        assert {one["sn"] for one in said["items"]} == expected
        assert {one["status"]["currentStatus"] for one in said["items"]} == {status}


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("colour = 'red'", "a term begins with one of sn, groupId,"),
        ("sn", "sn has =, IN, LIKE"),
        ("sn != 'x'", "sn has =, IN, LIKE"),
        ("groupId like 'x'", "groupId has =, IN"),
        ("batchOrder like '1'", "batchOrder has =, !=, <, <=, >, >=, IN"),
        ("deviceData.scale > 1", "deviceData.scale has =, IN, IS NULL"),
        ("deviceData.a-b = 1", "deviceData.a has =, IN, IS NULL"),
        ("deviceData. = 1", "a term begins with one of"),
        ("sn = x", "write a value as 'text' or as a number"),
        ("sn = 'x", "write a value as 'text' or as a number"),
        ("sn = 5", "a value of sn is a text in quotes"),
        ("batchOrder = '1'", "a value of batchOrder is a number"),
        ("batchOrder = 1.5", "a value of batchOrder is a number"),
        ("batchOrder = 99999999999999999999", "write a value as 'text' or as a number"),
        ("sn in 'a'", "write values of IN as ('a', 'b')"),
        ("sn in ()", "write a value as 'text' or as a number"),
        ("sn in ('a', 'b'", "write values of IN as ('a', 'b')"),
        ("sn = 'a' or sn = 'b'", "join terms by `and`"),
        ("sn = 'a' sn = 'b'", "join terms by `and`"),
        ("sn = 'a' and", "a term begins with one of"),
        ("sn = 'a'; DROP TABLE request", "join terms by `and`"),
        ("sn = '" + "x" * 2048 + "'", "an expression has at most 2048 characters"),
    ],
)
async def test_what_is_wrong_with_an_expression_is_said(enos: Enos, expression: str, told: str) -> None:
    text = await enos.ask(99400, "search", {"expression": expression}, None)
    assert text.startswith(f"Invalid Argument expression: {told}")


async def test_roles_and_accounts_hold_behind_this_door(enos: Enos, admin: Operator, world: World) -> None:
    (serial_number,) = await enos.register()
    viewer = Enos(await world.operator(Role.VIEWER))
    assert (await viewer.get(serial_number))["sn"] == serial_number
    for action in ("allocate", "create", "reset", "replace"):
        body = {"sn": serial_number} if action != "create" else {"groupId": enos.group["groupId"], "count": 1}
        body |= {"replacementSn": "x"} if action == "replace" else {}
        assert "may not do this" in await viewer.ask(99403, action, body, "acme", 403)
    installer = Enos(await world.operator(Role.INSTALLER))
    await installer.allocate(serial_number)
    assert "may not do this" in await installer.ask(99403, "reset", {"sn": serial_number}, status=403)
    stranger = Enos(await world.operator(Role.ADMIN, "globex"))
    assert await stranger.ask(35400, "allocate", {"sn": serial_number}, "acme") == "OrgId/sn is required"
    assert await stranger.ask(35601, "allocate", {"sn": serial_number}, "globex")
    nobody = Enos(world.visitor())
    assert "operator token" in await nobody.ask(99401, "allocate", {"sn": serial_number}, status=401)


@pytest.mark.parametrize(
    ("method", "action", "body", "status"),
    [
        ("POST", "destroy", b"{}", 400),
        ("POST", "allocate", b"{", 400),
        ("POST", "allocate", b"[]", 400),
        ("POST", "allocate", b'{"sn": NaN}', 400),
        ("POST", "allocate", b'{"sn": "a", "sn": "b"}', 400),
        ("POST", "allocate", b"x" * 70_000, 413),
        ("PUT", "allocate", b"{}", 405),
        ("GET", "allocate", b"", 405),
    ],
)
async def test_nonsense_is_answered_in_the_same_form(
    admin: Operator, method: str, action: str, body: bytes, status: int
) -> None:
    headers = {"content-type": "application/json"}
    answer = await admin.http.request(method, f"{DEVICE}?action={action}", content=body, headers=headers)
    said = answer.json()
    assert (answer.status_code, said["code"], said["data"]) == (status, 99000 + status, None)
    assert said["msg"].endswith(".")


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ({"seqNo": {"type": "String"}}, "invalid-schema"),
        ({"a b": {"type": "String"}}, "invalid-schema"),
        ({"shade": {"type": "Enum"}}, "invalid-schema"),
        ({"shade": {"type": "String", "options": ["a"]}}, "invalid-schema"),
        ({"shade": {"type": "Colour"}}, "invalid"),
        ({"shade": {}}, "invalid"),
        ([], "invalid"),
    ],
)
async def test_a_mistake_in_a_schema_is_named(admin: Operator, world: World, schema: Any, code: str) -> None:
    form = {"accountId": world.accounts["acme"].id, "name": "s", "schema": schema}
    await admin.refused(400, code, "POST", "/v2/dps/masterDataGroups", form)


async def test_groups_are_listed_for_who_sees_their_account(enos: Enos, admin: Operator, world: World) -> None:
    assert (await admin.get("/v2/dps/groups"))["group"] == [enos.group]
    assert (await (await world.operator(Role.ADMIN, "globex")).get("/v2/dps/groups"))["group"] == []
    form = {**enos.group, "policyUid": "0" * 32}
    del form["groupId"]
    await admin.refused(400, "unknown-policy", "POST", "/v2/dps/groups", form)
