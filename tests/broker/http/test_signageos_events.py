"""signageOS's document, replayed: its example field by field, and each of the four statuses by a real flow."""

import re
from typing import Any

import pytest

from provisioner.errors import Rejected
from provisioner.model import Role
from tests.broker.http.world import NOW, PATH, Operator, World

EXAMPLE: dict[str, Any] = {
    "id": "string",
    "kind": "domain",
    "type": "Device.ProvisioningRecipeCreated",
    "payload": {
        "owner": {
            "ownershipType": "organization",
            "organizationUid": "f32a128cxxxxxxxxxxxxxxxxb175739b",
            "parentCompanyUid": "9a52dc0axxxxxxxxxxxxxxxx92acfccc",
        },
        "organizationUid": "624c9c67xxxxxxxxxxxxxxxxad7cd727",
        "status": "Pending",
        "confirmedOwnership": True,
        "serialNumber": "SN-749771",
        "macAddress": "29:9F:66:C8:XX:XX",
        "model": "example-model",
        "brand": "example-model",
        "tagUids": ["87e46004xxxxxxxxxxxxxxxx4bea2712"],
        "deviceName": "Example Name",
        "policyUid": "2ca49d20xxxxxxxxxxxxxxxx56c01137",
        "locationUid": "b7cb61bfxxxxxxxxxxxxxxxxd468d313",
        "unsuccessfulRegisterAttemptStatus": {"warningMessage": "Something went wrong"},
        "errorMessage": "Something went wrong",
        "uid": "14e70f5cxxxxxxxxxxxxxxxx7620ccaf",
        "originator": {
            "accountId": 2437,
            "organizationUid": "8d34290dxxxxxxxxxxxxxxxx57a00ace",
            "policyUid": "2edbe5c9xxxxxxxxxxxxxxxxe3aaca98",
        },
        "type": "Device.ProvisioningRecipeCreated",
    },
}
ONLY_LATER = {"unsuccessfulRegisterAttemptStatus", "errorMessage"}
"""What a recipe cannot have on the day it is made."""
UNIT = {
    "serialNumber": "SN-749771",
    "macAddress": "29:9F:66:C8:00:01",
    "model": "example-model",
    "brand": "example-model",
    "deviceName": "Example Name",
}


async def labelled(operator: Operator, **more: Any) -> dict[str, Any]:
    """A request with all that the example has, made without a client id."""
    policy = await operator.ask(201, "POST", "/v2/policies", {"name": "p", "provisionUserUsername": "factory"})
    tag = await operator.ask(201, "POST", "/v2/tags", {"name": "t"})
    place = await operator.ask(201, "POST", "/v2/locations", {"name": "l"})
    labels = {"policyUid": policy["uid"], "tagUids": [tag["uid"]], "locationUid": place["uid"]}
    form = operator.form("", "acme-labs", confirmedOwnership=True, **UNIT, **labels, **more)
    del form["clientId"], form["provisionUserUsername"]
    created = await operator.ask(201, "POST", PATH, form)
    assert isinstance(created, dict)
    return created


async def events(admin: Operator, name: str) -> list[dict[str, Any]]:
    listed = (await admin.get("/v2/events", types=f"Device.ProvisioningRecipe{name}"))["event"]
    return [one["event"] for one in listed]


async def test_the_documents_example_is_what_an_event_looks_like(world: World) -> None:
    operator = await world.operator(Role.ADMIN, "acme")
    created = await labelled(operator)
    (event,) = await events(operator, "Created")
    assert list(event) == list(EXAMPLE)
    assert (event["kind"], event["type"]) == (EXAMPLE["kind"], EXAMPLE["type"])
    payload, example = event["payload"], EXAMPLE["payload"]
    assert list(payload) == [name for name in example if name not in ONLY_LATER]
    acme, labs = world.accounts["acme"], world.accounts["acme-labs"]
    assert payload == {
        "owner": {"ownershipType": "organization", "organizationUid": labs.uid, "parentCompanyUid": acme.uid},
        "organizationUid": labs.uid,
        "status": "Pending",
        "confirmedOwnership": True,
        **UNIT,
        "tagUids": created["tagUids"],
        "policyUid": created["policyUid"],
        "locationUid": created["locationUid"],
        "uid": f"{created['id']:032x}",
        "originator": {
            "accountId": created["createdBy"],
            "organizationUid": acme.uid,
            "policyUid": created["policyUid"],
        },
        "type": EXAMPLE["type"],
    }
    uids = [event["id"], payload["uid"], payload["policyUid"], payload["locationUid"], *payload["tagUids"]]
    assert all(re.fullmatch("[0-9a-f]{32}", uid) for uid in uids)


async def test_a_recipe_tells_of_its_way_and_of_the_last_refused_attempt(admin: Operator, world: World) -> None:
    created = await labelled(admin)
    with pytest.raises(Rejected):
        await world.claim(created, {"model": "another"})
    await admin.ask(200, "POST", f"{PATH}/{created['id']}/enable")
    (updated,) = await events(admin, "Updated")
    warning = {"warningMessage": "the unit's model is not the one of its request"}
    assert updated["payload"]["unsuccessfulRegisterAttemptStatus"] == warning
    assert updated["payload"]["status"] == "Pending"
    await world.claim(created, {"model": "example-model"})
    await world.confirm(created)
    (applied,) = await events(admin, "Applied")
    assert applied["payload"]["status"] == "Applied"
    assert applied["payload"]["unsuccessfulRegisterAttemptStatus"] == warning
    await admin.ask(200, "POST", f"{PATH}/{created['id']}/revoke")
    await world.run_jobs()
    (failed,) = await events(admin, "Failed")
    assert (failed["payload"]["status"], failed["payload"]["errorMessage"]) == ("Failed", "Its credential was revoked.")
    listed = list(failed["payload"])
    assert listed == [name for name in EXAMPLE["payload"] if name in failed["payload"]]
    assert set(EXAMPLE["payload"]) - set(listed) <= {"originator"}


SHAPE: dict[str, Any] = {
    "id": "string",
    "kind": "domain",
    "type": "{type}",
    "payload": {
        "owner": {
            "ownershipType": "organization",
            "organizationUid": "string | null",
            "parentCompanyUid": "string | null",
        },
        "organizationUid": "string",
        "status": "Pending | Applied | Failed | Invalid",
        "confirmedOwnership?": "boolean",
        "serialNumber?": "string",
        "macAddress?": "string",
        "model?": "string",
        "brand": "string",
        "tagUids?": ["string"],
        "deviceName?": "string",
        "policyUid?": "string",
        "locationUid?": "string",
        "unsuccessfulRegisterAttemptStatus?": {"warningMessage": "string"},
        "errorMessage?": "string",
        "uid": "string",
        "originator?": {"accountId?": "number", "organizationUid?": "string", "policyUid?": "string"},
        "type": "{type}",
    },
}
"""The document's shape; a name with `?` may be absent."""
WORDS = {"string": str, "number": int, "boolean": bool, "null": type(None)}


def check_shape(shape: Any, ours: Any, kind: str, seen: dict[str, set[Any]], path: str = "") -> None:
    """`ours` has the shape and nothing else; `seen` collects which optional names and which words there were."""
    if isinstance(shape, dict):
        known = {name.removesuffix("?"): inner for name, inner in shape.items()}
        assert list(ours) == [name for name in known if name in ours], path
        for name, inner in shape.items():
            bare = name.removesuffix("?")
            assert bare in ours or bare != name, f"{path}{name} is missing"
            seen.setdefault(f"{path}{name}", set()).add(bare in ours)
            if bare in ours:
                check_shape(inner, ours[bare], kind, seen, f"{path}{bare}.")
    elif isinstance(shape, list):
        for one in ours:
            check_shape(shape[0], one, kind, seen, path)
    elif shape == "{type}":
        assert ours == kind
    elif set(words := shape.split(" | ")) <= set(WORDS):
        assert type(ours) in [WORDS[word] for word in words], f"{path}: {ours!r}"
        seen.setdefault(f"{path}null", set()).add(ours is None)
    else:
        assert ours in words, f"{path}: {ours!r}"
        seen.setdefault(path, set()).add(ours)


async def test_every_event_has_the_documents_shape(admin: Operator, world: World) -> None:
    acme = await world.operator(Role.ADMIN, "acme")
    created = await labelled(acme)
    with pytest.raises(Rejected):
        await world.claim(created, {"model": "another"})
    await admin.ask(200, "POST", f"{PATH}/{created['id']}/enable")
    await world.claim(created)
    await world.confirm(created)
    await admin.ask(200, "POST", f"{PATH}/{created['id']}/revoke")
    await admin.create("bare", expiresOn=NOW + 1)
    await admin.create("bare", overwriteIfDuplicate=True, expiresOn=NOW + 1)
    world.now += 2
    await world.run_jobs()
    seen: dict[str, set[Any]] = {}
    told = [one["event"] for one in (await admin.get("/v2/events", limit=100))["event"]]
    recipes = [event for event in told if "Recipe" in event["type"]]
    for event in recipes:
        check_shape(SHAPE, event, event["type"], seen)
    assert {event["type"].removeprefix("Device.ProvisioningRecipe") for event in recipes} == {
        "Created", "Updated", "Applied", "Failed", "Invalid",
    }  # fmt: skip
    assert seen["payload.status."] == {"Pending", "Applied", "Failed", "Invalid"}
    assert seen["payload.owner.parentCompanyUid.null"] == {True, False}
    for name, there in seen.items():
        if name.endswith("?") and not name.startswith("payload.originator."):
            assert there == {True, False}, f"{name} is always {'there' if True in there else 'absent'}"


async def test_a_recipe_that_is_replaced_is_invalid(admin: Operator) -> None:
    created = await admin.create()
    await admin.create(overwriteIfDuplicate=True)
    (invalid,) = await events(admin, "Invalid")
    assert invalid["payload"]["status"] == "Invalid"
    assert invalid["payload"]["uid"] == f"{created['id']:032x}"
    assert invalid["payload"]["errorMessage"] == "Another request replaced it before any claim."


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (409, "duplicate-client-id", {"clientId": "dev-1"}),
        (409, "duplicate-unit", {"clientId": "dev-2", "serialNumber": "S-1"}),
        (400, "unknown-policy", {"clientId": "dev-2", "policyUid": "0" * 32}),
        (400, "unknown-tag", {"clientId": "dev-2", "tagUids": ["0" * 32]}),
        (400, "unknown-location", {"clientId": "dev-2", "locationUid": "0" * 32}),
    ],
)
async def test_a_recipe_that_was_not_let_in_is_invalid(admin: Operator, status: int, code: str, said: Any) -> None:
    await admin.create("dev-1", serialNumber="S-1")
    problem = await admin.refused(status, code, "POST", PATH, admin.form(brand="b", **said))
    (invalid,) = await events(admin, "Invalid")
    told = invalid["payload"]
    assert (told["status"], told["brand"], told["errorMessage"]) == ("Invalid", "b", problem["detail"])
    assert len((await admin.get(PATH))["provisionRequest"]) == 1
    assert (await admin.get("/v2/journal"))["entry"][-1]["cause"] == code


@pytest.mark.parametrize("said", [{"clientId": "a/b"}, {"expiresOn": 1, "activatesOn": 2}, {"macAddress": "x"}])
async def test_a_slip_of_the_pen_is_nobody_elses_business(admin: Operator, said: Any) -> None:
    await admin.ask(400, "POST", PATH, admin.form(**said))
    assert await events(admin, "Invalid") == []


async def test_an_event_of_nobody_has_no_originator(admin: Operator, world: World) -> None:
    await admin.create(expiresOn=NOW + 1)
    world.now += 2
    await world.run_jobs()
    (failed,) = await events(admin, "Failed")
    assert "originator" not in failed["payload"]
