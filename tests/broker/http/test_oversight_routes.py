"""The log of a request, the journal and the drift over HTTP."""

from provisioner.model import Role
from tests.broker.http.world import PATH, Operator, World


async def test_the_log_of_a_request_tells_its_whole_story(admin: Operator, world: World) -> None:
    created = await admin.create()
    await world.claim(created)
    await world.confirm(created)
    page = await admin.get(f"{PATH}/{created['id']}/log")
    assert [(entry["action"], entry["phase"]) for entry in page["entry"]] == [
        ("create", "PENDING"),
        ("claim", "MINTED"),
        ("install", "OFFERED"),
        ("ack", "CONFIRMED"),
    ]
    assert page["limitExceeded"] is False
    first = page["entry"][0]
    assert (first["clientId"], first["requestId"], len(first["digest"])) == (created["clientId"], created["id"], 64)


async def test_pages_follow_each_other(admin: Operator, world: World) -> None:
    await admin.create("dev-1")
    whole = (await admin.get("/v2/journal"))["entry"]
    page = await admin.get("/v2/journal", limit=2)
    rest = await admin.get("/v2/journal", after=page["entry"][-1]["seq"])
    assert page["limitExceeded"] is True
    assert page["entry"] + rest["entry"] == whole


async def test_a_log_of_another_tenant_does_not_exist(admin: Operator, world: World) -> None:
    created = await admin.create()
    other = await world.operator(Role.ADMIN, "globex")
    await other.refused(404, "no-such-request", "GET", f"{PATH}/{created['id']}/log")


async def test_a_tenants_admin_sees_neither_journal_nor_drift(world: World) -> None:
    tenant = await world.operator(Role.ADMIN, "acme")
    for method, path in (
        ("GET", "/v2/journal"), ("GET", "/v2/drift"), ("POST", "/v2/drift/apply"), ("GET", "/v2/deviceBrokers"),
        ("GET", "/v2/deviceBrokers/plan"),
    ):  # fmt: skip
        await tenant.refused(403, "forbidden", method, path)


async def test_drift_names_what_differs_and_mends_it(admin: Operator, world: World) -> None:
    world.shelf.names.append("p.acme.dev-9.g7")
    found = await admin.get("/v2/drift")
    assert found["difference"] == [
        {
            "deviceBroker": "shelf",
            "username": "p.acme.dev-9.g7",
            "kind": "unknown",
            "clientId": None,
            "requestId": None,
        }
    ]
    await admin.ask(200, "POST", "/v2/drift/apply")
    assert (await admin.get("/v2/drift"))["difference"] == []


async def test_a_plan_says_what_would_change_and_what_it_costs_there(admin: Operator, world: World) -> None:
    world.shelf.names.append("p.acme.dev-9.g7")
    [plan] = (await admin.get("/v2/deviceBrokers/plan"))["plan"]
    assert (plan["deviceBroker"], plan["install"], plan["revoke"], plan["rotate"]) == (
        "shelf",
        [],
        ["p.acme.dev-9.g7"],
        [],
    )
    assert plan["cost"] == {"sessions": 1, "stall": 0.5, "rewrites": 1, "duration": 1.0}
    assert plan["eachInstall"]["sessions"] == 0
    assert world.shelf.names == ["p.acme.dev-9.g7"]


async def test_device_brokers_are_listed_with_what_they_can(admin: Operator) -> None:
    [broker] = (await admin.get("/v2/deviceBrokers"))["deviceBroker"]
    assert (broker["name"], broker["version"], broker["trouble"]) == ("shelf", "Shelf 1", None)
    assert (broker["bindsClientId"], broker["kicksLive"], broker["seesLogins"]) == (True, True, False)
