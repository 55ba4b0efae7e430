"""Accounts, provision users and tokens over the API."""

import json

from provisioner.model import Role
from tests.broker.http.world import NOW, Operator, World


async def test_an_account_is_created_and_found_by_id_and_by_name(admin: Operator) -> None:
    body = {"name": "initech", "kind": "TARGET", "displayName": "Initech GmbH", "coupling": "LOOSE", "quota": 3}
    created = await admin.ask(201, "POST", "/v2/accounts", body)
    assert {name: created[name] for name in body} == body
    assert (created["createdOn"], created["optlock"], len(created["uid"])) == (NOW, 1, 32)
    assert await admin.get(f"/v2/accounts/{created['id']}") == created
    assert await admin.get("/v2/accounts/initech") == created
    assert created in (await admin.get("/v2/accounts"))["account"]


async def test_an_account_may_have_one_above_it(admin: Operator, world: World) -> None:
    parent = world.accounts["acme"].id
    created = await admin.ask(201, "POST", "/v2/accounts", {"name": "a.b", "kind": "TARGET", "parentId": parent})
    assert created["parentId"] == parent
    body = {"name": "c", "kind": "TARGET", "parentId": 5}
    await admin.refused(404, "no-such-account", "POST", "/v2/accounts", body)


async def test_an_account_named_in_digits_is_found(admin: Operator) -> None:
    for name in ("2027", "9" * 40):
        created = await admin.ask(201, "POST", "/v2/accounts", {"name": name, "kind": "TARGET"})
        assert await admin.get(f"/v2/accounts/{name}") == created


async def test_an_account_that_is_not_there_is_not_found(admin: Operator) -> None:
    for name in ("nobody", "1", "%00", "%F0%9F%A6%86"):
        await admin.refused(404, "no-such-account", "GET", f"/v2/accounts/{name}")


async def test_a_mistake_in_an_account_is_named(admin: Operator) -> None:
    form = {"name": "x", "kind": "TARGET"}
    for changed, code, field in (
        ({"name": "a/b"}, "invalid-identifier", "name"),
        ({"name": None}, "invalid", "name"),
        ({"kind": "BOTH"}, "invalid", "kind"),
        ({"kind": "target"}, "invalid", "kind"),
        ({"quota": -1}, "invalid", "quota"),
        ({"coupling": "loose"}, "invalid", "coupling"),
        ({"parentId": "acme"}, "invalid", "parentId"),
        ({"uid": "x"}, "invalid", "uid"),
    ):
        assert (await admin.refused(400, code, "POST", "/v2/accounts", form | changed))["field"] == field
    problem = await admin.refused(409, "name-taken", "POST", "/v2/accounts", form | {"name": "acme"})
    assert problem["field"] == "name"


async def test_a_generated_password_is_shown_once(admin: Operator) -> None:
    created = await admin.ask(201, "POST", "/v2/users", {"username": "line-3"})
    assert len(created["password"]) == 24
    listed = await admin.get("/v2/users")
    assert created["password"] not in json.dumps(listed)
    assert {"line-3", "factory"} == {user["username"] for user in listed["user"]}
    renewed = await admin.ask(200, "POST", f"/v2/users/{created['id']}/password")
    assert renewed["password"] != created["password"]


async def test_a_password_of_ones_own_is_not_shown_at_all(admin: Operator, world: World) -> None:
    body = {"username": "line-3", "password": "a fine password", "accountId": world.accounts["floor"].id}
    created = await admin.ask(201, "POST", "/v2/users", body)
    assert "password" not in created
    path = f"/v2/users/{created['id']}/password"
    assert await admin.ask(200, "POST", path, {"password": "another one"}) == {}
    assert await world.provisioner.login("line-3", b"another one", "dev-1")
    assert not await world.provisioner.login("line-3", b"a fine password", "dev-1")


async def test_a_mistake_in_a_user_is_named_and_its_password_is_not(admin: Operator, world: World) -> None:
    acme = world.accounts["acme"].id
    for body, status, code in (
        ({"username": "a b"}, 400, "invalid-identifier"),
        ({"username": "x", "password": ""}, 400, "invalid"),
        ({"username": "x", "password": 12345678}, 400, "invalid"),
        ({"username": "x", "password": "hush" * 100}, 400, "invalid-password"),
        ({"username": "x", "password": "hush" * 1000}, 400, "invalid"),
        ({"username": "x", "accountId": acme}, 400, "not-a-provision-account"),
        ({"username": "factory"}, 409, "name-taken"),
    ):
        problem = await admin.refused(status, code, "POST", "/v2/users", body)
        assert "hush" not in json.dumps(problem)
        assert "12345678" not in json.dumps(problem)
    await admin.refused(404, "no-such-user", "POST", "/v2/users/1/password")


async def test_a_token_is_shown_once_and_works_until_it_is_deleted(admin: Operator, world: World) -> None:
    created = await admin.ask(201, "POST", "/v2/tokens", {"name": "line-3", "role": "viewer"})
    assert created["role"] == "viewer"
    assert created["token"] not in json.dumps(await admin.get("/v2/tokens"))
    holder = world.visitor({"authorization": f"Bearer {created['token']}"})
    await holder.get("/v2/accounts")
    await admin.ask(204, "DELETE", f"/v2/tokens/{created['id']}")
    await holder.refused(401, "unauthenticated", "GET", "/v2/accounts")
    await admin.refused(404, "no-such-token", "DELETE", f"/v2/tokens/{created['id']}")


async def test_a_token_cannot_delete_itself(world: World) -> None:
    admin = await world.operator(Role.ADMIN)
    (own,) = (await admin.get("/v2/tokens"))["token"]
    await admin.refused(409, "own-token", "DELETE", f"/v2/tokens/{own['id']}")


async def test_a_mistake_in_a_token_is_named(admin: Operator) -> None:
    for body, status, code in (
        ({"name": "x"}, 400, "invalid"),
        ({"name": "x", "role": "king"}, 400, "invalid"),
        ({"name": "", "role": "viewer"}, 400, "invalid"),
        ({"name": "x y", "role": "viewer"}, 400, "invalid-identifier"),
        ({"name": "x", "role": "viewer", "accountId": 7}, 404, "no-such-account"),
    ):
        await admin.refused(status, code, "POST", "/v2/tokens", body)
    await admin.ask(201, "POST", "/v2/tokens", {"name": "x", "role": "viewer"})
    await admin.refused(409, "name-taken", "POST", "/v2/tokens", {"name": "x", "role": "viewer"})
