"""Roles, and what a token of an account sees: itself and what is below it, and nothing else exists for it."""

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from provisioner.model import Role
from tests.broker.http.world import NOW, PATH, Operator, World

EVERYBODY = frozenset(Role)
PREPARERS = frozenset((Role.ADMIN, Role.PREPARER))
SWITCHERS = frozenset((Role.ADMIN, Role.PREPARER, Role.INSTALLER))
ADMINS = frozenset((Role.ADMIN,))

CALLS: list[tuple[str, str, Any, frozenset[Role]]] = [
    ("GET", PATH, None, EVERYBODY),
    ("GET", f"{PATH}/{{id}}", None, EVERYBODY),
    ("POST", PATH, {}, PREPARERS),
    ("PUT", f"{PATH}/{{id}}", {"optlock": 1}, PREPARERS),
    ("POST", f"{PATH}/{{id}}/disable", None, SWITCHERS),
    ("POST", f"{PATH}/{{id}}/enable", None, SWITCHERS),
    ("POST", f"{PATH}/{{id}}/stop", None, SWITCHERS),
    ("POST", f"{PATH}/{{id}}/revoke", None, ADMINS),
    ("POST", f"{PATH}/{{id}}/rotate", None, ADMINS),
    ("POST", f"{PATH}/{{id}}/reopen", None, PREPARERS),
    ("GET", f"{PATH}/{{id}}/activationKey", None, ADMINS),
    ("DELETE", f"{PATH}/{{id}}", None, ADMINS),
    ("GET", "/v2/accounts", None, EVERYBODY),
    ("POST", "/v2/accounts", {"name": "fresh", "kind": "TARGET"}, ADMINS),
    ("POST", "/v2/accounts/1/move", {"deviceBroker": "shelf"}, ADMINS),
    ("GET", "/v2/users", None, EVERYBODY),
    ("POST", "/v2/users", {"username": "fresh"}, ADMINS),
    ("POST", "/v2/users/1/password", None, ADMINS),
    ("GET", "/v2/tokens", None, ADMINS),
    ("POST", "/v2/tokens", {"name": "fresh", "role": "viewer"}, ADMINS),
    ("DELETE", "/v2/tokens/1", None, ADMINS),
    ("GET", "/v2/tags", None, EVERYBODY),
    ("POST", "/v2/tags", {"name": "fresh"}, ADMINS),
    ("DELETE", "/v2/tags/" + "0" * 32, None, ADMINS),
    ("GET", "/v2/locations", None, EVERYBODY),
    ("POST", "/v2/locations", {"name": "fresh"}, ADMINS),
    ("DELETE", "/v2/locations/" + "0" * 32, None, ADMINS),
    ("GET", "/v2/policies", None, EVERYBODY),
    ("POST", "/v2/policies", {"name": "fresh"}, ADMINS),
    ("GET", "/v2/policies/" + "0" * 32, None, EVERYBODY),
    ("GET", "/v2/policies/" + "0" * 32 + "/versions/1", None, EVERYBODY),
    ("PUT", "/v2/policies/" + "0" * 32, {"name": "fresh", "optlock": 1}, ADMINS),
    ("DELETE", "/v2/policies/" + "0" * 32, None, ADMINS),
    ("GET", "/v2/dps/groups", None, EVERYBODY),
    ("POST", "/v2/dps/masterDataGroups", {"accountId": 1, "name": "fresh"}, ADMINS),
    ("DELETE", "/v2/dps/groups/" + "0" * 32, None, ADMINS),
    ("GET", "/v2/attachments", None, EVERYBODY),
    ("DELETE", "/v2/attachments/" + "0" * 32, None, ADMINS),
    ("GET", "/v2/learning", None, EVERYBODY),
    ("GET", "/v2/learning/locks", None, ADMINS),
    ("POST", "/v2/learning/locks", None, ADMINS),
    ("POST", "/v2/learning/locks/1/undo", None, ADMINS),
    ("GET", "/v2/keys", None, ADMINS),
    ("POST", "/v2/keys/rotate", None, ADMINS),
    ("POST", "/v2/keys/1/retire", None, ADMINS),
    ("GET", f"{PATH}/{{id}}/log", None, EVERYBODY),
    ("GET", f"{PATH}/{{id}}/why", None, EVERYBODY),
    ("GET", "/v2/why?clientId=dev-1", None, EVERYBODY),
    ("GET", "/v2/journal", None, ADMINS),
    ("GET", "/v2/deviceBrokers", None, ADMINS),
    ("GET", "/v2/deviceBrokers/plan", None, ADMINS),
    ("GET", "/v2/drift", None, ADMINS),
    ("POST", "/v2/drift/apply", None, ADMINS),
    ("GET", "/metrics", None, EVERYBODY),
]


@pytest.mark.parametrize(("method", "path", "body", "allowed"), CALLS)
async def test_each_call_has_its_roles(
    admin: Operator, world: World, method: str, path: str, body: Any, allowed: frozenset[Role]
) -> None:
    created = await admin.create()
    path = path.format(id=created["id"])
    for role in sorted(EVERYBODY - allowed):
        operator = await world.operator(role)
        sent = admin.form("dev-2") if body == {} else body
        problem = await operator.refused(403, "forbidden", method, path, sent)
        assert str(role) in problem["detail"]
    for role in sorted(allowed):
        operator = await world.operator(role)
        sent = admin.form(f"dev-{role}") if body == {} else body
        assert (await operator.http.request(method, path, json=sent)).status_code != 403


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
