"""Policies: named, versioned sets of rules. A request says which it was made by; what its creator says stands above."""

from typing import Any

import pytest

from provisioner.model import Role
from tests.broker.http.world import NOW, PATH, Operator, World

POLICIES = "/v2/policies"
NOBODYS = "0123456789abcdef" * 2
EVERYTHING: dict[str, Any] = {
    "provisionUserUsername": "factory",
    "deviceCredentialsTight": "LOOSE",
    "kinds": ["password"],
    "validity": 86_400,
    "confirm": "ack",
    "confirmTime": 120,
    "retryMaxAttempts": 3,
    "window": 3600,
    "provisionSecureURL": True,
    "topics": {"publish": ["${account}/${clientId}/up"], "subscribe": ["${account}/${clientId}/#", "${account}/all"]},
    "configuration": {"site": "plant-7", "unit": {"${model}": ["${serialNumber} at ${clientId}", 5, None, "$$"]}},
    "storageCeilingGB": 500,
}


async def make(admin: Operator, name: str = "line", **rules: Any) -> Any:
    return await admin.ask(201, "POST", POLICIES, {"name": name, **rules})


async def test_every_rule_arrives(admin: Operator) -> None:
    policy = await make(admin, **EVERYTHING)
    assert {name: policy[name] for name in EVERYTHING} == EVERYTHING
    assert (policy["name"], policy["optlock"], policy["createdOn"]) == ("line", 1, NOW)
    assert await admin.get(f"{POLICIES}/{policy['uid']}") == policy
    assert (await admin.get(POLICIES))["policy"] == [policy]


async def test_a_request_is_made_by_a_policy(admin: Operator, world: World) -> None:
    policy = await make(admin, **EVERYTHING)
    form = admin.form(policyUid=policy["uid"], serialNumber="S-1", model="m-1")
    del form["provisionUserUsername"]
    created = await admin.ask(201, "POST", PATH, form)
    assert (created["policyUid"], created["policyVersion"]) == (policy["uid"], 1)
    assert created["provisionUserUsername"] == "factory"
    assert (created["provisionedCredentialsTight"], created["provisionSecureURL"]) == ("LOOSE", True)
    assert (created["confirm"], created["confirmTime"], created["expiresOn"]) == ("ack", 120, NOW + 3_600_000)
    assert created["provisionJob"]["retryMaxAttempts"] == 3
    assert created["configuration"] == {"site": "plant-7", "unit": {"m-1": ["S-1 at dev-1", 5, None, "$"]}}
    offer = await world.claim(created)
    assert offer.grant.publish == ("acme/dev-1/up",)
    assert offer.grant.subscribe == ("acme/dev-1/#", "acme/all")


async def test_what_the_creator_says_stands_above(admin: Operator, world: World) -> None:
    policy = await make(admin, **EVERYTHING)
    said: dict[str, Any] = {
        "deviceCredentialsTight": "STRICT",
        "confirm": "either",
        "confirmTime": 60,
        "retryMaxAttempts": 7,
        "expiresOn": NOW + 5,
        "provisionSecureURL": False,
        "configuration": {},
    }
    created = await admin.create(policyUid=policy["uid"], **said)
    assert created["provisionedCredentialsTight"] == said.pop("deviceCredentialsTight")
    assert created["provisionJob"]["retryMaxAttempts"] == said.pop("retryMaxAttempts")
    assert {name: created[name] for name in said} == said


async def test_a_policy_says_which_kinds_there_may_be(admin: Operator) -> None:
    policy = await make(admin, kinds=["x509", "password"])
    assert (await admin.create("dev-1", policyUid=policy["uid"]))["credentialKind"] == "x509"
    made = await admin.create("dev-2", policyUid=policy["uid"], credentialKind="password")
    assert made["credentialKind"] == "password"
    policy = await make(admin, "passwords")
    form = admin.form("dev-3", policyUid=policy["uid"], credentialKind="x509")
    problem = await admin.refused(400, "kind-not-ruled", "POST", PATH, form)
    assert problem["field"] == "credentialKind"


async def test_the_window_begins_where_the_request_does(admin: Operator) -> None:
    policy = await make(admin, window=60)
    created = await admin.create(policyUid=policy["uid"], activatesOn=NOW + 1_000_000)
    assert created["expiresOn"] == NOW + 1_060_000


async def test_a_change_makes_a_version_and_requests_keep_theirs(admin: Operator) -> None:
    first = await make(admin, retryMaxAttempts=3)
    path = f"{POLICIES}/{first['uid']}"
    created = await admin.create(policyUid=first["uid"])
    second = await admin.ask(200, "PUT", path, {"name": "line two", "optlock": 1, "retryMaxAttempts": 4})
    assert (second["optlock"], second["name"], second["retryMaxAttempts"]) == (2, "line two", 4)
    stale = await admin.refused(409, "stale-version", "PUT", path, {"name": "line", "optlock": 1})
    assert stale["current"] == second
    assert await admin.get(f"{path}/versions/1") == first
    assert await admin.get(f"{path}/versions/2") == await admin.get(path) == second
    shown = await admin.get(f"{PATH}/{created['id']}")
    assert (shown["policyVersion"], shown["provisionJob"]["retryMaxAttempts"]) == (1, 3)
    assert (await admin.create("dev-2", policyUid=first["uid"]))["policyVersion"] == 2
    await admin.ask(204, "DELETE", path)
    await admin.refused(400, "unknown-policy", "POST", PATH, admin.form("dev-3", policyUid=first["uid"]))
    await admin.refused(404, "no-such-policy", "GET", path)
    assert await admin.get(f"{path}/versions/2") == second
    await make(admin, "line two")


async def test_the_policy_of_a_request_cannot_be_changed(admin: Operator) -> None:
    policy = await make(admin)
    created = await admin.create(policyUid=policy["uid"])
    for name, value in (("policyUid", NOBODYS), ("policyVersion", 2)):
        await admin.refused(400, "read-only", "PUT", f"{PATH}/{created['id']}", {"optlock": 1, name: value})
    await admin.ask(200, "PUT", f"{PATH}/{created['id']}", await admin.get(f"{PATH}/{created['id']}"))


@pytest.mark.parametrize(
    ("rules", "code", "field"),
    [
        ({"name": ""}, "invalid", "name"),
        ({"name": "a\nb"}, "invalid-name", "name"),
        ({"provisionUserUsername": "nobody"}, "unknown-user", "provisionUserUsername"),
        ({"deviceCredentialsTight": "tight"}, "invalid", "deviceCredentialsTight"),
        ({"kinds": []}, "invalid-kinds", "kinds"),
        ({"kinds": ["password", "password"]}, "invalid-kinds", "kinds"),
        ({"kinds": ["retina"]}, "invalid", "kinds.0"),
        ({"validity": 59}, "invalid-validity", "validity"),
        ({"validity": 2**52}, "invalid-validity", "validity"),
        ({"window": 0}, "invalid-window", "window"),
        ({"confirmTime": 0}, "invalid-confirm-time", "confirmTime"),
        ({"retryMaxAttempts": 0}, "invalid-attempts", "retryMaxAttempts"),
        ({"topics": {"publish": ["globex/#"]}}, "invalid-topics", "topics"),
        ({"topics": {"publish": ["#"]}}, "invalid-topics", "topics"),
        ({"topics": {"publish": ["${account}/#/x"]}}, "invalid-topics", "topics"),
        ({"topics": {"publish": ["${account}/x+"]}}, "invalid-topics", "topics"),
        ({"topics": {"publish": ["${account}/${serialNumber}"]}}, "invalid-topics", "topics"),
        ({"topics": {"publish": ["${account}/$5"]}}, "invalid-topics", "topics"),
        ({"topics": {"publish": ["${account}/\u0000"]}}, "invalid-topics", "topics"),
        ({"topics": {"publish": ["${account}/x"] * 17}}, "invalid", "topics.publish"),
        ({"topics": {"retain": []}}, "invalid", "topics.retain"),
        ({"topics": ["${account}/#"]}, "invalid", "topics"),
        ({"configuration": {"a": "${password}"}}, "invalid-template", "configuration"),
        ({"configuration": {"a": "5 $"}}, "invalid-template", "configuration"),
        ({"configuration": {"${model}": 1, "${brand}": 2}}, "invalid-template", "configuration"),
        ({"configuration": {"a": "x" * 9000}}, "configuration-too-large", "configuration"),
        ({"storageCeilingGB": -1}, "invalid", "storageCeilingGB"),
        ({"storageCeilingGB": 1.5}, "invalid", "storageCeilingGB"),
        ({"colour": "red"}, "invalid", "colour"),
    ],
)
async def test_a_mistake_in_a_policy_is_named(admin: Operator, rules: Any, code: str, field: str) -> None:
    problem = await admin.refused(400, code, "POST", POLICIES, {"name": "line", **rules})
    assert problem["field"] == field
    assert (await admin.get(POLICIES))["policy"] == []


async def test_a_request_that_lacks_what_the_template_needs_is_refused(admin: Operator) -> None:
    policy = await make(admin, configuration={"sn": "${serialNumber}"})
    problem = await admin.refused(400, "missing-fact", "POST", PATH, admin.form(policyUid=policy["uid"]))
    assert problem["field"] == "serialNumber"


async def test_a_filled_template_must_fit_as_well(admin: Operator) -> None:
    policy = await make(admin, configuration={"sn": "${serialNumber}" * 400})
    form = admin.form(policyUid=policy["uid"], serialNumber="x" * 255)
    await admin.refused(400, "configuration-too-large", "POST", PATH, form)


async def test_a_credential_with_a_validity_needs_its_key(admin: Operator) -> None:
    policy = await make(admin, validity=60)
    await admin.refused(400, "key-not-reused", "POST", PATH, admin.form(policyUid=policy["uid"], reuseKey=False))


async def test_after_its_validity_a_credential_is_renewed(admin: Operator, world: World) -> None:
    policy = await make(admin, validity=86_400)
    created = await admin.create(policyUid=policy["uid"])
    await world.claim(created)
    await world.confirm(created)
    world.now += 86_399_000
    await world.run_jobs()
    assert "rotateWanted" not in (await admin.get(f"{PATH}/{created['id']}"))["provisionJob"]["jobProperties"]
    world.now += 1_000
    await world.run_jobs()
    assert '"rotateWanted": true' in (await admin.get(f"{PATH}/{created['id']}"))["provisionJob"]["jobProperties"]
    (told,) = (await admin.get("/v2/events", types="Device.CredentialExpiring"))["event"]
    assert (told["event"]["payload"]["clientId"], told["event"]["payload"]["generation"]) == ("dev-1", 1)
    renewed = await world.claim(created, request_id="r-2")
    assert renewed.generation == 2


async def test_an_account_uses_its_policies_and_those_above(admin: Operator, world: World) -> None:
    made = {}
    for name in ("acme", "acme-labs", "globex"):
        made[name] = (await make(admin, f"of {name}", accountId=world.accounts[name].id))["uid"]
    made["all"] = (await make(admin, "for all"))["uid"]
    for number, name in enumerate(("acme", "acme-labs", "all")):
        await admin.create(f"dev-{number}", "acme-labs", policyUid=made[name])
    for name in ("acme-labs", "globex"):
        await admin.refused(400, "unknown-policy", "POST", PATH, admin.form("dev-9", "acme", policyUid=made[name]))
    labs = await world.operator(Role.ADMIN, "acme-labs")
    assert {one["uid"] for one in (await labs.get(POLICIES))["policy"]} == {
        made["acme"],
        made["acme-labs"],
        made["all"],
    }
    assert (await labs.get(f"{POLICIES}/{made['acme']}"))["name"] == "of acme"
    await labs.refused(404, "no-such-policy", "GET", f"{POLICIES}/{made['globex']}")
    for name in ("acme", "all", "globex"):
        await labs.refused(404, "no-such-policy", "DELETE", f"{POLICIES}/{made[name]}")
        body = {"name": "mine", "optlock": 1}
        await labs.refused(404, "no-such-policy", "PUT", f"{POLICIES}/{made[name]}", body)
    await admin.refused(409, "name-taken", "POST", POLICIES, {"name": "for all"})
    assert (await labs.ask(201, "POST", POLICIES, {"name": "for all"}))["accountId"] == world.accounts["acme-labs"].id
