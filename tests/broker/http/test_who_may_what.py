"""What a token of an account sees: itself and what is below it, and nothing else exists for it.

Which role may call what is in `test_every_route`.
"""

import json

from structlog.testing import capture_logs

from provisioner.model import Role
from tests.broker.http.world import NOW, PATH, Operator, World


async def test_a_preparer_sees_the_key_when_it_makes_one_and_not_later(world: World) -> None:
    preparer = await world.operator(Role.PREPARER)
    created = await preparer.create()
    assert created["activationKey"]
    await preparer.refused(403, "forbidden", "GET", f"{PATH}/{created['id']}/activationKey")


async def test_an_installer_never_sees_a_key(admin: Operator, world: World) -> None:
    key = (await admin.create())["activationKey"]
    installer = await world.operator(Role.INSTALLER)
    assert key not in json.dumps(await installer.get(PATH))


async def test_a_token_of_an_account_sees_it_and_what_is_below(admin: Operator, world: World) -> None:
    made = {name: await admin.create(f"dev-{name}", name) for name in ("acme", "acme-labs", "globex")}
    acme = await world.operator(Role.ADMIN, "acme")
    labs = await world.operator(Role.ADMIN, "acme-labs")
    for operator, seen in ((acme, {"acme", "acme-labs"}), (labs, {"acme-labs"})):
        assert {one["name"] for one in (await operator.get("/v2/accounts"))["account"]} == seen
        listed = (await operator.get(PATH))["provisionRequest"]
        assert {one["clientId"] for one in listed} == {f"dev-{name}" for name in seen}
        for name, request in made.items():
            path = f"{PATH}/{request['id']}"
            account = world.accounts[name].id
            if name in seen:
                await operator.get(path)
                assert len((await operator.get(PATH, accountId=account))["provisionRequest"]) == 1
                continue
            for method, where, body in (
                ("GET", "", None),
                ("PUT", "", {"optlock": 1, "deviceName": "mine"}),
                ("DELETE", "", None),
                ("GET", "/activationKey", None),
                *(("POST", f"/{verb}", None) for verb in ("enable", "disable", "stop", "revoke", "rotate", "reopen")),
            ):
                await operator.refused(404, "no-such-request", method, path + where, body)
            for known in (str(account), name):
                await operator.refused(404, "no-such-account", "GET", f"/v2/accounts/{known}")
            await operator.refused(404, "no-such-account", "POST", PATH, operator.form("dev-new", name))
            assert (await operator.get(PATH, accountId=account))["provisionRequest"] == []


async def test_a_token_of_an_account_makes_nothing_above_itself(world: World) -> None:
    labs = await world.operator(Role.ADMIN, "acme-labs")
    acme = world.accounts["acme"].id
    body = {"name": "sneaky", "role": "admin", "accountId": acme}
    await labs.refused(404, "no-such-account", "POST", "/v2/tokens", body)
    body = {"name": "sneaky", "kind": "TARGET", "parentId": acme}
    await labs.refused(404, "no-such-account", "POST", "/v2/accounts", body)
    token = await labs.ask(201, "POST", "/v2/tokens", {"name": "mine", "role": "admin"})
    account = await labs.ask(201, "POST", "/v2/accounts", {"name": "mine", "kind": "TARGET"})
    assert {token["accountId"], account["parentId"]} == {world.accounts["acme-labs"].id}


async def test_a_token_of_an_account_sees_no_tokens_and_users_of_others(admin: Operator, world: World) -> None:
    await world.operator(Role.VIEWER, "globex")
    acme = await world.operator(Role.ADMIN, "acme")
    assert {one["accountId"] for one in (await acme.get("/v2/tokens"))["token"]} == {world.accounts["acme"].id}
    assert await acme.get("/v2/users") == {"user": []}
    (factory,) = (await admin.get("/v2/users"))["user"]
    await acme.refused(404, "no-such-user", "POST", f"/v2/users/{factory['id']}/password")
    (theirs,) = (
        one
        for one in (await admin.get("/v2/tokens"))["token"]
        if one.get("accountId") not in (None, world.accounts["acme"].id)
    )
    await acme.refused(404, "no-such-token", "DELETE", f"/v2/tokens/{theirs['id']}")


async def test_a_change_says_who_made_it_and_when(admin: Operator, world: World) -> None:
    created = await admin.create()
    (first,) = (await admin.get("/v2/tokens"))["token"]
    other = await world.operator(Role.INSTALLER)
    world.now += 5
    changed = await other.ask(200, "POST", f"{PATH}/{created['id']}/disable")
    assert (changed["createdBy"], changed["createdOn"], changed["modifiedOn"]) == (first["id"], NOW, NOW + 5)
    assert changed["modifiedBy"] != first["id"]


async def test_changes_and_revealed_keys_are_in_the_log(world: World) -> None:
    admin = await world.operator()
    (own,) = (await admin.get("/v2/tokens"))["token"]
    with capture_logs() as logs:
        path = f"{PATH}/{(await admin.create())['id']}"
        await admin.get(path)
        key = (await admin.get(f"{path}/activationKey"))["activationKey"]
        await admin.refused(409, "nothing-live", "POST", f"{path}/revoke")
        await world.visitor().refused(401, "unauthenticated", "POST", path)
        await admin.refused(405, "method-not-allowed", "POST", "/v2/accounts/%0Aforged")
    assert [(entry["method"], entry["path"], entry["status"]) for entry in logs] == [
        ("POST", PATH, 201),
        ("GET", f"{path}/activationKey", 200),
        ("POST", f"{path}/revoke", 409),
        ("POST", "/v2/accounts/%0Aforged", 405),
    ]
    assert {entry["token_id"] for entry in logs} == {own["id"]}
    assert key not in str(logs)
